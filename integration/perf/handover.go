package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// handover is how long a job of a worker process that ends is not worked on.
type handover struct {
	h     *bench.Harness
	rdb   *redis.Client
	lease time.Duration
}

func (o *handover) cases() []bench.Case {
	workers := o.h.Config().Pairs
	const stopped = "SIGTERM of a worker to its job running elsewhere"
	killed := fmt.Sprintf("kill -9 of a worker to its job running elsewhere, lease %s", o.lease)
	return []bench.Case{
		{
			Group: "handover", Name: killed, Jobs: workers, Pairs: 1,
			Contenders: []bench.Contender{{Name: bench.Penstock, Run: o.kill}},
			Figures: []bench.Figure{
				{Name: killed + ", p50", Unit: bench.Seconds, Of: percentile(50)},
				{Name: killed + ", slowest", Unit: bench.Seconds, Of: percentile(100), Target: &bench.Target{Bound: (o.lease + time.Second).Seconds()}},
			},
		},
		{
			Group: "handover", Name: stopped, Jobs: 20,
			Contenders: []bench.Contender{{Name: bench.Penstock, Run: o.stop}},
			Figures: []bench.Figure{{
				Name: stopped, Unit: bench.Seconds, Of: percentile(100), Target: &bench.Target{Bound: 0.1},
			}},
		},
	}
}

func percentile(p float64) func(bench.Sample) float64 {
	return func(s bench.Sample) float64 { return bench.Percentile(s.Latencies, p).Seconds() }
}

// heir takes over what the processes held: a worker in this process.
type heir struct {
	mu      sync.Mutex
	started map[string]map[int]time.Time // stream → number of the job → when its handler first started
	count   atomic.Int64

	stop func() error
}

func (o *handover) newHeir(ctx context.Context, maxJobs int, streams ...*stream.Stream) (*heir, error) {
	e := &heir{started: make(map[string]map[int]time.Time)}
	w, err := consumer.New(groupName, consumer.Config{MaxJobs: maxJobs, Lease: o.lease, KeepResult: consumer.None}, streams...)
	if err != nil {
		return nil, err
	}
	consumer.Handle(w, jobType, func(_ context.Context, job *consumer.Job[[]byte]) error {
		now := time.Now()
		e.mu.Lock()
		defer e.mu.Unlock()
		of := e.started[job.Stream]
		if of == nil {
			of = make(map[int]time.Time)
			e.started[job.Stream] = of
		}
		if n := bench.Number(job.Data); of[n].IsZero() {
			of[n] = now
			e.count.Add(1)
		}
		return nil
	})
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	e.stop = func() error {
		cancel()
		return <-ended
	}
	if err := bench.Until(ctx, "a worker is ready", func() bool { return w.Health().Ready }); err != nil {
		return nil, errors.Join(err, e.stop())
	}
	return e, nil
}

// kill starts n workers, each of which holds a job, and kills them spread over the time between two heartbeats, for how
// long it takes depends on when the last one was.
func (o *handover) kill(ctx context.Context, n int) (s bench.Sample, err error) {
	var streams []*stream.Stream
	var workers []*process
	defer func() {
		for _, p := range workers {
			p.kill()
		}
	}()
	for range n {
		st, err := o.newStream(ctx)
		if err != nil {
			return s, err
		}
		streams = append(streams, st)
		if err := o.publish(ctx, st, 0, 1); err != nil {
			return s, err
		}
		p, err := startWorker(workerSpec{Addr: o.rdb.Options().Addr, Stream: st.Name(), Lease: o.lease})
		if err != nil {
			return s, err
		}
		workers = append(workers, p)
		if err := p.held(ctx); err != nil {
			return s, err
		}
	}
	e, err := o.newHeir(ctx, n, streams...)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, e.stop()) }()
	// who takes over first watches for a lease: it must know that it was not away itself
	if err := pause(ctx, o.lease*4/3); err != nil {
		return s, err
	}
	killed := make([]time.Time, n)
	for i, p := range workers {
		if err := pause(ctx, o.lease/3/time.Duration(n)); err != nil {
			return s, err
		}
		killed[i] = time.Now()
		p.kill()
	}
	if got := e.count.Load(); got > 0 {
		return s, fmt.Errorf("%d jobs of live workers were taken over", got)
	}
	deadline := time.Now().Add(3 * o.lease)
	for e.count.Load() < int64(n) {
		if time.Now().After(deadline) {
			return s, fmt.Errorf("%d of %d jobs were taken over in %s", e.count.Load(), n, 3*o.lease)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return s, err
		}
	}
	s.Jobs = n
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, st := range streams {
		s.Latencies = append(s.Latencies, e.started[st.Name()][0].Sub(killed[i]))
	}
	slices.Sort(s.Latencies)
	s.Took = time.Since(killed[0])
	return s, nil
}

// stopTries: a worker that has read ahead hands back by itself after a quarter of a second, and then proves nothing.
const stopTries = 5

func (o *handover) stop(ctx context.Context, n int) (bench.Sample, error) {
	var err error
	for range stopTries {
		var s bench.Sample
		if s, err = o.stopOnce(ctx, n); !errors.Is(err, errHandedBack) {
			return s, err
		}
	}
	return bench.Sample{}, err
}

var errHandedBack = errors.New("the worker handed back what it had read ahead before it was told to stop")

// quickJobs make a worker read ahead.
const quickJobs = 500

// stopOnce stops a worker that runs one job and holds n more; the time of each counts from the signal.
func (o *handover) stopOnce(ctx context.Context, n int) (s bench.Sample, err error) {
	st, err := o.newStream(ctx)
	if err != nil {
		return s, err
	}
	again, err := stream.New(o.rdb, st.Name(), stream.Config{}) // of the other worker
	if err != nil {
		return s, err
	}
	if err := o.publish(ctx, st, 0, quickJobs+1+n); err != nil {
		return s, err
	}
	p, err := startWorker(workerSpec{Addr: o.rdb.Options().Addr, Stream: st.Name(), Lease: o.lease, Quick: quickJobs})
	if err != nil {
		return s, err
	}
	defer p.kill()
	if err := p.held(ctx); err != nil {
		return s, err
	}
	e, err := o.newHeir(ctx, n+1, again)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, e.stop()) }()
	pending, err := o.rdb.XPending(ctx, st.Name(), groupName).Result()
	if err != nil {
		return s, err
	}
	if e.count.Load() > 0 || pending.Count != int64(n+1) {
		return s, fmt.Errorf("%w: it holds %d of %d", errHandedBack, pending.Count, n+1)
	}
	begun := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return s, err
	}
	if err := bench.Until(ctx, "all jobs that were handed back run elsewhere", func() bool { return e.count.Load() >= int64(n) }); err != nil {
		return s, err
	}
	s.Jobs, s.Took = n, time.Since(begun)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, at := range e.started[st.Name()] {
		s.Latencies = append(s.Latencies, at.Sub(begun))
	}
	slices.Sort(s.Latencies)
	if s.Latencies[0] < 0 {
		return s, errHandedBack
	}
	return s, nil
}

func (o *handover) newStream(ctx context.Context) (*stream.Stream, error) {
	st, err := stream.New(o.rdb, o.h.Name(), stream.Config{Kind: stream.KindQueue})
	if err == nil {
		_, err = st.Create(ctx, stream.CreateOptions{})
	}
	return st, err
}

// publish publishes the jobs with the numbers from first on.
func (o *handover) publish(ctx context.Context, st *stream.Stream, first, n int) error {
	jobs := make([]stream.Job, n)
	for i := range jobs {
		jobs[i] = jobType.Job(o.h.Payload(first + i))
	}
	_, err := st.PublishAll(ctx, jobs)
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
