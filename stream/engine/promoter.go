package engine

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	promoteBatch   = 500
	promoteRefresh = 15 * time.Second // how long a lost wake-up can cost, and how often slots are asked for again
	wakeSilence    = 30 * time.Second // after which the wake-up channel is pinged
	promoteTimeout = 10 * time.Second
)

// Promoter moves jobs whose time has come. It sleeps until the next due time
// and is woken by the scripts when an earlier one arrives; only while that
// channel is down does it poll. Any number may run at once.
type Promoter struct {
	Client redis.UniversalClient
	Slots  func(context.Context) ([]Slot, error) // asked again every 15 s, and when a wake-up names an unknown set; must give up with its context
	Known  func(set string) bool                 // whether a wake-up for a set nobody listed may be ours; nil: every one may
	Poll   time.Duration
	Logger *slog.Logger

	moved atomic.Int64
}

// Moved is how many jobs have been promoted.
func (p *Promoter) Moved() int64 { return p.moved.Load() }

// Empty promotes what is due now in one set.
func (p *Promoter) Empty(ctx context.Context, slot Slot) error {
	_, err := p.promote(ctx, slot)
	return err
}

// wakeups is what the listener tells the promoter.
type wakeups struct {
	mu   sync.Mutex
	sets map[string]int64 // set -> due ms
	all  bool             // something may have been missed
	up   bool
	ping chan struct{} // capacity 1
}

func (w *wakeups) tell(change func()) {
	w.mu.Lock()
	change()
	w.mu.Unlock()
	select {
	case w.ping <- struct{}{}:
	default:
	}
}

// Run promotes until ctx ends. Errors of Redis are logged once each time it goes away.
func (p *Promoter) Run(ctx context.Context) {
	w := &wakeups{sets: make(map[string]int64), ping: make(chan struct{}, 1)}
	var wg sync.WaitGroup
	wg.Go(func() { p.listen(ctx, w) })
	defer wg.Wait()

	var slots []Slot
	next := make(map[string]time.Time) // set -> when to look at it
	bad := make(map[string]bool)       // sets that polling passes over until slots are asked for again
	var refresh time.Time
	down := false
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.ping:
		}
		now := time.Now()
		w.mu.Lock()
		sets, all, up := w.sets, w.all, w.up
		w.sets, w.all = make(map[string]int64), false
		w.mu.Unlock()
		for set := range sets {
			if _, ok := next[set]; ok {
				next[set] = now
			} else if p.Known == nil || p.Known(set) {
				refresh = now
			}
		}
		var err error
		if all || !now.Before(refresh) {
			callCtx, cancel := context.WithTimeout(ctx, promoteTimeout)
			var fresh []Slot
			if fresh, err = p.Slots(callCtx); err == nil {
				slots, next = fresh, make(map[string]time.Time, len(fresh))
				clear(bad)
				refresh = now.Add(promoteRefresh)
			}
			cancel()
		}
		wake := refresh
		for _, slot := range slots {
			at := next[slot.Set]
			if err == nil && (!up && !bad[slot.Set] || !now.Before(at)) {
				if at, err = p.promote(ctx, slot); err == nil {
					next[slot.Set] = at
				} else if OneSet(err) { // the others go on
					p.refused(slot, err)
					at, err = time.Now().Add(promoteRefresh), nil
					next[slot.Set], bad[slot.Set] = at, true
				}
			}
			if at.Before(wake) {
				wake = at
			}
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !down:
			p.Logger.Warn("due jobs cannot be promoted, trying again", "err", err)
			down = true
		case err == nil && down:
			p.Logger.Info("due jobs are promoted again")
			down = false
		}
		wait := time.Until(wake)
		switch {
		case err != nil:
			wait = p.Poll/2 + rand.N(p.Poll)
		case !up:
			wait = min(wait, p.Poll)
		}
		timer.Reset(max(wait, 0))
	}
}

// OneSet reports whether an error is the fault of the set it came from: a key
// of another type, or one this user has no right to. Others may do better.
func OneSet(err error) bool {
	class := Classify(err)
	return class == Refused || class == Denied
}

// refused logs that a set can't be promoted, each time it is tried: a person has to look.
func (p *Promoter) refused(slot Slot, err error) {
	p.Logger.Error("due jobs of one set cannot be promoted", "set", slot.Set, "err", err)
}

// promote empties a slot of what is due and says when to look again.
func (p *Promoter) promote(ctx context.Context, slot Slot) (time.Time, error) {
	for {
		callCtx, cancel := context.WithTimeout(ctx, promoteTimeout)
		done, err := Promote(callCtx, p.Client, slot, promoteBatch)
		cancel()
		at := time.Now()
		if err != nil {
			return at, err
		}
		p.moved.Add(done.Moved)
		if done.Lost > 0 {
			p.Logger.Error("scheduled jobs had lost their bodies and are gone", "set", slot.Set, "jobs", done.Lost)
		}
		if done.Moved+done.Lost == promoteBatch {
			continue
		}
		if done.Next == 0 {
			return at.Add(promoteRefresh), nil
		}
		return at.Add(min(time.Duration(done.Next-done.Now)*time.Millisecond, promoteRefresh)), nil
	}
}

// listen follows the wake-up channel until ctx ends.
func (p *Promoter) listen(ctx context.Context, w *wakeups) {
	sub := p.Client.Subscribe(ctx, WakeChannel)
	stop := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer func() {
		if stop() {
			_ = sub.Close()
		}
	}()
	silent := false
	for ctx.Err() == nil {
		msg, err := sub.ReceiveTimeout(ctx, wakeSilence)
		switch m := msg.(type) {
		case *redis.Message:
			silent = false
			due, set, _ := strings.Cut(m.Payload, " ")
			ms, err := strconv.ParseInt(due, 10, 64)
			if err != nil || set == "" {
				continue // not from our scripts
			}
			w.tell(func() { w.sets[set] = ms })
			continue
		case *redis.Subscription:
			silent = false
			w.tell(func() { w.up, w.all = true, true }) // what was said before is lost: look at everything
			continue
		case *redis.Pong:
			silent = false
			continue
		}
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() && !silent {
			silent = true
			if sub.Ping(ctx) == nil {
				continue
			}
		}
		w.tell(func() { w.up = false })
		select {
		case <-ctx.Done():
		case <-time.After(p.Poll):
		}
	}
}
