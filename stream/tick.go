package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/penstock-go/penstock/stream/engine"
	"github.com/penstock-go/penstock/telemetry"
)

// looks is how often Tick asks whether what stands in its way is gone before it takes it for standing.
const looks = 3

// Tick publishes the job of a cron schedule for one of its ticks, once, and records the tick; package scheduler does. The
// job's ID is made of schedule and tick. It can be repeated, and repeats itself after a lost answer until ctx ends.
//
// Errors are those of Publish, and nothing is recorded then: ErrStreamFull, ErrKind (a job that cannot be skipped or
// unique on an events stream), ErrInvalid, ErrTooLarge, ErrUnavailable, ErrDenied, ErrAmbiguous.
func (s *Stream) Tick(ctx context.Context, job Job, t engine.Tick) (engine.Ticked, error) {
	doing := fmt.Sprintf("publish a tick of %s to %s", t.Schedule, s.name)
	traceparent, tracestate := telemetry.Inject(ctx)
	p, err := s.prepare(job, traceparent, tracestate)
	if err != nil {
		return engine.Ticked{}, fmt.Errorf("%s: %w", doing, err)
	}
	if p.plain() {
		return engine.Ticked{}, fmt.Errorf("%s: %w", doing, invalid("ID", "is empty"))
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	if p.deferred() {
		if err := s.Announce(ctx); err != nil {
			return engine.Ticked{}, fmt.Errorf("%s: %w", doing, err)
		}
	}
	sent, looked := false, 0
	for try := 0; ; try++ {
		v, err := engine.TickCall(s.keys, s.call(p), t).Run(ctx, s.rdb)
		if err != nil {
			class := engine.Classify(err)
			sent = sent || class == engine.Lost
			if again := class == engine.Lost || class == engine.Busy || sent; again && pause(ctx, try) {
				continue
			}
			if err = wrap(doing, err); sent && !errors.Is(err, ErrAmbiguous) {
				err = fmt.Errorf("%w: %w", ErrAmbiguous, err)
			}
			return engine.Ticked{}, err
		}
		ticked, err := engine.ReadTicked(v)
		if err != nil {
			return engine.Ticked{}, fmt.Errorf("%s: %w", doing, err)
		}
		gone := false
		switch ticked.What {
		case engine.TickUnfinished:
			gone = s.freeHolder(ctx, ticked.Last.Job, ticked.Where)
		case engine.TickStanding:
			gone = s.free(ctx, []prepared{p}, []any{ticked.Inside})[0]
		default:
			return s.ticked(doing, p, ticked)
		}
		looked++
		t.Final = !gone || looked >= looks
	}
}

// ticked turns what the script refused into an error.
func (s *Stream) ticked(doing string, p prepared, ticked engine.Ticked) (engine.Ticked, error) {
	switch ticked.What {
	case engine.TickEvents:
		return ticked, fmt.Errorf("%s: %w: it is an events stream, where a job has a state for each group: no tick can be skipped while the last job is unfinished", doing, ErrKind)
	case engine.TickRefused, engine.TickStands:
	default:
		return ticked, nil
	}
	stored, err := engine.ReadStored(ticked.Inside, p.nonce)
	switch {
	case err != nil:
		return ticked, fmt.Errorf("%s: %w", doing, err)
	case stored.Full:
		return ticked, fmt.Errorf("%s: %w: it holds %s jobs, at most %d are allowed (MaxLen)", doing, ErrStreamFull, stored.Where, s.cfg.MaxLen)
	case stored.Kind != "":
		return ticked, fmt.Errorf("%s: %w", doing, s.refuseKind())
	case stored.Mine, !stored.Duplicate: // a try whose answer was lost stored it
		ticked.What = engine.TickPublished
	}
	return ticked, nil
}
