package consumer_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// TestOldSnapshotStealsNothing: Redis comes back within milliseconds with data that are older than a lease, so that no
// command fails and every lease looks long over.
func TestOldSnapshotStealsNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t, "--appendonly", "no", "--save", "")
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	var runs, lost atomic.Int32
	var workers []*consumer.Worker
	for range 3 {
		cfg := quick()
		cfg.Lease = 3 * time.Second
		w := newWorker(t, cfg, s)
		consumer.Handle(w, ping, func(ctx context.Context, _ *consumer.Job[int]) error {
			runs.Add(1)
			select {
			case <-release:
			case <-ctx.Done():
				lost.Add(1)
			}
			return nil
		})
		run(t, w)
		workers = append(workers, w)
		redistest.Wait(t, "the worker", func() bool { return w.Health().Ready })
	}
	publish(t, s, many(30)...)
	redistest.Wait(t, "the jobs to run", func() bool { return runs.Load() == 30 })
	if err := rdb.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	after(t, 5*time.Second) // more than a lease, and the workers trust their contact
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	after(t, 5*time.Second)
	for _, w := range workers {
		if got := w.Stats(); got.LeasesLost > 0 || got.Reclaimed > 0 {
			t.Errorf("stats = %+v, want nothing taken over", got)
		}
	}
	if runs.Load() != 30 || lost.Load() != 0 {
		t.Errorf("%d runs, %d of them ended by a lost lease; want 30 and none", runs.Load(), lost.Load())
	}
	close(release)
}

// after waits until d has passed: some things must not happen within it.
func after(t *testing.T, d time.Duration) {
	t.Helper()
	end := time.Now().Add(d)
	redistest.Wait(t, d.String()+" to pass", func() bool { return time.Now().After(end) })
}

// TestIdleWorkersStay: in Redis 7.0 a reader that waits for long looks dead, and it is not.
func TestIdleWorkersStay(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	var workers []*consumer.Worker
	for range 2 {
		cfg := leased()
		cfg.Lease = consumer.MinLease
		cfg.MaxJobs = 1
		w := newWorker(t, cfg, s)
		consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { <-time.After(50 * time.Millisecond); return nil })
		run(t, w)
		workers = append(workers, w)
	}
	publish(t, s, many(20)...)
	idle(t, s)
	dead := "{" + s.Name() + "}:g:" + group + ":redelivery"
	if err := rdb.XGroupCreateConsumer(t.Context(), dead, group, "dead").Err(); err != nil { // known there alone
		t.Fatal(err)
	}
	redistest.Wait(t, "the dead one to go", func() bool { return len(rdb.XInfoConsumers(t.Context(), dead, group).Val()) == 0 })
	after(t, 8*consumer.MinLease)
	names := make(map[string]bool)
	for _, c := range rdb.XInfoConsumers(t.Context(), s.Name(), group).Val() {
		names[c.Name] = true
	}
	for _, w := range workers {
		if !names[w.Name()] {
			t.Errorf("%s, which lives, was removed", w.Name())
		}
	}
}

// TestNoFalseAlarms: a heartbeat while ends are on their way finds entries that are nobody's any more, which is well.
func TestNoFalseAlarms(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	cfg := quick()
	cfg.MaxJobs = 50
	w := newWorker(t, cfg, s)
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { return nil })
	run(t, w)
	const total = 20_000
	for first := 0; first < total; first += 2000 {
		jobs := many(2000)
		for i := range jobs {
			jobs[i].ID = fmt.Sprintf("job-%d", first+i)
		}
		publish(t, s, jobs...)
		consumer.Heartbeat(w)
	}
	redistest.Wait(t, "all jobs", func() bool {
		consumer.Heartbeat(w)
		return w.Stats().Completed == total
	})
	if got := w.Stats(); got.LeasesLost != 0 || got.Lost != 0 {
		t.Errorf("stats = %+v, want no lease lost", got)
	}
}

// TestIdleWorkersAreCounted: in Redis 7.0 one that has not been given anything yet is no consumer.
func TestIdleWorkersAreCounted(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	stop := run(t, newWorker(t, quick(), s))
	redistest.Wait(t, "the worker", func() bool { d, err := s.Group(group).Depths(t.Context()); return err == nil && d.Workers == 1 })
	_ = stop()
	if d := depths(t, s); d.Workers != 0 {
		t.Errorf("%d workers after the last one has left", d.Workers)
	}
}
