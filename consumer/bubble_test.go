package consumer

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
)

// wrapped hides a client's type: a reader then has no connection of its own, which would pass the hooks by.
type wrapped struct{ redis.UniversalClient }

// wholeWorker is a worker to Run in a bubble: its Redis gives the entries of
// batch at the first read and nothing after it, and takes whatever is settled.
func wholeWorker(t *testing.T, cfg Config, batch int) (*Worker, *fakeRedis) {
	t.Helper()
	var given atomic.Bool
	f := &fakeRedis{}
	f.answer = func(cmd redis.Cmder) (any, error) {
		now := time.Now()
		args := cmd.Args()
		switch cmd.Name() {
		case "time":
			return []any{strconv.FormatInt(now.Unix(), 10), "0"}, nil
		case "client": // CLIENT ID: not known here, so reads block for a second and end by themselves
			return nil, serverError("ERR unknown command")
		case "xreadgroup":
			if !slices.Contains(args, any("orders")) {
				return nil, redis.Nil
			}
			if given.CompareAndSwap(false, true) {
				entries := make([]any, batch)
				for i := range entries {
					entries[i] = []any{strconv.Itoa(i+1) + "-1", []any{"type", "t", "data", "1", "traceparent", "", "opts", ""}}
				}
				return []any{[]any{"orders", entries}}, nil
			}
			time.Sleep(time.Second)
			return nil, redis.Nil
		case "evalsha", "eval":
			switch {
			case len(args) > 4 && args[4] == "{orders}:config":
				return []any{"queue", "1"}, nil // open
			case len(args) > 3 && args[3] == "{orders}:g:billing:retrying": // promote
				return []any{int64(0), int64(0), "", strconv.FormatInt(now.UnixMicro(), 10), int64(0), "0"}, nil
			case len(args) > 3 && args[3] == "{orders}:cancelled": // marks
				return []any{}, nil
			case len(args) > 3 && args[3] == "{orders}:switches":
				return []any{"", int64(0)}, nil
			case args[2] == 7: // sweep
				return []any{"quiet", now.UnixMilli(), []any{[]any{}, []any{}, []any{}}, int64(0), int64(10_000)}, nil
			case len(args) > 6 && args[6] == "{orders}:config": // beat
				none := []any{[]any{}, []any{}, []any{}}
				return []any{now.UnixMilli(), "1", int64(0), none, none, int64(0), []any{"", ""}, int64(-1), int64(0), none, none, int64(0), []any{int64(0), int64(0), int64(0)}, int64(1), int64(0), ""}, nil
			case args[2] == 1: // settle
				return []any{}, nil
			}
			return "9-9", nil // a move
		}
		return int64(1), nil
	}
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() {
		_ = rdb.Close()
		time.Sleep(2 * time.Second) // its pool looks every second whether it can dial again, and then sees that it is closed
	})
	rdb.AddHook(f)
	s, err := stream.New(wrapped{rdb}, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	w, err := New("billing", cfg, s)
	if err != nil {
		t.Fatal(err)
	}
	return w, f
}

// runFor runs a worker, tells it to stop after d, and returns how long the stop took.
func runFor(w *Worker, d time.Duration) (took time.Duration, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	time.Sleep(d)
	cancel()
	start := time.Now()
	err = <-ended
	return time.Since(start), err
}

// TestGraceIsKept: handlers have the whole grace period, and no more than that.
func TestGraceIsKept(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		needs      time.Duration // from the stop on; the handler obeys its context
		took       time.Duration
		completed  int64
		handedBack int64
	}{
		"finishes within it": {20 * time.Second, 20 * time.Second, 1, 0},
		"would need longer":  {time.Hour, 25 * time.Second, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w, _ := wholeWorker(t, Config{MaxJobs: 1, Timeout: None}, 1)
				w.HandleOther(func(ctx context.Context, _ *Delivery) error {
					select {
					case <-time.After(time.Minute + tc.needs):
						return nil
					case <-ctx.Done():
						if !errors.Is(context.Cause(ctx), ErrStopping) {
							t.Errorf("cause = %v", context.Cause(ctx))
						}
						return ctx.Err()
					}
				})
				took, err := runFor(w, time.Minute)
				if err != nil || took < tc.took-time.Second || took > tc.took+2*time.Second {
					t.Errorf("stopped after %s with %v, want %s and nil", took, err, tc.took)
				}
				if got := w.Stats(); got.Completed != tc.completed || got.HandedBack != tc.handedBack {
					t.Errorf("stats = %+v, want %d completed and %d handed back", got, tc.completed, tc.handedBack)
				}
			})
		})
	}
}

// TestStuckIsReportedAfterGrace: a handler that ignores its context is named stuckAfter later.
func TestStuckIsReportedAfterGrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, _ := wholeWorker(t, Config{MaxJobs: 1, Timeout: None}, 1)
		release := make(chan struct{})
		w.HandleOther(func(context.Context, *Delivery) error { <-release; return nil })
		took, err := runFor(w, time.Minute)
		if stuck, ok := errors.AsType[*StuckError](err); !ok || len(stuck.Jobs) != 1 {
			t.Errorf("Run = %v, want a StuckError with one job", err)
		}
		if want := 25*time.Second + stuckAfter; took < want || took > want+2*time.Second {
			t.Errorf("reported after %s, want %s", took, want)
		}
		if got := w.Stats(); got.HandedBack != 0 || got.Completed != 0 {
			t.Errorf("stats = %+v, want the job left alone: it may still run", got)
		}
		close(release)
	})
}

// TestShedding: what was read and can't start within a second goes back, and what is at work stays.
func TestShedding(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, _ := wholeWorker(t, Config{MaxJobs: 2, Timeout: None}, 50)
		w.HandleOther(func(ctx context.Context, _ *Delivery) error { <-ctx.Done(); return ctx.Err() })
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		time.Sleep(3 * shedEvery)
		time.Sleep(shedAfter)
		if got := w.Health(); got.Queued != 0 || got.Running != 2 {
			t.Errorf("%d queued and %d running, want the two that run alone", got.Queued, got.Running)
		}
		if n := w.Stats().HandedBack; n != 48 {
			t.Errorf("%d handed back, want 48", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
