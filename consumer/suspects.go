package consumer

import (
	"context"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

// lookForSuspects wakes readSuspects.
func (w *Worker) lookForSuspects() {
	select {
	case w.suspected <- struct{}{}:
	default:
	}
}

// readSuspects runs jobs whose leases have run out more than once, one at a
// time for the whole worker: when one of them kills it, no other goes down with it.
func (w *Worker) readSuspects(ctx context.Context) {
	var rest time.Time // until then others have their turn
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.suspected:
		}
		for more := time.Now().After(rest); more; {
			more = false
			for _, src := range w.sources {
				t, err := w.readSuspect(ctx, src)
				if err != nil {
					w.log.Debug("no suspect can be read; the heartbeat looks again", "stream", src.stream.Name(), "err", err)
					continue
				}
				if t == nil {
					continue
				}
				w.queue([]*task{t})
				select {
				case <-t.over:
					if t.verdict.action == actRelease { // no slot was free for it
						rest = time.Now().Add(w.cfg.Lease)
					} else {
						more = true
					}
				case <-ctx.Done():
					return
				}
			}
		}
	}
}

// readSuspect takes one suspect of a source; nil when there is none.
func (w *Worker) readSuspect(ctx context.Context, src *source) (*task, error) {
	callCtx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	l := src.suspects
	if l.search {
		if err := w.searchLane(ctx, w.rdb, l); err != nil {
			return nil, err
		}
		l.search = false
	}
	read := mono()
	v, err := engine.DoAt(callCtx, w.rdb, 7, "XREADGROUP", "GROUP", w.group, w.name, "COUNT", 1, "STREAMS", l.key, ">")
	switch engine.Classify(err) {
	case engine.OK:
	case engine.Lost:
		l.search = true // it may have been given to us: before the next read, or its lease runs out and counts as a crash
		w.lookForSuspects()
		return nil, err
	default:
		return nil, err
	}
	entries, err := parseRead(v)
	if err != nil || len(entries[l.key]) == 0 {
		return nil, err
	}
	t := w.handOut(l, entries[l.key][:1], read)[0]
	t.over = make(chan struct{})
	l.hold([]*task{t})
	w.load.Add(t.weight)
	return t, nil
}
