package consumer_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// fast makes a worker's measured pace high, so that it reads ahead, and returns a switch that makes the jobs slow.
func fast(t *testing.T, w *consumer.Worker, s *stream.Stream) (slow *atomic.Bool, release chan struct{}) {
	t.Helper()
	slow, release = new(atomic.Bool), make(chan struct{})
	consumer.Handle(w, ping, func(ctx context.Context, _ *consumer.Job[int]) error {
		if slow.Load() {
			select {
			case <-release:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return slow, release
}

func many(n int) []stream.Job {
	jobs := make([]stream.Job, n)
	for i := range jobs {
		jobs[i] = ping.Job(i)
	}
	return jobs
}

func TestShutdownHandsBackWhatHasNotStarted(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	cfg := quick()
	cfg.MaxJobs = 2
	w := newWorker(t, cfg, s)
	slow, release := fast(t, w, s)
	stop := run(t, w)
	publish(t, s, many(20_000)...)
	redistest.Wait(t, "some pace", func() bool { return w.Stats().Completed > 2000 })
	slow.Store(true)
	redistest.Wait(t, "two running jobs, and some read ahead", func() bool { return len(w.Running()) == 2 && w.Health().Queued > 0 })
	other := newWorker(t, cfg, s)
	var tries atomic.Int64
	var book ledger
	consumer.Handle(other, ping, func(_ context.Context, job *consumer.Job[int]) error {
		book.add(job.ID)
		if job.Attempt != 1 {
			tries.Add(1)
		}
		return nil
	})
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	redistest.Wait(t, "the hand-back", func() bool { return w.Health().Queued == 0 })
	close(release) // the two running ones may finish
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	first := w.Stats()
	if first.HandedBack == 0 {
		t.Error("nothing was handed back")
	}
	if d := depths(t, s); d.Active != 0 || d.Workers != 0 {
		t.Errorf("depths = %+v, want no job and no consumer left behind", d)
	}
	run(t, other)
	idle(t, s)
	redistest.Wait(t, "20000 completed jobs", func() bool { return first.Completed+other.Stats().Completed == 20_000 }) // Redis is told before the worker counts
	if tries.Load() != 0 {
		t.Errorf("%d handed-back jobs lost a try", tries.Load())
	}
}

func TestGraceThenHandBack(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	cfg := quick()
	cfg.Grace = 20 * time.Millisecond
	w := newWorker(t, cfg, s)
	cause := make(chan error, 1)
	consumer.Handle(w, ping, func(ctx context.Context, _ *consumer.Job[int]) error {
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return ctx.Err()
	})
	stop := run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the job to run", func() bool { return len(w.Running()) == 1 })
	if err := stop(); err != nil {
		t.Fatalf("Run = %v, want nil: the handler obeyed", err)
	}
	if err := <-cause; !errors.Is(err, consumer.ErrStopping) {
		t.Errorf("the cause was %v, want ErrStopping", err)
	}
	if d := depths(t, s); d.Waiting != 1 || d.Active != 0 || d.Retrying != 0 {
		t.Errorf("depths = %+v, want the job waiting again", d)
	}
	next := newWorker(t, quick(), s)
	attempt := make(chan int, 1)
	consumer.Handle(next, ping, func(_ context.Context, job *consumer.Job[int]) error { attempt <- job.Attempt; return nil })
	run(t, next)
	if a := <-attempt; a != 1 {
		t.Errorf("attempt %d, want 1: a hand-back costs no try", a)
	}
}

func TestHandBackWakesAnotherWorker(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	cfg := quick()
	cfg.Grace = time.Millisecond
	a := newWorker(t, cfg, s)
	consumer.Handle(a, ping, func(ctx context.Context, _ *consumer.Job[int]) error { <-ctx.Done(); return ctx.Err() })
	stop := run(t, a)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the job to run", func() bool { return len(a.Running()) == 1 })
	b := newWorker(t, quick(), s)
	got := make(chan time.Time, 1)
	consumer.Handle(b, ping, func(context.Context, *consumer.Job[int]) error { got <- time.Now(); return nil })
	run(t, b)
	redistest.Wait(t, "the second worker", func() bool { return b.Health().Ready })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-got:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody took the job that was handed back")
	}
}

func TestStuckHandler(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	cfg := quick()
	cfg.Grace = time.Millisecond
	w := newWorker(t, cfg, s)
	release, returned := make(chan struct{}), make(chan struct{})
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error {
		defer close(returned)
		<-release
		return nil
	})
	stop := run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the job to run", func() bool { return len(w.Running()) == 1 })
	err := stop()
	stuck, ok := errors.AsType[*consumer.StuckError](err)
	if !ok || len(stuck.Jobs) != 1 {
		t.Fatalf("Run = %v, want a StuckError with one job", err)
	}
	if d := depths(t, s); d.Active != 1 {
		t.Errorf("depths = %+v, want the job still held: it may still run", d)
	}
	close(release)
	<-returned
}

func TestStopBeforeRedisAnswers(t *testing.T) {
	t.Parallel()
	rdb := redistest.Connect(t, &redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker(t, quick(), s)
	stop := run(t, w)
	redistest.Wait(t, "the trouble to be seen", func() bool { return w.Health().Problem != nil })
	if h := w.Health(); h.Ready {
		t.Errorf("health = %+v, want not ready", h)
	}
	if err := stop(); err != nil {
		t.Errorf("Run = %v, want nil after a requested stop", err)
	}
}

// TestStopWhileTimersRing: a timer that rings while its slot stops must not keep the slot's lock.
func TestStopWhileTimersRing(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	for range 20 {
		cfg := quick()
		cfg.MaxJobs, cfg.Timeout, cfg.Grace = 100, 2*time.Millisecond, 50*time.Millisecond
		w := newWorker(t, cfg, s)
		consumer.Handle(w, ping, func(ctx context.Context, job *consumer.Job[int]) error {
			if job.Data == 0 {
				job.SetTimeout(consumer.None)
				<-ctx.Done()
			}
			return nil
		})
		stop := run(t, w)
		publish(t, s, many(100)...)
		redistest.Wait(t, "the jobs", func() bool { return w.Stats().Completed >= 99 })
		ended := make(chan error, 1)
		go func() { ended <- stop() }()
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("Run does not return")
		}
		rest := newWorker(t, quick(), s) // the job that was handed back
		consumer.Handle(rest, ping, func(context.Context, *consumer.Job[int]) error { return nil })
		end := run(t, rest)
		idle(t, s)
		_ = end()
	}
}

// TestGraceWithADeadRedis: the grace period begins with the stop, whatever the readers wait for.
func TestGraceWithADeadRedis(t *testing.T) {
	t.Parallel()
	direct, proxied, proxy := behindProxy(t)
	s := newStream(t, direct, stream.Config{})
	through, err := stream.New(proxied, s.Name(), stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := quick()
	cfg.Grace = 300 * time.Millisecond
	w := newWorker(t, cfg, through)
	ended := make(chan time.Time, 1)
	consumer.Handle(w, ping, func(ctx context.Context, _ *consumer.Job[int]) error {
		<-ctx.Done()
		ended <- time.Now()
		return ctx.Err()
	})
	stop := run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the job to run", func() bool { return len(w.Running()) == 1 })
	proxy.Hang()
	still := redistest.Standstill(t)
	start := time.Now()
	_ = stop()
	if took := (<-ended).Sub(start); took < 300*time.Millisecond || took > 2*time.Second+still() {
		t.Errorf("the handler was stopped after %s, want about 300ms", took)
	}
	if took := time.Since(start); took > 20*time.Second { // a few answers that never come
		t.Errorf("Run returned after %s", took)
	}
}
