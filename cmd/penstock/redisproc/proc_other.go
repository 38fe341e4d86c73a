//go:build !unix

package redisproc

import (
	"os"
	"syscall"
)

func sysProcAttr() *syscall.SysProcAttr { return nil }

func resume(*os.Process) {}
