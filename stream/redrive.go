package stream

import (
	"context"
	"math"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

// RedriveOptions of Redrive.
type RedriveOptions struct {
	DryRun   bool
	Rate     float64     // jobs per second. Default: as fast as it goes.
	Progress func(Sweep) // called after each batch
}

// PurgeOptions of Purge.
type PurgeOptions struct {
	DryRun   bool
	Progress func(Sweep) // called after each batch
}

// Sweep is what a redrive or purge has done so far.
type Sweep struct {
	Seen    int64 `json:"seen"`    // dead letters looked at
	Matched int64 `json:"matched"` // by the filter
	Moved   int64 `json:"moved"`   // redriven or deleted; on a dry run 0
}

// Redrive sends dead letters back to their group, oldest first: with new
// tries, their fence kept. It stops when ctx ends; what was moved stays moved.
// Those that die while it runs are left alone.
func (g *Group) Redrive(ctx context.Context, filter DeadFilter, opt RedriveOptions) (Sweep, error) {
	var due time.Time
	return g.sweep(ctx, filter, opt.DryRun, opt.Progress, func(ctx context.Context, keys engine.GroupKeys, letters []DeadLetter) (int64, error) {
		if opt.Rate > 0 {
			if err := waitUntil(ctx, due); err != nil {
				return 0, err
			}
			now := time.Now()
			if due.Before(now) {
				due = now
			}
			due = due.Add(time.Duration(float64(len(letters)) / opt.Rate * float64(time.Second)))
		}
		ctx, cancel := g.s.deadline(ctx)
		defer cancel()
		calls := make([]engine.Call, len(letters))
		for i, letter := range letters {
			o := letter.opts
			o.ID = letter.ID
			o.Errors, o.Crashes, o.Bounces, o.BouncedAt, o.Expires = 0, 0, 0, 0, 0
			o.Moves = min(o.Moves+1, math.MaxInt32) // the highest that is read
			e := letter.raw
			e.Opts = o.String()
			calls[i] = engine.RedriveCall(keys, letter.Entry, letter.ID, e)
		}
		return count(engine.RunAll(ctx, g.s.rdb, calls), func(v any) int64 {
			if v == "" {
				return 0 // somebody else redrove it
			}
			return 1
		})
	}, int(min(max(opt.Rate/10, 1), deadBatch)), opt.Rate > 0)
}

// Purge deletes dead letters for good and frees their IDs.
func (g *Group) Purge(ctx context.Context, filter DeadFilter, opt PurgeOptions) (Sweep, error) {
	return g.sweep(ctx, filter, opt.DryRun, opt.Progress, func(ctx context.Context, keys engine.GroupKeys, letters []DeadLetter) (int64, error) {
		ctx, cancel := g.s.deadline(ctx)
		defer cancel()
		pairs := make([]any, 0, 2*len(letters))
		for _, letter := range letters {
			pairs = append(pairs, letter.Entry, letter.ID)
		}
		return count(engine.RunAll(ctx, g.s.rdb, []engine.Call{engine.PurgeCall(keys, pairs)}), func(v any) int64 {
			n, _ := v.(int64)
			return n
		})
	}, deadBatch, false)
}

func count(results []engine.Result, of func(any) int64) (int64, error) {
	n := int64(0)
	for _, res := range results {
		if res.Err != nil {
			return n, wrap("change dead letters", res.Err)
		}
		n += of(res.Val)
	}
	return n, nil
}

func waitUntil(ctx context.Context, at time.Time) error {
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// sweep walks the dead letters that are there now, and gives those that match to act in batches of at most size.
func (g *Group) sweep(ctx context.Context, filter DeadFilter, dry bool, progress func(Sweep), act func(context.Context, engine.GroupKeys, []DeadLetter) (int64, error), size int, rated bool) (Sweep, error) {
	if !rated {
		size = deadBatch
	}
	var done Sweep
	w := &deadWalk{g: g, filter: filter}
	if err := w.open(ctx); err != nil {
		return done, err
	}
	for !w.done {
		letters, err := w.next(ctx, deadBatch)
		done.Seen = w.seen
		if err != nil {
			return done, err
		}
		done.Matched += int64(len(letters))
		for len(letters) > 0 && !dry {
			n := min(size, len(letters))
			moved, err := act(ctx, w.keys, letters[:n])
			done.Moved += moved
			if err != nil {
				return done, err
			}
			letters = letters[n:]
			if progress != nil {
				progress(done)
			}
		}
		if progress != nil {
			progress(done)
		}
	}
	return done, nil
}
