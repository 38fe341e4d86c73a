package consumer_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// TestKeyDeletedBehindARead: a stream deleted while the job that was just read from it has been in no heartbeat yet, since
// one was under way with each read. The job goes on.
func TestKeyDeletedBehindARead(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	cfg := leased()
	w := newWorker(t, cfg, s)
	var started, lost atomic.Int64
	release := make(chan struct{})
	consumer.Handle(w, ping, func(ctx context.Context, _ *consumer.Job[int]) error {
		started.Add(1)
		select {
		case <-release:
		case <-ctx.Done():
			lost.Add(1)
			return ctx.Err()
		}
		return nil
	})
	beats, stop := context.WithCancel(t.Context())
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		for beats.Err() == nil {
			consumer.Heartbeat(w)
		}
	}()
	defer func() { stop(); <-beating }()
	run(t, w)
	redistest.Wait(t, "the worker", func() bool { return w.Health().Ready })
	for i := range int64(5) {
		publish(t, s, ping.Job(int(i)))
		redistest.Wait(t, "the job to run", func() bool { return started.Load() == i+1 })
		rdb.Del(t.Context(), s.Name())
		consumer.Heartbeat(w)
		consumer.Heartbeat(w)
	}
	if got := w.Stats(); lost.Load() != 0 || got.LeasesLost != 0 {
		t.Fatalf("%d runs of 5 were ended: %+v", lost.Load(), got)
	}
	close(release)
	redistest.Wait(t, "all to end", func() bool { return w.Stats().Lost == 5 })
	idle(t, s)
}
