package consumer

import (
	"context"
	"errors"

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
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.suspected:
		}
		for more := true; more; {
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
				more = true
				w.queue(ctx, []*task{t})
				select {
				case <-t.over:
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
	l, read := src.suspects, mono()
	v, err := engine.DoAt(callCtx, w.rdb, 7, "XREADGROUP", "GROUP", w.group, w.name, "COUNT", 1, "STREAMS", l.key, ">")
	switch engine.Classify(err) {
	case engine.OK:
	case engine.Lost:
		return nil, errors.Join(err, w.searchLane(ctx, w.rdb, l)) // it may have been given to us
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
