package consumer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

const (
	sweepEvery = time.Second
	gateSlack  = 50 * time.Millisecond // after the gate opens
	sweepLimit = 100                   // entries in one answer: each may have a payload of a megabyte
	beatAgain  = time.Second           // after a heartbeat that failed
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
	steady time.Time // the same, though not broken by an answer that there is no group
	looked time.Time // when the loop last ran: it notices when this process stood still
	beat   int64     // the number of the last heartbeat that Redis wrote down; 0: none
	sure   time.Time // Redis's: until then nobody can have taken over what is held
	idle   bool      // the last heartbeat found nothing that is pending
	swept  time.Time // ours, when the last sweep began
}

// lost forgets the contact: idle times have run on meanwhile, and a whole
// lease must pass before they say anything about who is alive.
func (c *contact) lost() { c.since, c.steady = time.Time{}, time.Time{} }

// answered notes an answer of Redis to something that was asked at asked. One
// that took long may have been given long after it was asked for: Redis has stood still, or the way to it. And one
// whose clock is not where it should be is of another host, or of one whose clock was set: idle times have jumped with it.
func (c *contact) answered(asked, redis time.Time, lease time.Duration) {
	now := time.Now()
	step := redis.Sub(c.redis) - now.Sub(c.heard)
	if now.Sub(asked) > lease/3 || !c.heard.IsZero() && step.Abs() > lease/6 {
		c.lost()
	}
	c.redis, c.heard = redis, now // the latest that the answer can be: what is reckoned from it errs on the safe side
	if c.since.IsZero() {
		c.since = now
	}
	if c.steady.IsZero() {
		c.steady = now
	}
}

// wrote notes a heartbeat's number. When Redis does not know the one before
// it, its data are older than they were: it was restored, or a replica took over that had not yet heard.
func (c *contact) wrote(number int64, b engine.Beat) {
	if c.beat > 0 && b.Last != c.beat {
		c.lost()
	}
	if b.Took {
		c.beat = number
	}
}

// trusted reports whether idle times can be trusted: there has been contact
// for a whole lease, the last of it within half a one.
func (c *contact) trusted(now time.Time, lease time.Duration) bool {
	return !c.since.IsZero() && now.Sub(c.since) >= lease && now.Sub(c.heard) < lease/2
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
	c := contact{looked: time.Now(), heard: src.opened, steady: src.opened}
	if !c.heard.IsZero() {
		c.redis = c.heard.Add(time.Duration(src.clock.Load()))
	}
	var p intake
	beat, sweep, reap := time.Now(), time.Now().Add(lease), time.Now().Add(spread(2*lease))
	var earliest time.Time // after a heartbeat that failed, whoever asks for one
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-w.gone:
			return
		case <-timer.C:
		case <-src.beats.want:
			beat = earliest
		}
		now := time.Now()
		if now.Sub(c.looked) > lease/3+sweepEvery { // this process stood still: what it knows of others is old
			c.lost()
		}
		c.looked = now
		if w.drainBy.Load() > 0 && src.leases.cause() != nil { // the worker ends, and waits for this loop: not for a Redis that hangs
			beat = now.Add(beatAgain)
		}
		if !now.Before(beat) {
			beat = now.Add(lease / 3)
			if err := w.renew(src, &c, &p); err != nil {
				src.leases.began(w.log, "leases cannot be renewed, trying again", err)
				steady := c.steady
				c.lost()
				if engine.Classify(err) == engine.NoGroup {
					c.sure = c.notAfter(now, lease).Add(lease - lease/3) // where there is no group, nobody holds anything
					c.steady = steady
					w.remake(src)
				}
				earliest = time.Now().Add(spread(min(beatAgain, lease/6))) // before it is too late to be sure of what is held
				beat = earliest
			} else {
				earliest = time.Time{}
				src.leases.over(w.log, "leases are renewed again")
			}
			src.beats.over()
		}
		if now = time.Now(); !now.Before(sweep) {
			wait := sweepEvery
			if c.idle && now.Sub(c.swept) < lease && !src.mend.any() { // no lease can run out before the next heartbeat tells of it
				wait = lease / 6
			} else if src.sweeping.TryLock() { // else the worker stops
				if !w.stopping.Load() && c.trusted(now, lease) && len(w.done) < cap(w.done)/2 {
					wait = w.sweep(src, &c)
				}
				src.sweeping.Unlock()
			}
			sweep = time.Now().Add(spread(wait))
		}
		if now = time.Now(); !now.Before(reap) {
			if !w.stopping.Load() && c.trusted(now, lease) {
				w.reap(src, &c)
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
func (w *Worker) renew(src *source, c *contact, p *intake) error {
	lanes := src.inOrder()
	var held [engine.Lanes][]string
	var tasks [engine.Lanes]map[string]*task
	var from [engine.Lanes]int64
	gone := 0
	for i, l := range lanes {
		tasks[i], from[i] = l.snapshot()
		for entry, t := range tasks[i] {
			switch {
			case t.lost.Load():
			case t.gone.Load():
				gone++
			default:
				held[i] = append(held[i], entry)
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.root), w.cfg.Lease/3)
	defer cancel()
	src.mu.Lock()
	group := src.group
	src.mu.Unlock()
	asked, at := time.Now(), mono()
	v, err := engine.BeatCall(src.keys, group, w.group, w.name, w.cfg.Lease, c.beat+1, lanes[0].delete, held, gone, w.longestRunning(src)...).Run(ctx, w.rdb)
	var b engine.Beat
	if err == nil {
		b, err = engine.ReadBeat(v)
	}
	if err != nil {
		return fmt.Errorf("renew the leases of %s/%s: %w", src.stream.Name(), w.group, err)
	}
	c.wrote(c.beat+1, b)
	c.idle = b.Pending == 0
	c.answered(asked, b.Now, w.cfg.Lease)
	sure, fresh := b.Now.Before(c.sure), c.fresh(w.cfg.Lease)
	c.sure = b.Now.Add(w.cfg.Lease)
	src.clock.Store(int64(b.Now.Sub(asked.Add(time.Since(asked) / 2))))
	src.mu.Lock()
	forgotten := b.Epoch < src.epoch
	src.epoch = max(src.epoch, b.Epoch)
	src.mu.Unlock()
	for i, l := range lanes {
		for _, entry := range b.Lost[i] {
			tasks[i][entry].denied = true
			w.loseLease(tasks[i][entry])
		}
		for _, entry := range b.Deleted[i] {
			w.loseEntry(tasks[i][entry])
		}
		for _, entry := range b.Unowned[i] {
			w.unlisted(tasks[i][entry], sure, fresh, w.disown)
		}
		for _, entry := range b.Missing[i] {
			w.unlisted(tasks[i][entry], sure, fresh, w.loseEntry)
		}
		l.confirmed.Store(from[i])
	}
	if b.Mended > 0 {
		w.log.Warn("somebody took jobs that run here off this worker's list; it holds them again", "stream", src.stream.Name(), "jobs", b.Mended)
	}
	if b.Suspects > 0 {
		w.lookForSuspects()
	}
	src.mend.heard(b)
	if err := w.obeyBeat(src, group, b, at); err != nil {
		w.log.Debug("which jobs were cancelled cannot be read", "stream", src.stream.Name(), "err", err)
	}
	w.judgeIntake(src, p, b)
	if forgotten { // somebody deleted the stream's config
		return w.openSource(ctx, src)
	}
	return nil
}

// remake makes a group that somebody deleted: the reader, which blocks on the
// stream and its redelivery, does not miss every one.
func (w *Worker) remake(src *source) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.root), w.cfg.Lease/3)
	defer cancel()
	if err := w.openSource(ctx, src); err != nil {
		w.log.Debug("a group cannot be made again", "stream", src.stream.Name(), "err", err)
		return
	}
	w.log.Warn("a group that somebody deleted was made again", "stream", src.stream.Name())
}

// loseLease tells a task's handler, when it runs, that the job is not ours any more.
func (w *Worker) loseLease(t *task) {
	if t.ended() || t.lost.Swap(true) {
		return // its end is under way or written: it is our own script that took it from our list; or it is known to be lost
	}
	w.counts.leasesLost.Add(1)
	w.log.Warn("the lease of a job was lost", "job", t.describe())
	w.endRun(t, ErrLeaseLost)
}

// loseEntry notes that an entry was deleted while it was held. The job goes on: its owner has all of it.
func (w *Worker) loseEntry(t *task) {
	if t.ended() || t.gone.Swap(true) {
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
		sure := t.read
		if c := t.lane.confirmed.Load(); c > t.since { // a heartbeat that did not know the task says nothing of it
			sure = c
		}
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

// sweep takes over some of what other workers of the group hold whose lease
// has run out, sends it back to the group, and says when to sweep again: at once when there is more.
func (w *Worker) sweep(src *source, c *contact) time.Duration {
	lanes := src.inOrder()
	src.mu.Lock()
	group := src.group
	src.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.root), w.cfg.Lease/3)
	defer cancel()
	asked := time.Now()
	c.swept = asked
	v, err := engine.SweepCall(src.keys, group, w.group, w.name, w.cfg.Lease, c.beat, c.notAfter(asked, w.cfg.Lease), sweepLimit).Run(ctx, w.rdb)
	var s engine.Sweep
	if err == nil {
		s, err = engine.ReadSweep(v)
	}
	if err != nil {
		class := engine.Classify(err)
		if class == engine.Lost || class == engine.Refused {
			src.orphans.Store(true) // it may have taken some over
		}
		c.lost()
		src.sweeps.began(w.log, "the jobs of dead workers cannot be taken over, trying again", fmt.Errorf("sweep %s/%s: %w", src.stream.Name(), w.group, err))
		if class == engine.NoGroup {
			w.remake(src)
		}
		return sweepEvery
	}
	src.sweeps.over(w.log, "the jobs of dead workers are taken over again")
	if s.State == engine.SweepLate {
		w.log.Info("redis or this worker stood still, or redis went back in time: no lease is taken over for as long as one lasts", "stream", src.stream.Name())
		c.lost()
	}
	c.answered(asked, s.Now, w.cfg.Lease)
	if s.Deleted > 0 {
		w.counts.lost.Add(s.Deleted)
		w.log.Error("entries were deleted while workers held them; dead letters say which", "stream", src.stream.Name(), "jobs", s.Deleted)
	}
	n := int(s.Deleted)
	for i, l := range lanes {
		n += len(s.Taken[i])
		w.reclaim(l, s.Taken[i])
	}
	more := (s.State == engine.SweepQuiet || s.State == engine.SweepWatch) && w.mend(ctx, src, group)
	switch {
	case n >= sweepLimit:
		return 0
	case more:
		return sweepEvery
	case s.State == engine.SweepQuiet, s.State == engine.SweepShut:
		return min(s.Wait+gateSlack, w.cfg.Lease/3)
	}
	return sweepEvery
}

// reclaim sends entries that a sweep took over back to the group.
func (w *Worker) reclaim(l *lane, taken []engine.Reclaimed) {
	if len(taken) == 0 {
		return
	}
	held := l.entries()
	entries := make([]rawEntry, len(taken))
	owners := make(map[string]string, len(taken))
	dead, owner := 0, ""
	for i, e := range taken {
		owners[e.Entry] = e.Owner
		if t := held[e.Entry]; t != nil && !t.orphan { // our own: we were not heard of for too long
			w.loseLease(t)
		}
		entries[i] = rawEntry{id: e.Entry, values: e.Values}
		if e.Owner != engine.Nobody {
			dead, owner = dead+1, e.Owner
		}
	}
	if dead > 0 {
		w.log.Warn("jobs of workers whose leases ran out go back to the group", "stream", l.src.stream.Name(), "jobs", dead, "worker", owner)
	}
	for _, t := range w.adopt(l, entries, false) {
		if owners[t.entry] == engine.Nobody { // nothing says that a worker died of it
			w.release(t)
			continue
		}
		t.owner = owners[t.entry]
		t.verdict = verdict{action: actReclaim}
		w.finish(t)
	}
}

// reapAfter is for how many leases a consumer must not have been heard of before it is removed from its group.
const reapAfter = 5

// reap removes consumers that hold nothing and are not heard of any more: each
// worker that is killed leaves one behind. Redis's own idle time of a consumer
// is not enough: in 7.0 a reader that waits for long looks dead. So it goes by
// the workers' own words, and the script looks again that nothing is pending.
func (w *Worker) reap(src *source, c *contact) {
	ctx, cancel := context.WithTimeout(w.root, w.cfg.Lease/3)
	defer cancel()
	src.mu.Lock()
	keys := src.group
	src.mu.Unlock()
	silent := reapAfter * w.cfg.Lease
	heard, err := w.rdb.HGetAll(ctx, keys.Workers).Result()
	if err != nil {
		w.log.Debug("dead consumers cannot be looked for", "stream", src.stream.Name(), "err", err)
		return
	}
	candidates := make(map[string]bool)
	for row := range heard {
		if group, name, _ := strings.Cut(row, ":"); group == w.group {
			candidates[name] = true
		}
	}
	for _, l := range src.inOrder() {
		consumers, err := w.rdb.XInfoConsumers(ctx, l.key, w.group).Result()
		if err != nil {
			w.log.Debug("dead consumers cannot be looked for", "stream", src.stream.Name(), "err", err)
			return
		}
		for _, info := range consumers {
			if known, seen := candidates[info.Name]; !seen || known {
				candidates[info.Name] = info.Pending == 0 && info.Idle >= silent
			}
		}
	}
	delete(candidates, w.name)
	since := c.redis.Add(time.Since(c.heard) - silent)
	for name, dead := range candidates {
		if !dead {
			continue
		}
		v, err := engine.LeaveCall(src.keys, keys, w.group, name, since).Run(ctx, w.rdb)
		if err != nil {
			w.log.Debug("a dead consumer cannot be removed", "stream", src.stream.Name(), "err", err)
			return
		}
		if n, _ := v.(int64); n > 0 && name != engine.Nobody {
			w.log.Info("a consumer that was not heard of any more was removed from its group", "stream", src.stream.Name(), "dead", name)
		}
	}
}
