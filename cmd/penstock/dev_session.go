package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// devSession is one run of dev.
type devSession struct {
	app    *app
	opt    devOptions
	mix    devMix
	ledger *devLedger
	runs   runFile
	log    *slog.Logger
	tally  *logTally
	redis  *devRedis
	names  []string // of the streams

	clients []redis.UniversalClient
	streams []*stream.Stream // the publisher's
	workers []devWorker
	screen  *devScreen
}

// run makes everything, lets it work until the end, and checks the outcome.
// The report is nil when the load did not begin.
func (s *devSession) run(ctx context.Context) (report *devReport, took time.Duration, err error) {
	defer func() {
		for _, rdb := range s.clients {
			err = errors.Join(err, rdb.Close())
		}
	}()
	s.names = slices.Clone(devStreams)
	if s.opt.yours {
		prefix := "penstock-dev-" + strings.ToLower(rand.Text()[:8]) + "-"
		for i := range s.names {
			s.names[i] = prefix + s.names[i]
		}
	}
	promote, err := s.assemble(ctx)
	if err != nil {
		return nil, 0, err
	}
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	if s.opt.yours && !s.opt.keep {
		defer func() { err = errors.Join(err, s.removeStreams(ctx)) }()
	}
	s.screen = newDevScreen(s)
	defer s.screen.close()
	s.screen.header()
	ended, took, err := s.work(ctx, promote)
	facts := s.look(ctx)
	facts.ended = ended
	r := facts.verdict()
	r.TookMS = took.Milliseconds()
	r.JobsPerSec = float64(int64(float64(r.Completed+r.Dead)/max(took.Seconds(), 0.001)*10+0.5)) / 10
	r.Seed, r.Workers, r.MaxJobs, r.Group, r.Streams, r.Redis = s.opt.seed, s.opt.workers, s.opt.maxJobs, devGroup, s.names, s.redis
	r.Warnings, r.Errors, _ = s.tally.read()
	s.screen.last(facts)
	return &r, took, errors.Join(err, s.outcome(r, ended))
}

// assemble makes clients, streams, workers and scheduler; nothing runs yet.
func (s *devSession) assemble(ctx context.Context) (promote func(context.Context) error, err error) {
	var rdb redis.UniversalClient
	if rdb, s.streams, err = s.open(ctx); err != nil {
		return nil, err
	}
	s.clients = append(s.clients, rdb)
	for i := range s.opt.workers {
		w, err := s.newWorker(ctx, i+1)
		if err != nil {
			return nil, err
		}
		s.clients, s.workers = append(s.clients, w.rdb), append(s.workers, w)
	}
	rdb, streams, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	s.clients = append(s.clients, rdb)
	if s.redis.Own {
		sched, err := scheduler.New(rdb, scheduler.Config{Logger: s.log})
		if err != nil {
			return nil, err
		}
		return sched.Run, nil
	}
	// a scheduler serves every stream of its Redis; here it must leave the user's alone
	promoter := &engine.Promoter{Client: rdb, Poll: 500 * time.Millisecond, Logger: s.log,
		Known: func(string) bool { return false },
		Slots: func(ctx context.Context) ([]engine.Slot, error) {
			var slots []engine.Slot
			for _, st := range streams {
				list, err := st.Slots(ctx)
				if err != nil {
					return nil, err
				}
				slots = append(slots, list...)
			}
			return slots, nil
		}}
	return func(ctx context.Context) error { promoter.Run(ctx); return nil }, nil
}

const (
	lookEvery  = 100 * time.Millisecond
	askTimeout = 10 * time.Second
)

// work starts everything and waits for the end: all settled, ctx, a failure, or
// nothing happening any more. Then it stops the parts in the direction in which the jobs flow.
func (s *devSession) work(ctx context.Context, promote func(context.Context) error) (ended string, took time.Duration, err error) {
	failed := make(chan error, len(s.workers)+2)
	begin := func(wg *sync.WaitGroup, run func() error) {
		wg.Go(func() {
			if err := run(); err != nil {
				failed <- err
			}
		})
	}
	base := context.WithoutCancel(ctx)
	promoteCtx, stopPromoting := context.WithCancel(base)
	workCtx, stopWorking := context.WithCancel(base)
	publishCtx, stopPublishing := context.WithCancel(ctx)
	var promoting, working, publishing sync.WaitGroup
	begun := time.Now()
	begin(&promoting, func() error { return promote(promoteCtx) })
	for _, w := range s.workers {
		begin(&working, func() error { return w.worker.Run(workCtx) })
	}
	published := make(chan struct{})
	begin(&publishing, func() error {
		p := &devPublisher{mix: s.mix, ledger: s.ledger, streams: s.streams, jobs: s.opt.jobs, rate: s.opt.rate}
		err := p.run(publishCtx)
		if err == nil && publishCtx.Err() == nil {
			close(published)
		}
		return err
	})
	ended, err = s.wait(ctx, published, failed)
	took = time.Since(begun)
	stopPublishing()
	publishing.Wait()
	stopWorking()
	working.Wait()
	stopPromoting()
	promoting.Wait()
	for {
		select {
		case late := <-failed:
			ended, err = endedFailed, errors.Join(err, late)
			continue
		default:
		}
		return ended, took, err
	}
}

// wait shows how it goes until there is a reason to end; "" is the good one.
func (s *devSession) wait(ctx context.Context, published <-chan struct{}, failed <-chan error) (ended string, err error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	all := false
	for {
		select {
		case <-ctx.Done():
			return endedByUser, nil
		case err := <-failed:
			return endedFailed, err
		case <-s.redis.died:
			return endedFailed, errors.New("redis-server has ended before its time")
		case <-published:
			all, published = true, nil
			continue
		case <-tick.C:
		}
		depths, err := s.depths(ctx)
		s.screen.update(depths, err)
		open, quiet := s.ledger.open()
		if all && open == 0 && err == nil && depths.Waiting+depths.Active+depths.Scheduled+depths.Retrying == 0 {
			return "", nil
		}
		if quiet > s.opt.stall && (open > 0 || all) {
			return endedStalled, nil
		}
	}
}

// depths adds up those of all streams.
func (s *devSession) depths(ctx context.Context) (sum stream.Depths, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for _, st := range s.streams {
		d, err := st.Group(devGroup).Depths(ctx)
		if errors.Is(err, stream.ErrNotFound) {
			continue // no worker has opened it yet
		}
		if err != nil {
			return sum, err
		}
		sum.Waiting += d.Waiting
		sum.Active += d.Active
		sum.Scheduled += d.Scheduled
		sum.Retrying += d.Retrying
		sum.Dead += d.Dead
		sum.Oldest = max(sum.Oldest, d.Oldest)
	}
	return sum, nil
}

// look reads what is in Redis when all has stopped, and adds it to what the ledger knows.
func (s *devSession) look(ctx context.Context) devFacts {
	ctx = context.WithoutCancel(ctx)
	f := devFacts{jobs: s.opt.jobs}
	f.depths, f.unproven = s.depths(ctx)
	for _, st := range s.streams {
		if f.unproven == nil {
			f.unproven = s.readDead(ctx, st)
		}
	}
	if f.unproven == nil {
		s.ledger.audit()
	}
	for _, w := range s.workers {
		f.stats = addStats(f.stats, w.worker.Stats())
	}
	f.kinds, _ = s.ledger.counts()
	f.wrong = s.ledger.faults()
	return f
}

func addStats(a, b consumer.Stats) consumer.Stats {
	a.Started += b.Started
	a.Completed += b.Completed
	a.Retried += b.Retried
	a.Snoozed += b.Snoozed
	a.Bounced += b.Bounced
	a.Dead += b.Dead
	a.HandedBack += b.HandedBack
	a.Panics += b.Panics
	return a
}

const deadLetterPage = 1000

// readDead enters the dead letters of a stream into the ledger.
func (s *devSession) readDead(ctx context.Context, st *stream.Stream) error {
	for page := (stream.Page{Limit: deadLetterPage}); ; {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		letters, next, err := st.Group(devGroup).Dead(ctx, stream.DeadFilter{}, page)
		cancel()
		if errors.Is(err, stream.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, letter := range letters {
			order := devOrder{Order: -1}
			_ = json.Unmarshal(letter.Payload, &order) // -1 is a fault of its own
			s.ledger.dead(letter.ID, letter.Type, letter.Reason, order.Order)
		}
		if page.After = next; next == "" {
			return nil
		}
	}
}

const cleanTimeout = time.Minute

// removeStreams takes all that was made away from the user's Redis.
func (s *devSession) removeStreams(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	var errs []error
	for _, st := range s.streams {
		errs = append(errs, removeStream(ctx, st.Client(), st.Name()))
	}
	return errors.Join(errs...)
}

// outcome is the error that makes the exit status, or nil.
func (s *devSession) outcome(r devReport, ended string) error {
	var b strings.Builder
	switch {
	case ended == endedStalled:
		fmt.Fprintf(&b, "nothing has happened for %s: waiting %s, active %s, scheduled %s, retrying %s",
			short(s.opt.stall), count(r.Waiting), count(r.Active), count(r.Scheduled), count(r.Retrying))
		for _, line := range s.ledger.hanging(5) {
			b.WriteString("\n  " + line)
		}
	case ended == endedByUser && s.opt.jobs > 0:
		fmt.Fprintf(&b, "stopped before %s were settled: %s published, %s left", plural(int64(s.opt.jobs), "job"), count(r.Published), count(r.Left))
	case r.OK || ended == endedFailed: // what failed is said by its own error
		return nil
	default:
		b.WriteString("it does not add up")
	}
	for _, fault := range r.Faults {
		b.WriteString("\n  " + safe(fault))
	}
	return errors.New(b.String())
}
