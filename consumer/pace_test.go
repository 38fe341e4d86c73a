package consumer_test

import (
	"context"
	"slices"
	"testing"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// TestNobodyHoards: a worker whose jobs are slow holds only what it runs.
func TestNobodyHoards(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	publish(t, s, many(500)...)
	cfg := quick()
	cfg.MaxJobs = 4
	w := newWorker(t, cfg, s)
	slow, release := fast(t, w, s)
	slow.Store(true)
	run(t, w)
	redistest.Wait(t, "four running jobs", func() bool { return len(w.Running()) == 4 })
	if d := depths(t, s); d.Active > 5 {
		t.Errorf("%d jobs are held, want the four that run and at most one more", d.Active)
	}
	close(release)
	idle(t, s)
}

// TestPaceThatDoesNotLast: what was read ahead goes back when the jobs turn slow, and others get it.
func TestPaceThatDoesNotLast(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	cfg := quick()
	cfg.MaxJobs = 2
	w := newWorker(t, cfg, s)
	slow, release := fast(t, w, s)
	run(t, w)
	publish(t, s, many(30_000)...)
	redistest.Wait(t, "some pace", func() bool { return w.Stats().Completed > 2000 })
	slow.Store(true)
	redistest.Wait(t, "the jobs read ahead to go back", func() bool {
		return len(w.Running()) == 2 && w.Health().Queued == 0 && depths(t, s).Active <= 3
	})
	close(release)
	idle(t, s)
	if got := w.Stats(); got.Completed != 30_000 || got.HandedBack == 0 {
		t.Errorf("stats = %+v, want all completed and some handed back on the way", got)
	}
}

// TestOneSlotOverManyStreams: a worker that can start one job does not take one from every stream.
func TestOneSlotOverManyStreams(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	var streams []*stream.Stream
	for range 5 {
		s := newStream(t, rdb, stream.Config{})
		publish(t, s, many(3)...)
		streams = append(streams, s)
	}
	cfg := quick()
	cfg.MaxJobs = 1
	w := newWorker(t, cfg, streams...)
	release := make(chan struct{})
	var order []string
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
		order = append(order, job.Stream)
		<-release
		return nil
	})
	stop := run(t, w)
	redistest.Wait(t, "the first job", func() bool { return len(w.Running()) == 1 })
	held := int64(0)
	for _, s := range streams {
		held += depths(t, s).Active
	}
	if held > 1 {
		t.Errorf("%d jobs are held, want the one that runs", held)
	}
	close(release)
	redistest.Wait(t, "all jobs", func() bool { return w.Stats().Completed == 15 })
	_ = stop()
	var want []string
	for _, s := range streams {
		want = append(want, s.Name(), s.Name(), s.Name())
	}
	if !slices.Equal(order, want) {
		t.Errorf("order = %v, want the streams one after the other", order)
	}
}
