package consumer

import (
	"context"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

const orphanPage = 100

// handBackOrphans releases what this consumer owns and does not hold: entries
// whose delivery was lost with a read's answer. They cost no try.
func (r *reader) handBackOrphans(ctx context.Context) error {
	w := r.w
	r.orphans, r.again = true, time.Time{}
	for _, ghost := range r.ghosts { // the server may not have noticed, and give it what comes next
		if err := ghost.kill(ctx); err != nil {
			r.again = time.Now().Add(ghost.block + time.Second) // not allowed, or another node: by then its block is over
		}
	}
	r.ghosts = nil
	for _, src := range r.sources {
		for _, l := range src.lanes {
			for after := "0"; ; {
				held := l.entries() // before it is asked: what is settled in between must not look like an orphan
				callCtx, cancel := context.WithTimeout(ctx, openTimeout)
				v, err := engine.DoAt(callCtx, r.line, 7, "XREADGROUP", "GROUP", w.group, w.name, "COUNT", orphanPage, "STREAMS", l.key, after)
				cancel()
				switch engine.Classify(err) {
				case engine.OK:
				case engine.NoGroup, engine.Refused, engine.Denied: // this stream's own trouble, which its next read looks after
					v = nil
				default:
					return err
				}
				read, err := parseRead(v)
				if err != nil {
					return err
				}
				entries := read[l.key]
				if len(entries) == 0 {
					break
				}
				after = entries[len(entries)-1].id
				w.releaseOrphans(l, entries, held)
			}
		}
	}
	r.orphans = false
	return nil
}

// releaseOrphans hands back those entries that are not held; only the caller, the lane's reader, adds to what is.
func (w *Worker) releaseOrphans(l *lane, entries []rawEntry, held map[string]bool) {
	orphans := entries[:0]
	for _, e := range entries {
		if !e.gone && !held[e.id] {
			orphans = append(orphans, e)
		}
	}
	if len(orphans) == 0 {
		return
	}
	w.log.Warn("jobs whose delivery was lost are handed back", "stream", l.src.stream.Name(), "jobs", len(orphans))
	tasks := w.handOut(l, orphans, w.now())
	l.hold(tasks)
	w.load.Add(sum(tasks))
	for _, t := range tasks {
		t.verdict = verdict{action: actRelease}
		w.finish(t)
	}
}

// lastLook is how long a stop may wait for the last search for orphans.
const lastLook = time.Second

// lastOrphans looks for orphans once more when the reader stops, so that they do not wait for their lease to run out.
func (r *reader) lastOrphans(ctx context.Context) {
	if !r.orphans && r.again.IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLook)
	defer cancel()
	var err error
	if r.line == nil {
		r.line, err = dial(ctx, r.w.rdb, r.sources[0].keys.Stream, lastLook)
	}
	if err == nil {
		err = r.handBackOrphans(ctx)
	}
	if err != nil {
		r.w.log.Warn("jobs whose delivery was lost stay behind until their lease is over", "err", err)
	}
}
