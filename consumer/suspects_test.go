package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// addSuspect puts a job among the suspects, as the sweep does after its second crash.
func addSuspect(t *testing.T, rdb *redis.Client, s *stream.Stream, id string) {
	t.Helper()
	values := []any{"type", "ping", "data", "7", "traceparent", "", "opts", `{"id":"` + id + `","cr":2}`}
	if err := rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: key(s, "suspects"), Values: values}).Err(); err != nil {
		t.Fatal(err)
	}
}

// TestSuspectsStayApart: one that finds no free slot goes to another worker, and one that a stop
// hands back waits for the next, but never among the other jobs, which it would take along.
func TestSuspectsStayApart(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	cfg := leased()
	cfg.MaxJobs = 1
	full := newWorker(t, cfg, s)
	release := make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	consumer.Handle(full, ping, func(context.Context, *consumer.Job[int]) error { <-release; return nil })
	stop := run(t, full)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the slot to be taken", func() bool { return len(full.Running()) == 1 })
	taken := func() bool {
		return len(rdb.XPendingExt(t.Context(), &redis.XPendingExtArgs{Stream: key(s, "suspects"), Group: group, Start: "-", End: "+", Count: 10, Consumer: full.Name()}).Val()) == 1
	}
	addSuspect(t, rdb, s, "first")
	redistest.Wait(t, "the suspect to be read", taken)
	read := time.Now()

	other := newWorker(t, cfg, s)
	consumer.Handle(other, ping, func(context.Context, *consumer.Job[int]) error { return nil })
	stopOther := run(t, other)
	redistest.Wait(t, "the suspect to run elsewhere", func() bool { return other.Stats().Completed == 1 })
	if took := time.Since(read); took < lease/2 {
		t.Errorf("it ran elsewhere after %s, want it to wait for a lease first", took)
	}
	_ = stopOther()

	addSuspect(t, rdb, s, "second")
	redistest.Wait(t, "the suspect to be read", taken)
	time.AfterFunc(lease/4, free) // when the worker stops
	_ = stop()
	n, added := rdb.XLen(t.Context(), key(s, "suspects")).Val(), rdb.XInfoStream(t.Context(), key(s, "redelivery")).Val().EntriesAdded
	if n != 1 || added != 0 {
		t.Errorf("%d suspects, and %d jobs that went to redelivery; want one suspect and no more", n, added)
	}
}

// TestSuspectsRetriedOneByOne: those that fail come back by way of redelivery, and still run one at a time.
func TestSuspectsRetriedOneByOne(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, leased(), s)
	var mu sync.Mutex
	running, most := 0, 0
	due := time.Now().Add(2 * time.Second) // all of them again
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		<-time.After(time.Duration(job.Attempt) * 50 * time.Millisecond)
		mu.Lock()
		running--
		mu.Unlock()
		if job.Attempt == 1 {
			return consumer.RetryAfter(errors.New("once more"), max(time.Until(due), 10*time.Millisecond))
		}
		return nil
	})
	run(t, w)
	redistest.Wait(t, "the worker", func() bool { return w.Health().Ready })
	for i := range 5 {
		addSuspect(t, rdb, s, fmt.Sprintf("suspect-%d", i))
	}
	redistest.Wait(t, "all of them", func() bool { return w.Stats().Completed == 5 })
	if most != 1 {
		t.Errorf("%d suspects ran at once", most)
	}
	idle(t, s)
}

// TestSuspectOfAnotherStream: one whose end Redis refuses keeps no other stream's waiting.
func TestSuspectOfAnotherStream(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	a, b := newStream(t, rdb, stream.Config{}), newStream(t, rdb, stream.Config{})
	w := newWorker(t, leased(), a, b)
	var ran atomic.Int32
	consumer.Handle(w, ping, func(ctx context.Context, job *consumer.Job[int]) error {
		ids := "{" + job.Stream + "}:ids"
		rdb.Del(ctx, ids)
		rdb.Set(ctx, ids, "x", 0)
		ran.Add(1)
		return nil
	})
	run(t, w)
	redistest.Wait(t, "the worker", func() bool { return w.Health().Ready })
	addSuspect(t, rdb, a, "first")
	addSuspect(t, rdb, b, "second")
	redistest.Wait(t, "both", func() bool { return ran.Load() == 2 })
}
