package consumer_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// wire is a hook between a worker and its Redis: scripts and pipelines take a while more, and look sees what was answered.
type wire struct {
	delay time.Duration
	look  func(ctx context.Context, cmd redis.Cmder) error
}

func (h wire) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h wire) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if strings.HasPrefix(cmd.Name(), "eval") {
			<-time.After(h.delay)
		}
		if h.look != nil && err == nil {
			if err = h.look(ctx, cmd); err != nil {
				cmd.SetErr(err)
			}
		}
		return err
	}
}

func (h wire) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		<-time.After(h.delay)
		return err
	}
}

// TestLostLeaseFarFromRedis: an end that is not ours waits for the heartbeat that it asked for, however long that is on
// its way. Sent again before, it kept the heartbeat from being believed, for ever.
func TestLostLeaseFarFromRedis(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	far := redistest.Connect(t, redistest.Options(t))
	far.AddHook(wire{delay: 80 * time.Millisecond})
	s := newStream(t, far, stream.Config{})
	w := newWorker(t, leased(), s)
	consumer.Handle(w, ping, func(ctx context.Context, job *consumer.Job[int]) error {
		if err := rdb.Do(ctx, "XCLAIM", s.Name(), group, "thief", 0, job.ID, "JUSTID").Err(); err != nil {
			t.Error(err)
		}
		return errors.New("fails")
	})
	run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the run", func() bool { return w.Stats().Started > 0 })
	still := redistest.Standstill(t)
	start := time.Now()
	redistest.Wait(t, "the worker to learn that the job is not its own", func() bool { return w.Stats().LeasesLost > 0 })
	if took := time.Since(start); took > 6*time.Second+still() {
		t.Errorf("it took %s, want the heartbeat that was asked for to tell", took)
	}
}

// TestParkedEndsWaitForThemselves: one stream's ends are refused again and again; another's, refused once, is written
// when its time has come.
func TestParkedEndsWaitForThemselves(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s, bad := newStream(t, rdb, stream.Config{}), newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s, bad)
	var failed atomic.Bool
	ids := "{" + s.Name() + "}:ids"
	consumer.Handle(w, ping, func(ctx context.Context, job *consumer.Job[int]) error {
		if job.Stream == bad.Name() {
			return errors.New("fails, and cannot be parked")
		}
		if !failed.Swap(true) {
			rdb.Del(ctx, ids)
			rdb.Set(ctx, ids, "x", 0)
			return errors.New("fails")
		}
		return nil
	})
	rdb.Set(t.Context(), "{"+bad.Name()+"}:ids", "x", 0)
	run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the refusal", func() bool { return w.Health().Problem != nil })
	rdb.Del(t.Context(), ids)
	last := time.Time{}
	redistest.Wait(t, "the end to be written", func() bool {
		if time.Since(last) > time.Second {
			publish(t, bad, ping.Job(1))
			last = time.Now()
		}
		return w.Stats().Retried > 0
	})
}

// TestSuspectWhoseReadWasLost: it did not run, so it has not crashed anybody.
func TestSuspectWhoseReadWasLost(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	lossy := redistest.Connect(t, redistest.Options(t))
	s := newStream(t, lossy, stream.Config{})
	suspects := key(s, "suspects")
	var lost atomic.Int32
	lossy.AddHook(wire{look: func(_ context.Context, cmd redis.Cmder) error {
		args := cmd.Args()
		if cmd.Name() == "xreadgroup" && len(args) == 9 && args[7] == suspects && lost.Load() < 2 { // the read, and the search after it
			lost.Add(1)
			return errors.New("connection reset by peer")
		}
		return nil
	}})
	w := newWorker(t, leased(), s)
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { return nil })
	run(t, w)
	redistest.Wait(t, "the worker", func() bool { return w.Health().Ready })
	addSuspect(t, rdb, s, "first")
	redistest.Wait(t, "its end", func() bool { got := w.Stats(); return got.Completed+got.Dead > 0 })
	if got := w.Stats(); got.Dead > 0 || lost.Load() != 2 {
		t.Errorf("stats = %+v after %d lost answers, want it to have run", got, lost.Load())
	}
}

// TestSweepWhileOrphansAreSought: what a sweep has just taken over looks like an orphan until its answer is here. It
// goes back once.
func TestSweepWhileOrphansAreSought(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t) // its clients are killed
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	slow := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	s := newStream(t, slow, stream.Config{})
	killed(t, rdb, s)
	publish(t, s, ping.Job(1))
	if err := rdb.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: group, Consumer: "dead", Streams: []string{s.Name(), ">"}}).Err(); err != nil {
		t.Fatal(err)
	}
	var met, swept atomic.Bool
	slow.AddHook(wire{look: func(ctx context.Context, cmd redis.Cmder) error {
		c, ok := cmd.(interface{ Val() any })
		if !ok || !strings.HasPrefix(cmd.Name(), "eval") {
			return nil
		}
		list, _ := c.Val().([]any)
		if len(list) != 5 {
			return nil
		}
		taken, _ := list[2].([]any)
		if len(taken) != 3 {
			return nil
		}
		if first, _ := taken[0].([]any); len(first) == 0 || met.Swap(true) {
			swept.Store(met.Load()) // what the sweep before brought is dealt with
			return nil
		}
		rdb.ClientKillByFilter(ctx, "TYPE", "normal", "SKIPME", "yes") // the reader's connection among them: it looks for orphans
		for end := time.Now().Add(time.Second); time.Now().Before(end); <-time.After(time.Millisecond) {
			if info, err := rdb.XInfoStream(ctx, key(s, "redelivery")).Result(); err == nil && info.EntriesAdded > 0 {
				break
			}
		}
		return nil
	}})
	w := newWorker(t, leased(), s)
	var book ledger
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error { book.add(job.ID); return nil })
	run(t, w)
	redistest.Wait(t, "the run, and the next sweep", func() bool {
		health := w.Health()
		return swept.Load() && book.total() > 0 && health.Queued+health.Running == 0
	})
	redistest.Wait(t, "its end", func() bool { return w.Stats().Completed >= 1 })
	idle(t, s)
	if book.total() != 1 || w.Stats().Completed != 1 {
		t.Errorf("%d runs, %+v; want one", book.total(), w.Stats())
	}
}

// TestLostAnswerAndDeletedConsumer: the answer to an end is lost before it was written, and then somebody takes the
// entry off the worker's list. "Not ours" does not mean that the first try did it.
func TestLostAnswerAndDeletedConsumer(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	lossy := redistest.Connect(t, redistest.Options(t))
	s := newStream(t, lossy, stream.Config{})
	w := newWorker(t, quick(), s)
	var runs atomic.Int32
	var lost atomic.Bool
	lossy.AddHook(beforePipeline(func(ctx context.Context, cmds []redis.Cmder) error {
		if runs.Load() == 0 || lost.Swap(true) {
			return nil
		}
		rdb.XGroupDelConsumer(ctx, s.Name(), group, w.Name())
		return errors.New("connection reset by peer") // for all the worker knows it may have been written
	}))
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error {
		if runs.Add(1) == 1 {
			return errors.New("once more")
		}
		return nil
	})
	run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the second try", func() bool { return w.Stats().Completed == 1 })
	if got := w.Stats(); runs.Load() != 2 || got.Retried != 1 || !lost.Load() {
		t.Errorf("%d runs, %+v; want two, by one retry", runs.Load(), got)
	}
	idle(t, s)
}

// beforePipeline is a hook that may fail a pipeline before it is sent.
type beforePipeline func(ctx context.Context, cmds []redis.Cmder) error

func (f beforePipeline) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (f beforePipeline) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (f beforePipeline) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if err := f(ctx, cmds); err != nil {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
			return err
		}
		return next(ctx, cmds)
	}
}
