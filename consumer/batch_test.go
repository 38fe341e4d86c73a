package consumer_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

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

// TestBatchesAreNotPassedAround: what a batch worker can't start it does not read, hand back and read again.
func TestBatchesAreNotPassedAround(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		maxJobs, size, first, jobs int
		takes                      time.Duration
	}{
		"a backlog":       {1, 100, 0, 1500, 100 * time.Millisecond},
		"partial batches": {2, 100, 2, 150, 2500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStream(t, redistest.Client(t), stream.Config{})
			cfg := quick()
			cfg.MaxJobs = tc.maxJobs
			w := newWorker(t, cfg, s)
			var calls atomic.Int64
			consumer.HandleBatch(w, ping, tc.size, func(context.Context, []*consumer.Job[int]) []error {
				calls.Add(1)
				<-time.After(tc.takes)
				return nil
			})
			run(t, w)
			for i := range tc.first { // each starts a batch of one
				publish(t, s, ping.Job(i))
				redistest.Wait(t, "a batch of one", func() bool { return w.Stats().Started == int64(i+1) })
			}
			publish(t, s, many(tc.jobs)...)
			redistest.Wait(t, "the jobs", func() bool { return w.Stats().Completed == int64(tc.first+tc.jobs) })
			if runs := calls.Load(); tc.jobs > 1000 && runs > int64(tc.jobs/tc.size)*2 {
				t.Errorf("%d batches for %d jobs, want nearly full ones of %d", runs, tc.jobs, tc.size)
			}
			if back := w.Stats().HandedBack; back > int64(tc.jobs)/2 { // a few may: a small batch leaves what was meant for its rest
				t.Errorf("%d of %d jobs were handed back, want few", back, tc.jobs)
			}
		})
	}
}
