package engine

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	promoteBatch   = 500
	promoteRefresh = 15 * time.Second // how long a lost wake-up can cost
	listRefresh    = time.Minute      // between two questions for the slots there are
	promoteTimeout = 10 * time.Second
	promotePause   = 3 * time.Second         // the longest before a set that failed is tried again
	strangerPause  = time.Second             // between two refreshes for sets nobody listed: they may be of another database
	searchPause    = 20 * time.Millisecond   // between two steps through the bodies of a set that find nothing: they cost Redis up to a millisecond
	dozes          = 1100 * time.Microsecond // the end of a wait, for which timers are too coarse
	approach       = 800 * time.Microsecond  // so long before a job is due the set is looked at once more: the way there is warm then, and known
	approachFrom   = 4 * time.Millisecond    // only behind a longer wait
	promoteEach    = 2 * time.Millisecond    // between two batches: where jobs are due that close together, a script takes several of them
	awakeMost      = 150 * time.Microsecond  // the end of that, for which sleep is: the kernel wakes late
	awakeShare     = 20                      // no more than this part of a wait
)

// Promoter moves jobs whose time has come. It sleeps until the next due time
// and is woken by the scripts when an earlier one arrives; only while that
// channel is down does it poll. Any number may run at once.
type Promoter struct {
	Client redis.UniversalClient
	// Slots is asked again every minute, and when a wake-up names an unknown set. It must give up with its context. With an error
	// it may return what it found all the same: that is promoted, and it is asked again soon.
	Slots  func(context.Context) ([]Slot, error)
	Known  func(set string) bool // whether a wake-up for a set nobody listed may be ours; nil: every one may
	Poll   time.Duration
	Logger *slog.Logger
	Said   func(text string) // what else the wake-up channel says; nil: nobody listens
	Missed func()            // it may have said something that was not heard: called when it is up, and while it is down at every poll

	silence time.Duration // of its listener, but for tests
	moved   atomic.Int64
}

// Moved is how many jobs have been promoted.
func (p *Promoter) Moved() int64 { return p.moved.Load() }

// Empty promotes what is due now in one set.
func (p *Promoter) Empty(ctx context.Context, slot Slot) error {
	var s search
	for {
		next, _, err := p.promote(ctx, slot, &s, new(aim))
		if err != nil || next > 0 && !s.under() {
			return err
		}
	}
}

// search is one through the bodies of a set for jobs that somebody took out of it by hand.
type search struct {
	cursor string // where it goes on
	back   int64  // jobs that it has put back
}

// under reports whether the search is under way.
func (s *search) under() bool { return s.cursor != "" && s.cursor != "0" }

// watch is what a Promoter knows of one of its sets, or of the list of them.
type watch struct {
	at    time.Time // when to look at it
	err   error     // of the last try, when another may do better
	fails int       // tries in a row that ended so
	bad   bool      // a person has to look
	said  bool      // it was logged that it fails
	empty bool      // it was, and no wake-up has named it since
	search
	aim aim
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
	next, awake := time.Now(), time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			doze(next, awake)
			time.Sleep(time.Until(next)) // where dozing does not help
		case <-w.ping:
		}
		w.mu.Lock()
		sets, all, up := w.sets, w.all, w.up
		w.sets, w.all = make(map[string]int64), false
		w.mu.Unlock()
		if !up && p.Missed != nil {
			p.Missed()
		}
		r.wake(sets, all)
		r.dead = nil
		r.refresh(ctx)
		r.round(ctx, up)
		if ctx.Err() != nil {
			return
		}
		r.report()
		wait := r.wait(up)
		next, awake = time.Now().Add(wait), min(wait/awakeShare, awakeMost)
		timer.Reset(max(wait-dozes, 0))
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
			set.empty = false
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
		if sets[slot.Set] = r.sets[slot.Set]; sets[slot.Set] == nil {
			sets[slot.Set] = &watch{at: now}
		}
	}
	r.slots, r.sets = fresh, sets
	r.list.at = now.Add(listRefresh)
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
		next, empty, err := promoteRefresh, true, error(nil)
		if !set.empty || r.filled(ctx, slot, &err) {
			next, empty, err = r.promote(ctx, slot, &set.search, &set.aim)
		}
		set.empty = empty && err == nil
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

// filled asks whether there is anything in a slot that was empty, for less than the script costs.
func (p *Promoter) filled(ctx context.Context, slot Slot, err *error) bool {
	ctx, cancel := context.WithTimeout(ctx, promoteTimeout)
	defer cancel()
	n, failed := p.Client.Exists(ctx, slot.Set, slot.Bodies).Result()
	if Classify(failed) == Denied {
		return true // the script needs no right to EXISTS
	}
	if *err = failed; failed != nil {
		*err = fmt.Errorf("look into %s: %w", slot.Set, failed)
	}
	return n > 0
}

// promote moves a batch of what is due in a slot, takes the search one step on, and says in how long to look again, and
// whether nothing at all is left.
func (p *Promoter) promote(ctx context.Context, slot Slot, s *search, a *aim) (time.Duration, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, promoteTimeout)
	defer cancel()
	if !s.under() {
		s.cursor = "0"
	}
	sent := time.Now()
	done, err := PromoteFrom(ctx, p.Client, slot, promoteBatch, s.cursor)
	if err != nil {
		return 0, false, err
	}
	a.learn(done.micros, sent, time.Now())
	p.moved.Add(done.Moved)
	if done.Lost > 0 {
		p.Logger.Error("scheduled jobs had lost their bodies and are gone", "set", slot.Set, "jobs", done.Lost)
	}
	s.cursor = done.Cursor
	if s.back += done.Back; s.back > 0 && !s.under() {
		p.Logger.Warn("somebody took jobs out of their set by hand; they are in it again", "set", slot.Set, "jobs", s.back)
		s.back = 0
	}
	wait := promoteRefresh
	switch {
	case done.More, done.Back > 0 && s.under():
		return 0, false, nil
	case done.Next > 0:
		if wait = a.until(done.Next); wait > approachFrom {
			wait -= approach
		} else if done.Moved > 0 {
			wait = max(wait, promoteEach)
		}
	}
	if s.under() {
		wait = min(wait, searchPause)
	}
	return wait, done.Next == 0 && !s.under(), nil
}
