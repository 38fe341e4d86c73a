package consumer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"runtime/pprof"
	"slices"
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
	pprof.SetGoroutineLabels(s.root)
	defer func() {
		if returned {
			s.stop()
			return
		}
		// the handler ended this goroutine: its jobs fail, and another takes the slot over
		s.mu.Lock()
		tasks, run := slices.Clone(s.tasks), s.run
		s.mu.Unlock()
		if run == nil {
			return // our own panic: it goes on its way
		}
		_, _ = s.end(run)
		w.lighten(s)
		for _, t := range tasks {
			t.took = time.Since(t.started)
			t.judge(errGoexit, nil)
			t.conclude()
			w.finish(t)
		}
		w.lives.Go(func() { w.serve(s) })
	}()
	for {
		t, ok := w.ready.pop(s.wait)
		if !ok {
			break
		}
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

// refuse decides about jobs that must not run.
func (w *Worker) refuse(t *task) bool {
	switch {
	case t.lost.Load():
		t.verdict = verdict{action: actDrop}
	case t.cancelled.Load():
		t.cancelNow()
	case t.bad != nil:
		t.verdict = verdict{action: actDead, reason: reasonUndecodable, err: t.bad}
	case t.opts.Format > engine.Format:
		w.bounce(t, reasonNewer, errNewer)
	case w.barred(t):
	case t.route == nil:
		w.bounce(t, reasonUnknown, errUnknown)
	case t.opts.Crashes >= w.cfg.MaxCrashes:
		t.verdict = verdict{action: actDead, reason: reasonCrashed, err: fmt.Errorf("its lease ran out %d times: its workers were killed or lost it", t.opts.Crashes)}
	case t.suspect() && t.lane != t.lane.src.suspects: // it comes from among others, as after a retry
		t.verdict = verdict{action: actRelease}
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
	if t.announced() && len(w.barredLate(w.announce(t))) == 0 {
		return
	}
	root := telemetry.Extract(s.root, t.raw.Traceparent, t.opts.Tracestate)
	run := w.begin(s, root, t.policy.timeout, t)
	err := t.handle(run)
	w.end(t, err, w.concluded(s, run, t))
}

// handle runs the handler, and turns its panic into an error.
func (t *task) handle(run *runContext) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{v, debug.Stack()}
		}
	}()
	return t.route.handle(run, &t.Delivery)
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
	if tasks = w.barredLate(w.announce(tasks...)); len(tasks) == 0 {
		return
	}
	if !limited {
		timeout = 0
	}
	ds := make([]*Delivery, len(tasks))
	for i, t := range tasks {
		ds[i] = &t.Delivery
	}
	root := s.root
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
	cause := w.concluded(s, run, tasks[0])
	for i, t := range tasks {
		w.end(t, errs[i], cause)
	}
}

// lighten takes a batch's extra weight off.
func (w *Worker) lighten(s *slot) {
	w.load.Add(-s.extra)
	s.extra = 0
}

func (w *Worker) begin(s *slot, root context.Context, timeout time.Duration, tasks ...*task) *runContext {
	now := time.Now()
	for _, t := range tasks {
		t.started = now
	}
	run := s.begin(root, now, timeout, tasks...)
	for _, t := range tasks {
		t.run = run
	}
	w.counts.started.Add(int64(len(tasks)))
	lost, unwanted := true, true
	for _, t := range tasks {
		lost, unwanted = lost && t.lost.Load(), unwanted && t.unwanted()
	}
	switch { // while the slot took them up, so that nobody found them here
	case lost:
		run.cancel(ErrLeaseLost)
	case unwanted:
		run.cancel(ErrCancelled)
	}
	select {
	case <-w.abort: // the grace period ended just before
		run.cancel(ErrStopping)
	default:
	}
	return run
}

// concluded ends a run, and returns why its context had ended before, or nil.
func (w *Worker) concluded(s *slot, run *runContext, first *task) (cause error) {
	cause, stuck := s.end(run)
	if stuck {
		w.log.Info("a handler that had ignored the end of its context has returned", "job", first.describe(), "took", time.Since(first.started))
	}
	return cause
}

// end judges a run and has its end written.
func (w *Worker) end(t *task, err, cause error) {
	t.took = time.Since(t.started)
	t.judge(err, cause)
	t.conclude()
	if err != nil {
		if _, panicked := errors.AsType[*PanicError](t.verdict.err); panicked {
			w.counts.panics.Add(1)
		}
	}
	w.finish(t)
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
	if err != nil && t.cancelled.Load() {
		t.verdict = verdict{action: actCancel, err: err}
		return
	}
	if e := guard(func() error { t.verdict = judge(err, cause, t.opts.Errors, t.policy); return nil }); e != nil {
		t.verdict = judge(e, cause, t.opts.Errors, t.policy)
	}
}

// finish gives a task to the settler, and its capacity back.
func (w *Worker) finish(t *task) {
	if said := t.report.Load(); said != nil {
		said.end()
		w.reports.ended(t)
	}
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
func (w *Worker) queued() int { return max(w.ready.len()-int(w.spare.Load()), 0) }

// handBackQueue releases all that was read and not started.
func (w *Worker) handBackQueue() {
	for {
		t, ok := w.ready.tryPop()
		if !ok {
			return
		}
		w.handBack(t)
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
