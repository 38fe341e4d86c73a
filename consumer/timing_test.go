package consumer

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// fakeRedis answers scripts in place of a server, inside a bubble: no connection is ever made.
type fakeRedis struct {
	calls  atomic.Int64
	answer func(cmd redis.Cmder) (any, error)
}

func (f *fakeRedis) DialHook(redis.DialHook) redis.DialHook {
	return func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no network here") }
}

func (f *fakeRedis) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(_ context.Context, cmd redis.Cmder) error { return f.do(cmd) }
}

func (f *fakeRedis) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(_ context.Context, cmds []redis.Cmder) error {
		var first error
		for _, cmd := range cmds {
			if err := f.do(cmd); err != nil && first == nil {
				first = err
			}
		}
		return first
	}
}

func (f *fakeRedis) do(cmd redis.Cmder) error {
	f.calls.Add(1)
	v, err := f.answer(cmd)
	if c, ok := cmd.(interface{ SetVal(any) }); ok && err == nil {
		c.SetVal(v)
	}
	cmd.SetErr(err)
	return err
}

// isBeat tells a heartbeat by its last key.
func isBeat(cmd redis.Cmder) bool {
	args := cmd.Args()
	return len(args) > 8 && args[8] == "{orders}:workers"
}

type serverError string

func (e serverError) Error() string { return string(e) }
func (serverError) RedisError()     {}

// fakeWorker is one whose Redis is f. It has one source with its lanes, and has not been started.
func fakeWorker(t *testing.T, f *fakeRedis, cfg Config) *Worker {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() { _ = rdb.Close() })
	rdb.AddHook(f)
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := New("billing", cfg, s)
	if err != nil {
		t.Fatal(err)
	}
	readyToRun(w)
	return w
}

// readyToRun prepares a worker of one stream as if it had been opened.
func readyToRun(w *Worker) {
	w.mu.Lock()
	w.prepare(context.Background())
	w.mu.Unlock()
	src := w.sources[0]
	src.kind, src.group = stream.KindQueue, src.keys.Group("billing", false)
	src.lanes = []*lane{{src: src, key: src.group.Redelivery, delete: true}, {src: src, key: src.keys.Stream, delete: true}}
	src.suspects = &lane{src: src, key: src.group.Suspects, delete: true}
}

func endedTask(w *Worker, entry string) *task {
	l := w.sources[0].lanes[1]
	t := w.handOut(l, []rawEntry{{id: entry, values: []string{"type", "t", "data", "", "traceparent", "", "opts", ""}}}, mono())[0]
	l.hold([]*task{t})
	w.load.Add(t.weight)
	t.verdict = verdict{action: actComplete}
	return t
}

// TestSettlerWaitsForRedis: while Redis is away, its tries are few and spread; what has ended is written when it is back.
func TestSettlerWaitsForRedis(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		back := time.Now().Add(time.Minute)
		f := &fakeRedis{answer: func(redis.Cmder) (any, error) {
			if time.Now().Before(back) {
				return nil, serverError("LOADING Redis is loading the dataset in memory")
			}
			return []any{}, nil
		}}
		w := fakeWorker(t, f, Config{Logger: slog.New(slog.DiscardHandler)})
		ended := make(chan struct{})
		go func() { w.settle(); close(ended) }()
		w.finish(endedTask(w, "1-1"))
		time.Sleep(time.Minute - time.Second)
		if n := f.calls.Load(); n < 15 || n > 80 { // 50 ms, doubled up to 2 s, each spread by half
			t.Errorf("%d tries in a minute, want about 35", n)
		}
		if w.counts.completed.Load() != 0 || w.writes.cause() == nil {
			t.Error("the job counts as completed while Redis is away")
		}
		time.Sleep(5 * time.Second)
		if w.counts.completed.Load() != 1 || w.writes.cause() != nil || len(w.sources[0].lanes[1].entries()) != 0 {
			t.Error("the job is not settled though Redis is back")
		}
		w.drainBy.Store(time.Now().Add(settleAfter).UnixNano())
		close(w.drain)
		<-ended
		close(w.gone)
	})
}

// TestSettlerGivesUp: once the worker stops, it tries for settleAfter and no longer.
func TestSettlerGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRedis{answer: func(redis.Cmder) (any, error) { return nil, serverError("LOADING") }}
		w := fakeWorker(t, f, Config{})
		ended := make(chan struct{})
		go func() { w.settle(); close(ended) }()
		w.finish(endedTask(w, "1-1"))
		time.Sleep(time.Minute)
		start := time.Now()
		w.drainBy.Store(start.Add(settleAfter).UnixNano())
		close(w.drain)
		<-ended
		if took := time.Since(start); took < settleAfter || took > settleAfter+time.Second {
			t.Errorf("gave up after %s, want %s", took, settleAfter)
		}
	})
}

// TestRefusedEndKeepsNobodyWaiting: an end that the server refuses is tried again now and then, and others are written at once.
func TestRefusedEndKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var refused atomic.Int64
		f := &fakeRedis{answer: func(cmd redis.Cmder) (any, error) {
			for _, arg := range cmd.Args() {
				if id, ok := arg.(*string); ok && *id == "1-1" {
					refused.Add(1)
					return nil, serverError("WRONGTYPE somebody made it a string")
				}
			}
			return []any{}, nil
		}}
		w := fakeWorker(t, f, Config{})
		ended := make(chan struct{})
		go func() { w.settle(); close(ended) }()
		w.finish(endedTask(w, "1-1"))
		synctest.Wait()
		w.finish(endedTask(w, "2-1"))
		synctest.Wait()
		if w.counts.completed.Load() != 1 {
			t.Errorf("%d jobs completed, want the one that nobody refuses, at once", w.counts.completed.Load())
		}
		time.Sleep(20 * time.Second)
		if n := refused.Load(); n < 8 || n > 12 {
			t.Errorf("the refused end was tried %d times in 20 s, want every %s", n, parkedFor)
		}
		w.drainBy.Store(time.Now().UnixNano())
		close(w.drain)
		<-ended
	})
}

// TestLeaseLoopPace: leases are renewed every third of one, an idle group is looked at as often, and a
// group with an entry near its end every second.
func TestLeaseLoopPace(t *testing.T) {
	t.Parallel()
	for state, want := range map[string][2]int64{engine.SweepQuiet: {25, 36}, engine.SweepWatch: {200, 330}} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var beats, sweeps atomic.Int64
				f := &fakeRedis{answer: func(cmd redis.Cmder) (any, error) {
					now := time.Now().UnixMilli()
					if isBeat(cmd) {
						beats.Add(1)
						none := []any{[]any{}, []any{}, []any{}}
						return []any{now, "1", int64(0), none, none, int64(0), []any{"", ""}, int64(-1), int64(0), none, none, int64(0), []any{int64(0), int64(0), int64(0)}, int64(1), int64(0), ""}, nil
					}
					if cmd.Name() != "evalsha" {
						return nil, serverError("ERR this is no script")
					}
					sweeps.Add(1)
					wait := int64(1000)
					if state == engine.SweepQuiet {
						wait = 10_000
					}
					return []any{state, now, []any{[]any{}, []any{}, []any{}}, int64(0), wait}, nil
				}}
				w := fakeWorker(t, f, Config{Lease: 30 * time.Second})
				ended := make(chan struct{})
				go func() { w.keepLeases(w.sources[0]); close(ended) }()
				time.Sleep(29 * time.Second)
				if n := sweeps.Load(); n != 0 {
					t.Errorf("%d sweeps within the first lease, want none", n)
				}
				time.Sleep(271 * time.Second)
				if n := beats.Load(); n < 30 || n > 32 {
					t.Errorf("%d heartbeats in 300 s, want one every 10 s", n)
				}
				if n := sweeps.Load(); n < want[0] || n > want[1] {
					t.Errorf("%d sweeps in 300 s, want between %d and %d", n, want[0], want[1])
				}
				close(w.gone)
				<-ended
			})
		})
	}
}

// TestNoSweepAfterAnOutage: one whole lease of contact comes first.
func TestNoSweepAfterAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var down atomic.Bool
		var swept atomic.Int64 // unix ms of the last sweep
		f := &fakeRedis{answer: func(cmd redis.Cmder) (any, error) {
			if down.Load() {
				return nil, serverError("LOADING")
			}
			now := time.Now().UnixMilli()
			if isBeat(cmd) {
				none := []any{[]any{}, []any{}, []any{}}
				return []any{now, "1", int64(0), none, none, int64(0), []any{"", ""}, int64(-1), int64(0), none, none, int64(0), []any{int64(0), int64(0), int64(0)}, int64(1), int64(0), ""}, nil
			}
			if cmd.Name() != "evalsha" {
				return nil, serverError("ERR this is no script")
			}
			swept.Store(now)
			return []any{engine.SweepWatch, now, []any{[]any{}, []any{}, []any{}}, int64(0), int64(1000)}, nil
		}}
		w := fakeWorker(t, f, Config{Lease: 30 * time.Second})
		ended := make(chan struct{})
		go func() { w.keepLeases(w.sources[0]); close(ended) }()
		time.Sleep(60 * time.Second)
		if swept.Load() == 0 {
			t.Fatal("never swept: this proves nothing")
		}
		down.Store(true)
		time.Sleep(20 * time.Second)
		down.Store(false)
		up := time.Now()
		time.Sleep(28 * time.Second)
		if last := time.UnixMilli(swept.Load()); last.After(up) {
			t.Errorf("swept %s after the outage, want not within a lease", last.Sub(up))
		}
		time.Sleep(10 * time.Second)
		if last := time.UnixMilli(swept.Load()); !last.After(up) {
			t.Errorf("not swept again %s after the start", time.Since(start))
		}
		close(w.gone)
		<-ended
	})
}

func TestContact(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const lease = 30 * time.Second
		redisTime := time.Unix(1_000_000, 0)
		var c contact
		if c.trusted(time.Now(), lease) {
			t.Error("idle times are trusted before any contact")
		}
		start := time.Now()
		hear := func() { c.answered(time.Now(), redisTime.Add(time.Since(start)), lease) }
		hear()
		for range 3 {
			time.Sleep(lease/3 - time.Millisecond)
			hear()
		}
		if c.trusted(time.Now(), lease) {
			t.Error("idle times are trusted before a whole lease of contact")
		}
		time.Sleep(3 * time.Millisecond)
		if !c.trusted(time.Now(), lease) {
			t.Error("idle times are not trusted after a lease of contact")
		}
		if got, want := c.notAfter(time.Now(), lease), redisTime.Add(lease+lease/3); !got.Equal(want) {
			t.Errorf("not after %s, want %s", got, want)
		}
		time.Sleep(time.Hour) // the process was stopped, and does not know it
		if c.trusted(time.Now(), lease) {
			t.Error("idle times are trusted an hour after the last word of Redis")
		}
		asked := time.Now()
		time.Sleep(lease / 2) // Redis stood still before it answered, and nobody was heard meanwhile
		c.answered(asked, redisTime.Add(time.Since(start)), lease)
		if c.trusted(time.Now(), lease) {
			t.Error("idle times are trusted right after an answer that was given half a lease late")
		}
		asked = time.Now()
		redisTime = redisTime.Add(time.Since(start))
		time.Sleep(lease / 2) // the answer took long: it was given late, or the way was blocked
		c.answered(asked, redisTime, lease)
		if c.trusted(time.Now(), lease) {
			t.Error("idle times are trusted right after an answer that took half a lease")
		}
		if got, want := c.notAfter(time.Now(), lease), redisTime.Add(lease/3); !got.Equal(want) {
			t.Errorf("not after %s, want %s: reckoned from when the answer came", got, want)
		}
	})
}

// TestContactWithAnotherRedis: a clock that jumps, or data that go back in time, make every idle time a lie.
func TestContactWithAnotherRedis(t *testing.T) {
	t.Parallel()
	const lease = 30 * time.Second
	for name, tc := range map[string]struct {
		step time.Duration
		last int64 // the heartbeat that Redis knows of
		want bool
	}{
		"the same":                {0, 3, true},
		"its clock runs a little": {2 * time.Second, 3, true},
		"its clock jumps ahead":   {time.Minute, 3, false},
		"its clock jumps back":    {-time.Minute, 3, false},
		"its data are older":      {0, 2, false},
		"its data are gone":       {0, -1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var c contact
				hear := func(step time.Duration, last int64) {
					c.wrote(c.beat+1, engine.Beat{Last: last, Took: true})
					c.answered(time.Now(), time.Now().Add(step), lease)
				}
				for n := range int64(4) {
					if n > 0 {
						time.Sleep(lease / 3)
						hear(0, n-1)
					} else {
						hear(0, -1)
					}
					c.beat = n // what it wrote
				}
				hear(tc.step, tc.last)
				if got := c.trusted(time.Now(), lease); got != tc.want {
					t.Errorf("idle times are trusted: %v, want %v", got, tc.want)
				}
			})
		})
	}
}

// TestFailedHeartbeatsArePaced: a slot that waits for its lease asks for one, and must not make a loop of it.
func TestFailedHeartbeatsArePaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRedis{answer: func(redis.Cmder) (any, error) {
			time.Sleep(time.Millisecond)
			return nil, serverError("LOADING Redis is loading the dataset in memory")
		}}
		w := fakeWorker(t, f, Config{Lease: 30 * time.Second, Logger: slog.New(slog.DiscardHandler)})
		task := endedTask(w, "1-1")
		task.lane.confirmed.Store(math.MinInt64)
		time.Sleep(16 * time.Second)
		ended, answer := make(chan struct{}), make(chan bool, 1)
		go func() { w.keepLeases(w.sources[0]); close(ended) }()
		go func() { answer <- w.leased(task) }()
		time.Sleep(10 * time.Second)
		if n := f.calls.Load(); n < 8 || n > 15 {
			t.Errorf("%d heartbeats in 10 s while Redis loads, want one a second", n)
		}
		close(w.stopped)
		<-answer
		close(w.gone)
		<-ended
	})
}

// TestBatchOfLostJobs: leases that are lost while the batch still waits for one of them end it as it begins.
func TestBatchOfLostJobs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRedis{answer: func(redis.Cmder) (any, error) {
			none := []any{[]any{}, []any{}, []any{}}
			return []any{time.Now().UnixMilli(), "1", int64(0), []any{[]any{"1-1", "2-1"}, []any{}, []any{}}, none, int64(0), []any{"", ""}, int64(-1), int64(1), none, none, int64(0), []any{int64(0), int64(0), int64(0)}, int64(1), int64(0), ""}, nil
		}}
		w := fakeWorker(t, f, Config{Lease: 30 * time.Second, Logger: slog.New(slog.DiscardHandler)})
		var cause error
		r := &route{size: 10, batch: func(ctx context.Context, ds []*Delivery) []error {
			select {
			case <-ctx.Done():
				cause = context.Cause(ctx)
			case <-time.After(5 * time.Minute):
			}
			return make([]error, len(ds))
		}}
		tasks := []*task{endedTask(w, "1-1"), endedTask(w, "2-1")}
		for i, task := range tasks {
			task.lane.confirmed.Store(math.MinInt64)
			task.read = mono() - int64(time.Duration(14+2*i)*time.Second) // the first is sure for another second
			task.route = r
		}
		ended := make(chan struct{})
		go func() { time.Sleep(10 * time.Millisecond); w.keepLeases(w.sources[0]); close(ended) }()
		w.runBatch(w.slots[0], r, tasks)
		if !errors.Is(cause, ErrLeaseLost) {
			t.Errorf("the batch ended with %v, want %v", cause, ErrLeaseLost)
		}
		close(w.gone)
		<-ended
	})
}

// TestStartWaitsForTheLease: what was read long ago starts only when a heartbeat has confirmed that it is still ours.
func TestStartWaitsForTheLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := fakeWorker(t, &fakeRedis{}, Config{Lease: 30 * time.Second})
		task := endedTask(w, "1-1")
		task.lane.confirmed.Store(math.MinInt64) // a bubble's time begins before the process's
		if !w.leased(task) {
			t.Error("a fresh task does not start")
		}
		time.Sleep(15 * time.Second)
		answer := make(chan bool, 1)
		ask := func() { go func() { answer <- w.leased(task) }() }
		ask()
		synctest.Wait()
		if len(answer) != 0 {
			t.Fatal("a task whose lease is half over starts without a heartbeat")
		}
		select {
		case <-w.sources[0].beats.want:
		default:
			t.Error("no heartbeat was asked for")
		}
		task.since = mono() // held only after that heartbeat began: it says nothing of this task
		task.lane.confirmed.Store(task.since)
		w.sources[0].beats.over()
		synctest.Wait()
		if len(answer) != 0 {
			t.Fatal("a task starts under a lease that was confirmed for others")
		}
		time.Sleep(time.Millisecond)
		task.lane.confirmed.Store(mono())
		w.sources[0].beats.over()
		if !<-answer {
			t.Error("the task does not start under a confirmed lease")
		}
		time.Sleep(15 * time.Second)
		ask()
		synctest.Wait()
		close(w.stopped)
		if <-answer {
			t.Error("the task starts though the worker stops")
		}
	})
}

// TestStaleReadDoesNotStart: the reader stands still with an answer for longer than a lease, while heartbeats go on.
// They knew nothing of what it holds, and so confirm nothing.
func TestStaleReadDoesNotStart(t *testing.T) {
	t.Parallel()
	direct, hooked := redistest.Client(t), redistest.Client(t)
	h := &lateRead{open: make(chan struct{})}
	hooked.AddHook(h)
	name := redistest.Name(t)
	var runs [2]atomic.Int32
	start := func(i int, rdb redis.UniversalClient) (*stream.Stream, *Worker) {
		s, err := stream.New(rdb, name, stream.Config{})
		if err != nil {
			t.Fatal(err)
		}
		w, err := New("billing", Config{Lease: time.Second}, s)
		if err != nil {
			t.Fatal(err)
		}
		w.HandleOther(func(context.Context, *Delivery) error { runs[i].Add(1); return nil })
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		redistest.Wait(t, "the worker", func() bool { return w.Health().Ready })
		return s, w
	}
	s, stalled := start(0, wrapped{hooked})
	h.armed.Store(true)
	if _, err := s.Publish(t.Context(), stream.Job{Type: "x", Data: 1}); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, "the read", h.hit.Load)
	start(1, direct)
	redistest.Wait(t, "the other worker's run", func() bool { return runs[1].Load() == 1 })
	close(h.open)
	redistest.Wait(t, "the first worker to learn that it is too late, or to start it", func() bool { return stalled.Stats().LeasesLost == 1 || runs[0].Load() > 0 })
	if runs[0].Load() != 0 {
		t.Error("a job that another worker has completed started under a lease that had run out")
	}
}
