package main

import "syscall"

// endWithParent has the kernel tell a command to stop when the worker is
// killed: its job will soon run elsewhere. The signal comes with the end of
// the thread that started the command, and Go's threads live as long as the process.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGTERM }
