package redisproc

import "syscall"

// sysProcAttr keeps the terminal's Ctrl-C from the server, and ends it when we are killed.
func sysProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
