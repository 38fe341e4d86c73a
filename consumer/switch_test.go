package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

func addSwitch(t *testing.T, s *stream.Stream, sw stream.Switch) stream.Switch {
	t.Helper()
	set, err := s.AddSwitch(t.Context(), sw)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func removeSwitch(t *testing.T, s *stream.Stream, sw stream.Switch) {
	t.Helper()
	if err := s.RemoveSwitch(t.Context(), sw.ID); err != nil {
		t.Fatal(err)
	}
}

func ofTenant(typ, tenant string) stream.Job {
	return stream.Job{Type: typ, Data: map[string]string{"tenant": tenant}}
}

// TestPauseSwitch: what it is for does not start, here and in a worker that comes later; it loses no try, and goes on once the
// switch is lifted, though no heartbeat comes and the jobs are not due for long.
func TestPauseSwitch(t *testing.T) {
	t.Parallel()
	for _, kind := range []stream.Kind{stream.KindQueue, stream.KindEvents} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newStream(t, redistest.Client(t), stream.Config{Kind: kind})
			cfg := quick()
			cfg.Lease = time.Hour
			var book ledger
			handle := func(_ context.Context, d *consumer.Delivery) error {
				book.add(d.ID)
				if d.Attempt != 1 {
					return fmt.Errorf("attempt %d", d.Attempt)
				}
				return nil
			}
			w := newWorker(t, cfg, s)
			w.HandleOther(handle)
			stop := run(t, w)
			sw := addSwitch(t, s, stream.Switch{Action: stream.PauseJobs, Type: "mail", Field: "tenant", Value: "acme", Reason: "too many"})
			redistest.Wait(t, "the switch to be obeyed", func() bool {
				publish(t, s, ofTenant("mail", "acme"))
				return w.Stats().Paused > 0
			})
			redistest.Wait(t, "those before it to run", func() bool { d := depths(t, s); return d.Waiting == 0 && d.Active == 0 })
			before := book.total()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			late := newWorker(t, cfg, s)
			late.HandleOther(handle)
			run(t, late)
			paused := publish(t, s, ofTenant("mail", "acme"), ofTenant("mail", "acme"))
			publish(t, s, ofTenant("mail", "other"), ofTenant("page", "acme"), stream.Job{Type: "mail", Data: []byte("no JSON")})
			redistest.Wait(t, "the others to run, and these to wait", func() bool { return late.Stats().Paused >= 2 && book.total() == before+3 })
			info := becomes(t, s, paused[0].ID, stream.Retrying)
			if left := time.Until(info.Due); info.Attempt != 1 || left < time.Second || left > time.Minute {
				t.Errorf("a paused job: %+v, due in %s", info, left)
			}
			d := depths(t, s)
			removeSwitch(t, s, sw)
			redistest.Wait(t, "all to run", func() bool { return int64(book.total()) == int64(before+3)+d.Retrying })
			idle(t, s)
			if n := late.Stats(); n.Retried > 0 || n.Dead > 0 || n.Cancelled > 0 {
				t.Errorf("%+v", n)
			}
			for _, r := range paused {
				if book.of(r.ID) != 1 {
					t.Errorf("%s ran %d times", r.ID, book.of(r.ID))
				}
			}
		})
	}
}

// TestPauseSwitchIsOver: what it holds back goes on by itself when its time has come, though nobody hears of it.
func TestPauseSwitchIsOver(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	w := newWorker(t, quick(), s)
	var book ledger
	w.HandleOther(func(_ context.Context, d *consumer.Delivery) error { book.add(d.ID); return nil })
	sw := addSwitch(t, s, stream.Switch{Action: stream.PauseJobs, Type: "mail", For: time.Second})
	id := publish(t, s, stream.Job{Type: "mail"})[0].ID
	run(t, w)
	if info := becomes(t, s, id, stream.Retrying); info.Due.After(sw.Expires.Add(time.Second)) {
		t.Errorf("it is due at %s, and the switch is over at %s", info.Due, sw.Expires)
	}
	idle(t, s)
	if book.of(id) != 1 {
		t.Errorf("it ran %d times", book.of(id))
	}
	if list, err := s.Switches(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// TestCancelSwitch: what runs is told, what waits ends without having run, and what it is not for goes on.
func TestCancelSwitch(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	cfg := quick()
	cfg.Lease, cfg.MaxJobs = time.Hour, 2
	w := newWorker(t, cfg, s)
	running, causes, other := make(chan string, 10), make(chan error, 10), make(chan struct{})
	var book ledger
	w.HandleOther(func(ctx context.Context, d *consumer.Delivery) error {
		book.add(d.ID)
		running <- d.ID
		select {
		case <-other:
			return nil
		case <-ctx.Done():
			causes <- context.Cause(ctx)
			return ctx.Err()
		}
	})
	jobs := []stream.Job{ofTenant("mail", "acme"), ofTenant("mail", "other"), ofTenant("mail", "acme"), ofTenant("mail", "other")}
	var ids []string
	for _, r := range publish(t, s, jobs...) {
		ids = append(ids, r.ID)
	}
	run(t, w)
	<-running
	<-running
	addSwitch(t, s, stream.Switch{Action: stream.PauseJobs, Type: "mail", Field: "tenant", Value: "none"})
	addSwitch(t, s, stream.Switch{Action: stream.CancelJobs, Type: "mail", Field: "tenant", Value: "acme", Reason: "they sent it twice"})
	if cause := <-causes; !errors.Is(cause, consumer.ErrCancelled) {
		t.Errorf("the cause is %v", cause)
	}
	if info := becomes(t, s, ids[0], stream.Cancelled); !strings.Contains(info.Err, "they sent it twice") {
		t.Errorf("cancelled while it ran: %+v", info)
	}
	if info := becomes(t, s, ids[2], stream.Cancelled); !strings.Contains(info.Err, "they sent it twice") || !info.Started.IsZero() {
		t.Errorf("cancelled before it ran: %+v", info)
	}
	close(other)
	idle(t, s)
	for i, want := range []int{1, 1, 0, 1} {
		if book.of(ids[i]) != want {
			t.Errorf("job %d ran %d times, want %d", i, book.of(ids[i]), want)
		}
	}
	redistest.Wait(t, "the ends to be counted", func() bool { n := w.Stats(); return n.Cancelled+n.Completed == 4 })
	if n := w.Stats(); n.Cancelled != 2 || n.Completed != 2 || n.Retried+n.Dead+n.Paused > 0 {
		t.Errorf("%+v", n)
	}
}

// TestSwitchOfAGroup holds back nobody else's jobs.
func TestSwitchOfAGroup(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{Kind: stream.KindEvents})
	addSwitch(t, s, stream.Switch{Action: stream.PauseJobs, Type: "mail", Group: "audit"})
	addSwitch(t, s, stream.Switch{Action: stream.CancelJobs, Type: "mail", Group: "archive"})
	books := make(map[string]*ledger)
	workers := make(map[string]*consumer.Worker)
	for _, name := range []string{group, "audit", "archive"} {
		w, err := consumer.New(name, quick(), s)
		if err != nil {
			t.Fatal(err)
		}
		book := &ledger{}
		w.HandleOther(func(_ context.Context, d *consumer.Delivery) error { book.add(d.ID); return nil })
		books[name], workers[name] = book, w
		run(t, w)
	}
	id := publish(t, s, stream.Job{Type: "mail"})[0].ID
	redistest.Wait(t, "each to have had it", func() bool {
		return workers[group].Stats().Completed == 1 && workers["audit"].Stats().Paused == 1 && workers["archive"].Stats().Cancelled == 1
	})
	if books[group].of(id) != 1 || books["audit"].of(id) != 0 || books["archive"].of(id) != 0 {
		t.Errorf("it ran %d, %d and %d times", books[group].of(id), books["audit"].of(id), books["archive"].of(id))
	}
}

// TestSwitchUnheard: a worker whose wake-up channel is down obeys all the same, long before its heartbeat would come.
func TestSwitchUnheard(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	cfg := quick()
	cfg.Lease = time.Hour
	deaf := mute(t, s)
	w := newWorker(t, cfg, deaf)
	w.HandleOther(func(context.Context, *consumer.Delivery) error { return nil })
	run(t, w)
	sw := addSwitch(t, s, stream.Switch{Action: stream.PauseJobs, Type: "mail"})
	redistest.Wait(t, "the switch to be obeyed", func() bool {
		publish(t, s, stream.Job{Type: "mail"})
		return w.Stats().Paused > 0
	})
	removeSwitch(t, s, sw)
	idle(t, s)
}

// TestSwitchesOfAnotherType: a key that is no hash stops nothing, and is said once.
func TestSwitchesOfAnotherType(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	if err := s.Client().Set(t.Context(), key(s, "switches"), "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	w := newWorker(t, quick(), s)
	w.HandleOther(func(context.Context, *consumer.Delivery) error { return nil })
	run(t, w)
	publish(t, s, stream.Job{Type: "mail"})
	idle(t, s)
	if w.Stats().Completed != 1 {
		t.Errorf("%+v", w.Stats())
	}
	if _, err := s.AddSwitch(t.Context(), stream.Switch{Action: stream.PauseJobs, Type: "mail"}); err == nil {
		t.Error("a switch was set in a key that is no hash")
	}
}

// TestSwitchOfLatestData: a job that has taken the data of one behind its lock is what these say.
func TestSwitchOfLatestData(t *testing.T) {
	t.Parallel()
	for action, batch := range map[stream.SwitchAction]bool{stream.PauseJobs: false, stream.CancelJobs: true} {
		t.Run(string(action), func(t *testing.T) {
			t.Parallel()
			s := newStream(t, redistest.Client(t), stream.Config{})
			w := newWorker(t, quick(), s)
			mail := stream.Type[map[string]string]{Name: "mail"}
			var book ledger
			if batch {
				consumer.HandleBatch(w, mail, 2, func(_ context.Context, jobs []*consumer.Job[map[string]string]) []error {
					for _, job := range jobs {
						book.add(job.Data["tenant"])
					}
					return make([]error, len(jobs))
				})
			} else {
				consumer.Handle(w, mail, func(_ context.Context, job *consumer.Job[map[string]string]) error {
					book.add(job.Data["tenant"])
					return nil
				})
			}
			sw := addSwitch(t, s, stream.Switch{Action: action, Type: "mail", Field: "tenant", Value: "acme"})
			for _, tenant := range []string{"other", "acme"} {
				job := ofTenant("mail", tenant)
				job.Unique = stream.Unique{Key: "k", OnConflict: stream.Coalesce}
				publish(t, s, job)
			}
			run(t, w)
			redistest.Wait(t, "the switch to be obeyed", func() bool {
				n := w.Stats()
				return n.Paused+n.Cancelled+n.Completed > 0
			})
			if book.total() > 0 {
				t.Errorf("it ran with %v", book.runs)
			}
			if action == stream.PauseJobs {
				removeSwitch(t, s, sw)
			}
			idle(t, s)
			if n := book.of("acme"); action == stream.PauseJobs && n != 1 || book.of("other") > 0 || action == stream.CancelJobs && n > 0 {
				t.Errorf("in the end it ran with %v", book.runs)
			}
		})
	}
}

// TestPausedLate: a job that was put off only after its switch had been lifted does not wait for its time.
func TestPausedLate(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	cfg := quick()
	cfg.Lease = time.Hour
	w := newWorker(t, cfg, s)
	var book ledger
	w.HandleOther(func(_ context.Context, d *consumer.Delivery) error { book.add(d.ID); return nil })
	s.Client().Set(t.Context(), key(s, "retrying:jobs"), "in the way", 0)
	sw := addSwitch(t, s, stream.Switch{Action: stream.PauseJobs, Type: "mail"})
	run(t, w)
	s.Client().XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []string{"type", "mail", "data", "", "traceparent", "", "opts", `{"id":"x","pz":6}`}})
	redistest.Wait(t, "its end to be refused", func() bool { h := w.Health(); return h.Problem != nil })
	removeSwitch(t, s, sw)
	redistest.Wait(t, "the lift to be heard", func() bool { publish(t, s, stream.Job{Type: "mail"}); return book.total() > 0 })
	s.Client().Del(t.Context(), key(s, "retrying:jobs"))
	redistest.Wait(t, "it to run", func() bool { return book.of("x") == 1 })
	idle(t, s)
}
