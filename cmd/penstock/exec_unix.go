//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// ownGroup gives a command a process group of its own: Ctrl-C on the terminal
// is for the worker, and a signal of the worker's reaches all that the command started.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	endWithParent(cmd.SysProcAttr)
}

// Signals to a group that is gone fail, which is what was wanted.

func stopGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGTERM) }
func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }

func groupLives(pid int) bool { return syscall.Kill(-pid, 0) == nil }
