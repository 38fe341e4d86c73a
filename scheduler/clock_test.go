package scheduler

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestClock: Redis's clock is known to within its answers' round trips, never ahead of it, whatever this machine's shows.
func TestClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ahead := time.Hour // of Redis's clock
		redisNow := func() time.Time { return time.Now().Add(ahead).Round(0) }
		c := newClock()
		ask := func(there, back time.Duration) {
			sent := c.elapsed()
			time.Sleep(there)
			now := redisNow()
			time.Sleep(back)
			c.learn(now, sent, c.elapsed())
		}
		behind := func(want time.Duration, when string) {
			t.Helper()
			if d := redisNow().Sub(c.Now()); d < 0 || d > want {
				t.Errorf("%s: it is %s behind Redis's, want at most %s and never ahead", when, d, want)
			}
		}
		ask(time.Millisecond, 300*time.Millisecond)
		behind(300*time.Millisecond, "a slow answer")
		ask(300*time.Millisecond, time.Millisecond)
		behind(time.Millisecond, "a faster way back")
		ask(time.Millisecond, 300*time.Millisecond)
		behind(2*time.Millisecond, "another slow answer")
		time.Sleep(time.Hour)
		behind(2*time.Millisecond, "after an hour")
		ask(time.Millisecond, 2*time.Second)
		behind(time.Hour/drift+3*time.Second, "a slow answer after an hour")

		for _, step := range []time.Duration{-2 * time.Hour, 2 * time.Hour, 5 * time.Second, -5 * time.Second} {
			ahead += step
			ask(time.Millisecond, time.Millisecond)
			behind(time.Millisecond, "stepped by "+step.String())
		}
		if c.Now().Location() != time.UTC || c.Since(c.Now()) != 0 || c.Until(c.Now().Add(time.Second)) != time.Second {
			t.Errorf("Now %s, Since %s, Until %s", c.Now(), c.Since(c.Now()), c.Until(c.Now().Add(time.Second)))
		}
	})
}
