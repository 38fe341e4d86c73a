package consumer

import (
	"math"
	"time"
)

// fresh is since when, by mono, what was read is known to be ours whatever heartbeats said of it: no lease of it can have run
// out by now, and no heartbeat that did not know it can have come a lease after somebody deleted it, which is what free.lua goes by.
// Clocks can be relied on as far back as there has been contact without a break.
func (c *contact) fresh(lease time.Duration) int64 {
	if c.steady.IsZero() {
		return math.MaxInt64
	}
	return max(int64(c.steady.Sub(processStarted)), mono()-int64(lease))
}

// unlisted looks at a task that is in nobody's list. Either somebody else has taken it over and ended it; or, as
// long as a lease has not passed since Redis last knew it for ours, a meddler took it off, and it goes on. A heartbeat
// that did not believe it for ours is remembered, though the task's end was on the wire: the next must not count it as one that did.
// What one that overlapped the read says nothing of is ours if it is fresh.
func (w *Worker) unlisted(t *task, sure bool, fresh int64, goOn func(*task)) {
	known := t.lane.confirmed.Load()
	t.denied = t.denied || !sure || t.since >= known && t.read <= known && t.read < fresh
	if t.denied {
		w.loseLease(t)
	} else {
		goOn(t)
	}
}

// disown notes that an entry was taken off this worker's list while it was held, and can't be claimed back. The job goes on.
func (w *Worker) disown(t *task) {
	if t.ended() || t.gone.Swap(true) {
		return
	}
	w.log.Warn("somebody took a job that runs here off this worker's list; it goes on", "job", t.describe())
}

// ended reports whether the task's end is in Redis, or may be on its way there: a heartbeat that does not find
// it in this worker's list says nothing then.
func (t *task) ended() bool { return t.sent.Load() || !t.lane.holds(t) }
