package consumer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

const (
	sweepEvery = time.Second
	sweepLimit = 100         // entries in one answer: each may have a payload of a megabyte
	beatAgain  = time.Second // after a heartbeat that failed
)

// beats lets slots wait for the next heartbeat.
type beats struct {
	mu   sync.Mutex
	next chan struct{} // closed when the heartbeat under way, or the next one, is over
	want chan struct{} // capacity 1: somebody waits for one
}

func newBeats() *beats { return &beats{next: make(chan struct{}), want: make(chan struct{}, 1)} }

// over tells all who wait.
func (b *beats) over() {
	b.mu.Lock()
	close(b.next)
	b.next = make(chan struct{})
	b.mu.Unlock()
}

// ask wants a heartbeat soon, and returns what is closed when one is over.
func (b *beats) ask() <-chan struct{} {
	b.mu.Lock()
	next := b.next
	b.mu.Unlock()
	select {
	case b.want <- struct{}{}:
	default:
	}
	return next
}

// contact is what a source knows of how it last reached Redis. Only its lease loop uses it.
type contact struct {
	redis  time.Time // Redis's clock, when it last answered
	heard  time.Time // ours, when that answer came
	since  time.Time // ours, since when there has been contact without a break; zero: there is none
	looked time.Time // when the loop last ran: it notices when this process stood still
}

// lost forgets the contact: idle times have run on meanwhile, and a whole
// lease must pass before they say anything about who is alive.
func (c *contact) lost() { c.since = time.Time{} }

// answered notes an answer of Redis to something that was asked at asked. One
// that took long may have been given long after it was asked for: Redis has stood still, or the way to it.
func (c *contact) answered(asked, redis time.Time, lease time.Duration) {
	now := time.Now()
	if now.Sub(asked) > lease/3 {
		c.lost()
	}
	c.redis, c.heard = redis, now // the latest that the answer can be: what is reckoned from it errs on the safe side
	if c.since.IsZero() {
		c.since = now
	}
}

// trusted reports whether idle times can be trusted: there has been contact for a whole lease.
func (c *contact) trusted(now time.Time, lease time.Duration) bool {
	return !c.since.IsZero() && now.Sub(c.since) >= lease
}

// notAfter is the time by Redis's clock past which a request made now says nothing any more.
func (c *contact) notAfter(now time.Time, lease time.Duration) time.Time {
	return c.redis.Add(now.Sub(c.heard) + lease/3)
}

// keepLeases renews the leases of what is held of one source, and takes over
// those of other workers that have run out, until the worker has settled its
// last job. While the worker stops it takes over none.
func (w *Worker) keepLeases(src *source) {
	lease := w.cfg.Lease
	c := contact{looked: time.Now()}
	beat, sweep, reap := time.Now(), time.Now().Add(lease), time.Now().Add(spread(2*lease))
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-w.gone:
			return
		case <-timer.C:
		case <-src.beats.want:
			beat = time.Time{}
		}
		now := time.Now()
		if now.Sub(c.looked) > lease/3+sweepEvery { // this process stood still: what it knows of others is old
			c.lost()
		}
		c.looked = now
		if !now.Before(beat) {
			beat = now.Add(lease / 3)
			if err := w.renew(src, &c); err != nil {
				src.leases.began(w.log, "leases cannot be renewed, trying again", err)
				c.lost()
				beat = time.Now().Add(spread(beatAgain))
			} else {
				src.leases.over(w.log, "leases are renewed again")
			}
			src.beats.over()
		}
		if now = time.Now(); !now.Before(sweep) {
			wait := sweepEvery
			if !w.stopping.Load() && c.trusted(now, lease) {
				wait = w.sweep(src, &c)
			}
			sweep = time.Now().Add(spread(wait))
		}
		if now = time.Now(); !now.Before(reap) {
			if !w.stopping.Load() && c.trusted(now, lease) {
				w.reap(src)
			}
			reap = time.Now().Add(spread(2 * lease))
		}
		timer.Reset(max(min(time.Until(beat), time.Until(sweep), time.Until(reap)), 0))
	}
}

// spread keeps a fleet from acting in step.
func spread(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/10+1)
}

// renew is one heartbeat: what is held stays ours, and what is not ours any more is let go.
func (w *Worker) renew(src *source, c *contact) error {
	lanes := src.inOrder()
	var held [engine.Lanes][]string
	var tasks [engine.Lanes]map[string]*task
	for i, l := range lanes {
		tasks[i] = l.entries()
		for entry, t := range tasks[i] {
			if !t.gone.Load() {
				held[i] = append(held[i], entry)
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.root), w.cfg.Lease/3)
	defer cancel()
	src.mu.Lock()
	group := src.group
	src.mu.Unlock()
	asked, from := time.Now(), mono()
	v, err := engine.BeatCall(src.keys, group, w.group, w.name, held).Run(ctx, w.rdb)
	var b engine.Beat
	if err == nil {
		b, err = engine.ReadBeat(v)
	}
	if err != nil {
		return fmt.Errorf("renew the leases of %s/%s: %w", src.stream.Name(), w.group, err)
	}
	c.answered(asked, b.Now, w.cfg.Lease)
	src.clock.Store(int64(b.Now.Sub(asked.Add(time.Since(asked) / 2))))
	src.mu.Lock()
	src.epoch = max(src.epoch, b.Epoch)
	src.mu.Unlock()
	for i, l := range lanes {
		for _, entry := range b.Lost[i] {
			w.loseLease(tasks[i][entry])
		}
		for _, entry := range b.Deleted[i] {
			w.loseEntry(tasks[i][entry])
		}
		l.confirmed.Store(from)
	}
	if b.Suspects > 0 {
		w.lookForSuspects()
	}
	return nil
}

// loseLease tells a task's handler, when it runs, that the job is not ours any more.
func (w *Worker) loseLease(t *task) {
	if t.lane.entries()[t.entry] != t || t.lost.Swap(true) {
		return // it has ended meanwhile, or is known to be lost
	}
	w.counts.leasesLost.Add(1)
	w.log.Warn("the lease of a job was lost", "job", t.describe())
	for _, s := range w.slots {
		s.mu.Lock()
		run, all := s.run, slices.Contains(s.tasks, t)
		for _, other := range s.tasks {
			all = all && other.lost.Load() // a batch goes on for those of its jobs that are still ours
		}
		s.mu.Unlock()
		if all && run != nil {
			run.cancel(ErrLeaseLost)
			return
		}
	}
}

// loseEntry notes that an entry was deleted while it was held. The job goes on: its owner has all of it.
func (w *Worker) loseEntry(t *task) {
	if t.lane.entries()[t.entry] != t || t.gone.Swap(true) {
		return
	}
	w.counts.lost.Add(1)
	w.log.Warn("the entry of a job was deleted while a worker held it; the job goes on", "job", t.describe())
}

// leased reports whether the lease of a task that is about to start is sure to
// be ours, which takes a heartbeat when it was not confirmed within its last
// half. It reports false when the worker stops meanwhile.
func (w *Worker) leased(t *task) bool {
	for {
		sure := max(t.read, t.lane.confirmed.Load())
		if t.lost.Load() || mono()-sure < int64(w.cfg.Lease/2) {
			return true
		}
		select {
		case <-t.lane.src.beats.ask():
		case <-w.stopped:
			return false
		}
	}
}

// sweep takes over what other workers of the group hold whose lease has run
// out, sends it back to the group, and says when to sweep again.
func (w *Worker) sweep(src *source, c *contact) time.Duration {
	lanes := src.inOrder()
	src.mu.Lock()
	group := src.group
	src.mu.Unlock()
	for {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(w.root), w.cfg.Lease/3)
		asked := time.Now()
		v, err := engine.SweepCall(src.keys, group, w.group, w.name, w.cfg.Lease, c.notAfter(asked, w.cfg.Lease), sweepLimit).Run(ctx, w.rdb)
		cancel()
		var s engine.Sweep
		if err == nil {
			s, err = engine.ReadSweep(v)
		}
		if err != nil {
			src.orphans.Store(true) // it may have taken some over
			src.leases.began(w.log, "the jobs of dead workers cannot be taken over, trying again", fmt.Errorf("sweep %s/%s: %w", src.stream.Name(), w.group, err))
			c.lost()
			return sweepEvery
		}
		if s.State == engine.SweepLate {
			w.log.Info("redis or this worker stood still: no lease is taken over for as long as one lasts", "stream", src.stream.Name())
			c.lost()
		}
		c.answered(asked, s.Now, w.cfg.Lease)
		if s.Deleted > 0 {
			w.counts.lost.Add(s.Deleted)
			w.log.Error("entries were deleted while workers held them; dead letters say which", "stream", src.stream.Name(), "jobs", s.Deleted)
		}
		n := 0
		for i, l := range lanes {
			n += len(s.Taken[i])
			w.reclaim(l, s.Taken[i])
		}
		switch {
		case n == sweepLimit:
			continue
		case s.State == engine.SweepQuiet:
			return w.cfg.Lease / 3
		}
		return sweepEvery
	}
}

// reclaim sends entries that a sweep took over back to the group.
func (w *Worker) reclaim(l *lane, taken []engine.Reclaimed) {
	if len(taken) == 0 {
		return
	}
	held := l.entries()
	entries := make([]rawEntry, len(taken))
	for i, e := range taken {
		if t := held[e.Entry]; t != nil { // our own: we were not heard of for too long
			w.loseLease(t)
		}
		entries[i] = rawEntry{id: e.Entry, values: e.Values}
	}
	w.log.Warn("jobs of workers whose leases ran out go back to the group", "stream", l.src.stream.Name(), "jobs", len(taken), "worker", taken[0].Owner)
	for i, t := range w.adopt(l, entries) {
		t.owner = taken[i].Owner
		t.verdict = verdict{action: actReclaim}
		w.finish(t)
	}
}

// reapAfter is for how many leases a consumer must not have been heard of before it is removed from its group.
const reapAfter = 5

// reap removes consumers that hold nothing and are not heard of any more: each
// worker that is killed leaves one behind. The script looks again that nothing is pending.
func (w *Worker) reap(src *source) {
	ctx, cancel := context.WithTimeout(w.root, w.cfg.Lease/3)
	defer cancel()
	consumers, err := w.rdb.XInfoConsumers(ctx, src.keys.Stream, w.group).Result()
	if err != nil {
		w.log.Debug("dead consumers cannot be looked for", "stream", src.stream.Name(), "err", err)
		return
	}
	keys := []string{src.lanes[0].key, src.suspects.key, src.keys.Stream}
	for _, c := range consumers {
		if c.Name == w.name || c.Pending > 0 || c.Idle < reapAfter*w.cfg.Lease {
			continue
		}
		if _, err := engine.LeaveCall(keys, w.group, c.Name).Run(ctx, w.rdb); err != nil {
			w.log.Debug("a dead consumer cannot be removed", "stream", src.stream.Name(), "err", err)
			return
		}
		w.log.Info("a consumer that was not heard of any more was removed from its group", "stream", src.stream.Name(), "dead", c.Name)
	}
}
