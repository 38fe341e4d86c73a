package stream

import (
	"context"
	"fmt"
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
	Seen    int64 `json:"seen"`             // dead letters looked at
	Matched int64 `json:"matched"`          // by the filter
	Moved   int64 `json:"moved"`            // redriven or deleted; on a dry run 0
	Locked  int64 `json:"locked,omitempty"` // not redriven, since another job holds their unique key
}

// Redrive sends dead letters back to their group, oldest first: with new
// tries, their fence kept. It stops when ctx ends; what was moved stays moved.
// Those that die while it runs are left alone. A job with a unique key takes the key again; where another job holds
// it by now, the letter stays, and when all others have been sent back the error is ErrLocked.
func (g *Group) Redrive(ctx context.Context, filter DeadFilter, opt RedriveOptions) (Sweep, error) {
	var due time.Time
	var locked int64
	var first error
	done, err := g.sweep(ctx, filter, opt.DryRun, opt.Progress, func(ctx context.Context, keys engine.GroupKeys, kind Kind, letters []DeadLetter) (int64, error) {
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
			calls[i] = redriveCall(keys, kind, letter)
		}
		results := engine.RunAll(ctx, g.s.rdb, calls)
		moved := int64(0)
		for i, res := range results {
			if res.Err != nil {
				return moved, wrap("change dead letters", res.Err)
			}
			ok, holder, where := engine.ReadRedriven(res.Val)
			if holder != "" && g.s.freeHolder(ctx, holder, where) {
				v, err := calls[i].Run(ctx, g.s.rdb)
				if err != nil {
					return moved, wrap("change dead letters", err)
				}
				ok, holder, _ = engine.ReadRedriven(v)
			}
			switch {
			case ok:
				moved++
			case holder != "":
				if locked++; first == nil {
					first = fmt.Errorf("redrive %s of %s/%s: %w: %s has %q", letters[i].ID, g.s.name, g.name, ErrLocked, holder, letters[i].opts.Unique)
				}
			}
		}
		return moved, nil
	}, int(min(max(opt.Rate/10, 1), deadBatch)), opt.Rate > 0)
	if done.Locked = locked; err == nil && locked > 1 {
		err = fmt.Errorf("%w, and %d more like it", first, locked-1)
	} else if err == nil {
		err = first
	}
	return done, err
}

// redriveCall sends a letter back. On an events stream a job is published for all groups: one of them that sends its own part
// back takes no lock.
func redriveCall(keys engine.GroupKeys, kind Kind, letter DeadLetter) engine.Call {
	o := letter.opts.Moved(engine.StepRedrive)
	o.ID = letter.ID
	e := letter.raw
	e.Opts = o.String()
	if kind == KindEvents {
		o.Unique = ""
	}
	return engine.RedriveCall(keys, letter.Entry, letter.ID, e, o)
}

// Purge deletes dead letters for good and frees their IDs.
func (g *Group) Purge(ctx context.Context, filter DeadFilter, opt PurgeOptions) (Sweep, error) {
	return g.sweep(ctx, filter, opt.DryRun, opt.Progress, func(ctx context.Context, keys engine.GroupKeys, _ Kind, letters []DeadLetter) (int64, error) {
		ctx, cancel := g.s.deadline(ctx)
		defer cancel()
		list := make([]engine.Letter, len(letters))
		for i, letter := range letters {
			list[i] = engine.Letter{Entry: letter.Entry, ID: letter.ID, Unique: letter.opts.Unique}
		}
		return count(engine.RunAll(ctx, g.s.rdb, []engine.Call{engine.PurgeCall(keys, list)}), func(v any) int64 {
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
func (g *Group) sweep(ctx context.Context, filter DeadFilter, dry bool, progress func(Sweep), act func(context.Context, engine.GroupKeys, Kind, []DeadLetter) (int64, error), size int, rated bool) (Sweep, error) {
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
			moved, err := act(ctx, w.keys, w.kind, letters[:n])
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
