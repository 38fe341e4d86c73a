package consumer

import (
	"context"
	"errors"
	"sync"
	"time"
)

// runContext is the context of one run: it ends with a cause, and its
// deadline can be moved while the handler runs, which context.WithTimeout's can't.
// What can be cancelled is made when somebody asks for it: most of what a short handler calls does not.
type runContext struct {
	root context.Context // never ends
	slot *slot

	mu     sync.Mutex
	inner  context.Context // cancellable; nil: nobody has asked
	stop   context.CancelCauseFunc
	closed bool // the run is over
}

// Done is closed when the run is over, or is to end.
func (c *runContext) Done() <-chan struct{} { return c.cancellable().Done() }

// Value is the root's.
func (c *runContext) Value(key any) any {
	c.mu.Lock()
	inner := c.inner
	c.mu.Unlock()
	if inner != nil {
		return inner.Value(key) // which is how package context finds what to cancel, and the cause
	}
	return c.root.Value(key)
}

func (c *runContext) cancellable() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner, c.stop = context.WithCancelCause(c.root)
		if c.closed {
			c.stop(nil)
		}
	}
	return c.inner
}

// cancel ends the context; the first cause stays.
func (c *runContext) cancel(cause error) {
	c.cancellable()
	c.stop(cause) // not under the lock: it runs code of the handler's own contexts
}

// close ends the context after its run, and returns why it had ended before, or nil.
func (c *runContext) close() error {
	c.mu.Lock()
	inner := c.inner
	c.closed = true
	c.mu.Unlock()
	if inner == nil {
		return nil
	}
	cause := context.Cause(inner)
	c.stop(nil)
	return cause
}

// Deadline is when the run will time out, as things stand now.
func (c *runContext) Deadline() (time.Time, bool) {
	c.slot.mu.Lock()
	defer c.slot.mu.Unlock()
	if c.slot.run != c || c.slot.deadline.IsZero() {
		return time.Time{}, false
	}
	return c.slot.deadline, true
}

// Err is context.DeadlineExceeded after a timeout, as handlers expect.
func (c *runContext) Err() error {
	c.mu.Lock()
	inner, closed := c.inner, c.closed
	c.mu.Unlock()
	if inner == nil {
		if closed {
			return context.Canceled
		}
		return nil
	}
	err := inner.Err()
	if err != nil && errors.Is(context.Cause(inner), ErrTimeout) {
		return context.DeadlineExceeded
	}
	return err
}

// slot runs one handler at a time, and owns the timer of its timeouts. The
// timer is not touched per job: it is armed for the earliest deadline it has
// seen, and when it rings early it looks at the deadline of the day.
type slot struct {
	mu       sync.Mutex
	run      *runContext // nil between runs
	deadline time.Time   // zero: no limit
	rings    time.Time   // when the timer rings; zero: it is not armed
	timer    *time.Timer
	tasks    []*task   // what the run works on; not to be kept without the lock
	extra    int64     // what a small batch weighs more than its jobs; the slot's alone
	over     time.Time // since when the run's context is known to have ended; zero: it has not
	stuck    bool      // it was reported

	root context.Context // of all its runs
	wait chan struct{}   // capacity 1: there may be a task
}

// begin starts a run on tasks whose context has root's values.
func (s *slot) begin(root context.Context, now time.Time, timeout time.Duration, tasks ...*task) *runContext {
	c := &runContext{root: root, slot: s}
	s.mu.Lock()
	s.run = c
	s.tasks = append(s.tasks[:0], tasks...)
	s.limit(now, timeout)
	s.mu.Unlock()
	return c
}

// end closes a run and returns why its context had ended, or nil, and whether
// it was reported as stuck. From then on the context's owner can't end it any other way.
func (s *slot) end(c *runContext) (cause error, stuck bool) {
	s.mu.Lock()
	stuck = s.stuck
	s.run, s.deadline, s.over, s.stuck = nil, time.Time{}, time.Time{}, false
	clear(s.tasks)
	s.tasks = s.tasks[:0]
	s.mu.Unlock()
	return c.close(), stuck
}

// setTimeout lets the run go on for left from now, if it is still on.
func (s *slot) setTimeout(c *runContext, left time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == c {
		s.limit(time.Now(), left)
	}
}

// limit sets the deadline; s.mu is held.
func (s *slot) limit(now time.Time, timeout time.Duration) {
	if timeout <= 0 {
		s.deadline = time.Time{}
		return
	}
	s.deadline = now.Add(timeout)
	if !s.rings.IsZero() && !s.deadline.Before(s.rings) {
		return
	}
	s.rings = s.deadline
	if s.timer == nil {
		s.timer = time.AfterFunc(timeout, s.ring)
	} else {
		s.timer.Reset(timeout)
	}
}

func (s *slot) ring() {
	if over := s.due(time.Now()); over != nil {
		over.cancel(ErrTimeout) // not under the lock: it runs code of the handler's own contexts
	}
}

// due returns the run whose time is over, if there is one, and sets the timer for what comes next.
func (s *slot) due(now time.Time) *runContext {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.rings.IsZero() || now.Before(s.rings): // stopped, or set again, while the timer waited for the lock
	case s.run == nil || s.deadline.IsZero():
		s.rings = time.Time{}
	case now.Before(s.deadline):
		s.rings = s.deadline
		s.timer.Reset(s.deadline.Sub(now))
	default:
		s.rings, s.deadline = time.Time{}, time.Time{}
		return s.run
	}
	return nil
}

// stop lets go of the timer.
func (s *slot) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
	}
	s.rings = time.Time{}
}

// cancelRun ends the run under way, if there is one.
func (s *slot) cancelRun(cause error) {
	s.mu.Lock()
	c := s.run
	s.mu.Unlock()
	if c != nil {
		c.cancel(cause)
	}
}
