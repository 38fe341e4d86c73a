package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/engine"
)

const (
	leaseTTL     = 3500 * time.Millisecond // how long nobody fires when a leader is killed
	leaseRenewed = leaseTTL / 3
	leaseTimeout = 0.25 // of the TTL, for one command
	leaseRetry   = 500 * time.Millisecond
	leaseRelease = time.Second
	leaseSpread  = 50 * time.Millisecond // so that not all try at once when a lease has run out
)

var errNotLeader = errors.New("another scheduler leads")

// leader holds the lease of the one scheduler that fires ticks, or waits for it. That saves the others the work; that a tick
// fires once does not hang on it. Only schedulers that have the same schedules, but for those kept in Redis, share a lease:
// another would not fire theirs.
type leader struct {
	rdb     redis.UniversalClient
	pool    *redsync.Redsync
	lease   *redsync.Mutex // of run alone
	logger  *slog.Logger
	wake    chan struct{} // capacity 1: a hint that it may be free, or that another one is wanted, or none
	changed func()        // called when it has begun or ended to lead

	mu     sync.Mutex
	wanted string    // key of the lease; "": there is nothing to lead for
	until  time.Time // by the monotonic clock; zero: it is not held
	terms  int       // how often it has begun to lead
}

func newLeader(rdb redis.UniversalClient, logger *slog.Logger, changed func()) *leader {
	return &leader{rdb: rdb, pool: redsync.New(goredis.NewPool(rdb)), logger: logger, changed: changed, wake: make(chan struct{}, 1)}
}

// IsLeader makes it a gocron.Elector.
func (l *leader) IsLeader(context.Context) error {
	if !l.leads() {
		return errNotLeader
	}
	return nil
}

func (l *leader) leads() bool { return l.term() > 0 }

// term is which time it is that this scheduler leads; 0: it does not. In between, ticks may have been refused.
func (l *leader) term() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !time.Now().Before(l.until) {
		return 0
	}
	return l.terms
}

// want says which lease is the right one; "": none.
func (l *leader) want(key string) {
	l.mu.Lock()
	changed := l.wanted != key
	l.wanted = key
	l.mu.Unlock()
	if changed {
		l.hint()
	}
}

// hint that the lease may be free.
func (l *leader) hint() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run takes and keeps the lease until ctx ends. It does not release it: what it was for has to end first.
func (l *leader) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := time.Duration(-1)
		l.mu.Lock()
		wanted, held := l.wanted, !l.until.IsZero()
		l.mu.Unlock()
		switch {
		case held && l.lease.Name() != wanted:
			l.release(ctx)
			wait = 0
		case held:
			wait = l.renew(ctx)
		case wanted != "":
			wait = l.take(ctx, wanted)
		}
		var timer <-chan time.Time // none: until it is wanted
		if wait >= 0 {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-timer:
		case <-l.wake:
		}
	}
}

// take tries to take a lease, and says in how long to do something again.
func (l *leader) take(ctx context.Context, key string) time.Duration {
	left, err := l.rdb.PTTL(ctx, key).Result()
	if err == nil && left > 0 { // there is no use in trying before
		return min(left, leaseTTL) + rand.N(leaseSpread)
	}
	if err == nil {
		l.lease = l.pool.NewMutex(key, redsync.WithExpiry(leaseTTL), redsync.WithTimeoutFactor(leaseTimeout))
		err = l.lease.TryLockContext(ctx)
	}
	if err != nil {
		l.logger.Debug("the lease of the leader was not taken", "err", err)
		return leaseRetry/2 + rand.N(leaseRetry)
	}
	l.set(l.lease.Until())
	l.logger.Info("this scheduler fires the ticks of cron schedules now")
	return leaseRenewed
}

func (l *leader) renew(ctx context.Context) time.Duration {
	ok, err := l.lease.ExtendContext(ctx)
	var taken *redsync.ErrTaken
	switch {
	case ok:
		l.set(l.lease.Until())
		return leaseRenewed
	case l.leads() && !errors.As(err, &taken): // it may be ours still
		return leaseRetry/2 + rand.N(leaseRetry)
	}
	if ctx.Err() == nil {
		l.logger.Warn("this scheduler fires no ticks any more: it lost the lease", "err", err)
	}
	l.set(time.Time{})
	return 0
}

// release frees the lease for another, if it is held.
func (l *leader) release(ctx context.Context) {
	l.mu.Lock()
	held := !l.until.IsZero()
	l.mu.Unlock()
	if !held {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseRelease)
	defer cancel()
	l.set(time.Time{})
	if ok, err := l.lease.UnlockContext(ctx); !ok {
		l.logger.Debug("the lease was not released, and runs out", "err", err)
		return
	}
	_ = l.rdb.Publish(ctx, engine.CronChannel, engine.CronReleased).Err() // a hint
}

func (l *leader) set(until time.Time) {
	l.mu.Lock()
	held, led, ends := !l.until.IsZero(), time.Now().Before(l.until), until.IsZero()
	if l.until = until; !led && !ends {
		l.terms++
	}
	l.mu.Unlock()
	if ends && held || !ends && !led { // one that has run out is to be told of too: its end nobody has seen
		l.changed()
	}
}
