package consumer

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/engine"
)

// lines are the lines of a JSON log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// with returns the lines whose message contains part.
func (l *lines) with(t *testing.T, part string) (found []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		if msg, _ := m["msg"].(string); strings.Contains(msg, part) {
			found = append(found, m)
		}
	}
	return found
}

//go:noinline
func neverLooksAtItsContext(release chan struct{}) { <-release }

// TestStuckHandlerIsReported: past its timeout and ten seconds more a handler is reported once, with where it hangs,
// its lease goes on, health says so, and only when no slot is left does a restart help.
func TestStuckHandlerIsReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, _ := wholeWorker(t, Config{MaxJobs: 2, Timeout: time.Minute}, 1)
		var log lines
		w.log = slog.New(slog.NewJSONHandler(&log, nil))
		release := make(chan struct{})
		w.HandleOther(func(ctx context.Context, _ *Delivery) error {
			neverLooksAtItsContext(release)
			return ctx.Err()
		})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()

		time.Sleep(time.Minute + stuckFor - 2*time.Second)
		if h := w.Health(); !h.Live || !h.Ready || h.Problem != nil || h.Stuck != 0 || h.Running != 1 {
			t.Errorf("health = %+v, want good while the handler may still obey", h)
		}
		time.Sleep(5 * time.Second)
		h := w.Health()
		if !h.Live || !h.Ready || h.Stuck != 1 || h.Running != 1 {
			t.Errorf("health = %+v, want one stuck, and the worker alive: it has another slot", h)
		}
		if h.Problem == nil || !strings.Contains(h.Problem.Error(), "1 of 2 slots") || !strings.Contains(h.Problem.Error(), "t 1") {
			t.Errorf("problem = %v, want how many slots and which type", h.Problem)
		}
		if r := w.Running(); len(r) != 1 || r[0].Overdue < stuckFor {
			t.Errorf("running = %+v, want it overdue", r)
		}
		held := w.sources[0].lanes[1].entries()
		if len(held) != 1 {
			t.Errorf("%d entries are held, want the stuck job's, whose lease goes on", len(held))
		}
		time.Sleep(time.Minute)
		reports := log.with(t, "ignores the end of its context")
		if len(reports) != 1 {
			t.Fatalf("reported %d times, want once", len(reports))
		}
		if stack, _ := reports[0]["stack"].(string); !strings.Contains(stack, "neverLooksAtItsContext") || strings.Contains(stack, "keepLeases") {
			t.Errorf("stack = %q, want that of the handler alone", stack)
		}
		if reports[0]["job"] != "1-1" || reports[0]["level"] != "ERROR" {
			t.Errorf("report = %v, want the job, as an error", reports[0])
		}
		if n := w.Stats().Stuck; n != 1 {
			t.Errorf("%d stuck counted, want 1", n)
		}
		close(release)
		synctest.Wait()
		if h := w.Health(); h.Stuck != 0 || h.Problem != nil || len(log.with(t, "has returned")) != 1 {
			t.Errorf("health = %+v, want good again, and the return logged", h)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestAllSlotsStuck: nothing but a restart helps then.
func TestAllSlotsStuck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, _ := wholeWorker(t, Config{MaxJobs: 2, Timeout: time.Minute}, 2)
		release := make(chan struct{})
		w.HandleOther(func(context.Context, *Delivery) error { <-release; return nil })
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		time.Sleep(time.Minute + 2*stuckFor)
		if h := w.Health(); h.Live || h.Ready || h.Stuck != 2 {
			t.Errorf("health = %+v, want a worker that is not live", h)
		}
		close(release)
		synctest.Wait()
		if h := w.Health(); !h.Live || !h.Ready {
			t.Errorf("health = %+v, want good again", h)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestDeafWorker: connected, its reads answered, and yet it gets nothing of what waits. It must not call itself healthy.
func TestDeafWorker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, f := wholeWorker(t, Config{MaxJobs: 2, Timeout: None}, 0)
		var log lines
		w.log = slog.New(slog.NewJSONHandler(&log, nil))
		waits := time.Now().Add(time.Minute)
		cured := time.Now().Add(3 * time.Minute)
		inner := f.answer
		f.answer = func(cmd redis.Cmder) (any, error) {
			v, err := inner(cmd)
			if list, ok := v.([]any); ok && len(list) == 16 && time.Now().After(waits) && time.Now().Before(cured) {
				list[5], list[6] = int64(12), []any{"", "1000-1"}
			}
			return v, err
		}
		w.HandleOther(func(context.Context, *Delivery) error { return nil })
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		time.Sleep(time.Minute)
		for range 20 { // the time until which nothing is wrong yet: one heartbeat, and half a lease after it
			if h := w.Health(); !h.Live || h.Problem != nil {
				t.Errorf("health = %+v, want good", h)
			}
			time.Sleep(500 * time.Millisecond)
		}
		time.Sleep(35 * time.Second)
		h := w.Health()
		if h.Live || h.Ready || h.Problem == nil || !strings.Contains(h.Problem.Error(), "12 jobs wait in orders/billing") || h.Waiting != 12 {
			t.Errorf("health = %+v, want neither live nor ready, and why", h)
		}
		time.Sleep(2 * time.Minute)
		if h := w.Health(); !h.Live || !h.Ready || h.Problem != nil {
			t.Errorf("health = %+v, want good again", h)
		}
		if n := len(log.with(t, "this worker takes none")); n != 1 {
			t.Errorf("logged %d times, want once", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestIntake: who has taken something, had no room, or sees another job waiting each time, makes progress.
func TestIntake(t *testing.T) {
	t.Parallel()
	now := time.Now()
	waits := engine.Beat{Waiting: 1, Unread: [2]string{"5-1", ""}}
	for name, tc := range map[string]struct {
		change func(b *engine.Beat, r *reader)
		want   time.Duration
	}{
		"nothing changes":       {func(*engine.Beat, *reader) {}, 20 * time.Second},
		"nothing waits":         {func(b *engine.Beat, _ *reader) { b.Unread = [2]string{} }, 0},
		"it took some":          {func(_ *engine.Beat, r *reader) { r.took.Add(1) }, 0},
		"it waited for room":    {func(_ *engine.Beat, r *reader) { r.waited.Add(1) }, 0},
		"it waits for room":     {func(_ *engine.Beat, r *reader) { r.below.Store(3) }, 0},
		"others took the first": {func(b *engine.Beat, _ *reader) { b.Unread[0] = "6-1" }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var p intake
			r := &reader{}
			r.below.Store(-1)
			p.stalled(now, waits, r)
			if got := p.stalled(now.Add(10*time.Second), waits, r); got != 10*time.Second {
				t.Fatalf("stalled for %s, want 10 s", got)
			}
			b := waits
			tc.change(&b, r)
			if got := p.stalled(now.Add(20*time.Second), b, r); got != tc.want {
				t.Errorf("stalled for %s, want %s", got, tc.want)
			}
		})
	}
}

// TestRefusedEndIsAProblem: a job whose end Redis does not take is somebody's business, and no reason to restart.
func TestRefusedEndIsAProblem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var taken atomic.Bool
		f := &fakeRedis{answer: func(redis.Cmder) (any, error) {
			if !taken.Load() {
				return nil, serverError("WRONGTYPE a key of another type")
			}
			return []any{}, nil
		}}
		w := fakeWorker(t, f, Config{Logger: slog.New(slog.DiscardHandler)})
		w.opened.Store(true)
		ended := make(chan struct{})
		go func() { w.settle(); close(ended) }()
		w.finish(endedTask(w, "1-1"))
		synctest.Wait()
		if h := w.Health(); !h.Live || !h.Ready || h.Problem == nil || !strings.Contains(h.Problem.Error(), "orders/1-1") {
			t.Errorf("health = %+v, want live, ready, and the job named", h)
		}
		taken.Store(true)
		time.Sleep(2 * parkedFor)
		if h := w.Health(); h.Problem != nil {
			t.Errorf("problem = %v, want none any more", h.Problem)
		}
		w.drainBy.Store(time.Now().UnixNano())
		close(w.drain)
		<-ended
	})
}
