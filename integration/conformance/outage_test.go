package conformance_test

import (
	"context"
	"testing"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/integration/servers"
	"github.com/penstock-go/penstock/stream"
)

// outage is how Redis goes away for longer than a lease, and comes back.
type outage struct{ begin, end func() }

// stealsNothing: idle times run on while Redis is away, and nobody may act on them.
func (w *world) stealsNothing(t *testing.T, s []*stream.Stream, o outage) {
	t.Helper()
	const n = 20
	release := make(chan struct{})
	var book ledger
	var workers []*consumer.Worker
	for i := range 2 {
		worker := w.worker(t, quick(), s[i%len(s)])
		consumer.Handle(worker, number, func(ctx context.Context, job *consumer.Job[int]) error {
			book.add(job.Data)
			select {
			case <-release:
			case <-ctx.Done():
				t.Errorf("the run of job %d ended: %v", job.Data, context.Cause(ctx))
			}
			return nil
		})
		run(t, worker)
		workers = append(workers, worker)
	}
	publish(t, s[0], numbers(0, n)...)
	wait(t, "the jobs to run", func() bool { return book.total() == n })
	pass(lease + 2*time.Second) // until both have been in contact for long enough to sweep
	o.begin()
	pass(lease + 2*time.Second)
	o.end()
	wait(t, "both workers to be in contact again", func() bool { return workers[0].Health().Ready && workers[1].Health().Ready })
	pass(lease / 2) // whoever steals does so at once
	if book.total() != n {
		t.Errorf("%d runs, want %d", book.total(), n)
	}
	close(release)
	wait(t, "the jobs to complete", func() bool {
		return workers[0].Stats().Completed+workers[1].Stats().Completed == n
	})
	book.want(t, n, once)
	for _, worker := range workers {
		if got := worker.Stats(); got.Reclaimed+got.LeasesLost+got.Retried != 0 {
			t.Errorf("stats %+v, want nothing taken over, lost or retried", got)
		}
	}
}

func stallStealsNothing(t *testing.T, w *world) {
	own := w.own(t, servers.Config{})
	own.stealsNothing(t, []*stream.Stream{own.stream(t, stream.Config{})}, outage{
		func() { own.server.Stall(t) }, func() { own.server.Continue(t) },
	})
}

func restartStealsNothing(t *testing.T, w *world) {
	own := w.own(t, servers.Config{})
	own.stealsNothing(t, []*stream.Stream{own.stream(t, stream.Config{})}, outage{
		func() { own.server.Down(t) }, func() { own.server.Up(t) },
	})
}

// partitionStealsNothing: all workers are cut off; Redis goes on.
func partitionStealsNothing(t *testing.T, w *world) {
	stream1 := w.stream(t, stream.Config{})
	var streams []*stream.Stream
	var links []*servers.Links
	for range 2 {
		rdb, l := w.server.Linked(t)
		streams, links = append(streams, over(t, rdb, stream1.Name(), stream.Config{})), append(links, l)
	}
	w.stealsNothing(t, streams, outage{
		func() {
			links[0].Hang()
			links[1].Refuse()
		},
		func() {
			links[0].Mend(t)
			links[1].Mend(t)
		},
	})
}
