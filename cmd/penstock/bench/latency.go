package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// longer is how much longer the samples of latency and deferred are: a percentile wants many jobs.
const longer = 3

func (h *Harness) latencyCases() []Case {
	name := fmt.Sprintf("latency at %g/s", h.cfg.Rate)
	p50 := Figure{Name: name + ", p50", Unit: Seconds, Of: percentile(50)}
	p99 := Figure{Name: name + ", p99", Unit: Seconds, Of: percentile(99)}
	if h.cfg.Rate == 500 {
		p50.Target = &Target{Ratio: true, Bound: 1.3}
		p99.Target = &Target{Ratio: true, Bound: 1.3}
	}
	n := h.fit(max(int(h.cfg.Rate*h.cfg.Duration.Seconds()*longer), 1))
	return []Case{{
		Group: "latency", Name: name, Jobs: n, bytes: h.jobBytes(),
		Contenders: []Contender{{Penstock, h.latency}},
		Yardstick:  &Contender{"XADD to XREADGROUP", h.latencyRaw},
		Figures:    []Figure{p50, p99},
	}, h.awaitCase()}
}

// latency is from the call of Publish to the start of the handler, on a worker that has nothing else to do.
func (h *Harness) latency(ctx context.Context, n int) (s Sample, err error) {
	st, err := h.newStream(ctx)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, h.drop(ctx, st.Name())) }()
	trips := NewTrips(n)
	stop, err := h.work(ctx, trips.Arrived, st)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return h.Send(ctx, trips, func(ctx context.Context, i int) error {
		_, err := st.Publish(ctx, stream.Job{Type: typeName, Data: h.Payload(i)})
		return err
	})
}

// work runs a worker whose handler tells the data of each job, and returns when it is ready.
func (h *Harness) work(ctx context.Context, handle func(data []byte), streams ...*stream.Stream) (stop func() error, err error) {
	w, err := consumer.New(group, consumer.Config{KeepResult: consumer.None}, streams...)
	if err != nil {
		return nil, err
	}
	consumer.Handle(w, jobType, func(_ context.Context, job *consumer.Job[[]byte]) error {
		handle(job.Data)
		return nil
	})
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stop = func() error {
		cancel()
		return <-ended
	}
	if err := Until(ctx, "the worker is ready", func() bool { return w.Health().Ready }); err != nil {
		return nil, errors.Join(err, w.Health().Problem, stop())
	}
	return stop, nil
}

// latencyRaw is from XADD to the answer of an XREADGROUP that is blocked.
func (h *Harness) latencyRaw(ctx context.Context, n int) (s Sample, err error) {
	name := h.Name()
	defer func() { err = errors.Join(err, h.drop(ctx, name)) }()
	if err := h.rdb.XGroupCreateMkStream(ctx, name, group, "0").Err(); err != nil {
		return s, err
	}
	trips := NewTrips(n)
	rctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- h.readBlocked(rctx, name, trips)
		stop()
	}()
	s, err = h.Send(rctx, trips, func(ctx context.Context, i int) error { return h.rdb.XAdd(ctx, rawEntry(name, h.Payload(i))).Err() })
	stop()
	if rerr := <-ended; rerr != nil && !errors.Is(rerr, context.Canceled) {
		err = rerr
	}
	return s, err
}

const rawBlock = 500 * time.Millisecond // go-redis ends no block before

// readBlocked reads until all have arrived.
func (h *Harness) readBlocked(ctx context.Context, name string, trips *Trips) error {
	args := &redis.XReadGroupArgs{Group: group, Consumer: "reader", Streams: []string{name, ">"}, Count: rawCount, Block: rawBlock}
	for trips.left.Load() > 0 {
		answer, err := h.rdb.XReadGroup(ctx, args).Result()
		if errors.Is(err, redis.Nil) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return err
		}
		now := time.Now()
		for _, m := range answer[0].Messages {
			data, _ := m.Values["data"].(string)
			trips.arrivedAt([]byte(data), now)
		}
	}
	<-ctx.Done() // the sender has the last word
	return nil
}

// Trips are jobs on their way, by their numbers.
type Trips struct {
	base    time.Time
	sent    []atomic.Int64 // since base
	took    []atomic.Int64 // 0: not arrived
	left    atomic.Int64
	arrive  chan struct{} // closed when all have
	foreign atomic.Int64  // data that has no number of ours
}

// NewTrips returns n jobs that Send has not sent yet.
func NewTrips(n int) *Trips {
	t := &Trips{base: time.Now(), sent: make([]atomic.Int64, n), took: make([]atomic.Int64, n), arrive: make(chan struct{})}
	t.left.Store(int64(n))
	return t
}

// Arrived counts the first time that the job with this data arrives.
func (t *Trips) Arrived(data []byte) { t.arrivedAt(data, time.Now()) }

func (t *Trips) arrivedAt(data []byte, now time.Time) {
	i := Number(data)
	if i < 0 || i >= len(t.took) {
		t.foreign.Add(1)
		return
	}
	took := max(int64(now.Sub(t.base))-t.sent[i].Load(), 1)
	if t.took[i].CompareAndSwap(0, took) && t.left.Add(-1) == 0 {
		close(t.arrive)
	}
}

const inFlight = 256 // calls of Publish at once, at most

// Send publishes each job when it is time to, whether the ones before have returned or not: one that is slow makes no
// other look fast. The time of a job counts from when it was due to be sent.
func (h *Harness) Send(ctx context.Context, t *Trips, publish func(context.Context, int) error) (Sample, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, inFlight)
	timer := time.NewTimer(0)
	defer timer.Stop()
	begun := time.Now()
	for i := range t.sent {
		at := begun.Add(time.Duration(float64(i) / h.cfg.Rate * float64(time.Second)))
		timer.Reset(time.Until(at))
		select {
		case <-ctx.Done():
			return Sample{}, context.Cause(ctx)
		case <-timer.C:
		}
		t.sent[i].Store(int64(time.Since(t.base)))
		select {
		case <-ctx.Done():
			return Sample{}, context.Cause(ctx)
		case slots <- struct{}{}:
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := publish(ctx, i); err != nil {
				cancel(err)
			}
		})
	}
	s := Sample{Jobs: len(t.sent)}
	if err := t.Wait(ctx); err != nil {
		return s, err
	}
	s.Took = time.Since(begun)
	s.Latencies = t.Durations()
	return s, nil
}

// Wait returns when all have arrived, or nothing has for long.
func (t *Trips) Wait(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last, moved := t.left.Load(), time.Now()
	for {
		select {
		case <-t.arrive:
			if n := t.foreign.Load(); n > 0 {
				return fmt.Errorf("%d jobs arrived that were not sent", n)
			}
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if left := t.left.Load(); left != last {
			last, moved = left, time.Now()
		} else if time.Since(moved) > stalled {
			return fmt.Errorf("nothing has happened for %s: %d of %d jobs have not started", stalled, left, len(t.took))
		}
	}
}

// Durations of all trips, sorted.
func (t *Trips) Durations() []time.Duration {
	list := make([]time.Duration, len(t.took))
	for i := range t.took {
		list[i] = time.Duration(t.took[i].Load())
	}
	return sorted(list)
}

func sorted(list []time.Duration) []time.Duration {
	slices.Sort(list)
	return list
}

// Until returns when ok does, and gives up after a while; what says what is waited for.
func Until(ctx context.Context, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stalled, fmt.Errorf("waited %s in vain for this: %s", stalled, what))
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pauseFor):
		}
	}
	return nil
}
