package consumer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/engine"
)

func TestSlotTimeouts(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		timeout time.Duration
		change  func(s *slot, c *runContext) // after one second
		ends    time.Duration                // after the start; 0: it does not within an hour
	}{
		{"times out", 5 * time.Second, nil, 5 * time.Second},
		{"no limit", 0, nil, 0},
		{"prolonged", 5 * time.Second, func(s *slot, c *runContext) { s.setTimeout(c, 20*time.Second) }, 21 * time.Second},
		{"shortened", 5 * time.Second, func(s *slot, c *runContext) { s.setTimeout(c, time.Second) }, 2 * time.Second},
		{"limit taken away", 5 * time.Second, func(s *slot, c *runContext) { s.setTimeout(c, None) }, 0},
		{"limit set late", 0, func(s *slot, c *runContext) { s.setTimeout(c, time.Second) }, 2 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &slot{}
				defer s.stop()
				c := s.begin(context.Background(), time.Now(), tc.timeout)
				start := time.Now()
				time.Sleep(time.Second)
				if tc.change != nil {
					tc.change(s, c)
				}
				select {
				case <-c.Done():
				case <-time.After(time.Hour):
				}
				took := time.Since(start)
				if tc.ends == 0 {
					if c.Err() != nil || took < time.Hour {
						t.Errorf("ended after %s, want never", took)
					}
					return
				}
				if took != tc.ends {
					t.Errorf("ended after %s, want %s", took, tc.ends)
				}
				if !errors.Is(context.Cause(c), ErrTimeout) || !errors.Is(c.Err(), context.DeadlineExceeded) {
					t.Errorf("cause %v and error %v, want ErrTimeout and DeadlineExceeded", context.Cause(c), c.Err())
				}
			})
		})
	}
}

// TestSlotTimerServesManyRuns: the timer is armed for an early run's deadline and must not hit a later run.
func TestSlotTimerServesManyRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &slot{}
		defer s.stop()
		for range 100 { // 20 s of short runs, each with 5 s to go
			c := s.begin(context.Background(), time.Now(), 5*time.Second)
			time.Sleep(200 * time.Millisecond)
			if cause, _ := s.end(c); cause != nil {
				t.Fatalf("a short run ended with %v", cause)
			}
		}
		c := s.begin(context.Background(), time.Now(), 5*time.Second)
		if at, ok := c.Deadline(); !ok || time.Until(at) != 5*time.Second {
			t.Errorf("deadline = %s %t, want in 5s", at, ok)
		}
		start := time.Now()
		<-c.Done()
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("timed out after %s, want 5s", took)
		}
		if cause, _ := s.end(c); !errors.Is(cause, ErrTimeout) {
			t.Errorf("cause = %v, want ErrTimeout", cause)
		}
		s.setTimeout(c, time.Second) // too late: it must not touch the next run
		next := s.begin(context.Background(), time.Now(), 0)
		time.Sleep(time.Minute)
		if next.Err() != nil {
			t.Errorf("the next run ended with %v", next.Err())
		}
	})
}

func TestJudge(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	p := policy{maxTries: 3, backoff: Backoff{Delay: time.Second, Factor: 2, Max: time.Minute, Jitter: -1}}
	for _, tc := range []struct {
		name       string
		err, cause error
		errs       int
		want       action
		after      time.Duration
		reason     string
	}{
		{"success", nil, nil, 0, actComplete, 0, ""},
		{"success after the timeout", nil, ErrTimeout, 0, actComplete, 0, ""},
		{"success while stopping", nil, ErrStopping, 0, actComplete, 0, ""},
		{"success after the lease was lost", nil, ErrLeaseLost, 0, actDrop, 0, ""},
		{"error after the lease was lost", boom, ErrLeaseLost, 0, actDrop, 0, ""},
		{"first error", boom, nil, 0, actRetry, time.Second, ""},
		{"second error", boom, nil, 1, actRetry, 2 * time.Second, ""},
		{"last error", boom, nil, 2, actDead, 0, reasonFailed},
		{"an error while stopping costs no try", boom, ErrStopping, 2, actRelease, 0, ""},
		{"permanent", Permanent(boom), nil, 0, actDead, 0, reasonPermanent},
		{"wrapped permanent", fmt.Errorf("x: %w", Permanent(boom)), nil, 0, actDead, 0, reasonPermanent},
		{"permanent while stopping", Permanent(boom), ErrStopping, 0, actDead, 0, reasonPermanent},
		{"retry after", RetryAfter(boom, time.Hour), nil, 0, actRetry, time.Hour, ""},
		{"retry after, at the last try", RetryAfter(boom, time.Hour), nil, 2, actDead, 0, reasonFailed},
		{"retry after a negative time", RetryAfter(nil, -time.Hour), nil, 0, actRetry, 0, ""},
		{"snooze", Snooze(time.Hour), nil, 2, actSnooze, time.Hour, ""},
		{"snooze while stopping", Snooze(time.Hour), ErrStopping, 2, actSnooze, time.Hour, ""},
		{"a timeout", context.DeadlineExceeded, ErrTimeout, 0, actRetry, time.Second, ""},
		{"undecodable", &decodeError{"ping", boom}, nil, 0, actDead, 0, reasonUndecodable},
	} {
		got := judge(tc.err, tc.cause, tc.errs, p)
		if got.action != tc.want || got.after != tc.after || got.reason != tc.reason {
			t.Errorf("%s: %+v, want action %d after %s for reason %q", tc.name, got, tc.want, tc.after, tc.reason)
		}
	}
	if Permanent(nil) != nil {
		t.Error("Permanent(nil) is not nil")
	}
	if got := judge(boom, ErrTimeout, 0, p); !errors.Is(got.err, ErrTimeout) || !errors.Is(got.err, boom) {
		t.Errorf("error = %v, want the timeout and what the handler said", got.err)
	}
}

func TestRetryDelay(t *testing.T) {
	t.Parallel()
	b := Backoff{Delay: 10 * time.Second, Factor: 2, Max: time.Hour, Jitter: 0.1}
	for _, tc := range []struct {
		n      int
		random float64
		want   time.Duration
	}{
		{1, 0.5, 10 * time.Second},
		{2, 0.5, 20 * time.Second},
		{5, 0.5, 160 * time.Second},
		{1, 0, 9 * time.Second},
		{1, 1, 11 * time.Second},
		{10, 0.5, time.Hour},
		{10, 1, time.Hour},
		{math.MaxInt, 0.5, time.Hour},
	} {
		if got := retryDelay(b, tc.n, tc.random).Round(time.Millisecond); got != tc.want {
			t.Errorf("after failure %d with random %g: %s, want %s", tc.n, tc.random, got, tc.want)
		}
	}
	fixed := Backoff{Delay: time.Second, Factor: 1, Max: time.Hour, Jitter: -1}
	for n := 1; n < 50; n++ {
		if got := retryDelay(fixed, n, 0.9); got != time.Second {
			t.Errorf("factor 1, failure %d: %s, want 1s", n, got)
		}
	}
}

func TestPolicyOrder(t *testing.T) {
	t.Parallel()
	p := policy{timeout: time.Minute, maxTries: 3, backoff: Backoff{Delay: 1, Factor: 2, Max: 3, Jitter: 4}}
	p = p.with(TypeConfig{Timeout: None, Backoff: Backoff{Factor: 9}})
	if p.timeout != 0 || p.maxTries != 3 || p.backoff != (Backoff{Delay: 1, Factor: 9, Max: 3, Jitter: 4}) {
		t.Errorf("policy = %+v, want no limit and factor 9", p)
	}
}

func TestPace(t *testing.T) {
	t.Parallel()
	var p pace
	now := time.Now()
	total := int64(0)
	step := func(d time.Duration, jobs int64) float64 {
		now, total = now.Add(d), total+jobs
		return p.measure(now, total)
	}
	if rate := step(0, 100); rate != 0 {
		t.Errorf("a first look gives %g, want 0", rate)
	}
	if rate := step(9*time.Millisecond, 90); rate != 0 {
		t.Errorf("after 9 ms the rate is %g, want none yet", rate)
	}
	first := step(time.Millisecond, 10)
	if first <= 0 || first > 2000 {
		t.Errorf("after 10 ms the rate is %g, want some, and less than was seen", first)
	}
	if rate := step(20*time.Millisecond, 0); rate != first {
		t.Errorf("20 ms after that it is %g, want %g still", rate, first)
	}
	for range 20 {
		step(100*time.Millisecond, 1000)
	}
	if rate := step(100*time.Millisecond, 1000); rate < 9900 || rate > 10100 {
		t.Errorf("rate = %g, want 10000", rate)
	}
	if rate := step(time.Second, 0); rate != 0 {
		t.Errorf("after a second without a job the rate is %g, want 0", rate)
	}
}

func TestParseRead(t *testing.T) {
	t.Parallel()
	entry := []any{"1-0", []any{"a", "b", "a", "c"}}
	gone := []any{"2-0", nil}
	want := map[string][]rawEntry{"orders": {{id: "1-0", values: []string{"a", "b", "a", "c"}}, {id: "2-0", gone: true}}}
	for name, reply := range map[string]any{
		"RESP2": []any{[]any{"orders", []any{entry, gone}}},
		"RESP3": map[any]any{"orders": []any{entry, gone}},
	} {
		got, err := parseRead(reply)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v %v, want %+v", name, got, err, want)
		}
	}
	if got, err := parseRead(nil); err != nil || len(got) != 0 {
		t.Errorf("nil: %v %v", got, err)
	}
	for _, bad := range []any{"x", []any{"orders"}, []any{[]any{"orders", "x"}}, []any{[]any{"orders", []any{"x"}}}, map[any]any{"orders": 5}} {
		if _, err := parseRead(bad); err == nil || !strings.Contains(err.Error(), "XREADGROUP") {
			t.Errorf("%v: error %v, want one that names the command", bad, err)
		}
	}
}

func TestLaneHolds(t *testing.T) {
	t.Parallel()
	l := &lane{}
	var tasks []*task
	for i := range 5 {
		tasks = append(tasks, &task{entry: fmt.Sprint(i)})
	}
	l.hold(tasks[:2])
	l.hold(tasks[2:])
	l.forget([]*task{tasks[0], tasks[4], tasks[2]})
	if got := l.entries(); len(got) != 2 || got["1"] == nil || got["3"] == nil || l.held != 2 {
		t.Errorf("held = %v, want 1 and 3", got)
	}
	l.forget([]*task{tasks[3], tasks[1]})
	if got := l.entries(); len(got) != 0 || l.head != nil || l.held != 0 {
		t.Errorf("held = %v, want none", got)
	}
}

func TestClip(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		s    string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abcd", 3, "abc…"}, {"aä", 2, "a…"}, {"ä", 1, "…"}} {
		if got := clip(tc.s, tc.n); got != tc.want {
			t.Errorf("clip(%q, %d) = %q, want %q", tc.s, tc.n, got, tc.want)
		}
	}
}

func TestBouncePauseGrows(t *testing.T) {
	t.Parallel()
	last := time.Duration(0)
	for n := range 100 {
		d := bouncePause(n)
		if d < last || d > time.Minute || d <= 0 {
			t.Fatalf("pause %d is %s after %s", n, d, last)
		}
		last = d
	}
}

// TestNamesAreUnique: two workers may be given one name, and must not share it in Redis.
func TestNamesAreUnique(t *testing.T) {
	t.Parallel()
	first, second := consumerName("billing-1"), consumerName("billing-1")
	if first == second || !strings.HasPrefix(first, "billing-1-") || !strings.HasPrefix(second, "billing-1-") {
		t.Errorf("named %s and %s, want two names that begin alike", first, second)
	}
}

// TestExpiryIsJudgedByRedis: the clock of this host may be an hour off.
func TestExpiryIsJudgedByRedis(t *testing.T) {
	t.Parallel()
	w := fakeWorker(t, &fakeRedis{}, Config{})
	w.routes[""] = &route{}
	for offset, want := range map[time.Duration]bool{time.Hour: true, -time.Hour: false} {
		task := endedTask(w, "1-1")
		task.route = w.routes[""]
		task.opts = &engine.Opts{Expires: time.Now().Add(offset / 2).UnixMilli()}
		w.sources[0].clock.Store(int64(offset))
		if got := w.refuse(task); got != want {
			t.Errorf("with redis %s ahead, a job that expires in %s is refused: %v, want %v", offset, offset/2, got, want)
		}
	}
}

// TestMendGoesOn: a stream that cannot be looked through keeps none of the others from it.
func TestMendGoesOn(t *testing.T) {
	t.Parallel()
	looked := make(map[any]int)
	f := &fakeRedis{answer: func(cmd redis.Cmder) (any, error) {
		key := cmd.Args()[3]
		if looked[key]++; key == "orders" {
			return nil, serverError("WRONGTYPE")
		}
		return []any{int64(0), ""}, nil
	}}
	w := fakeWorker(t, f, Config{})
	src := w.sources[0]
	src.mend.some = [engine.Lanes]bool{true, true, true}
	if w.mend(t.Context(), src, src.group) {
		t.Error("there is more to look for")
	}
	if len(looked) != engine.Lanes || looked["orders"] != 1 {
		t.Errorf("looked for, by stream: %v; want each once", looked)
	}
	if want := [engine.Lanes]bool{true}; src.mend.some != want {
		t.Errorf("the next sweep is to look at %v, want %v", src.mend.some, want)
	}
}
