package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// TestGroupIsMadeAgain: a flush loses jobs, but not the worker.
func TestGroupIsMadeAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker(t, quick(), s)
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { return nil })
	run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the first job", func() bool { return w.Stats().Completed == 1 })
	rdb.FlushAll(t.Context())
	publish(t, s, ping.Job(2))
	redistest.Wait(t, "the second job", func() bool { return w.Stats().Completed == 2 })
}

func TestDeniedAtStart(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	admin := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	if err := admin.ConfigSet(t.Context(), "requirepass", "right").Err(); err != nil {
		t.Fatal(err)
	}
	for password, want := range map[string]error{"wrong": stream.ErrDenied, "": stream.ErrDenied} {
		rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr(), Password: password})
		s, err := stream.New(rdb, "orders", stream.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := newWorker(t, quick(), s).Run(t.Context()); !errors.Is(err, want) || strings.Contains(err.Error(), "right") {
			t.Errorf("with password %q Run = %v, want %v", password, err, want)
		}
	}
}

// TestDeletedWhileHeld: an entry that somebody trimmed away goes on, since its owner has all of it.
func TestDeletedWhileHeld(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
		if job.Attempt == 1 {
			rdb.XTrimMaxLen(t.Context(), s.Name(), 0)
			return errors.New("once more")
		}
		if job.Data == 2 {
			return consumer.Permanent(errors.New("never"))
		}
		return nil
	})
	stop := run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the first", func() bool { return w.Stats().Completed == 1 })
	publish(t, s, ping.Job(2))
	deadLetters(t, s, 1)
	_ = stop()
	if d := depths(t, s); d.Active != 0 || d.Workers != 0 {
		t.Errorf("depths = %+v, want nothing left behind", d)
	}
}

// TestFlushedEventsStaysEvents: a stream that was flushed becomes again what it was, for every group.
func TestFlushedEventsStaysEvents(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	events, err := stream.New(rdb, "orders", stream.Config{Kind: stream.KindEvents})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Create(t.Context(), stream.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var workers []*consumer.Worker
	for _, name := range []string{"a", "b"} {
		s, err := stream.New(rdb, "orders", stream.Config{})
		if err != nil {
			t.Fatal(err)
		}
		w, err := consumer.New(name, quick(), s)
		if err != nil {
			t.Fatal(err)
		}
		consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { return nil })
		run(t, w)
		redistest.Wait(t, "the worker", func() bool { return w.Health().Ready })
		workers = append(workers, w)
	}
	rdb.FlushAll(t.Context())
	publish(t, events, many(2)...)
	for _, w := range workers {
		redistest.Wait(t, "both jobs in each group", func() bool { return w.Stats().Completed == 2 })
	}
	if d, err := events.Describe(t.Context()); err != nil || d.Kind != stream.KindEvents || d.Entries != 2 {
		t.Errorf("the stream is now %+v %v", d, err)
	}
}

// TestOneBadStreamStopsNoOther: a key of a wrong type on one stream must not keep the others from being read.
func TestOneBadStreamStopsNoOther(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	bad, good := newStream(t, rdb, stream.Config{}), newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), bad, good)
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { return nil })
	run(t, w)
	redistest.Wait(t, "the worker", func() bool { return w.Health().Ready })
	rdb.Del(t.Context(), bad.Name())
	rdb.Set(t.Context(), bad.Name(), "oops", 0)
	publish(t, good, ping.Job(1))
	redistest.Wait(t, "the good stream's job", func() bool { return w.Stats().Completed == 1 })
	redistest.Wait(t, "health that names the bad one", func() bool {
		h := w.Health()
		return !h.Ready && strings.Contains(fmt.Sprint(h.Problem), bad.Name())
	})
	rdb.Del(t.Context(), bad.Name())
	publish(t, bad, ping.Job(2))
	redistest.Wait(t, "the other stream's job, once it is well", func() bool { return w.Stats().Completed == 2 })
	redistest.Wait(t, "good health", func() bool { return w.Health().Ready })
}

// TestFenceGrowsWhenTheGroupIsMadeAgain: also for a worker that had no part in it.
func TestFenceGrowsWhenTheGroupIsMadeAgain(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	fences := make(chan int64, 100)
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error { fences <- job.Fence; return nil })
	run(t, w)
	publish(t, s, ping.Job(1))
	first := <-fences
	rdb.HIncrBy(t.Context(), "{"+s.Name()+"}:config", "epoch:"+group, 1)
	consumer.Heartbeat(w)
	publish(t, s, ping.Job(2))
	if next := <-fences; next>>32 != first>>32+1 {
		t.Errorf("the fence went from %d to %d, want the next epoch", first, next)
	}
}

// TestRegistryOfAnotherType: only schedulers need the registry, so what somebody put in its place stops no worker.
func TestRegistryOfAnotherType(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	rdb.Set(t.Context(), "penstock:streams", "x", 0)
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker(t, quick(), s)
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { return nil })
	run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the job", func() bool { return w.Stats().Completed == 1 })
}
