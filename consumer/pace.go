package consumer

import (
	"context"
	"sync"
	"time"
)

const (
	// prefetchFor is how much work is held beyond what can start now: what the worker starts in this time, at
	// its measured rate. A slow worker holds none, so that nothing waits for it while others are idle.
	prefetchFor = 100 * time.Millisecond
	maxPrefetch = 2048
	paceWindow  = 50 * time.Millisecond // the shortest time over which a rate is measured
	paceSettles = 250 * time.Millisecond
	paceFirst   = 10 * time.Millisecond // the shortest while no rate is known: with no prefetch a drain begins slowly

	// shedEvery is how often a worker looks whether it holds more than it starts in shedAfter.
	shedEvery = 250 * time.Millisecond
	shedAfter = time.Second
)

// pace measures how many jobs a worker takes up per second.
type pace struct {
	mu   sync.Mutex
	at   time.Time
	seen int64
	rate float64
}

// measure returns the rate, given how many jobs have been taken up in all.
func (p *pace) measure(now time.Time, total int64) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at.IsZero() {
		p.at, p.seen = now, total
		return 0
	}
	took := now.Sub(p.at)
	if took < paceFirst || took < paceWindow && p.rate > 0 {
		return p.rate
	}
	fresh := float64(total-p.seen) / took.Seconds()
	weight := min(1, took.Seconds()/paceSettles.Seconds())
	p.rate += (fresh - p.rate) * weight
	p.at, p.seen = now, total
	return p.rate
}

// prefetch is how many jobs may be held beyond those that can start at once.
func (w *Worker) prefetch(now time.Time) int64 {
	return min(int64(w.pace.measure(now, w.counts.taken())*prefetchFor.Seconds()), maxPrefetch)
}

// shedding looks every now and then whether too much was read ahead, until ctx ends.
func (w *Worker) shedding(ctx context.Context) {
	look := time.NewTicker(shedEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			w.shed()
		}
	}
}

// shed hands back, oldest first, what was read ahead for a pace that did not last.
func (w *Worker) shed() {
	rate := w.pace.measure(time.Now(), w.counts.taken())
	keep := int(rate * shedAfter.Seconds())
	for n := w.queued() - keep; n > 0; {
		t, ok := w.ready.tryPop()
		if !ok {
			return
		}
		switch {
		case t.over != nil && mono()-t.read < int64(w.cfg.Lease): // a suspect comes one at a time, and other workers may be as full
			w.ready.push(t)
			n--
		case w.handBack(t):
			n--
		}
	}
}

// taken is how many jobs the slots have taken up.
func (c *counters) taken() int64 { return c.started.Load() + c.refused.Load() }
