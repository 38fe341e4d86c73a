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
	w.mu.Lock()
	w.prepare(context.Background())
	w.mu.Unlock()
	src := w.sources[0]
	src.kind, src.group = stream.KindQueue, src.keys.Group("billing", false)
	src.lanes = []*lane{{src: src, key: src.group.Redelivery, delete: true}, {src: src, key: src.keys.Stream, delete: true}}
	src.suspects = &lane{src: src, key: src.group.Suspects, delete: true}
	return w
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
				if arg == "1-1" {
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
					if keys := cmd.Args()[2]; keys == 4 {
						beats.Add(1)
						none := []any{[]any{}, []any{}, []any{}}
						return []any{now, "1", int64(0), none, none}, nil
					}
					sweeps.Add(1)
					return []any{state, now, []any{[]any{}, []any{}, []any{}}, int64(0)}, nil
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
			if keys := cmd.Args()[2]; keys == 4 {
				none := []any{[]any{}, []any{}, []any{}}
				return []any{now, "1", int64(0), none, none}, nil
			}
			swept.Store(now)
			return []any{engine.SweepWatch, now, []any{[]any{}, []any{}, []any{}}, int64(0)}, nil
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
		c.answered(time.Now(), redisTime, lease)
		time.Sleep(lease - time.Millisecond)
		if c.trusted(time.Now(), lease) {
			t.Error("idle times are trusted before a whole lease of contact")
		}
		time.Sleep(time.Millisecond)
		if !c.trusted(time.Now(), lease) {
			t.Error("idle times are not trusted after a lease of contact")
		}
		if got, want := c.notAfter(time.Now(), lease), redisTime.Add(lease+lease/3); !got.Equal(want) {
			t.Errorf("not after %s, want %s", got, want)
		}
		asked := time.Now()
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
