package scheduler

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-co-op/gocron/v2"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

const (
	ticksAtOnce = 32                     // that are on the way to Redis
	rearmAfter  = 20 * time.Millisecond  // timers are set anew when Redis's clock has moved so far against them
	rearmEvery  = 10 * time.Second       // at most, since the nodes of a Cluster have a clock each
	armRetry    = 500 * time.Millisecond // before Redis's clock is asked for again
	earlyPause  = time.Second            // at most, before a tick that came too early is tried again
	soon        = 500 * time.Millisecond // a tick that is due so soon is waited for: our notion of Redis's clock moves a little
	tickRetry   = 100 * time.Millisecond
	tickPause   = 5 * time.Second // the longest before a tick is tried again, while Redis is away or the stream is full
	faultPause  = time.Minute     // and when somebody has to look
)

// driver has gocron fire the schedules in force while this scheduler leads.
type driver struct {
	rdb     redis.UniversalClient
	logger  *slog.Logger
	sources *sources
	clock   *clock
	leader  *leader
	cron    gocron.Scheduler
	ping    chan struct{} // capacity 1: the schedules, who leads or Redis's clock have changed
	slots   chan struct{}
	fired   atomic.Int64
	moved   atomic.Int64 // what the clock was ahead when all timers were set
	rearmed atomic.Int64 // when that was, by clock.elapsed; 0: never

	reading sync.Mutex // of what Redis keeps: what was read first is taken in first

	mu    sync.Mutex
	ended bool
	tasks sync.WaitGroup

	// of run alone
	armed map[string]*arming
	term  int // in which they were
}

// arming is a schedule that gocron has.
type arming struct {
	*entry
	id uuid.UUID

	mu             sync.Mutex
	running, again bool
}

func newDriver(rdb redis.UniversalClient, src *sources, logger *slog.Logger) *driver {
	d := &driver{
		rdb: rdb, logger: logger, sources: src, clock: newClock(), ping: make(chan struct{}, 1),
		slots: make(chan struct{}, ticksAtOnce), armed: make(map[string]*arming),
	}
	d.leader = newLeader(rdb, logger, d.changed)
	return d
}

func (d *driver) changed() {
	select {
	case d.ping <- struct{}{}:
	default:
	}
}

// run fires ticks until ctx ends, and returns when nothing of it is left.
func (d *driver) run(ctx context.Context) error {
	cron, err := gocron.NewScheduler(gocron.WithClock(d.clock), gocron.WithLocation(time.UTC), gocron.WithDistributedElector(d.leader))
	if err != nil {
		return fmt.Errorf("start cron: %w", err)
	}
	d.cron = cron
	cron.Start()
	var wg sync.WaitGroup
	wg.Go(func() { d.leader.run(ctx) })
	wg.Go(func() { d.watch(ctx) })
	again := time.NewTimer(0)
	defer again.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-d.ping:
		case <-again.C:
		}
		if !d.arm(ctx) {
			again.Reset(armRetry)
		}
	}
	d.mu.Lock()
	d.ended = true
	d.mu.Unlock()
	d.tasks.Wait() // gocron would wait for them in a loop that does not pause
	if err := cron.Shutdown(); err != nil {
		d.logger.Error("cron has not stopped", "err", err)
	}
	wg.Wait()
	d.leader.release(ctx)
	return nil
}

// arm brings gocron's schedules in line with those in force, or takes them all out while another scheduler leads: gocron's
// own list of what comes next grows with each tick that an elector refuses. It reports false when it has to be tried again.
func (d *driver) arm(ctx context.Context) bool {
	term := d.leader.term()
	began := term != 0 && term != d.term
	if began {
		// Who was cut off while others led may have missed that a schedule was paused, and no tick is timed by another clock than
		// Redis's. One who may not read what is kept there has none of that.
		err := d.readKept(ctx)
		if !errors.Is(err, stream.ErrUnavailable) {
			err = d.askTime(ctx)
		}
		if err != nil {
			d.logger.Debug("redis's clock and schedules are not known", "err", err)
			return false
		}
	}
	set := d.sources.current()
	d.leader.want(leaseKey(set))
	if began {
		for _, e := range set {
			e.forget() // others have led
		}
	}
	ahead := d.clock.ahead()
	moved := d.outdated()
	for name, a := range d.armed {
		if term != d.term || moved || set[name] != a.entry {
			_ = d.cron.RemoveJob(a.id) // it is there
			delete(d.armed, name)
		}
	}
	d.term = term
	if term == 0 {
		return true
	}
	if moved || len(d.armed) == 0 {
		d.moved.Store(int64(ahead))
		d.rearmed.Store(int64(d.clock.elapsed()))
	}
	for name, e := range set {
		if d.armed[name] != nil {
			continue
		}
		a := &arming{entry: e}
		job, err := d.cron.NewJob(
			gocron.CronJob("", false), gocron.NewTask(func(ctx context.Context) { d.task(ctx, a) }),
			gocron.WithCronImplementation(fires{e.plan}), gocron.WithName(name), gocron.WithContext(ctx), gocron.WithStartAt(gocron.WithStartImmediately()),
		)
		if err != nil || job == nil { // nil: it is shut down
			d.logger.Error("a schedule was not started", "schedule", name, "err", err)
			continue
		}
		a.id = job.ID()
		d.armed[name] = a
	}
	return true
}

// leaseKey is the lease that those share who have the same schedules, but for those kept in Redis. It is "" when there is none at all.
func leaseKey(set map[string]*entry) string {
	if len(set) == 0 {
		return ""
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if e := set[name]; e.origin != inRedis {
			fmt.Fprintf(h, "%q %q\n", name, e.Stream.Name())
		}
	}
	return engine.LeaderPrefix + hex.EncodeToString(h.Sum(nil)[:8])
}

// outdated reports whether timers are wrong by Redis's clock, and may be set anew.
func (d *driver) outdated() bool {
	return (time.Duration(d.moved.Load())-d.clock.ahead()).Abs() > rearmAfter && d.clock.elapsed() > time.Duration(d.rearmed.Load())+rearmEvery
}

// learn takes in what Redis's clock showed between two calls of elapsed.
func (d *driver) learn(now time.Time, sent, received time.Duration) {
	d.clock.learn(now, sent, received)
	if d.outdated() {
		d.changed()
	}
}

func (d *driver) askTime(ctx context.Context) error {
	sent := d.clock.elapsed()
	now, err := d.rdb.Time(ctx).Result()
	if err != nil {
		return unavailable("read redis's clock", err)
	}
	d.learn(now, sent, d.clock.elapsed())
	return nil
}

// task is what gocron runs: at the start, and at each time of a schedule.
func (d *driver) task(ctx context.Context, a *arming) {
	d.mu.Lock()
	if d.ended {
		d.mu.Unlock()
		return
	}
	d.tasks.Add(1)
	d.mu.Unlock()
	defer d.tasks.Done()

	a.mu.Lock()
	a.again = a.running
	if a.running {
		a.mu.Unlock()
		return
	}
	a.running = true
	a.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
		case a.turn <- struct{}{}: // the same schedule may have been started anew
			_ = d.publish(ctx, a.entry, true)
			<-a.turn
		}
		a.mu.Lock()
		if !a.again || ctx.Err() != nil {
			a.running = false
			a.mu.Unlock()
			return
		}
		a.again = false
		a.mu.Unlock()
	}
}

// publish publishes all ticks of a schedule that are due. When patient it tries until it has, does not lead any more, or
// gocron has ended ctx, since the schedule was paused, changed or removed.
func (d *driver) publish(ctx context.Context, e *entry, patient bool) error {
	for fails := 0; ; {
		if patient && !d.leader.leads() || ctx.Err() != nil {
			return ctx.Err()
		}
		now := d.clock.Now()
		tick, skipped, ok := e.due(now)
		if !ok {
			d.missed(e, skipped)
			if wait := (fires{e.plan}).Next(now).Sub(now); patient && wait <= soon {
				sleep(ctx, wait)
				continue
			}
			return nil
		}
		ticked, err := d.send(ctx, e, tick)
		wait := time.Duration(0)
		switch {
		case err != nil && ctx.Err() == nil:
			if fails++; !patient {
				return err
			}
			wait = d.failed(e, err, fails)
		case err == nil:
			if fails = 0; e.fails(false) {
				d.logger.Info("ticks are published again", "schedule", e.Name)
			}
			if e.recorded(ticked.Last.At); ticked.What != engine.TickEarly {
				d.missed(e, skipped)
			} else if tick.Before(never) { // our notion of Redis's clock was fast
				wait = min(max(e.plan.fire(tick).Sub(ticked.Now), time.Millisecond), earlyPause)
			}
			d.log(e, tick, ticked)
		}
		sleep(ctx, wait)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (d *driver) missed(e *entry, skipped int) {
	if skipped > 0 {
		d.logger.Warn("ticks were missed, and are not made up for", "schedule", e.Name, "ticks", skipped)
	}
}

func (d *driver) log(e *entry, tick time.Time, t engine.Ticked) {
	switch t.What {
	case engine.TickPublished:
		d.fired.Add(1)
		d.logger.Debug("tick", "schedule", e.Name, "tick", tickText(tick), "stream", e.Stream.Name(), "job", t.Last.Job)
	case engine.TickStands:
		d.logger.Info("tick without a job of its own: another stands", "schedule", e.Name, "tick", tickText(tick), "stream", e.Stream.Name(), "job", t.Last.Job)
	case engine.TickSkipped:
		d.logger.Info("tick skipped: the last job is unfinished", "schedule", e.Name, "tick", tickText(tick), "stream", e.Stream.Name(), "job", t.Last.Job)
	}
}

// send asks Redis to publish a tick.
func (d *driver) send(ctx context.Context, e *entry, tick time.Time) (engine.Ticked, error) {
	select {
	case <-ctx.Done():
		return engine.Ticked{}, ctx.Err()
	case d.slots <- struct{}{}:
	}
	defer func() { <-d.slots }()
	sent := d.clock.elapsed()
	ticked, err := e.Stream.Tick(ctx, e.job(tickID(e.Name, tick), tick, d.clock.Now()), e.tick(tick))
	if !ticked.Now.IsZero() {
		d.learn(ticked.Now, sent, d.clock.elapsed())
	}
	return ticked, err
}

// failed logs why a tick was not published, once, and says when to try again.
func (d *driver) failed(e *entry, err error, fails int) time.Duration {
	news := e.fails(true)
	longest := tickPause
	switch {
	case errors.Is(err, stream.ErrUnavailable), errors.Is(err, stream.ErrAmbiguous), errors.Is(err, stream.ErrStreamFull):
		if news {
			d.logger.Warn("a tick cannot be published, trying again", "schedule", e.Name, "err", err)
		}
	default:
		longest = faultPause
		if news {
			d.logger.Error("ticks cannot be published", "schedule", e.Name, "err", err)
		}
	}
	wait := min(tickRetry<<min(fails-1, 12), longest)
	return wait/2 + rand.N(wait/2+1)
}

// once publishes the ticks that are due now, and waits for nothing.
func (d *driver) once(ctx context.Context) error {
	if err := d.readKept(ctx); err != nil {
		return err
	}
	set, errs := d.sources.current(), d.sources.wrong()
	if len(set) == 0 {
		return errors.Join(errs...)
	}
	if err := d.askTime(ctx); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if err := d.publish(ctx, set[name], false); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
