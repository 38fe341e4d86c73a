package consumer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// OnceConfig of Once. The zero value is the default of everything.
type OnceConfig struct {
	// Keep is how long work that is done is remembered. It has to be longer than anybody may take to publish or redeliver it
	// again. Default: 24 h.
	Keep time.Duration
	// Key of a piece of work; runs with the same key do it once. "" does not ask the store at all. Default: stream, group and ID of the job.
	Key func(*Delivery) string
}

// Once is middleware that runs each piece of work to its success once, as far as its store remembers: a handler is not
// called for work that is done, and the job completes, with what the handler returned then, if that was kept.
//
// This is what it guarantees, and no more: of all runs with one key, at most one is marked as done, and once one is no other
// begins until Keep is over. Two runs don't work at the same time either, with one exception: a run whose lease was lost may still be busy when
// the same job runs elsewhere. Its context has ended, and if it succeeds it is not marked.
//
// What it can't do is to make the work and the mark one thing. A worker that dies between the two leaves work that was done and
// is not marked, and it is done again. Where that must not happen, write the mark in the transaction that does the work: see the best practices.
//
// A run that finds the work in other hands is snoozed until they may be done, at no try's cost; so is one that can't ask the store. When the work is done
// and the mark can't be written, it is tried until the run's timeout, and then the run fails. [HandleBatch] knows no middleware.
func Once(store OnceStore, cfg OnceConfig) Middleware {
	if cfg.Keep <= 0 {
		cfg.Keep = 24 * time.Hour
	}
	if cfg.Key == nil {
		cfg.Key = jobOf
	}
	return func(next Handler) Handler {
		return func(ctx context.Context, d *Delivery) error {
			key := cfg.Key(d)
			if key == "" {
				return next(ctx, d)
			}
			return once(ctx, d, store, OnceClaim{Key: key, Job: jobOf(d), Fence: d.Fence, Run: randomText(), Lease: onceLease}, cfg.Keep, next)
		}
	}
}

func jobOf(d *Delivery) string { return d.Stream + "/" + d.Group + "/" + d.ID }

func randomText() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// OnceClaim is a run that claims a piece of work.
type OnceClaim struct {
	Key   string        // of the work
	Job   string        // stream, group and ID
	Fence int64         // of the delivery
	Run   string        // something no other run has
	Lease time.Duration // for how long the claim holds unless it is made again
}

// OnceState is what a store says of a piece of work. The zero OnceState: it is the claimant's.
type OnceState struct {
	Done   bool
	Result []byte        // what was returned, when it is done and that was kept; nil: nothing
	Taken  bool          // by another run, whose lease is not over
	Wait   time.Duration // until then; 0: not known
}

// OnceStore remembers for Once which work is done. Each of its methods has to look and to change in one step, as in one
// transaction. They are called concurrently.
type OnceStore interface {
	// Claim makes the work the claimant's for its lease, or for longer when it is so already, unless it is done or taken. A claim gives way to
	// one of the same job with a higher fence.
	Claim(ctx context.Context, c OnceClaim) (OnceState, error)
	// Done marks the work as done for keep, and reports whether it did: not when another has claimed it meanwhile. What no one has
	// is the claimant's still.
	Done(ctx context.Context, c OnceClaim, result []byte, keep time.Duration) (bool, error)
	// Release ends the claim, if it is the claimant's.
	Release(ctx context.Context, c OnceClaim) error
}

// RedisOnceStore keeps marks in Redis beside a stream, in its hash slot: what it forgets, for an eviction or a failover,
// is not done. Workers of several streams may share one.
func RedisOnceStore(s *stream.Stream) OnceStore {
	return redisOnce{s, engine.NewKeys(s.Name())}
}

type redisOnce struct {
	s    *stream.Stream
	keys engine.Keys
}

func (r redisOnce) Claim(ctx context.Context, c OnceClaim) (OnceState, error) {
	claimed, err := r.ask(ctx, engine.ClaimCall(r.keys, c.Key, c.claimant(), c.Lease))
	return OnceState(claimed), err
}

func (r redisOnce) Done(ctx context.Context, c OnceClaim, result []byte, keep time.Duration) (bool, error) {
	claimed, err := r.ask(ctx, engine.DoneCall(r.keys, c.Key, c.claimant(), result, keep))
	return claimed.Done, err
}

func (r redisOnce) Release(ctx context.Context, c OnceClaim) error {
	_, err := r.ask(ctx, engine.UnclaimCall(r.keys, c.Key, c.claimant()))
	return err
}

func (r redisOnce) ask(ctx context.Context, call engine.Call) (engine.Claimed, error) {
	v, err := call.Run(ctx, r.s.Client())
	if err != nil {
		return engine.Claimed{}, err
	}
	return engine.ReadClaimed(v)
}

func (c OnceClaim) claimant() engine.Claimant {
	return engine.Claimant{Job: c.Job, Fence: c.Fence, Run: c.Run}
}

const (
	onceLease   = 30 * time.Second
	onceTimeout = 5 * time.Second // of one question to the store
	onceAgain   = 5 * time.Second // after which a run looks again at the latest whether others are done
)

// once does the work of a claim, if it is to be done.
func once(ctx context.Context, d *Delivery, store OnceStore, c OnceClaim, keep time.Duration, next Handler) (err error) {
	askCtx, cancel := context.WithTimeout(ctx, onceTimeout)
	state, err := store.Claim(askCtx, c)
	cancel()
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("ask whether %s is done: %w: %w", c.Key, err, Snooze(onceAgain))
	case state.Done:
		d.restore(state.Result)
		return nil
	case state.Taken:
		return Snooze(min(max(state.Wait, onceAgain/50), onceAgain))
	}
	ran, own := false, ctx // ran to its success
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	stop := keepClaim(ctx, store, c, end)
	defer func() { // a panic passes through here too
		stop()
		if !ran {
			askCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), onceTimeout)
			defer cancel()
			_ = store.Release(askCtx, c) // else it ends with its lease
		}
	}()
	if err := next(ctx, d); err != nil {
		if ctx.Err() != nil && own.Err() == nil {
			return fmt.Errorf("%w: %w: %w", errNotMarked, err, Snooze(onceAgain))
		}
		return err
	}
	ran = true
	return markDone(ctx, d, store, c, keep)
}

// markDone writes the mark, for as long as the run has time.
func markDone(ctx context.Context, d *Delivery, store OnceStore, c OnceClaim, keep time.Duration) error {
	var result []byte
	if d.task != nil && d.task.kept != nil {
		result = d.task.kept.result
	}
	for pauses := newPauses(); ; {
		askCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), onceTimeout)
		ok, err := store.Done(askCtx, c, result, keep)
		cancel()
		switch {
		case err == nil && ok:
			return nil
		case err == nil: // another run has it, which ends up with the mark
			return fmt.Errorf("%w: %w", errNotMarked, Snooze(onceAgain))
		case !sleep(ctx, pauses.NextBackOff()):
			return fmt.Errorf("%s is done, and cannot be marked so: %w", c.Key, err)
		}
	}
}

var errNotMarked = errors.New("another run has claimed the work meanwhile")

// keepClaim makes a claim again, each third of its lease, until it is stopped. When it finds that another has the work, it
// ends the run. A run that is shorter than that starts no goroutine.
func keepClaim(ctx context.Context, store OnceStore, c OnceClaim, end context.CancelCauseFunc) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	timer := time.AfterFunc(c.Lease/3, func() {
		defer close(done)
		for {
			askCtx, cancel := context.WithTimeout(ctx, c.Lease/3)
			state, err := store.Claim(askCtx, c)
			cancel()
			if err == nil && (state.Done || state.Taken) {
				end(ErrLeaseLost)
				return
			}
			if !sleep(ctx, c.Lease/3) {
				return
			}
		}
	})
	return func() {
		cancel()
		if !timer.Stop() {
			<-done
		}
	}
}

// restore takes what an earlier run of the work returned for what this one returns.
func (d *Delivery) restore(result []byte) {
	t := d.task
	if t == nil || result == nil || t.policy.keep == nil || t.policy.keep.time == 0 {
		return
	}
	t.kept = &kept{result: result}
}
