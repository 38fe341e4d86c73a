package engine_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

// TestAim: a request arrives as Redis's clock shows the time that was aimed at, or a little later: wherever that clock
// stands, and however long the way there is.
func TestAim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const there, back = 300 * time.Microsecond, 2 * time.Millisecond
		for _, ahead := range []time.Duration{0, time.Hour, -time.Hour, 40 * 365 * 24 * time.Hour} {
			var a engine.Aim
			trip := func(there, back time.Duration) {
				sent := time.Now()
				time.Sleep(there)
				shown := time.Now().Add(ahead)
				time.Sleep(back)
				a.Learn(shown, sent, time.Now())
			}
			late := func(there time.Duration) time.Duration {
				due := time.Now().Add(ahead).Truncate(time.Millisecond).Add(50 * time.Millisecond)
				time.Sleep(a.Until(due) + there)
				return time.Now().Add(ahead).Sub(due)
			}
			check := func(what string, low, high time.Duration, there time.Duration) {
				t.Helper()
				if d := late(there); d < low || d > high {
					t.Errorf("Redis's clock ahead by %s, %s: it arrives %s after the due time", ahead, what, d)
				}
			}
			trip(there, back)
			check("the first", 0, 30*time.Microsecond, there)
			trip(5*there, back)
			check("a slow trip since", 0, 30*time.Microsecond, there)
			trip(there/3, back/2)
			check("a quicker one since", 0, 30*time.Microsecond, there/3)
			check("a quicker one since", 0, there, there)
			time.Sleep(3 * time.Second)
			trip(2*there, back)
			check("long after", 0, 30*time.Microsecond, 2*there)
			ahead += time.Hour
			trip(2*there, 2*back)
			check("the clock was set since", 0, 30*time.Microsecond, 2*there)
			ahead -= 2 * time.Hour
			trip(2*there, 2*back)
			check("it was set back", 0, 30*time.Microsecond, 2*there)
		}
	})
}

// TestPromoterApproaches: a set is looked at shortly before a job in it is due, and then when it is.
func TestPromoterApproaches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		due := time.Now().Add(100 * time.Millisecond).UnixMilli()
		var mu sync.Mutex
		var looks []time.Duration // after due
		f := &offline{answer: func([]any) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			if after := time.Since(time.UnixMilli(due)); after > -50*time.Millisecond { // before that it has just begun
				looks = append(looks, after)
			}
			left := due - time.Now().UnixMilli()
			if left <= 0 {
				left = 3_600_000
			}
			return promoted(left), nil
		}}
		runOffline(t, f, time.Hour, time.Second)
		if len(looks) != 2 || looks[0] < -time.Millisecond || looks[0] > -500*time.Microsecond || looks[1] < 0 || looks[1] > 100*time.Microsecond {
			t.Errorf("it looked at %v from when a job was due", looks)
		}
	})
}

// TestPromoterTakesSeveral: where a job is due each millisecond there is not a script for each.
func TestPromoterTakesSeveral(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &offline{answer: func([]any) (any, error) {
			v := promoted(1)
			v[0] = int64(2)
			return v, nil
		}}
		runOffline(t, f, time.Hour, time.Second)
		if n := f.calls.Load(); n < 300 || n > 510 {
			t.Errorf("%d scripts in a second, want one in 2 ms", n)
		}
	})
}
