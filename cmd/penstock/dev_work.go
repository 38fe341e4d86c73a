package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// What handlers of the load say.
var (
	errDeclined  = errors.New("the bank does not answer")
	errNoCoupon  = errors.New("no such coupon")
	errNoAddress = errors.New("no such address")
	errBusy      = errors.New("the warehouse is busy")
)

// devWorker is one worker with a client of its own.
type devWorker struct {
	rdb    redis.UniversalClient
	worker *consumer.Worker
}

// newWorker makes a worker whose every setting is said here: the environment has no part in it.
func (s *devSession) newWorker(ctx context.Context, number int) (devWorker, error) {
	rdb, streams, err := s.open(ctx)
	if err != nil {
		return devWorker{}, err
	}
	w, err := consumer.New(devGroup, consumer.Config{
		MaxJobs:    s.opt.maxJobs,
		Timeout:    time.Minute,
		MaxTries:   devTries,
		Backoff:    consumer.Backoff{Delay: devDelay, Factor: 2, Max: time.Minute, Jitter: 0.1},
		KeepResult: consumer.None,
		Grace:      s.opt.grace,
		Name:       fmt.Sprintf("dev-%d", number),
		Logger:     s.log,
	}, streams...)
	if err != nil {
		return devWorker{}, errors.Join(err, rdb.Close())
	}
	for kind := range devKinds {
		consumer.Handle(w, stream.Type[devOrder]{Name: devKinds[kind].typ}, s.handler(kind))
	}
	return devWorker{rdb, w}, nil
}

// open makes a client, and the streams of the load on it.
func (s *devSession) open(ctx context.Context) (redis.UniversalClient, []*stream.Stream, error) {
	rdb, err := s.redis.client(ctx)
	if err != nil {
		return nil, nil, err
	}
	streams := make([]*stream.Stream, len(s.names))
	for i, name := range s.names {
		if streams[i], err = stream.New(rdb, name, stream.Config{Kind: stream.KindQueue, Logger: s.log}); err != nil {
			return nil, nil, errors.Join(err, rdb.Close())
		}
	}
	return rdb, streams, nil
}

// handler runs jobs of one kind as the load says, and keeps the ledger.
func (s *devSession) handler(kind int) func(context.Context, *consumer.Job[devOrder]) error {
	k := &devKinds[kind]
	return func(ctx context.Context, job *consumer.Job[devOrder]) error {
		n := job.Data.Order
		step := s.ledger.begin(kind, job.Delivery, n)
		want := s.mix.job(n)
		if job.Data != want.order || job.Type != k.typ || job.Stream != s.names[k.stream] {
			s.ledger.fault("%s %s of %s has not the payload that was published: %+v", job.Type, job.ID, job.Stream, job.Data)
		}
		if early := time.Until(job.Due); s.redis.Own && early > 0 { // its clock is ours
			s.ledger.fault("%s %s started %s before it was due", job.Type, job.ID, early)
		}
		stopped := want.work > 0 && !pauseFor(ctx, want.work)
		outcome := outcomes[step]
		if stopped {
			outcome = "stopped"
		}
		s.runs.write(job.Delivery, outcome)
		s.ledger.end(kind, n, step, stopped)
		if stopped {
			return context.Cause(ctx)
		}
		switch step {
		case stepFail:
			if k.dies() {
				return errNoCoupon
			}
			return errDeclined
		case stepPanic:
			panic("a bug in the handler of " + k.typ)
		case stepPermanent:
			return consumer.Permanent(errNoAddress)
		case stepSnooze:
			return consumer.Snooze(devPause)
		case stepRetryAfter:
			return consumer.RetryAfter(errBusy, devPause)
		default:
			return nil
		}
	}
}

// outcomes are the words for steps in the file of --count-file.
var outcomes = [...]string{
	stepOK: "ok", stepFail: "error", stepPanic: "panic", stepPermanent: "permanent", stepSnooze: "snooze", stepRetryAfter: "retry-after",
}

// runFile gets a line for each run of a handler, so that somebody else can count them.
type runFile struct {
	mu  sync.Mutex
	w   io.Writer // nil: nobody asked
	err error     // the first
}

func (f *runFile) write(d *consumer.Delivery, outcome string) {
	if f.w == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := fmt.Fprintf(f.w, "%s %s %d %s\n", d.Stream, d.ID, d.Attempt, outcome); err != nil && f.err == nil {
		f.err = fmt.Errorf("write the file of --count-file: %w", err)
	}
}

func (f *runFile) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}
