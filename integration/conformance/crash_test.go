package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// killedWorkers: what a worker held when it died, running or read ahead, and
// what others had read and not begun, is done by those that live, once, and it costs no try.
func killedWorkers(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	const n = 60
	cfg := quick()
	cfg.MaxJobs = 5
	v := w.victim(t, cfg, s.Name())
	consumer.Handle(v.Worker, number, func(context.Context, *consumer.Job[int]) error { <-v.end; return nil })
	v.run(t)
	wait(t, "the worker", func() bool { return v.Health().Ready })
	jobs := numbers(0, n)
	for i := range jobs {
		if i%3 == 0 {
			jobs[i].ID = fmt.Sprintf("job-%d", i)
		}
	}
	publish(t, s, jobs...)
	wait(t, "the worker to have its hands full", func() bool { return len(v.Running()) == cfg.MaxJobs })
	v.kill()
	raw := w.client(t)
	if got := killed(t, raw, s, s.Name(), 20); got != 20 {
		t.Fatalf("%d entries were read, want 20", got)
	}

	var book ledger
	var reclaimed []*consumer.Worker
	start := time.Now()
	for range 2 {
		heir := w.worker(t, quick(), s)
		consumer.Handle(heir, number, func(_ context.Context, job *consumer.Job[int]) error {
			book.add(job.Data)
			if job.Attempt != 1 {
				t.Errorf("job %d is in attempt %d: a crash costs no try", job.Data, job.Attempt)
			}
			return nil
		})
		run(t, heir)
		reclaimed = append(reclaimed, heir)
	}
	drained(t, s)
	if took := time.Since(start); took < lease/2 {
		t.Errorf("all was done after %s: leases were not over", took)
	}
	book.want(t, n, once)
	wait(t, "the jobs of two dead workers to be counted", func() bool {
		return reclaimed[0].Stats().Reclaimed+reclaimed[1].Stats().Reclaimed >= 20+int64(cfg.MaxJobs)
	})
	if letters := dead(t, s, group, 0); len(letters) > 0 {
		t.Errorf("dead letters: %+v", letters)
	}
}

// killedWhileItComesBack: a worker that dies when it has read what came back loses nothing either.
func killedWhileItComesBack(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	first := w.worker(t, quick(), s)
	var failed atomic.Int32
	consumer.Handle(first, number, func(ctx context.Context, _ *consumer.Job[int]) error {
		if failed.Add(1) > 10 {
			<-ctx.Done() // until it stops: the job is handed back
			return ctx.Err()
		}
		return consumer.RetryAfter(errors.New("once more"), time.Hour)
	})
	cfg := first
	stop := run(t, cfg)
	publish(t, s, numbers(0, 20)...)
	wait(t, "ten jobs to fail and ten to run", func() bool { return first.Stats().Retried == 10 && len(first.Running()) == 10 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if d := depths(t, s); d.Waiting != 10 || d.Retrying != 10 {
		t.Fatalf("depths %+v, want ten jobs handed back and ten retrying", d)
	}
	if got := killed(t, w.client(t), s, "{"+s.Name()+"}:g:"+group+":redelivery", 100); got != 10 {
		t.Fatalf("%d entries were read, want ten", got)
	}
	var book ledger
	heir := w.worker(t, quick(), s)
	consumer.Handle(heir, number, func(_ context.Context, job *consumer.Job[int]) error {
		if book.add(job.Data); job.Attempt != 1 {
			t.Errorf("job %d is in attempt %d: neither a hand-back nor a crash costs a try", job.Data, job.Attempt)
		}
		return nil
	})
	run(t, heir)
	wait(t, "the jobs of the dead worker", func() bool { return heir.Stats().Completed == 10 })
	if d := depths(t, s); d.Waiting+d.Active != 0 || d.Retrying != 10 {
		t.Errorf("depths %+v, want the ten that retry in an hour", d)
	}
}

// poison: a job that kills its workers dies after three, and its nine neighbours complete.
func poison(t *testing.T, w *world) {
	const neighbours = 9
	s := w.stream(t, stream.Config{})
	var book ledger
	var kills atomic.Int32
	start := func() *victim {
		v := w.victim(t, quick(), s.Name())
		v.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
			if d.Type == "poison" {
				for kills.Load() == 0 && len(v.Running()) <= neighbours && !v.over() { // until its neighbours run
					pass(time.Millisecond)
				}
				kills.Add(1)
				v.crash()
				return nil
			}
			for kills.Load() == 0 && !v.over() { // until the first worker dies, with all of them
				pass(time.Millisecond)
			}
			if !v.completes() {
				<-v.end
				return nil
			}
			book.add(string(d.Payload))
			return nil
		})
		v.run(t)
		return v
	}
	first := start()
	wait(t, "the worker", func() bool { return first.Health().Ready })
	jobs := []stream.Job{{Type: "poison", ID: "poison"}}
	for i := range neighbours {
		jobs = append(jobs, stream.Job{Type: "neighbour", Data: i})
	}
	publish(t, s, jobs...)
	wait(t, "the first worker to die", func() bool { return kills.Load() == 1 })
	for range 3 { // two more will die
		start()
	}
	letter := dead(t, s, group, 1)[0]
	if letter.ID != "poison" || letter.Reason != "crashed" || letter.Crashes != 3 || letter.Attempt != 0 || len(letter.History) != 3 {
		t.Errorf("dead letter %+v, want the poison job after three crashes", letter)
	}
	drained(t, s)
	book.want(t, neighbours, once)
	if got := kills.Load(); got != 3 {
		t.Errorf("%d workers died, want three", got)
	}
}

// suspects: jobs whose workers died twice run one at a time, so that the guilty one takes none along; others run beside them.
func suspects(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	const n = 8
	for round := range 2 {
		v := w.victim(t, quick(), s.Name())
		consumer.Handle(v.Worker, number, func(context.Context, *consumer.Job[int]) error { <-v.end; return nil })
		v.run(t)
		if round == 0 {
			wait(t, "the worker", func() bool { return v.Health().Ready })
			publish(t, s, numbers(0, n)...)
		}
		wait(t, "all jobs to run", func() bool { return len(v.Running()) == n })
		v.kill()
	}
	var book ledger
	var running, most atomic.Int32
	last := w.worker(t, quick(), s)
	consumer.Handle(last, number, func(_ context.Context, job *consumer.Job[int]) error {
		if book.add(job.Data); job.Data >= n {
			return nil
		}
		most.Store(max(most.Load(), running.Add(1)))
		pass(20 * time.Millisecond)
		running.Add(-1)
		return nil
	})
	run(t, last)
	wait(t, "the first suspect", func() bool { return most.Load() > 0 })
	publish(t, s, numbers(n, n+50)...)
	drained(t, s)
	book.want(t, n+50, once)
	if got := most.Load(); got != 1 {
		t.Errorf("%d suspects ran at once, want one", got)
	}
	dead(t, s, group, 0)
}

// longJobs: a job may run for many leases, and nobody else takes it, nor what waits behind it.
func longJobs(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	var book ledger
	var workers []*consumer.Worker
	for range 3 {
		cfg := quick()
		cfg.MaxJobs = 2
		worker := w.worker(t, cfg, s)
		consumer.Handle(worker, number, func(ctx context.Context, job *consumer.Job[int]) error {
			if book.add(job.Data); job.Data >= 6 {
				return nil
			}
			select {
			case <-ctx.Done():
				t.Errorf("the run of job %d ended: %v", job.Data, context.Cause(ctx))
			case <-time.After(5 * lease / 2):
			}
			return nil
		})
		run(t, worker)
		workers = append(workers, worker)
	}
	publish(t, s, numbers(0, 30)...)
	drained(t, s)
	book.want(t, 30, once)
	for _, worker := range workers {
		if got := worker.Stats(); got.Reclaimed+got.LeasesLost != 0 {
			t.Errorf("stats %+v, want nothing taken over or lost", got)
		}
	}
}

// lateOutcomes: a worker that was cut off for longer than a lease hears that its
// jobs are not its own any more, and whatever it says of them, or has said meanwhile, changes nothing.
func lateOutcomes(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	types := []string{"completes", "completes with an ID", "fails", "snoozes", "gives up", "runs on"}
	cfg := quick()
	cfg.MaxJobs = len(types)
	late := w.victim(t, cfg, s.Name())
	returns, markers := make(chan struct{}), make(chan struct{})
	cause := make(chan error, 1)
	late.HandleOther(func(ctx context.Context, d *consumer.Delivery) error {
		if d.Type == "marker" {
			close(markers)
			return nil
		}
		if d.Type == "runs on" {
			<-ctx.Done()
			cause <- context.Cause(ctx)
			return consumer.Permanent(errors.New("too late to matter"))
		}
		<-returns
		switch d.Type {
		case "fails":
			return errors.New("once more")
		case "snoozes":
			return consumer.Snooze(time.Hour)
		case "gives up":
			return consumer.Permanent(errors.New("never"))
		}
		return nil
	})
	late.run(t)
	for _, typ := range types {
		job := stream.Job{Type: typ}
		if typ == "completes with an ID" {
			job.ID = "chosen"
		}
		publish(t, s, job)
	}
	wait(t, "all jobs to run", func() bool { return len(late.Running()) == len(types) })
	late.links.Hang()
	close(returns)

	heir := w.worker(t, cfg, s)
	finish := make(chan struct{})
	var book ledger
	heir.HandleOther(func(ctx context.Context, d *consumer.Delivery) error {
		if book.add(d.Type); d.Type == "marker" {
			return nil
		}
		select {
		case <-finish:
		case <-ctx.Done():
			t.Errorf("the run of %q ended: %v", d.Type, context.Cause(ctx))
		}
		return nil
	})
	run(t, heir)
	wait(t, "the heir to run all jobs", func() bool { return len(heir.Running()) == len(types) })
	late.links.Mend(t)
	if err := receive(t, "the end of the context", cause); !errors.Is(err, consumer.ErrLeaseLost) {
		t.Errorf("the handler's context ended with %v, want ErrLeaseLost", err)
	}
	marker := stream.Job{Type: "marker", ID: "marker"}
	publish(t, s, marker) // the heir is full
	receive(t, "the marker's run", markers)
	wait(t, "what the late worker says of the marker, and said of the others before it", func() bool {
		r, err := s.Publish(t.Context(), marker)
		return err == nil && r.State == stream.Completed
	})
	if d := depths(t, s); d.Active != int64(len(types)) || d.Dead+d.Retrying+d.Waiting != 0 {
		t.Errorf("depths %+v, want all %d jobs with the heir", d, len(types))
	}
	close(finish)
	drained(t, s)
	for _, typ := range types {
		if runs := book.of(typ); runs != 1 {
			t.Errorf("%q ran %d times at the heir, want once", typ, runs)
		}
	}
	dead(t, s, group, 0)
	if late.Stats().LeasesLost == 0 { // those whose handlers have returned need not be among them
		t.Error("the late worker counts no lost lease")
	}
	wait(t, "the heir to have completed all", func() bool { return heir.Stats().Completed == int64(len(types)) })
	w.clean(t, s)
}

// fenceGrows: with every delivery of a job, whatever brought it back; a redrive goes on where it was.
func fenceGrows(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	type delivered struct {
		fence int64
		why   string
	}
	got := make(chan delivered, 10)
	step := func(v *victim, why string, handle func(context.Context) error) {
		v.HandleOther(func(ctx context.Context, d *consumer.Delivery) error {
			got <- delivered{d.Fence, why}
			return handle(ctx)
		})
	}
	var fences []int64
	next := func(why string) {
		t.Helper()
		d := receive(t, why, got)
		if d.why != why {
			t.Fatalf("delivered for %q, want %q", d.why, why)
		}
		if len(fences) > 0 && d.fence <= fences[len(fences)-1] {
			t.Errorf("%s: fence %d after %v", why, d.fence, fences)
		}
		fences = append(fences, d.fence)
	}
	var runs atomic.Int32
	one := w.victim(t, quick(), s.Name())
	one.HandleOther(func(ctx context.Context, d *consumer.Delivery) error {
		switch runs.Add(1) {
		case 1:
			got <- delivered{d.Fence, "published"}
			return errors.New("once more")
		case 2:
			got <- delivered{d.Fence, "retried"}
			return consumer.Snooze(time.Millisecond)
		}
		got <- delivered{d.Fence, "snoozed"}
		<-ctx.Done()
		return ctx.Err()
	})
	stop := run(t, one.Worker)
	publish(t, s, stream.Job{Type: "job", ID: "job"})
	next("published")
	next("retried")
	next("snoozed")

	two := w.victim(t, quick(), s.Name())
	step(two, "handed back", func(context.Context) error { two.kill(); <-two.end; return nil })
	two.run(t)
	wait(t, "the next worker", func() bool { return two.Health().Ready })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	next("handed back")

	three := w.victim(t, quick(), s.Name())
	step(three, "taken over", func(context.Context) error { return consumer.Permanent(errors.New("never")) })
	stop = run(t, three.Worker)
	next("taken over")
	dead(t, s, group, 1)
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	four := w.victim(t, quick(), s.Name())
	step(four, "redriven", func(context.Context) error { return consumer.Permanent(errors.New("never")) })
	stop = run(t, four.Worker)
	if swept, err := s.Group(group).Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{}); err != nil || swept.Moved != 1 {
		t.Fatalf("redrive: %+v, %v", swept, err)
	}
	next("redriven")
	dead(t, s, group, 1)
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	// A group that was destroyed and made again begins a new epoch: its counters may begin anew, its fences don't fall.
	if err := w.client(t).XGroupDestroy(t.Context(), s.Name(), group).Err(); err != nil {
		t.Fatal(err)
	}
	five := w.victim(t, quick(), s.Name())
	step(five, "made again", func(context.Context) error { return nil })
	run(t, five.Worker)
	publish(t, s, stream.Job{Type: "job"})
	next("made again")
	if !slices.IsSorted(fences) {
		t.Errorf("fences %v", fences)
	}
}

// deadConsumers: those that hold nothing and are not heard of any more go from
// their groups, and take nothing along: neither what they had read, nor a live worker that is busy.
func deadConsumers(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	rdb := w.client(t)
	publish(t, s, number.Job(1))
	if killed(t, rdb, s, s.Name(), 10) != 1 {
		t.Fatal("nothing was read")
	}
	if err := rdb.XGroupCreateConsumer(t.Context(), s.Name(), group, "idle").Err(); err != nil {
		t.Fatal(err)
	}
	var book ledger
	begun, release := make(chan struct{}), make(chan struct{})
	busy := w.worker(t, quick(), s)
	consumer.Handle(busy, number, func(ctx context.Context, job *consumer.Job[int]) error {
		if book.add(job.Data); job.Data == 2 {
			close(begun)
			select {
			case <-release:
			case <-ctx.Done():
				t.Errorf("the long run ended: %v", context.Cause(ctx))
			}
		}
		return nil
	})
	stop := run(t, busy)
	publish(t, s, number.Job(2))
	receive(t, "the long run", begun)
	other := w.worker(t, quick(), s)
	consumer.Handle(other, number, func(_ context.Context, job *consumer.Job[int]) error { book.add(job.Data); return nil })
	stopOther := run(t, other)
	names := func() []string { return consumers(t, s, s.Name()) }
	wait(t, "the dead consumers to go", func() bool {
		list := names()
		return !slices.Contains(list, "killed") && !slices.Contains(list, "idle")
	})
	if list := names(); !slices.Contains(list, busy.Name()) {
		t.Errorf("consumers %v, want the busy one among them", list)
	}
	close(release)
	drained(t, s)
	book.want(t, 3, func(i int) int { return min(i, 1) })
	if err := errors.Join(stop(), stopOther()); err != nil {
		t.Fatal(err)
	}
	if list := names(); len(list) > 0 {
		t.Errorf("after all have stopped these consumers are left: %v", list)
	}
	w.clean(t, s)
}
