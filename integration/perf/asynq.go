package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
)

const (
	asynqName = "asynq"
	taskType  = "bench"
)

// asynqPeer is asynq with the settings it comes with, but for the number of handlers.
type asynqPeer struct {
	h      *bench.Harness
	rdb    *redis.Client
	client *asynq.Client
}

func newAsynq(h *bench.Harness, rdb *redis.Client) *peer {
	a := &asynqPeer{h, rdb, asynq.NewClientFromRedisClient(rdb)}
	return &peer{
		name: asynqName, version: moduleVersion("github.com/hibiken/asynq"),
		drain: a.drain, publish: a.publish, latency: a.latency, deferred: a.deferred,
		close: func() error { return nil }, // the client is ours
	}
}

// serve runs a server of one queue, whose handler tells the payload of each task.
func (a *asynqPeer) serve(queue string, handle func([]byte)) (stop func(), err error) {
	srv := asynq.NewServerFromRedisClient(a.rdb, asynq.Config{
		Concurrency: handlers, Queues: map[string]int{queue: 1}, Logger: silent{}, LogLevel: asynq.FatalLevel,
	})
	err = srv.Start(asynq.HandlerFunc(func(_ context.Context, t *asynq.Task) error {
		handle(t.Payload())
		return nil
	}))
	return srv.Shutdown, err
}

func (a *asynqPeer) enqueue(ctx context.Context, queue string, data []byte, opts ...asynq.Option) error {
	_, err := a.client.EnqueueContext(ctx, asynq.NewTask(taskType, data), append(opts, asynq.Queue(queue))...)
	return err
}

// enqueueAll enqueues n tasks by 64 callers, and tells of each.
func (a *asynqPeer) enqueueAll(ctx context.Context, queue string, n int, done *atomic.Int64) error {
	data := a.h.Payload(0)
	return bench.InParallel(ctx, callers, func(ctx context.Context, caller int) error {
		for i := caller; i < n; i += callers {
			if err := a.enqueue(ctx, queue, data); err != nil {
				return err
			}
			done.Add(1)
		}
		return nil
	})
}

// drop removes what a queue leaves: every key has its name in braces.
func (a *asynqPeer) drop(ctx context.Context, queue string) error {
	ctx = context.WithoutCancel(ctx)
	var cursor uint64
	for {
		keys, next, err := a.rdb.Scan(ctx, cursor, "asynq:{"+queue+"}*", 5000).Result()
		if err != nil {
			return err
		}
		if len(keys) > 0 {
			if err := a.rdb.Del(ctx, keys...).Err(); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return a.rdb.SRem(ctx, "asynq:queues", queue).Err()
		}
	}
}

// drain is from the start of the first handler to when Redis has no task any more.
func (a *asynqPeer) drain(ctx context.Context, n int) (s bench.Sample, err error) {
	queue := a.h.Name()
	defer func() { err = errors.Join(err, a.drop(ctx, queue)) }()
	var enqueued, handled, first atomic.Int64
	if err := a.enqueueAll(ctx, queue, n, &enqueued); err != nil {
		return s, err
	}
	begun := time.Now()
	active := "asynq:{" + queue + "}:active"
	done := func() int64 {
		got := handled.Load()
		if got == int64(n) && a.rdb.LLen(ctx, active).Val() > 0 {
			got-- // the last are not written yet
		}
		return got
	}
	s, err = a.h.Timed(ctx, n, done, func(ctx context.Context) error {
		stop, err := a.serve(queue, func([]byte) {
			if first.Load() == 0 {
				first.CompareAndSwap(0, int64(time.Since(begun)))
			}
			handled.Add(1)
		})
		if err != nil {
			return err
		}
		<-ctx.Done()
		stop()
		return nil
	})
	s.StartsAt(time.Duration(first.Load()))
	return s, err
}

func (a *asynqPeer) publish(ctx context.Context, n int) (s bench.Sample, err error) {
	queue := a.h.Name()
	defer func() { err = errors.Join(err, a.drop(ctx, queue)) }()
	var done atomic.Int64
	return a.h.Timed(ctx, n, done.Load, func(ctx context.Context) error { return a.enqueueAll(ctx, queue, n, &done) })
}

func (a *asynqPeer) latency(ctx context.Context, n int) (s bench.Sample, err error) {
	queue := a.h.Name()
	defer func() { err = errors.Join(err, a.drop(ctx, queue)) }()
	trips := bench.NewTrips(n)
	stop, err := a.serve(queue, trips.Arrived)
	if err != nil {
		return s, err
	}
	defer stop()
	return a.h.Send(ctx, trips, func(ctx context.Context, i int) error { return a.enqueue(ctx, queue, a.h.Payload(i)) })
}

// deferred is by this machine's clock, which asynq goes by, and Redis here too.
func (a *asynqPeer) deferred(ctx context.Context, n int) (s bench.Sample, err error) {
	queue := a.h.Name()
	defer func() { err = errors.Join(err, a.drop(ctx, queue)) }()
	first := time.Now().Add(aheadOf(n)).Truncate(time.Second).Add(time.Second) // asynq knows only whole seconds
	late := bench.LateTrips(first, n)
	stop, err := a.serve(queue, func(data []byte) { late.ArrivedLate(data, time.Now()) })
	if err != nil {
		return s, err
	}
	defer stop()
	for i := range n {
		if err := a.enqueue(ctx, queue, a.h.Payload(i), asynq.ProcessAt(late.Due(i))); err != nil {
			return s, err
		}
	}
	if err := late.Wait(ctx); err != nil {
		return s, err
	}
	return bench.Sample{Jobs: n, Took: time.Since(first), Latencies: late.Durations()}, nil
}

// aheadOf is how long before the first is due n deferred jobs are published.
func aheadOf(n int) time.Duration { return 500*time.Millisecond + time.Duration(n)*time.Millisecond/2 }

// silent is asynq's Logger.
type silent struct{}

func (silent) Debug(...any) {}
func (silent) Info(...any)  {}
func (silent) Warn(...any)  {}
func (silent) Error(...any) {}
func (silent) Fatal(...any) {}
