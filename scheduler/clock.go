package scheduler

import (
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

// drift is how far two clocks are thought to run apart: by one part in so many.
const drift = 5000

// clock is Redis's, as far as its answers tell. It shows what Redis's clock is past for certain, so it is slow rather than
// fast: by half a round trip or so. This machine's time of day is nothing to it.
type clock struct {
	clockwork.Clock           // its timers are this machine's: they count, they do not tell the time
	base            time.Time // with a monotonic reading

	mu      sync.Mutex
	from    time.Duration // bounds of what it is ahead of base's
	to      time.Duration
	learned time.Duration // when, since base
	known   bool
}

func newClock() *clock {
	return &clock{Clock: clockwork.NewRealClock(), base: time.Now()}
}

// elapsed is by the monotonic clock, which nobody sets.
func (c *clock) elapsed() time.Duration { return time.Since(c.base) }

// learn takes in that Redis said now between two calls of elapsed.
func (c *clock) learn(now time.Time, sent, received time.Duration) {
	wall := c.base.Round(0)
	from, to := now.Sub(wall)-received, now.Sub(wall)-sent
	c.mu.Lock()
	defer c.mu.Unlock()
	slack := (received - c.learned) / drift
	switch {
	case !c.known, from > c.to+slack, to < c.from-slack: // the first, or Redis's clock was set
		c.from, c.to = from, to
	default:
		c.from, c.to = max(c.from-slack, from), min(c.to+slack, to)
	}
	c.learned, c.known = received, true
}

// ahead is by how much Redis's clock is ahead of what this machine's was once.
func (c *clock) ahead() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.from
}

// Now is Redis's.
func (c *clock) Now() time.Time {
	return c.base.Round(0).Add(c.elapsed() + c.ahead()).UTC()
}

// Since is by Redis's clock.
func (c *clock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// Until is by Redis's clock.
func (c *clock) Until(t time.Time) time.Duration { return t.Sub(c.Now()) }
