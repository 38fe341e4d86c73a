package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	if got := first.Completed + other.Stats().Completed; got != 20_000 {
		t.Errorf("%d jobs completed, want 20000", got)
	}
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
	redistest.Wait(t, "the trouble to be seen", func() bool { return w.Health().Redis != nil })
	if h := w.Health(); h.Ready {
		t.Errorf("health = %+v, want not ready", h)
	}
	if err := stop(); err != nil {
		t.Errorf("Run = %v, want nil after a requested stop", err)
	}
}

// TestNobodyHoards: a worker whose jobs are slow holds only what it runs.
func TestNobodyHoards(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	publish(t, s, many(500)...)
	cfg := quick()
	cfg.MaxJobs = 4
	w := newWorker(t, cfg, s)
	slow, release := fast(t, w, s)
	slow.Store(true)
	run(t, w)
	redistest.Wait(t, "four running jobs", func() bool { return len(w.Running()) == 4 })
	if d := depths(t, s); d.Active > 5 {
		t.Errorf("%d jobs are held, want the four that run and at most one more", d.Active)
	}
	close(release)
	idle(t, s)
}

// TestPaceThatDoesNotLast: what was read ahead goes back when the jobs turn slow, and others get it.
func TestPaceThatDoesNotLast(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	cfg := quick()
	cfg.MaxJobs = 2
	w := newWorker(t, cfg, s)
	slow, release := fast(t, w, s)
	run(t, w)
	publish(t, s, many(30_000)...)
	redistest.Wait(t, "some pace", func() bool { return w.Stats().Completed > 2000 })
	slow.Store(true)
	redistest.Wait(t, "the jobs read ahead to go back", func() bool {
		return len(w.Running()) == 2 && w.Health().Queued == 0 && depths(t, s).Active <= 3
	})
	close(release)
	idle(t, s)
	if got := w.Stats(); got.Completed != 30_000 || got.HandedBack == 0 {
		t.Errorf("stats = %+v, want all completed and some handed back on the way", got)
	}
}

func TestBatches(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	cfg := quick()
	cfg.MaxJobs = 2
	w := newWorker(t, cfg, s)
	var mu sync.Mutex
	var sizes []int
	runs := make(map[int]int)
	consumer.HandleBatch(w, ping, 50, func(_ context.Context, jobs []*consumer.Job[int]) []error {
		mu.Lock()
		defer mu.Unlock()
		sizes = append(sizes, len(jobs))
		var errs []error
		for i, job := range jobs {
			if runs[job.Data]++; job.Data%100 == 0 && job.Attempt < 3 {
				if errs == nil {
					errs = make([]error, len(jobs))
				}
				errs[i] = fmt.Errorf("job %d", job.Data)
			}
		}
		return errs
	})
	jobs := many(1000)
	jobs = append(jobs, stream.Job{Type: "ping", Data: []byte("no number")})
	publish(t, s, jobs...)
	run(t, w)
	deadLetters(t, s, 1)
	idle(t, s)
	mu.Lock()
	defer mu.Unlock()
	largest := 0
	for _, n := range sizes {
		largest = max(largest, n)
	}
	if largest > 50 || largest < 10 {
		t.Errorf("the largest batch had %d jobs, want many and at most 50", largest)
	}
	for i := range 1000 {
		want := 1
		if i%100 == 0 {
			want = 3
		}
		if runs[i] != want {
			t.Errorf("job %d ran %d times, want %d", i, runs[i], want)
		}
	}
}

func TestBatchThatAnswersWrongly(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	w := newWorker(t, quick(), s)
	consumer.HandleBatch(w, ping, 10, func(_ context.Context, jobs []*consumer.Job[int]) []error {
		if jobs[0].Data < 0 {
			panic("negative")
		}
		return make([]error, len(jobs)+1)
	})
	run(t, w)
	job := ping.Job(1)
	job.MaxTries = 1
	publish(t, s, job)
	if letter := deadLetters(t, s, 1)[0]; letter.Error != "the batch handler of ping answered with 2 errors for 1 jobs" {
		t.Errorf("error = %q", letter.Error)
	}
	job.Data = -1
	publish(t, s, job)
	if letter := deadLetters(t, s, 2)[1]; letter.Stack == "" || letter.Error != "panic: negative" {
		t.Errorf("dead letter = %+v, want the panic with its stack", letter)
	}
}
