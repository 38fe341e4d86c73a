package engine

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	promoteBatch   = 500
	promoteRefresh = 15 * time.Second // how long a lost wake-up can cost, and how often slots are asked for again
	promoteTimeout = 10 * time.Second
	promotePause   = 3 * time.Second // the longest before a set that failed is tried again
	strangerPause  = time.Second     // between two refreshes for sets nobody listed: they may be of another database
)

// Promoter moves jobs whose time has come. It sleeps until the next due time
// and is woken by the scripts when an earlier one arrives; only while that
// channel is down does it poll. Any number may run at once.
type Promoter struct {
	Client redis.UniversalClient
	// Slots is asked again every 15 s, and when a wake-up names an unknown set. It must give up with its context. With an error
	// it may return what it found all the same: that is promoted, and it is asked again soon.
	Slots  func(context.Context) ([]Slot, error)
	Known  func(set string) bool // whether a wake-up for a set nobody listed may be ours; nil: every one may
	Poll   time.Duration
	Logger *slog.Logger

	silence time.Duration // wakeSilence, but for tests
	moved   atomic.Int64
}

// Moved is how many jobs have been promoted.
func (p *Promoter) Moved() int64 { return p.moved.Load() }

// Empty promotes what is due now in one set.
func (p *Promoter) Empty(ctx context.Context, slot Slot) error {
	for {
		if next, err := p.promote(ctx, slot); err != nil || next > 0 {
			return err
		}
	}
}

// watch is what a Promoter knows of one of its sets, or of the list of them.
type watch struct {
	at    time.Time // when to look at it
	err   error     // of the last try, when another may do better
	fails int       // tries in a row that ended so
	bad   bool      // a person has to look
	said  bool      // it was logged that it fails
}

// failing: neither polling nor a wake-up hastens the next try.
func (w *watch) failing() bool { return w.fails > 0 || w.bad }

// promoting is the state of one Run.
type promoting struct {
	*Promoter
	slots     []Slot
	sets      map[string]*watch
	list      watch
	strangers time.Time // when they made it refresh last
	dead      error     // why nothing works
	down      bool      // that was logged
}

// Run promotes until ctx ends. Errors of Redis are logged once each time it goes away.
func (p *Promoter) Run(ctx context.Context) {
	w := &wakeups{sets: make(map[string]int64), ping: make(chan struct{}, 1)}
	var wg sync.WaitGroup
	wg.Go(func() { p.listen(ctx, w) })
	defer wg.Wait()

	r := &promoting{Promoter: p, sets: make(map[string]*watch)}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.ping:
		}
		w.mu.Lock()
		sets, all, up := w.sets, w.all, w.up
		w.sets, w.all = make(map[string]int64), false
		w.mu.Unlock()
		r.wake(sets, all)
		r.dead = nil
		r.refresh(ctx)
		r.round(ctx, up)
		if ctx.Err() != nil {
			return
		}
		r.report()
		timer.Reset(r.wait(up))
	}
}

// wake takes in what the listener heard.
func (r *promoting) wake(sets map[string]int64, all bool) {
	now := time.Now()
	if all {
		r.list.at = now
		for _, set := range r.sets {
			set.at = now
		}
		return
	}
	for name := range sets {
		if set := r.sets[name]; set != nil {
			if !set.failing() {
				set.at = now
			}
		} else if at := r.strangers.Add(strangerPause); (r.Known == nil || r.Known(name)) && at.Before(r.list.at) {
			if at.Before(now) {
				at = now
			}
			r.list.at, r.strangers = at, at
		}
	}
}

// refresh asks for the slots when it is time to.
func (r *promoting) refresh(ctx context.Context) {
	now := time.Now()
	if now.Before(r.list.at) {
		return
	}
	callCtx, cancel := context.WithTimeout(ctx, promoteTimeout)
	defer cancel()
	fresh, err := r.Slots(callCtx)
	if err != nil && len(fresh) == 0 {
		if Everywhere(r.Client, err) {
			r.dead = err
			return
		}
		fresh = r.slots // those that are known go on
	}
	sets := make(map[string]*watch, len(fresh))
	for _, slot := range fresh {
		if set := r.sets[slot.Set]; set != nil && set.failing() {
			sets[slot.Set] = set
		} else {
			sets[slot.Set] = &watch{at: now}
		}
	}
	r.slots, r.sets = fresh, sets
	r.list.at = now.Add(promoteRefresh)
	r.list.heard(err, r.Poll)
}

// round promotes the slots whose time has come, or while the wake-up channel is down all that work.
func (r *promoting) round(ctx context.Context, up bool) {
	for i, slot := range r.slots {
		if r.dead != nil || ctx.Err() != nil {
			return
		}
		set := r.sets[slot.Set]
		if time.Now().Before(set.at) && (up || set.failing()) {
			continue
		}
		next, err := r.promote(ctx, slot)
		switch {
		case OneSet(err):
			r.Logger.Error("due jobs of one set cannot be promoted", "set", slot.Set, "err", err)
			*set = watch{at: time.Now().Add(promoteRefresh), bad: true}
			continue
		case err != nil && Everywhere(r.Client, err):
			r.dead = err
			r.slots = append(append([]Slot(nil), r.slots[i+1:]...), r.slots[:i+1]...) // it may be this one alone: the next round begins behind it
			return
		}
		set.at = time.Now().Add(next)
		set.heard(err, r.Poll)
	}
}

// heard notes how a try ended at something that others do not depend on.
func (w *watch) heard(err error, poll time.Duration) {
	if w.err = err; err == nil {
		w.fails, w.bad = 0, false
		return
	}
	w.fails++
	d := min(min(poll, promotePause)<<min(w.fails-1, 5), promotePause)
	w.at = time.Now().Add(d/2 + rand.N(d/2+1))
}

// report logs what fails and what is well again, each once; when nothing works that is one line.
func (r *promoting) report() {
	err := r.dead
	if err == nil {
		err = r.allFail()
	}
	switch {
	case err != nil && !r.down:
		r.Logger.Warn("due jobs cannot be promoted, trying again", "err", err)
		r.down = true
	case err == nil && r.down:
		r.Logger.Info("due jobs are promoted again")
		r.down = false
	}
	if r.down {
		return
	}
	r.say(&r.list, "the sets of due jobs cannot all be listed, trying again", "the sets of due jobs are listed again")
	for _, slot := range r.slots {
		r.say(r.sets[slot.Set], "due jobs of one set cannot be promoted, trying again", "due jobs of one set are promoted again", "set", slot.Set)
	}
}

func (r *promoting) say(w *watch, fails, well string, attrs ...any) {
	switch {
	case w.err != nil && !w.said:
		r.Logger.Warn(fails, append(attrs, "err", w.err)...)
		w.said = true
	case w.err == nil && w.said:
		r.Logger.Info(well, attrs...)
		w.said = false
	}
}

// allFail is the error of one set when not one works.
func (r *promoting) allFail() error {
	if len(r.slots) == 0 {
		return r.list.err
	}
	var err error
	for _, slot := range r.slots {
		if set := r.sets[slot.Set]; set.err != nil {
			err = set.err
		} else if !set.bad {
			return nil
		}
	}
	return err
}

// wait is how long nothing is due.
func (r *promoting) wait(up bool) time.Duration {
	if r.dead != nil {
		return r.Poll/2 + rand.N(r.Poll)
	}
	wake := r.list.at
	for _, set := range r.sets {
		if set.at.Before(wake) {
			wake = set.at
		}
	}
	wait := max(time.Until(wake), 0)
	if !up {
		wait = min(wait, r.Poll)
	}
	return wait
}

// OneSet reports whether an error is the fault of the set it came from: a key
// of another type, or one this user has no right to. Others may do better.
func OneSet(err error) bool {
	class := Classify(err)
	return class == Refused || class == Denied
}

// Everywhere reports whether an error is one of the connection to the only
// server there is: other sets would only wait for the same one.
func Everywhere(rdb redis.UniversalClient, err error) bool {
	_, one := rdb.(*redis.Client)
	class := Classify(err)
	return one && (class == Unreachable || class == Lost)
}

// promote moves a batch of what is due in a slot, and says in how long to look again.
func (p *Promoter) promote(ctx context.Context, slot Slot) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, promoteTimeout)
	defer cancel()
	done, err := Promote(ctx, p.Client, slot, promoteBatch)
	if err != nil {
		return 0, err
	}
	p.moved.Add(done.Moved)
	if done.Lost > 0 {
		p.Logger.Error("scheduled jobs had lost their bodies and are gone", "set", slot.Set, "jobs", done.Lost)
	}
	switch {
	case done.More:
		return 0, nil
	case done.Next == 0:
		return promoteRefresh, nil
	}
	ms := min(max(done.Next-done.Now, 1), promoteRefresh.Milliseconds()) // as milliseconds: a duration ends after 292 years
	return time.Duration(ms) * time.Millisecond, nil
}
