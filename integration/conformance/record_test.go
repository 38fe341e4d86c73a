package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// results are waited for while jobs run, are deferred, retried and buried, and are on record afterwards; jobs are looked up
// wherever they are. On an events stream each group has its own.
func results(t *testing.T, w *world) {
	for kind, names := range map[string][]string{"queue": {group}, "events": {"mail", "audit"}} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			cfg := stream.Config{}
			if kind == "events" {
				cfg = events
			}
			s := w.stream(t, cfg)
			for _, name := range names {
				worker := w.workerOf(t, name, quick(), s)
				consumer.HandleResult(worker, number, func(_ context.Context, job *consumer.Job[int]) (string, error) {
					switch {
					case job.Data%5 == 1 && job.Attempt == 1:
						return "", errors.New("once more")
					case job.Data%5 == 2:
						return "", consumer.Permanent(errors.New("never"))
					}
					return fmt.Sprint(job.Group, " ", job.Data), nil
				})
				run(t, worker)
				wait(t, "the worker", func() bool { return worker.Health().Ready })
			}
			jobs := numbers(0, 50)
			for i := range jobs {
				if i%2 == 0 {
					jobs[i].ID = fmt.Sprintf("job-%d", i)
				}
			}
			later := stream.Job{Type: number.Name, Data: 0, ID: "later", Delay: time.Hour}
			receipts := publish(t, s, append(jobs, later)...)
			if info, err := s.Get(t.Context(), "later"); err != nil || info.State != stream.Scheduled {
				t.Errorf("deferred: %+v, %v", info, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var all sync.WaitGroup
			for i := range jobs {
				all.Go(func() {
					info, err := s.Wait(ctx, receipts[i].ID)
					want := stream.Completed
					if i%5 == 2 {
						want = stream.Dead
					}
					if err != nil || info.State != want || info.Type != number.Name {
						t.Errorf("job %d: %+v, %v, want it %s", i, info, err, want)
					}
					if kind == "events" {
						for _, name := range names {
							if one := info.Groups[name]; one.State != want || want == stream.Completed && string(one.Result) != fmt.Sprintf("%q", fmt.Sprint(name, " ", i)) {
								t.Errorf("job %d in %s: %+v", i, name, one)
							}
						}
						return
					}
					result, err := stream.Result[string](ctx, s, receipts[i].ID)
					var failed *stream.JobError
					if want == stream.Completed && (err != nil || result != fmt.Sprint(group, " ", i)) || want == stream.Dead && !errors.As(err, &failed) {
						t.Errorf("job %d: %q, %v", i, result, err)
					}
				})
			}
			all.Wait()
			if _, err := s.Get(t.Context(), "never was"); !errors.Is(err, stream.ErrNotFound) {
				t.Errorf("no such job: %v", err)
			}
		})
	}
}
