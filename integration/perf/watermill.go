package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
)

const watermillName = "watermill-redisstream"

// watermillPeer is watermill on Redis Streams with the settings it comes with. It keeps what is acknowledged, and defers nothing.
type watermillPeer struct {
	h   *bench.Harness
	rdb *redis.Client
	pub *redisstream.Publisher
}

func newWatermill(h *bench.Harness, rdb *redis.Client) (*peer, error) {
	pub, err := redisstream.NewPublisher(redisstream.PublisherConfig{Client: sameClient(rdb)}, nil)
	if err != nil {
		return nil, err
	}
	w := &watermillPeer{h, rdb, pub}
	return &peer{
		name: watermillName, version: moduleVersion("github.com/ThreeDotsLabs/watermill-redisstream"),
		drain: w.drain, publish: w.publish, latency: w.latency,
		close: pub.Close,
	}, nil
}

// serve runs subscribers of one group, each of which handles one message at a time: that is how watermill does more of them at once.
// They are to be stopped also when there is an error.
func (w *watermillPeer) serve(ctx context.Context, topic string, subscribers int, handle func([]byte)) (stop func() error, err error) {
	var wg sync.WaitGroup
	var subs []*redisstream.Subscriber
	stop = func() error {
		var errs []error
		for _, sub := range subs {
			errs = append(errs, sub.Close())
		}
		wg.Wait()
		return errors.Join(errs...)
	}
	for i := range subscribers {
		sub, err := redisstream.NewSubscriber(redisstream.SubscriberConfig{
			Client: sameClient(w.rdb), ConsumerGroup: "bench", Consumer: "reader-" + strconv.Itoa(i),
			DisableIndefiniteInitialBlock: true, // it would never end
		}, nil)
		if err != nil {
			return stop, err
		}
		subs = append(subs, sub)
		messages, err := sub.Subscribe(ctx, topic)
		if err != nil {
			return stop, err
		}
		wg.Go(func() {
			for msg := range messages {
				handle(msg.Payload)
				msg.Ack()
			}
		})
	}
	return stop, nil
}

func (w *watermillPeer) send(ctx context.Context, topic string, data []byte) error {
	msg := message.NewMessage(watermill.NewUUID(), data)
	msg.SetContext(ctx)
	return w.pub.Publish(topic, msg)
}

func (w *watermillPeer) sendAll(ctx context.Context, topic string, n int, done *atomic.Int64) error {
	data := w.h.Payload(0)
	return bench.InParallel(ctx, callers, func(ctx context.Context, caller int) error {
		for i := caller; i < n; i += callers {
			if err := w.send(ctx, topic, data); err != nil {
				return err
			}
			done.Add(1)
		}
		return nil
	})
}

func (w *watermillPeer) drop(ctx context.Context, topic string) error {
	return w.rdb.Del(context.WithoutCancel(ctx), topic).Err()
}

// drain is from when all subscribers are there, each with its first message, to when Redis has no message that is not acknowledged.
func (w *watermillPeer) drain(ctx context.Context, n int) (s bench.Sample, err error) {
	topic := w.h.Name()
	defer func() { err = errors.Join(err, w.drop(ctx, topic)) }()
	var sent, handled, first atomic.Int64
	open := make(chan struct{})
	if err := w.sendAll(ctx, topic, n, &sent); err != nil {
		return s, err
	}
	begun := time.Now()
	done := func() int64 {
		got := handled.Load()
		if got < int64(n) {
			return got
		}
		if p, err := w.rdb.XPending(ctx, topic, "bench").Result(); err != nil || p.Count > 0 {
			return int64(n) - 1 // the last are not acknowledged yet
		}
		return got
	}
	s, err = w.h.Timed(ctx, n, done, func(ctx context.Context) error {
		stop, err := w.serve(ctx, topic, handlers, func([]byte) {
			<-open
			handled.Add(1)
		})
		first.Store(int64(time.Since(begun)))
		close(open)
		if err != nil {
			return errors.Join(err, stop())
		}
		<-ctx.Done()
		return stop()
	})
	s.StartsAt(time.Duration(first.Load()))
	if got := handled.Load(); err == nil && got != int64(n) {
		err = fmt.Errorf("%d of %d messages were handled", got, n)
	}
	return s, err
}

func (w *watermillPeer) publish(ctx context.Context, n int) (s bench.Sample, err error) {
	topic := w.h.Name()
	defer func() { err = errors.Join(err, w.drop(ctx, topic)) }()
	var done atomic.Int64
	return w.h.Timed(ctx, n, done.Load, func(ctx context.Context) error { return w.sendAll(ctx, topic, n, &done) })
}

// latency is with one subscriber, which is quick enough for the rate.
func (w *watermillPeer) latency(ctx context.Context, n int) (s bench.Sample, err error) {
	topic := w.h.Name()
	defer func() { err = errors.Join(err, w.drop(ctx, topic)) }()
	trips := bench.NewTrips(n)
	stop, err := w.serve(ctx, topic, 1, trips.Arrived)
	if err != nil {
		return s, errors.Join(err, stop())
	}
	defer func() { err = errors.Join(err, stop()) }()
	return w.h.Send(ctx, trips, func(ctx context.Context, i int) error { return w.send(ctx, topic, w.h.Payload(i)) })
}
