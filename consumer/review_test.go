package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// xadd adds an entry as another program would.
func xadd(t *testing.T, rdb *redis.Client, s *stream.Stream, typ, data, opts string) {
	t.Helper()
	err := rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []any{"type", typ, "data", data, "traceparent", "", "opts", opts}}).Err()
	if err != nil {
		t.Fatal(err)
	}
}

// TestStopWhileTimersRing: a timer that rings while its slot stops must not keep the slot's lock.
func TestStopWhileTimersRing(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	for range 20 {
		cfg := quick()
		cfg.MaxJobs, cfg.Timeout, cfg.Grace = 100, 2*time.Millisecond, 50*time.Millisecond
		w := newWorker(t, cfg, s)
		consumer.Handle(w, ping, func(ctx context.Context, job *consumer.Job[int]) error {
			if job.Data == 0 {
				job.SetTimeout(consumer.None)
				<-ctx.Done()
			}
			return nil
		})
		stop := run(t, w)
		publish(t, s, many(100)...)
		redistest.Wait(t, "the jobs", func() bool { return w.Stats().Completed >= 99 })
		ended := make(chan error, 1)
		go func() { ended <- stop() }()
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("Run does not return")
		}
		rest := newWorker(t, quick(), s) // the job that was handed back
		consumer.Handle(rest, ping, func(context.Context, *consumer.Job[int]) error { return nil })
		end := run(t, rest)
		idle(t, s)
		_ = end()
	}
}

// TestJobsThatShareAnID: entries of other programs may carry the same ID, and none may overwrite another.
func TestJobsThatShareAnID(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	var book ledger
	w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
		book.add(string(d.Payload))
		return errors.New("never")
	})
	const n = 10
	for i := range n {
		xadd(t, rdb, s, "any", fmt.Sprintf("p%d", i), `{"id":"same","mt":2}`)
	}
	run(t, w)
	deadLetters(t, s, n)
	idle(t, s)
	for i := range n {
		if runs := book.of(fmt.Sprintf("p%d", i)); runs != 2 {
			t.Errorf("job %d ran %d times, want 2", i, runs)
		}
	}
}

// TestForgedCounters: counters at their limit neither overflow nor make the job unreadable.
func TestForgedCounters(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	var runs atomic.Int32
	w.HandleOther(func(context.Context, *consumer.Delivery) error { runs.Add(1); return consumer.Snooze(0) })
	xadd(t, rdb, s, "any", "", fmt.Sprintf(`{"f":%d,"b":%d}`, math.MaxInt32, math.MaxInt32))
	run(t, w)
	redistest.Wait(t, "three runs", func() bool { return runs.Load() >= 3 })
}

// TestSnoozedPastItsExpiry: a job that has started is not "not started" when it comes back.
func TestSnoozedPastItsExpiry(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	w := newWorker(t, quick(), s)
	var runs atomic.Int32
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error {
		if runs.Add(1) == 1 {
			return consumer.Snooze(300 * time.Millisecond)
		}
		return nil
	})
	run(t, w)
	job := ping.Job(1)
	job.ExpiresAt = time.Now().Add(250 * time.Millisecond)
	publish(t, s, job)
	redistest.Wait(t, "the job to complete", func() bool { return w.Stats().Completed == 1 })
	if w.Stats().Dead != 0 {
		t.Error("the job is dead")
	}
}

// TestNewerFormatWithOtherTypes: a newer format may give a known key another type, and bounces all the same.
func TestNewerFormatWithOtherTypes(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	run(t, w)
	xadd(t, rdb, s, "any", "1", `{"v":2,"to":"5m","err":{"n":1},"id":"x1"}`)
	redistest.Wait(t, "the job to bounce", func() bool { return w.Stats().Bounced > 0 })
	bodies := rdb.HGetAll(t.Context(), "{"+s.Name()+"}:g:"+group+":retrying:jobs").Val()
	body := bodies["x1"]
	for _, want := range []string{`"v":2`, `"to":"5m"`, `"err":{"n":1}`, `"b":1`} {
		if !strings.Contains(body, want) {
			t.Errorf("parked as %q, want %s in it", body, want)
		}
	}
}

type explosive struct{ N int }

func (e *explosive) UnmarshalJSON(b []byte) error {
	if string(b) == "13" {
		panic("unlucky")
	}
	_, err := fmt.Sscan(string(b), &e.N)
	return err
}

// TestDecoderThatPanics: one payload that its decoder chokes on is dead at once, and its neighbours in the batch are not.
func TestDecoderThatPanics(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	consumer.HandleBatch(w, stream.Type[explosive]{Name: "e"}, 100, func(context.Context, []*consumer.Job[explosive]) []error { return nil })
	for i := range 10 {
		xadd(t, rdb, s, "e", fmt.Sprint(4+i), "")
	}
	run(t, w)
	letter := deadLetters(t, s, 1)[0]
	idle(t, s)
	if letter.Reason != "undecodable" || string(letter.Payload) != "13" || w.Stats().Completed != 9 {
		t.Errorf("dead letter %+v, stats %+v", letter, w.Stats())
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

// TestBatchesAreNotPassedAround: what a batch worker can't start it does not read, hand back and read again.
func TestBatchesAreNotPassedAround(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		maxJobs, size, first, jobs int
		takes                      time.Duration
	}{
		"a backlog":       {1, 100, 0, 1500, 100 * time.Millisecond},
		"partial batches": {2, 100, 2, 150, 2500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStream(t, redistest.Client(t), stream.Config{})
			cfg := quick()
			cfg.MaxJobs = tc.maxJobs
			w := newWorker(t, cfg, s)
			consumer.HandleBatch(w, ping, tc.size, func(context.Context, []*consumer.Job[int]) []error {
				time.Sleep(tc.takes)
				return nil
			})
			run(t, w)
			for i := range tc.first { // each starts a batch of one
				publish(t, s, ping.Job(i))
				redistest.Wait(t, "a batch of one", func() bool { return w.Stats().Started == int64(i+1) })
			}
			publish(t, s, many(tc.jobs)...)
			redistest.Wait(t, "the jobs", func() bool { return w.Stats().Completed == int64(tc.first+tc.jobs) })
			if back := w.Stats().HandedBack; back > int64(tc.jobs)/2 { // a few may: a small batch leaves what was meant for its rest
				t.Errorf("%d of %d jobs were handed back, want few", back, tc.jobs)
			}
		})
	}
}

// TestGraceWithADeadRedis: the grace period begins with the stop, whatever the readers wait for.
func TestGraceWithADeadRedis(t *testing.T) {
	t.Parallel()
	direct, proxied, proxy := behindProxy(t)
	s := newStream(t, direct, stream.Config{})
	through, err := stream.New(proxied, s.Name(), stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := quick()
	cfg.Grace = 300 * time.Millisecond
	w := newWorker(t, cfg, through)
	ended := make(chan time.Time, 1)
	consumer.Handle(w, ping, func(ctx context.Context, _ *consumer.Job[int]) error {
		<-ctx.Done()
		ended <- time.Now()
		return ctx.Err()
	})
	stop := run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the job to run", func() bool { return len(w.Running()) == 1 })
	proxy.Hang()
	start := time.Now()
	_ = stop()
	if took := (<-ended).Sub(start); took < 300*time.Millisecond || took > 2*time.Second {
		t.Errorf("the handler was stopped after %s, want about 300ms", took)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("Run returned after %s", took)
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
		return !h.Ready && strings.Contains(fmt.Sprint(h.Redis), bad.Name())
	})
	rdb.Del(t.Context(), bad.Name())
	publish(t, bad, ping.Job(2))
	redistest.Wait(t, "the other stream's job, once it is well", func() bool { return w.Stats().Completed == 2 })
	redistest.Wait(t, "good health", func() bool { return w.Health().Ready })
}

// TestHalfOpenConnection: when a connection is cut and Redis does not notice, the blocked read on it must not swallow what comes.
func TestHalfOpenConnection(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	direct := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	proxy := redistest.NewProxy(t, server.Addr())
	proxied := redistest.Connect(t, &redis.Options{Addr: proxy.Addr()})
	s, err := stream.New(direct, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	through, err := stream.New(proxied, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker(t, quick(), through)
	var book ledger
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error { book.add(fmt.Sprint(job.Data)); return nil })
	run(t, w)
	readers := func() (ids []string) { // connections that are blocked
		for line := range strings.Lines(direct.ClientList(t.Context()).Val()) {
			if strings.Contains(line, " flags=b") {
				ids = append(ids, strings.Fields(line)[0])
			}
		}
		return ids
	}
	redistest.Wait(t, "a blocked read", func() bool { return len(readers()) == 1 })
	ghost := readers()[0]
	proxy.CutClients()
	redistest.Wait(t, "the worker to read again", func() bool {
		return slices.ContainsFunc(readers(), func(id string) bool { return id != ghost })
	})
	publish(t, s, many(4)...)
	for i := range 4 {
		redistest.Wait(t, "the job", func() bool { return book.of(fmt.Sprint(i)) > 0 })
	}
	idle(t, s)
	if book.total() != 4 {
		t.Errorf("%d runs, want 4", book.total())
	}
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

// TestUnreadableEntryHandedBack leaves no trace in ids.
func TestUnreadableEntryHandedBack(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	k, g := engine.NewKeys(s.Name()), engine.NewKeys(s.Name()).Group(group, false)
	w := newWorker(t, quick(), s)
	stop := run(t, w)
	redistest.Wait(t, "the group", func() bool { return w.Health().Ready })
	_ = stop()
	xadd(t, rdb, s, "any", "1", "{")
	entry := rdb.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: group, Consumer: "me", Streams: []string{k.Stream, ">"}}).Val()[0].Messages[0].ID
	held := engine.Held{Key: k.Stream, Group: group, Consumer: "me", Entry: entry, Delete: true}
	if _, err := engine.ReleaseCall(held, g, "", engine.Entry{Type: "any", Data: "1", Opts: "{"}).Run(t.Context(), rdb); err != nil {
		t.Fatal(err)
	}
	if n := rdb.HLen(t.Context(), k.IDs).Val(); n != 0 {
		t.Errorf("%d fields in ids, want none", n)
	}
}
