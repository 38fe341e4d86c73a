package engine

import (
	"syscall"
	"time"
)

const looks = 20_000 // at the clock, at most: it stands still in a test's bubble

// doze sleeps to a moment close by, in the kernel: Go's own timers end up to a millisecond late where the process has nothing
// else to do. Signals, which Go sends to threads of its own, may end it early. For the very end, no longer than spin, it stays awake.
func doze(until time.Time, spin time.Duration) {
	for range 10 {
		d := time.Until(until) - spin
		if d <= 0 {
			break
		}
		ts := syscall.NsecToTimespec(d.Nanoseconds())
		if syscall.Nanosleep(&ts, nil) == nil {
			break
		}
	}
	for i := 0; i < looks && time.Now().Before(until); i++ {
	}
}
