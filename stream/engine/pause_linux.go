package engine

import (
	"syscall"
	"time"
)

// doze sleeps to a moment close by, in the kernel: Go's own timers end up to a millisecond late where the process has nothing
// else to do. Signals, which Go sends to threads of its own, may end it early.
func doze(until time.Time) {
	for range 10 {
		d := time.Until(until)
		if d <= 0 {
			return
		}
		ts := syscall.NsecToTimespec(d.Nanoseconds())
		if syscall.Nanosleep(&ts, nil) == nil {
			return
		}
	}
}
