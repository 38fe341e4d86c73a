package consumer

import "context"

// Heartbeat does now what the heartbeat does every ten seconds.
func Heartbeat(w *Worker) {
	for _, src := range w.sources {
		_ = w.readEpoch(context.Background(), src)
	}
}
