package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// ticks: a tick is one job, however many ask for it at once, and when that job is done and its ID free; none comes early, and
// one that is to be skipped while the last job lives is skipped.
func ticks(t *testing.T, w *world) {
	for what, change := range map[string]func(*stream.Job){
		"plain":   func(*stream.Job) {},
		"delayed": func(j *stream.Job) { j.Delay = 100 * time.Millisecond },
		"unique":  func(j *stream.Job) { j.Unique.Key = "k" },
		"both":    func(j *stream.Job) { j.Delay, j.Unique.Key = 100*time.Millisecond, "k" },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := w.stream(t, stream.Config{})
			asks := func(by *stream.Stream, n int, k engine.Tick) string {
				job := number.Job(n)
				job.ID = fmt.Sprint("cron:beat:", n)
				change(&job)
				k.Schedule, k.Since = "beat", time.Unix(1_000_000_000, 0)
				k.At = k.Since.Add(time.Duration(n) * time.Second)
				got, err := by.Tick(t.Context(), job, k)
				if err != nil {
					t.Errorf("tick %d: %v", n, err)
				}
				return got.What
			}
			ask := func(n int, k engine.Tick, want string) {
				t.Helper()
				if got := asks(s, n, k); got != want {
					t.Errorf("tick %d was %s, want it %s", n, got, want)
				}
			}
			var now engine.Tick
			ask(1, now, engine.TickNew)
			ask(1, engine.Tick{Fire: time.Now().Add(time.Hour)}, engine.TickEarly)
			var got ledger
			var wg sync.WaitGroup
			for range 4 {
				by := w.again(t, s)
				wg.Go(func() { got.add(asks(by, 1, now)) })
			}
			wg.Wait()
			if got.of(engine.TickPublished) != 1 || got.of(engine.TickRecorded) != 3 {
				t.Errorf("of four who asked at once: %v, want one to publish", got.runs)
			}
			ask(2, engine.Tick{Skip: true}, engine.TickSkipped)
			var book ledger
			worker := w.worker(t, quick(), s)
			consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error { book.add(job.Data); return nil })
			run(t, worker)
			schedule(t, s.Client())
			drained(t, s)
			w.forget(t)
			for n := 2; n >= 1; n-- {
				ask(n, now, engine.TickRecorded)
			}
			ask(3, engine.Tick{Skip: true}, engine.TickPublished)
			drained(t, s)
			for n, want := range map[int]int{1: 1, 2: 0, 3: 1} {
				if runs := book.of(n); runs != want {
					t.Errorf("the job of tick %d ran %d times, want %d", n, runs, want)
				}
			}
			w.clean(t, s)
		})
	}
}

// forget has the servers forget all scripts.
func (w *world) forget(t *testing.T) {
	t.Helper()
	for _, node := range w.server.Nodes(t) {
		if err := node.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// beats are the runs of the jobs of schedules.
type beats struct {
	mu  sync.Mutex
	ids map[string]int
	at  []time.Time // ticks
}

// handle counts a run, of jobs of every type.
func (b *beats) handle(t *testing.T) consumer.Handler {
	return func(_ context.Context, d *consumer.Delivery) error {
		at, err := time.Parse(time.RFC3339, d.Header["penstock-tick"])
		if err != nil || d.Header["penstock-schedule"] == "" {
			t.Errorf("job %s has the headers %v", d.ID, d.Header)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.ids == nil {
			b.ids = make(map[string]int)
		}
		b.ids[d.ID]++
		if d.Type != "later" && d.ID == "cron:"+d.Header["penstock-schedule"]+":"+d.Header["penstock-tick"] {
			b.at = append(b.at, at)
		}
		return nil
	}
}

// sorted are the ticks whose jobs have run.
func (b *beats) sorted() []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := slices.Clone(b.at)
	slices.SortFunc(at, time.Time.Compare)
	return at
}

func (b *beats) of(id string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ids[id]
}

// schedules that are kept in Redis are made, paused, resumed, run and removed while schedulers run, each of which reads them: of
// each second there is one job, and of those in which the schedule was paused none.
func schedules(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	var seen beats
	worker := w.worker(t, quick(), s)
	worker.HandleOther(seen.handle(t))
	run(t, worker)
	for range 2 {
		schedule(t, w.server.Client(t))
	}
	store := keep(t, w.client(t))
	beat := scheduler.Schedule{Name: s.Name(), Every: time.Second, Stream: s, Job: stream.Job{Type: "beat"}}
	if err := store.Put(t.Context(), beat); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Remove(context.WithoutCancel(t.Context()), beat.Name) })
	wait(t, "three ticks", func() bool { return len(seen.sorted()) >= 3 })
	if err := store.Pause(t.Context(), beat.Name); err != nil {
		t.Fatal(err)
	}
	// Who has fired a schedule that was put later has heard of the pause.
	later := scheduler.Schedule{Name: s.Name() + "-later", Every: time.Second, Stream: s, Job: stream.Job{Type: "later"}}
	if err := store.Put(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Remove(context.WithoutCancel(t.Context()), later.Name) })
	wait(t, "a tick of another schedule", func() bool {
		st, err := store.Show(t.Context(), later.Name)
		return err == nil && st.Outcome == engine.TickPublished
	})
	if err := store.Remove(t.Context(), later.Name); err != nil {
		t.Error(err)
	}
	n, since := 0, time.Now()
	wait(t, "ticks to end", func() bool {
		if now := len(seen.sorted()); now != n {
			n, since = now, time.Now()
		}
		return time.Since(since) > 3*time.Second
	})
	st, err := store.Show(t.Context(), beat.Name)
	if err != nil || !st.Paused || !st.Next.IsZero() || !st.Last.Equal(seen.sorted()[n-1]) || st.Outcome != engine.TickPublished || st.Schedule.Every != time.Second {
		t.Errorf("paused, it is %+v, %v", st, err)
	}
	id, published, err := store.RunNow(t.Context(), beat.Name)
	if err != nil || !published {
		t.Error(err)
	}
	wait(t, "the job of the run", func() bool { return seen.of(id) == 1 })
	resumed := w.now(t)
	if err := store.Resume(t.Context(), beat.Name); err != nil {
		t.Fatal(err)
	}
	wait(t, "three ticks more", func() bool { return len(seen.sorted()) >= n+3 })
	if err := store.Remove(t.Context(), beat.Name); err != nil {
		t.Error(err)
	}
	if _, err := store.Show(t.Context(), beat.Name); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("removed, it is shown: %v", err)
	}
	all := seen.sorted()
	for i, at := range all[1:] {
		switch from := all[i]; {
		case i+1 == n && at.After(resumed):
		case i+1 == n || !at.Equal(from.Add(time.Second)):
			t.Errorf("tick %d is %s, behind one of %s; %d ran until it was paused, and it was resumed at %s", i+1, at, from, n, resumed)
		}
	}
}

// keep is a store of schedules.
func keep(t *testing.T, rdb redis.UniversalClient) *scheduler.Store {
	t.Helper()
	s, err := scheduler.New(rdb, scheduler.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return s.Store()
}

// now by Redis's clock.
func (w *world) now(t *testing.T) time.Time {
	t.Helper()
	now, err := w.client(t).Time(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	return now
}
