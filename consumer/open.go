package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// openAll makes the group on every stream. It waits while Redis is away, and returns the errors that waiting won't cure.
func (w *Worker) openAll(ctx context.Context) error {
	for pauses := newPauses(); ; {
		err := w.open(ctx)
		if err == nil {
			w.opened.Store(true)
			w.opening.over(w.log, "the streams are open")
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		switch engine.Classify(err) {
		case engine.Busy, engine.Unreachable, engine.Lost, engine.Full:
		default:
			return err
		}
		w.opening.began(w.log, "streams cannot be opened, trying again", err)
		if !sleep(ctx, pauses.NextBackOff()) {
			return nil
		}
	}
}

const openTimeout = 5 * time.Second

func (w *Worker) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	for _, src := range w.sources {
		if err := w.openSource(ctx, src); err != nil {
			return err
		}
	}
	return w.readClock(ctx)
}

// openSource makes the group on one stream, if it is not there. Once the
// stream's kind is known it stays: a stream that was flushed becomes again what it was.
func (w *Worker) openSource(ctx context.Context, src *source) error {
	src.mu.Lock()
	kind, epoch := src.kind, src.epoch
	src.mu.Unlock()
	if kind == stream.KindAny {
		kind = src.stream.Kind()
	}
	opened, err := engine.Reopen(ctx, w.rdb, src.keys, w.group, string(kind), epoch)
	doing := fmt.Sprintf("open %s/%s", src.stream.Name(), w.group)
	switch {
	case engine.Classify(err) == engine.Denied:
		return fmt.Errorf("%s: %w: %w", doing, stream.ErrDenied, err)
	case err != nil:
		return fmt.Errorf("%s: %w", doing, err)
	case opened.Refusal != "":
		return fmt.Errorf("%s: %w", doing, errRefused{src.stream.Refused(opened)})
	}
	kind = stream.Kind(opened.Kind)
	group := src.keys.Group(w.group, kind == stream.KindEvents)
	src.mu.Lock()
	if src.lanes == nil {
		src.lanes = []*lane{
			{src: src, key: group.Redelivery, delete: true},
			{src: src, key: src.keys.Stream, delete: kind != stream.KindEvents},
		}
		src.suspects = &lane{src: src, key: group.Suspects, delete: true}
	}
	src.group, src.kind, src.epoch = group, kind, max(src.epoch, opened.Epoch)
	src.mu.Unlock()
	if err := w.readStops(src, group); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := src.stream.DeclareRetention(ctx, kind); err != nil {
		w.log.Warn("the stream's retention cannot be declared; what was declared before is in force", "stream", src.stream.Name(), "err", err)
	}
	if err := src.stream.Announce(ctx); errors.Is(err, stream.ErrStreamFull) || engine.Classify(err) == engine.Refused {
		w.log.Warn("the stream is not in the registry, where schedulers look: the heartbeat tries again", "err", err)
	} else if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// errRefused is a refusal, which is no error of the connection.
type errRefused struct{ error }

func (e errRefused) Unwrap() error { return e.error }

// RedisError makes engine.Classify see an answer of the server.
func (errRefused) RedisError() {}

// readClock learns how far our clock is from Redis's, which decides when a job has expired.
func (w *Worker) readClock(ctx context.Context) error {
	before := time.Now()
	v, err := engine.DoAt(ctx, w.rdb, 0, "TIME")
	if err != nil {
		return fmt.Errorf("read the time of redis: %w", err)
	}
	t, err := engine.ReadTime(v)
	if err != nil {
		return fmt.Errorf("read the time of redis: %w", err)
	}
	now := time.Now()
	for _, src := range w.sources {
		src.clock.Store(int64(t.Sub(before.Add(now.Sub(before) / 2))))
		src.opened = now
	}
	return nil
}

const heartbeatEvery = 10 * time.Second

// heartbeat keeps the streams in the registry: a flush loses it.
func (w *Worker) heartbeat(ctx context.Context) {
	beat := time.NewTicker(heartbeatEvery)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			callCtx, cancel := context.WithTimeout(ctx, openTimeout)
			var err error
			for _, src := range w.sources {
				err = errors.Join(err, src.stream.Announce(callCtx))
			}
			cancel()
			if err != nil && ctx.Err() == nil {
				w.log.Debug("heartbeat failed", "err", err)
			}
		}
	}
}

// newPauses are the pauses between tries while Redis is away: 50 ms, doubled
// up to 2 s, each spread by half so that a fleet does not return at once.
func newPauses() *backoff.ExponentialBackOff {
	b := &backoff.ExponentialBackOff{InitialInterval: 50 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 2 * time.Second}
	b.Reset()
	return b
}

// sleep waits, and reports whether ctx lasted.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
