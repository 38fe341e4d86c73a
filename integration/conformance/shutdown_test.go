package conformance_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// handBack: what runs when a worker stops, and does not end within the grace
// period, goes back and is another's at once; it costs no try, and the worker leaves no trace.
func handBack(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	cfg, log := quick(), newLog(t)
	cfg.Grace, cfg.Logger = 200*time.Millisecond, slog.New(slog.NewTextHandler(log, nil))
	leaves := w.worker(t, cfg, s)
	returned := make(chan time.Time, 2)
	consumer.Handle(leaves, number, func(ctx context.Context, job *consumer.Job[int]) error {
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), consumer.ErrStopping) {
			t.Errorf("the context of job %d ended with %v, want ErrStopping", job.Data, context.Cause(ctx))
		}
		returned <- time.Now()
		return ctx.Err()
	})
	stop := run(t, leaves)
	publish(t, s, numbers(0, 2)...)
	wait(t, "both jobs to run", func() bool { return len(leaves.Running()) == 2 })
	stays := w.worker(t, quick(), w.again(t, s))
	started := make(chan time.Time, 2)
	consumer.Handle(stays, number, func(_ context.Context, job *consumer.Job[int]) error {
		started <- time.Now()
		if job.Attempt != 1 || job.Fence&(1<<32-1) == 0 {
			t.Errorf("job %d: attempt %d, fence %d; want the first attempt, and a fence that has grown", job.Data, job.Attempt, job.Fence)
		}
		return nil
	})
	run(t, stays)
	wait(t, "the other worker", func() bool { return stays.Health().Ready })
	begun := time.Now()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > lease {
		t.Errorf("stopping took %s", took)
	}
	for range 2 {
		back := receive(t, "the handler's return", returned)
		if took := receive(t, "the next run", started).Sub(back); took > lease { // milliseconds, where nothing else runs
			t.Errorf("a job that was handed back ran again after %s", took)
		} else {
			t.Logf("a job that was handed back ran again after %s", took.Round(time.Microsecond))
		}
	}
	drained(t, s)
	if got := stays.Stats(); got.Reclaimed != 0 {
		t.Errorf("stats %+v, want nothing taken over: it was given", got)
	}
	for _, key := range []string{s.Name(), "{" + s.Name() + "}:g:" + group + ":redelivery"} {
		if list := consumers(t, s, key); slices.Contains(list, leaves.Name()) && !log.says("stays behind") {
			t.Errorf("consumers of %s: %v, want the one that left not among them", key, list)
		}
	}
}

// deploy: workers are replaced one after the other under load. It costs nobody a try, and each job runs once.
func deploy(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	var book ledger
	log := newLog(t)
	start := func() func() error {
		cfg := quick()
		cfg.MaxJobs = 4
		cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
		worker := w.worker(t, cfg, w.again(t, s))
		consumer.Handle(worker, number, func(ctx context.Context, job *consumer.Job[int]) error {
			if job.Attempt != 1 {
				t.Errorf("job %d is in attempt %d", job.Data, job.Attempt)
			}
			select {
			case <-time.After(time.Millisecond):
				book.add(job.Data)
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		return run(t, worker)
	}
	const n = 2000
	stops := []func() error{start(), start(), start()}
	for i := 0; i < n; i += 200 {
		publish(t, s, numbers(i, i+200)...)
		if err := stops[0](); err != nil {
			t.Fatal(err)
		}
		stops = append(stops[1:], start())
	}
	drained(t, s)
	book.want(t, n, once)
	if log.says("go back to the group") {
		t.Error("some jobs had to wait for a lease")
	}
	for _, stop := range stops {
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	if list := consumers(t, s, s.Name()); len(list) != 0 && !log.says("stays behind") { // which takes a second at most
		t.Errorf("consumers that are left: %v", list)
	}
	w.clean(t, s)
}

// stuck: a handler that ignores the end of its context is named by Run, and its
// job, which may still run, is not handed back: its lease has to run out.
func stuck(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	cfg := quick()
	cfg.Grace = 100 * time.Millisecond
	stubborn := w.worker(t, cfg, s)
	release := make(chan struct{})
	consumer.Handle(stubborn, number, func(context.Context, *consumer.Job[int]) error { <-release; return nil })
	stop := run(t, stubborn)
	publish(t, s, number.Job(1))
	wait(t, "the job to run", func() bool { return len(stubborn.Running()) == 1 })
	heir := w.worker(t, quick(), s)
	ran := make(chan int, 1)
	consumer.Handle(heir, number, func(_ context.Context, job *consumer.Job[int]) error { ran <- job.Attempt; return nil })
	run(t, heir)
	var named *consumer.StuckError
	if err := stop(); !errors.As(err, &named) || len(named.Jobs) != 1 {
		t.Errorf("Run returned %v, want a StuckError that names the job", err)
	}
	select {
	case <-ran:
		t.Error("the job was handed back while it may still run")
	default:
	}
	if attempt := receive(t, "the next run", ran); attempt != 1 {
		t.Errorf("it ran again in attempt %d, want the first: a crash costs no try", attempt)
	}
	close(release)
	drained(t, s)
}

// noHoarding: a worker whose jobs take long leaves the others to those who are idle.
func noHoarding(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	cfg := quick()
	cfg.MaxJobs = 2
	slow := w.worker(t, cfg, s)
	release := make(chan struct{})
	consumer.Handle(slow, number, func(ctx context.Context, _ *consumer.Job[int]) error {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil
	})
	run(t, slow)
	publish(t, s, numbers(0, 50)...)
	wait(t, "the slow worker to be busy", func() bool { return len(slow.Running()) == cfg.MaxJobs })
	var done atomic.Int64
	idle := w.worker(t, quick(), s)
	consumer.Handle(idle, number, func(context.Context, *consumer.Job[int]) error { done.Add(1); return nil })
	run(t, idle)
	wait(t, "all jobs but the two", func() bool { return done.Load() == 48 }) // the slow one keeps the leases of what it holds
	close(release)
	drained(t, s)
}
