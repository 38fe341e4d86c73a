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

// cancels end jobs that are deferred, retrying, waiting and running; the worker hears of these, or reads of them with a heartbeat.
// On an events stream that is done in one group, and in all.
func cancels(t *testing.T, w *world) {
	for kind, names := range map[string][]string{"queue": {group}, "events": {"mail", "audit"}} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			cfg := stream.Config{}
			if kind == "events" {
				cfg = events
			}
			s := w.stream(t, cfg)
			silent := over(t, w.silent(t), s.Name(), cfg)
			if kind == "queue" {
				waiting := publish(t, s, number.Job(0))[0].ID // nobody has come to read it
				cancelled(t, s, waiting, stream.Cancelled)
			}
			var book ledger
			started, causes := make(chan string, 100), make(chan error, 100)
			for _, name := range names {
				worker := w.workerOf(t, name, quick(), s)
				consumer.Handle(worker, number, func(ctx context.Context, job *consumer.Job[int]) error {
					book.add(job.Group, job.ID)
					if job.Data == 1 {
						return consumer.RetryAfter(errors.New("later"), time.Hour)
					}
					started <- job.ID
					<-ctx.Done()
					causes <- context.Cause(ctx)
					return errors.New("broken off")
				})
				run(t, worker)
			}
			for _, id := range []string{"chosen", ""} {
				job := stream.Job{Type: number.Name, Data: 0, ID: id}
				deferred := job
				if deferred.Delay = time.Hour; id != "" {
					deferred.ID += "-later"
				}
				later := publish(t, s, deferred)[0].ID
				cancelled(t, s, later, stream.Cancelled)
				for n, by := range []*stream.Stream{s, silent} {
					if job.ID != "" {
						job.ID = fmt.Sprint(id, "-", n)
					}
					runs := publish(t, s, job)[0].ID
					for range names {
						receive(t, "its run", started)
					}
					if kind == "events" { // in one group, and then in all
						if state, err := by.Group(names[0]).Cancel(t.Context(), runs); err != nil || state != stream.Active {
							t.Errorf("cancelled in one group: %s, %v", state, err)
						}
						if cause := receive(t, "its end in this group", causes); !errors.Is(cause, consumer.ErrCancelled) {
							t.Errorf("its context ended with %v", cause)
						}
						wait(t, "its record", func() bool {
							info, err := s.Get(t.Context(), runs)
							return err == nil && info.Groups[names[0]].State == stream.Cancelled
						})
						if info, err := s.Get(t.Context(), runs); err != nil || info.Groups[names[1]].State != stream.Active {
							t.Errorf("the other group's part: %+v, %v", info, err)
						}
					}
					cancelled(t, by, runs, stream.Active)
					if cause := receive(t, "its end", causes); !errors.Is(cause, consumer.ErrCancelled) {
						t.Errorf("its context ended with %v", cause)
					}
					if info, err := s.Wait(t.Context(), runs); err != nil || info.State != stream.Cancelled {
						t.Errorf("it ended otherwise: %+v, %v", info, err)
					}
				}
			}
			retrying := publish(t, s, number.Job(1))[0].ID
			wait(t, "a job to be retried", func() bool {
				info, err := s.Get(t.Context(), retrying)
				return err == nil && info.State == stream.Retrying
			})
			cancelled(t, s, retrying, stream.Cancelled)
			drained(t, s, names...)
			for what, runs := range book.runs {
				if runs != 1 {
					t.Errorf("%s ran %d times", what, runs)
				}
			}
			if kind == "queue" {
				wait(t, "the marks to go", func() bool { return s.Client().Exists(t.Context(), "{"+s.Name()+"}:cancelled").Val() == 0 })
				w.clean(t, s)
			}
		})
	}
}

func cancelled(t *testing.T, s *stream.Stream, id string, want stream.State) {
	t.Helper()
	if state, err := s.Cancel(t.Context(), id); err != nil || state != want {
		t.Errorf("cancel %s: %s, %v, want it %s", id, state, err, want)
	}
}

// switches hold jobs back, or cancel them, by a field of their data, in workers that are there and in those that come later,
// until they are lifted. What they are not for runs.
func switches(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	data := func(tenant string) stream.Job {
		return stream.Job{Type: "mail", Data: map[string]string{"tenant": tenant}}
	}
	var book ledger
	running, causes := make(chan string, 10), make(chan error, 10)
	handle := func(ctx context.Context, job *consumer.Job[map[string]string]) error {
		book.add(job.Data["tenant"])
		if job.Data["tenant"] == "bad" {
			running <- job.ID
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return ctx.Err()
		}
		return nil
	}
	mail := stream.Type[map[string]string]{Name: "mail"}
	start := func() *consumer.Worker {
		worker := w.worker(t, quick(), w.again(t, s))
		consumer.Handle(worker, mail, handle)
		run(t, worker)
		return worker
	}
	first := start()
	bad := publish(t, s, data("bad"))[0].ID
	receive(t, "it to run", running)
	add := func(action stream.SwitchAction, tenant string) stream.Switch {
		sw, err := s.AddSwitch(t.Context(), stream.Switch{Action: action, Type: "mail", Field: "tenant", Value: tenant, Reason: "a test"})
		if err != nil {
			t.Fatal(err)
		}
		return sw
	}
	pause, cancel := add(stream.PauseJobs, "late"), add(stream.CancelJobs, "bad")
	if cause := receive(t, "its end", causes); !errors.Is(cause, consumer.ErrCancelled) {
		t.Errorf("its context ended with %v", cause)
	}
	if info, err := s.Wait(t.Context(), bad); err != nil || info.State != stream.Cancelled {
		t.Errorf("what ran is %+v, %v", info, err)
	}
	second := start()
	const n = 20
	for range n {
		publish(t, s, data("late"), data("bad"), data("good"))
	}
	wait(t, "all to have had their turn", func() bool {
		a, b := first.Stats(), second.Stats()
		return a.Paused+b.Paused >= n && a.Cancelled+b.Cancelled == n+1 && a.Completed+b.Completed == n
	})
	if book.of("late") != 0 || book.of("bad") != 1 || book.of("good") != n {
		t.Errorf("runs: %v", book.runs)
	}
	if list, err := s.Switches(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("the switches: %v, %v", list, err)
	}
	for _, sw := range []stream.Switch{pause, cancel} {
		if err := s.RemoveSwitch(t.Context(), sw.ID); err != nil {
			t.Error(err)
		}
	}
	drained(t, s)
	if book.of("late") != n {
		t.Errorf("of those that were put off %d ran, want %d", book.of("late"), n)
	}
	wait(t, "what was put off to be forgotten", func() bool { return s.Client().Exists(t.Context(), "{"+s.Name()+"}:g:"+group+":paused").Val() == 0 })
	w.clean(t, s)
}
