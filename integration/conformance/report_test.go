package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// reports: what handlers say while they run is found meanwhile and afterwards, jobs are moved and retried, and keyed work is done
// once. On an events stream each group has its own.
func reports(t *testing.T, w *world) {
	for kind, names := range map[string][]string{"queue": {group}, "events": {"mail", "audit"}} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			cfg := stream.Config{}
			if kind == "events" {
				cfg = events
			}
			s := w.stream(t, cfg)
			gate := make(chan struct{})
			var book ledger
			for _, name := range names {
				cfg := quick()
				cfg.KeepStatus = consumer.KeepAll
				worker := w.workerOf(t, name, cfg, s)
				worker.Use(consumer.Once(consumer.RedisOnceStore(s), consumer.OnceConfig{Key: func(d *consumer.Delivery) string {
					if d.Header["key"] == "" {
						return ""
					}
					return d.Group + d.Header["key"]
				}}))
				consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error {
					runs := book.add(name, job.Data)
					job.Progress(0.5, fmt.Sprint(name, " ", job.Data))
					job.Logf("run %d", runs)
					switch {
					case job.Data == 1:
						<-gate
					case job.Data == 2 && runs == 1:
						return consumer.RetryAfter(errors.New("in an hour"), time.Hour)
					case job.Data == 3 && runs == 1:
						return consumer.Permanent(errors.New("never"))
					}
					job.Logf("done")
					return nil
				})
				run(t, worker)
				wait(t, "the worker", func() bool { return worker.Health().Ready })
			}
			jobs := append(numbers(1, 4), stream.Job{Type: number.Name, Data: 4, Delay: time.Hour},
				stream.Job{Type: number.Name, Data: 5, Header: map[string]string{"key": "k"}}, stream.Job{Type: number.Name, Data: 6, Header: map[string]string{"key": "k"}})
			receipts := publish(t, s, jobs...)
			in := func(name string, i int) stream.Info {
				t.Helper()
				info, err := s.Get(t.Context(), receipts[i].ID)
				if err != nil {
					t.Fatal(err)
				}
				if kind == "events" && info.Groups != nil {
					return info.Groups[name]
				}
				return info
			}
			lines := func(name string, i int) (texts []string) {
				t.Helper()
				list, err := s.Log(t.Context(), name, receipts[i].ID, 0)
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range list {
					texts = append(texts, fmt.Sprint(l.Attempt, " ", l.Text))
				}
				return texts
			}
			for _, name := range names {
				wait(t, "progress of a job that runs", func() bool {
					info := in(name, 0)
					return info.State == stream.Active && info.Progress.Note == fmt.Sprint(name, " ", 1)
				})
				wait(t, "a retry", func() bool { return in(name, 1).State == stream.Retrying })
				wait(t, "a dead letter", func() bool { return in(name, 2).State == stream.Dead })
				if _, err := s.Move(t.Context(), name, receipts[1].ID, stream.When{Delay: 2 * time.Hour}); err != nil || time.Until(in(name, 1).Due) < time.Hour {
					t.Errorf("moved: %v, due %s", err, in(name, 1).Due)
				}
				for i, want := range map[int]stream.State{1: stream.Retrying, 2: stream.Dead} {
					if was, err := s.Retry(t.Context(), name, receipts[i].ID); err != nil || was != want {
						t.Errorf("job %d was %s, %v, want %s", i, was, err, want)
					}
				}
			}
			if _, err := s.Move(t.Context(), "", receipts[3].ID, stream.When{}); err != nil {
				t.Error(err)
			}
			close(gate)
			for _, name := range names {
				for i := range jobs {
					wait(t, "the end of a job", func() bool { return in(name, i).State == stream.Completed })
				}
				for i, want := range map[int]string{0: "[1 run 1 1 done]", 1: "[1 run 1 2 run 2 2 done]", 2: "[1 run 1 1 run 2 1 done]", 3: "[1 run 1 1 done]"} {
					if got := fmt.Sprint(lines(name, i)); got != want {
						t.Errorf("the log of job %d in %s: %s, want %s", i, name, got, want)
					}
					if p := in(name, i).Progress; p.Note != fmt.Sprint(name, " ", i+1) {
						t.Errorf("the progress of job %d in %s: %+v", i, name, p)
					}
				}
				if n := book.of(name, 5) + book.of(name, 6); n != 1 {
					t.Errorf("work of one key was done %d times in %s", n, name)
				}
			}
		})
	}
}
