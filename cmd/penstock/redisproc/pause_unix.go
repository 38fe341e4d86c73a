//go:build unix

package redisproc

import (
	"os"
	"syscall"
)

// Pause stops the process as a frozen machine would: connections stay open, nothing answers.
func (s *Server) Pause() error { return s.current().process.Signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (s *Server) Resume() error { return s.current().process.Signal(syscall.SIGCONT) }

func resume(p *os.Process) { _ = p.Signal(syscall.SIGCONT) }
