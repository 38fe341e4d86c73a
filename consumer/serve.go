package consumer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
	"github.com/penstock-go/penstock/telemetry"
)

// batchQueue holds jobs of a batch type that have arrived and not started. For
// each there is one token in Worker.ready; the slot that gets one takes as many jobs as a batch may have.
type batchQueue struct {
	mu    sync.Mutex
	tasks []*task
}

func (q *batchQueue) push(t *task) {
	q.mu.Lock()
	q.tasks = append(q.tasks, t)
	q.mu.Unlock()
}

func (q *batchQueue) take(n int) []*task {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.tasks))
	taken := append([]*task(nil), q.tasks[:n]...)
	q.tasks = append(q.tasks[:0], q.tasks[n:]...)
	clear(q.tasks[len(q.tasks) : len(q.tasks)+n])
	return taken
}

// serve is the life of a slot: one handler at a time, until ready is closed and empty.
func (w *Worker) serve(s *slot) {
	returned := false
	defer func() {
		if returned {
			s.stop()
			return
		}
		// the handler ended this goroutine: its jobs fail, and another takes the slot over
		s.mu.Lock()
		tasks, run := s.tasks, s.run
		s.mu.Unlock()
		if run == nil {
			return // our own panic: it goes on its way
		}
		_ = s.end(run)
		w.lighten(s)
		for _, t := range tasks {
			t.took = time.Since(t.started)
			t.judge(errGoexit, nil)
			w.finish(t)
		}
		s.set(nil)
		w.lives.Go(func() { w.serve(s) })
	}()
	for t := range w.ready {
		if w.stopping.Load() {
			w.handBack(t)
			continue
		}
		if t.route != nil && t.route.batch != nil {
			if tasks := w.takeBatch(t.route, t.route.size); len(tasks) > 0 {
				w.runBatch(s, t.route, tasks)
			}
			continue
		}
		w.runOne(s, t)
	}
	returned = true
}

// set tells what the slot works on.
func (s *slot) set(tasks []*task) {
	s.mu.Lock()
	s.tasks = tasks
	s.mu.Unlock()
}

// refuse decides about jobs that must not run.
func (w *Worker) refuse(t *task) bool {
	switch {
	case t.lost.Load():
		t.verdict = verdict{action: actDrop}
	case t.bad != nil:
		t.verdict = verdict{action: actDead, reason: reasonUndecodable, err: t.bad}
	case t.opts.Format > engine.Format:
		w.bounce(t, reasonNewer, errNewer)
	case t.route == nil:
		w.bounce(t, reasonUnknown, errUnknown)
	case t.opts.Crashes >= w.cfg.MaxCrashes:
		t.verdict = verdict{action: actDead, reason: reasonCrashed, err: fmt.Errorf("its lease ran out %d times: its workers were killed or lost it", t.opts.Crashes)}
	case t.opts.Expires > 0 && t.opts.Errors+t.opts.Crashes == 0 && t.lane.src.now().UnixMilli() > t.opts.Expires:
		t.verdict = verdict{action: actDead, reason: reasonExpired, err: errors.New("not started by " + time.UnixMilli(t.opts.Expires).UTC().Format(time.RFC3339))}
	default:
		return false
	}
	w.counts.refused.Add(1)
	return true
}

var (
	errNewer   = errors.New("the job was published in a newer format than this worker knows")
	errUnknown = errors.New("no worker handles its type")
)

// bounce parks a job for another worker of the group, which may be newer, with
// a growing pause; nobody came within UnknownType: it is dead.
func (w *Worker) bounce(t *task, reason string, err error) {
	if at := t.opts.BouncedAt; at > 0 && t.lane.src.now().Sub(time.UnixMilli(at)) > w.cfg.UnknownType {
		t.verdict = verdict{action: actDead, reason: reason, err: err}
		return
	}
	pause := min(bouncePause(t.opts.Bounces), w.cfg.UnknownType/2+time.Millisecond)
	t.verdict = verdict{action: actBounce, after: pause/2 + rand.N(pause/2+1), err: err}
}

func (w *Worker) runOne(s *slot, t *task) {
	if !w.leased(t) {
		w.release(t)
		return
	}
	if w.refuse(t) {
		w.finish(t)
		return
	}
	root := telemetry.Extract(w.root, t.raw.Traceparent, t.opts.Tracestate)
	run := w.begin(s, root, t.policy.timeout, t)
	err := guard(func() error { return t.route.handle(run, &t.Delivery) })
	w.conclude(s, run, []error{err}, t)
}

func (w *Worker) runBatch(s *slot, r *route, all []*task) {
	tasks := all[:0]
	timeout, limited := time.Duration(0), true
	for _, t := range all {
		if !w.leased(t) {
			w.release(t)
			continue
		}
		if w.refuse(t) {
			w.finish(t)
			continue
		}
		tasks = append(tasks, t)
		timeout = max(timeout, t.policy.timeout)
		limited = limited && t.policy.timeout > 0
	}
	if len(tasks) == 0 {
		return
	}
	if !limited {
		timeout = 0
	}
	ds := make([]*Delivery, len(tasks))
	for i, t := range tasks {
		ds[i] = &t.Delivery
	}
	root := w.root
	if len(tasks) == 1 { // a batch has many parents, and belongs to none
		root = telemetry.Extract(root, tasks[0].raw.Traceparent, tasks[0].opts.Tracestate)
	}
	// A batch takes a slot however small it is: it weighs as much as a full one while it runs.
	s.extra = w.unit - sum(tasks)
	w.load.Add(s.extra)
	run := w.begin(s, root, timeout, tasks...)
	var errs []error
	if err := guard(func() error { errs = r.batch(run, ds); return nil }); err != nil {
		errs = make([]error, len(tasks))
		for i := range errs {
			errs[i] = err
		}
	}
	w.lighten(s)
	w.conclude(s, run, errs, tasks...)
}

// lighten takes a batch's extra weight off.
func (w *Worker) lighten(s *slot) {
	w.load.Add(-s.extra)
	s.extra = 0
}

func (w *Worker) begin(s *slot, root context.Context, timeout time.Duration, tasks ...*task) *runContext {
	now := time.Now()
	run := s.begin(root, now, timeout)
	for _, t := range tasks {
		t.run, t.started = run, now
	}
	s.set(tasks)
	w.counts.started.Add(int64(len(tasks)))
	select {
	case <-w.abort: // the grace period ended just before
		run.cancel(ErrStopping)
	default:
	}
	return run
}

func (w *Worker) conclude(s *slot, run *runContext, errs []error, tasks ...*task) {
	cause := s.end(run)
	s.set(nil)
	for i, t := range tasks {
		t.took = time.Since(t.started)
		t.judge(errs[i], cause)
		if errs[i] != nil {
			if _, panicked := errors.AsType[*PanicError](t.verdict.err); panicked {
				w.counts.panics.Add(1)
			}
		}
		w.finish(t)
	}
}

// judge sets the task's verdict. Errors are the user's code too, and may panic when they are looked at.
func (t *task) judge(err, cause error) {
	if t.lost.Load() {
		t.verdict = verdict{action: actDrop, err: err}
		return
	}
	if err == nil && cause == nil {
		t.verdict = verdict{action: actComplete}
		return
	}
	if e := guard(func() error { t.verdict = judge(err, cause, t.opts.Errors, t.policy); return nil }); e != nil {
		t.verdict = judge(e, cause, t.opts.Errors, t.policy)
	}
}

// finish gives a task to the settler, and its capacity back.
func (w *Worker) finish(t *task) {
	load := w.load.Add(-t.weight)
	for _, r := range w.readers {
		if below := r.below.Load(); below >= 0 && load <= below {
			select {
			case r.room <- struct{}{}:
			default:
			}
		}
	}
	select {
	case w.done <- t:
	case <-w.gone: // the handler was stuck until after the end: its job's lease has to run out
	}
}

// takeBatch takes up to n jobs for one token that came from ready.
func (w *Worker) takeBatch(r *route, n int) []*task {
	tasks := r.queue.take(n)
	w.spare.Add(int64(len(tasks)) - 1) // their tokens stay behind; one that finds nothing is such a token
	return tasks
}

// queued is how many jobs are read and not started.
func (w *Worker) queued() int { return max(len(w.ready)-int(w.spare.Load()), 0) }

// handBackQueue releases all that was read and not started.
func (w *Worker) handBackQueue() {
	for {
		select {
		case t := <-w.ready:
			w.handBack(t)
		default:
			return
		}
	}
}

// handBack releases a task that came from ready, and reports whether there was one: a batch may have taken it.
func (w *Worker) handBack(t *task) bool {
	if t.route != nil && t.route.batch != nil {
		taken := w.takeBatch(t.route, 1)
		if len(taken) == 0 {
			return false
		}
		t = taken[0]
	}
	w.release(t)
	return true
}

// release hands a task back that is the caller's alone.
func (w *Worker) release(t *task) {
	t.verdict = verdict{action: actRelease}
	w.finish(t)
}
