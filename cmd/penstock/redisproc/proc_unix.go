//go:build unix && !linux

package redisproc

import "syscall"

// sysProcAttr keeps the terminal's Ctrl-C from the server.
func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
