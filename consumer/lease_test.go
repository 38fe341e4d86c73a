package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

const lease = time.Second

// leased is a config with a short lease.
func leased() consumer.Config {
	cfg := quick()
	cfg.Lease = lease
	return cfg
}

// killed makes the group, and has a consumer of another process read all that
// is in the stream and never be heard of again.
func killed(t *testing.T, rdb *redis.Client, s *stream.Stream) {
	t.Helper()
	opened, err := engine.Open(t.Context(), rdb, engine.NewKeys(s.Name()), group, "", false)
	if err != nil || opened.Refusal != "" {
		t.Fatal(opened, err)
	}
	for _, key := range []string{s.Name(), "{" + s.Name() + "}:g:" + group + ":redelivery"} {
		err := rdb.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: group, Consumer: "killed", Streams: []string{key, ">"}, Count: 1000, Block: -1}).Err()
		if err != nil && !errors.Is(err, redis.Nil) {
			t.Fatal(err)
		}
	}
}

// create declares a stream without a worker.
func create(t *testing.T, s *stream.Stream) {
	t.Helper()
	if _, err := s.Create(t.Context(), stream.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestJobsOfAKilledWorkerComeBack(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	create(t, s)
	var ids []string
	for _, r := range publish(t, s, append(many(250), stream.Job{Type: "ping", Data: 250, ID: "chosen"})...) {
		ids = append(ids, r.ID)
	}
	killed(t, rdb, s)
	start := time.Now()
	var workers []*consumer.Worker
	var book ledger
	for range 3 {
		w := newWorker(t, leased(), s)
		consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
			book.add(job.ID)
			if job.Attempt != 1 {
				t.Errorf("job %s is in attempt %d: a crash costs no try", job.ID, job.Attempt)
			}
			if job.Fence&(1<<32-1) == 0 {
				t.Errorf("the fence of %s has not grown: %d", job.ID, job.Fence)
			}
			return nil
		})
		run(t, w)
		workers = append(workers, w)
	}
	idle(t, s)
	if took := time.Since(start); took < lease {
		t.Errorf("taken over after %s: the lease was not over", took)
	}
	for _, id := range ids {
		if runs := book.of(id); runs != 1 {
			t.Errorf("job %s ran %d times, want once", id, runs)
		}
	}
	reclaimed := int64(0)
	for _, w := range workers {
		reclaimed += w.Stats().Reclaimed
	}
	if reclaimed != int64(len(ids)) {
		t.Errorf("%d jobs were taken over, want %d", reclaimed, len(ids))
	}
}

func TestForeignEntriesOfAKilledWorkerComeBack(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	create(t, s)
	rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []any{"sku", "A-1", "raw", "\x00\xff"}})
	killed(t, rdb, s)
	w := newWorker(t, leased(), s)
	got := make(chan consumer.Delivery, 1)
	w.HandleOther(func(_ context.Context, d *consumer.Delivery) error { got <- *d; return nil })
	run(t, w)
	if d := <-got; d.Fields["sku"] != "A-1" || d.Fields["raw"] != "\x00\xff" || d.Attempt != 1 {
		t.Errorf("delivery = %+v, want all fields", d)
	}
}

// TestSuspectsRunOneByOne: jobs whose workers died twice run one at a time, beside others.
func TestSuspectsRunOneByOne(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	create(t, s)
	for i := range 5 {
		xadd(t, rdb, s, "suspect", fmt.Sprint(i), `{"cr":1}`)
	}
	killed(t, rdb, s)
	w := newWorker(t, leased(), s)
	var mu sync.Mutex
	running, most, total := 0, 0, 0
	w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
		mu.Lock()
		running++
		most = max(most, running)
		total++
		mu.Unlock()
		<-time.After(20 * time.Millisecond)
		mu.Lock()
		running--
		mu.Unlock()
		return nil
	})
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { return nil })
	run(t, w)
	publish(t, s, many(100)...)
	redistest.Wait(t, "all jobs", func() bool { return w.Stats().Completed == 105 })
	if most != 1 || total != 5 {
		t.Errorf("%d suspects ran, %d at once; want 5, one at a time", total, most)
	}
}

func TestPoisonJobDies(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	create(t, s)
	xadd(t, rdb, s, "poison", "1", `{"cr":2,"h":{"a":"b"}}`)
	xadd(t, rdb, s, "ping", "2", "")
	killed(t, rdb, s)
	w := newWorker(t, leased(), s)
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { return nil })
	w.HandleOther(func(context.Context, *consumer.Delivery) error { t.Error("the poison job ran"); return nil })
	run(t, w)
	letter := deadLetters(t, s, 1)[0]
	if letter.Reason != "crashed" || letter.Crashes != 3 || letter.Attempt != 0 || letter.Header["a"] != "b" ||
		len(letter.History) != 1 || letter.History[0].Worker != "killed" {
		t.Errorf("dead letter = %+v, want a job that crashed three times, and its history", letter)
	}
	redistest.Wait(t, "its neighbour to complete", func() bool { return w.Stats().Completed == 1 })
}

// TestLongJobKeepsItsLease: a job may run for many leases, and nobody takes it.
func TestLongJobKeepsItsLease(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	var runs atomic.Int32
	var workers []*consumer.Worker
	for range 3 {
		w := newWorker(t, leased(), s)
		consumer.Handle(w, ping, func(ctx context.Context, _ *consumer.Job[int]) error {
			runs.Add(1)
			select {
			case <-ctx.Done():
				t.Errorf("the run ended: %v", context.Cause(ctx))
			case <-time.After(4 * lease):
			}
			return nil
		})
		run(t, w)
		workers = append(workers, w)
	}
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the job", func() bool {
		done := int64(0)
		for _, w := range workers {
			done += w.Stats().Completed
		}
		return t.Failed() || done == 1 || runs.Load() > 1
	})
	if runs.Load() != 1 {
		t.Errorf("the job ran %d times, want once", runs.Load())
	}
}

// TestLostLeaseEndsTheRun: a handler whose job is somebody else's hears of it, and what it returns changes nothing.
func TestLostLeaseEndsTheRun(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, leased(), s)
	cause := make(chan error, 1)
	consumer.Handle(w, ping, func(ctx context.Context, _ *consumer.Job[int]) error {
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return consumer.Permanent(errors.New("too late to matter"))
	})
	run(t, w)
	id := publish(t, s, ping.Job(1))[0].ID
	redistest.Wait(t, "the job to run", func() bool { return len(w.Running()) == 1 })
	rdb.XClaim(t.Context(), &redis.XClaimArgs{Stream: s.Name(), Group: group, Consumer: "thief", Messages: []string{id}})
	if err := <-cause; !errors.Is(err, consumer.ErrLeaseLost) {
		t.Errorf("the cause was %v, want ErrLeaseLost", err)
	}
	redistest.Wait(t, "the count", func() bool { return w.Stats().LeasesLost == 1 })
	if d := depths(t, s); d.Active != 1 || d.Dead != 0 {
		t.Errorf("depths = %+v, want the job with its new owner", d)
	}
}

// TestAnOutageStealsNothing: idle times run on while Redis stands still, and nobody may act on them.
func TestAnOutageStealsNothing(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"paused", "restarted"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Server(t)
			rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
			s, err := stream.New(rdb, "orders", stream.Config{})
			if err != nil {
				t.Fatal(err)
			}
			release := make(chan struct{})
			var runs atomic.Int32
			var workers []*consumer.Worker
			for range 2 {
				w := newWorker(t, leased(), s)
				consumer.Handle(w, ping, func(ctx context.Context, _ *consumer.Job[int]) error {
					runs.Add(1)
					select {
					case <-release:
					case <-ctx.Done():
						t.Errorf("a run ended: %v", context.Cause(ctx))
					}
					return nil
				})
				run(t, w)
				workers = append(workers, w)
			}
			publish(t, s, many(10)...)
			redistest.Wait(t, "the jobs to run", func() bool { return runs.Load() == 10 })
			<-time.After(2 * lease) // until both have been in contact long enough to sweep
			if name == "paused" {
				if err := server.Pause(); err != nil {
					t.Fatal(err)
				}
				<-time.After(3 * lease)
				if err := server.Resume(); err != nil {
					t.Fatal(err)
				}
			} else {
				if err := server.Stop(); err != nil {
					t.Fatal(err)
				}
				<-time.After(3 * lease)
				if err := server.Restart(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			<-time.After(3 * lease)
			close(release)
			redistest.Wait(t, "the jobs to complete", func() bool {
				return workers[0].Stats().Completed+workers[1].Stats().Completed == 10
			})
			for _, w := range workers {
				if got := w.Stats(); got.Reclaimed != 0 || got.LeasesLost != 0 {
					t.Errorf("stats = %+v, want nothing taken over or lost", got)
				}
			}
			if runs.Load() != 10 {
				t.Errorf("%d runs, want 10", runs.Load())
			}
		})
	}
}

// TestCutOffWorker: one that Redis does not hear of loses its jobs; what it had
// not started it does not start, and what ran hears of it.
func TestCutOffWorker(t *testing.T) {
	t.Parallel()
	direct, proxied, proxy := behindProxy(t)
	s := newStream(t, direct, stream.Config{})
	through, err := stream.New(proxied, s.Name(), stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := leased()
	cfg.MaxJobs = 2
	cut := newWorker(t, cfg, through)
	slow, release := new(atomic.Bool), make(chan struct{})
	var book ledger
	var causes, blocked atomic.Int32
	handle := func(ctx context.Context, job *consumer.Job[int]) error {
		book.add(fmt.Sprint(job.Data))
		if slow.Load() {
			blocked.Add(1)
			select {
			case <-release:
			case <-ctx.Done():
				if errors.Is(context.Cause(ctx), consumer.ErrLeaseLost) {
					causes.Add(1)
				}
			}
		}
		return nil
	}
	consumer.Handle(cut, ping, handle)
	run(t, cut)
	const n = 20_000
	publish(t, s, many(n)...)
	redistest.Wait(t, "some pace", func() bool { return cut.Stats().Completed > 2000 })
	slow.Store(true)
	redistest.Wait(t, "two running jobs, some read ahead, and the ends of all others in Redis", func() bool {
		got := cut.Stats()
		return blocked.Load() == 2 && cut.Health().Queued > 0 && got.Completed == got.Started-2
	})
	proxy.Hang()
	slow.Store(false) // what starts from here on is quick
	other := newWorker(t, cfg, s)
	consumer.Handle(other, ping, handle)
	run(t, other)
	redistest.Wait(t, "the other worker to take over", func() bool { return other.Stats().Reclaimed > 0 })
	if err := proxy.Forward(); err != nil {
		t.Fatal(err)
	}
	proxy.Cut()
	redistest.Wait(t, "both runs to hear of it", func() bool { return causes.Load() == 2 })
	close(release)
	idle(t, s)
	twice := 0
	for i := range n {
		switch runs := book.of(fmt.Sprint(i)); runs {
		case 1:
		case 2:
			twice++
		default:
			t.Errorf("job %d ran %d times", i, runs)
		}
	}
	if twice > 2 {
		t.Errorf("%d jobs ran twice, want the two that ran when the worker was cut off", twice)
	}
}

// TestDeletedWhilePending: a job that somebody deleted while a dead worker held it is not forgotten in silence.
func TestDeletedWhilePending(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	create(t, s)
	id := publish(t, s, ping.Job(1))[0].ID
	killed(t, rdb, s)
	rdb.XDel(t.Context(), s.Name(), id)
	w := newWorker(t, leased(), s)
	run(t, w)
	letter := deadLetters(t, s, 1)[0]
	if letter.Reason != "lost" || letter.ID != id || letter.Worker != "killed" || !strings.Contains(letter.Error, "deleted") {
		t.Errorf("dead letter = %+v, want one that says what was lost", letter)
	}
	redistest.Wait(t, "the pending entry to go", func() bool { return depths(t, s).Active == 0 })
}

// TestDeletedWhileRunning: the owner has all of it, so the job goes on, also past a heartbeat.
func TestDeletedWhileRunning(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, leased(), s)
	consumer.Handle(w, ping, func(ctx context.Context, job *consumer.Job[int]) error {
		if job.Attempt == 1 {
			rdb.XTrimMaxLen(ctx, s.Name(), 0)
			consumer.Heartbeat(w)
			return errors.New("once more")
		}
		return nil
	})
	run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the job to complete", func() bool { return w.Stats().Completed == 1 })
	if got := w.Stats(); got.Lost != 1 || got.Retried != 1 {
		t.Errorf("stats = %+v, want one entry deleted and retried", got)
	}
}

// TestDeadConsumersAreRemoved: those that hold nothing, and no others.
func TestDeadConsumersAreRemoved(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	create(t, s)
	publish(t, s, ping.Job(1))
	killed(t, rdb, s)
	rdb.XGroupCreateConsumer(t.Context(), s.Name(), group, "idle")
	cfg := leased()
	cfg.Lease = consumer.MinLease
	w := newWorker(t, cfg, s)
	consumer.Handle(w, ping, func(ctx context.Context, _ *consumer.Job[int]) error { <-ctx.Done(); return ctx.Err() })
	stop := run(t, w)
	names := func() (list []string) {
		for _, c := range rdb.XInfoConsumers(t.Context(), s.Name(), group).Val() {
			list = append(list, c.Name)
		}
		slices.Sort(list)
		return list
	}
	redistest.Wait(t, "the killed worker's job to be taken over", func() bool { return len(w.Running()) == 1 })
	redistest.Wait(t, "the dead ones to go, and the living one to stay", func() bool {
		list := names()
		return !slices.Contains(list, "killed") && !slices.Contains(list, "idle") && slices.Contains(list, w.Name())
	})
	_ = stop()
}
