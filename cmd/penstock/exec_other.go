//go:build !unix

package main

import (
	"os"
	"os/exec"
)

// There are no process groups and no SIGTERM here: a command is stopped by ending its first process.

func ownGroup(*exec.Cmd) {}

func stopGroup(pid int) { killGroup(pid) }

func killGroup(pid int) {
	if p, err := os.FindProcess(pid); err == nil {
		_ = p.Kill() // it may be gone
	}
}

func groupLives(int) bool { return false }
