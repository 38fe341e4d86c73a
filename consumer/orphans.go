package consumer

import (
	"context"
	"slices"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

const orphanPage = 100

// suspectOrphans notes that an answer was lost: some of what we own may never have been seen.
func (r *reader) suspectOrphans() {
	for _, src := range r.sources {
		src.orphans.Store(true)
	}
}

func (r *reader) anyOrphans() bool {
	return slices.ContainsFunc(r.sources, func(src *source) bool { return src.orphans.Load() })
}

// handBackOrphans releases what this consumer owns and does not hold: entries
// whose delivery was lost with a read's answer. They cost no try.
func (r *reader) handBackOrphans(ctx context.Context) error {
	if !r.again.IsZero() {
		r.suspectOrphans()
		r.again = time.Time{}
	}
	for _, ghost := range r.ghosts { // the server may not have noticed, and give it what comes next
		if err := ghost.kill(ctx); err != nil {
			r.again = time.Now().Add(ghost.block + time.Second) // not allowed, or not to be told from others: by then its block is over
		}
	}
	r.ghosts = nil
	for _, src := range r.sources {
		if !src.orphans.Swap(false) {
			continue
		}
		for _, l := range src.lanes {
			if err := r.w.searchLane(ctx, r.line, l); err != nil {
				src.orphans.Store(true)
				return err
			}
		}
	}
	return nil
}

// searchLane hands back the orphans of one lane. Whoever calls it is the only one that reads the lane.
func (w *Worker) searchLane(ctx context.Context, conn engine.Processor, l *lane) error {
	for after := "0"; ; {
		held := l.entries() // before it is asked: what is settled in between must not look like an orphan
		callCtx, cancel := context.WithTimeout(ctx, openTimeout)
		v, err := engine.DoAt(callCtx, conn, 7, "XREADGROUP", "GROUP", w.group, w.name, "COUNT", orphanPage, "STREAMS", l.key, after)
		cancel()
		switch engine.Classify(err) {
		case engine.OK:
		case engine.NoGroup, engine.Refused, engine.Denied: // this stream's own trouble, which its next read looks after
			return nil
		default:
			return err
		}
		read, err := parseRead(v)
		if err != nil {
			return err
		}
		entries := read[l.key]
		if len(entries) == 0 {
			return nil
		}
		after = entries[len(entries)-1].id
		w.releaseOrphans(l, entries, held)
	}
}

// releaseOrphans hands back those entries that are not held.
func (w *Worker) releaseOrphans(l *lane, entries []rawEntry, held map[string]*task) {
	orphans := entries[:0]
	for _, e := range entries {
		if !e.gone && held[e.id] == nil {
			orphans = append(orphans, e)
		}
	}
	if len(orphans) == 0 {
		return
	}
	w.log.Warn("jobs whose delivery was lost are handed back", "stream", l.src.stream.Name(), "jobs", len(orphans))
	for _, t := range w.adopt(l, orphans, true) {
		w.release(t)
	}
}

// adopt holds entries that are ours already, without queueing them. What a sweep has just taken over looks like an orphan
// until its answer is here, so the reader may find it as well: whoever comes second leaves it to the first.
func (w *Worker) adopt(l *lane, entries []rawEntry, orphans bool) []*task {
	tasks := w.handOut(l, entries, 0) // nothing says since when
	for _, t := range tasks {
		t.orphan = orphans
	}
	tasks = l.holdOthers(tasks, func(held *task) bool { return !held.lost.Load() && (orphans || held.orphan) })
	w.load.Add(sum(tasks))
	return tasks
}

// lastLook is how long a stop may wait for the last search for orphans.
const lastLook = time.Second

// lastOrphans looks for orphans once more when the reader stops, so that they do not wait for their lease to run out.
func (r *reader) lastOrphans(ctx context.Context) {
	if !r.anyOrphans() && r.again.IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLook)
	defer cancel()
	var err error
	if r.line == nil {
		r.line, err = dial(ctx, r.w.rdb, r.sources[0].keys.Stream, lastLook, r.w.cfg.Lease)
	}
	if err == nil {
		err = r.handBackOrphans(ctx)
	}
	if err != nil {
		r.w.log.Warn("jobs whose delivery was lost stay behind until their lease is over", "err", err)
	}
}
