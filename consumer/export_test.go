package consumer

import "time"

// MinLease is what Config.Lease may be in tests: short.
const MinLease = 500 * time.Millisecond

func init() { minLease = MinLease }

// Heartbeat has one now, and returns when it is over.
func Heartbeat(w *Worker) {
	for _, src := range w.sources {
		<-src.beats.ask()
	}
}

// Crashes is how many leases of a job have run out.
func Crashes(d *Delivery) int { return d.task.opts.Crashes }

// Stopping reports whether the worker starts nothing any more.
func Stopping(w *Worker) bool { return w.stopping.Load() }
