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
