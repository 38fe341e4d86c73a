package consumer

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

const (
	hintsAtOnce = 1000 // cancels that are known to this worker and not yet looked at
	lookTimeout = 2 * time.Second
)

// hint is what the wake-up channel said of a job that was marked, or may have said of any.
type hint struct {
	src *source
	id  string // "": whatever it may have said
}

// stops is what a source must not run. It is never changed, but replaced.
type stops struct {
	marks    map[string]int64 // IDs of jobs that may have been cancelled, and when that was heard of: mono time
	switches []engine.Switch  // that are for the group
}

// setStops replaces the source's stops, which change makes of those there are; nil once there is nothing to obey, so that
// nothing is looked at then.
func (src *source) setStops(change func(s *stops)) {
	src.mu.Lock()
	defer src.mu.Unlock()
	src.changeStops(change)
}

// changeStops is setStops under the lock.
func (src *source) changeStops(change func(s *stops)) {
	next := stops{}
	if s := src.stops.Load(); s != nil {
		next = *s
	}
	change(&next)
	if len(next.marks) == 0 && len(next.switches) == 0 {
		src.stops.Store(nil)
		return
	}
	src.stops.Store(&next)
}

// mark replaces what was heard of marks before at, mono time, by ids.
func (s *stops) mark(at int64, ids ...string) {
	marks := make(map[string]int64, len(ids))
	for id, heard := range s.marks {
		if heard >= at { // since Redis was asked
			marks[id] = heard
		}
	}
	for _, id := range ids {
		marks[id] = mono()
	}
	s.marks = marks
}

// said takes in what the wake-up channel says besides what is due.
func (w *Worker) said(text string) {
	if marks, id, ok := engine.CancelHint(text); ok {
		for _, src := range w.sources {
			src.mu.Lock()
			ours := src.group.Marks == marks
			src.mu.Unlock()
			if ours {
				w.hear(hint{src, id})
			}
		}
	}
	if key, ok := engine.SwitchHint(text); ok {
		for _, src := range w.sources {
			if src.keys.Switches == key {
				src.beats.ask() // which tells the version
			}
		}
	}
}

func (w *Worker) hear(h hint) {
	select {
	case w.hints <- h:
	default:
		h.src.beats.ask() // which reads all marks
	}
}

// missed is called when something may have been said that was not heard. No heartbeat is asked for, though it would tell: of
// what is read while it is on its way it says nothing, and so as few as can be should overlap a read.
func (w *Worker) missed() {
	for _, src := range w.sources {
		w.hear(hint{src: src})
	}
}

// obey looks at what was said until the worker has ended. A hint proves nothing: only the mark does.
func (w *Worker) obey() {
	for {
		select {
		case <-w.gone:
			return
		case h := <-w.hints:
			heard := map[*source][]string{h.src: {h.id}}
			for range len(w.hints) {
				h = <-w.hints // nobody else takes any
				heard[h.src] = append(heard[h.src], h.id)
			}
			for src, ids := range heard {
				if slices.Contains(ids, "") {
					w.lookAtAll(src)
					ids = slices.DeleteFunc(ids, func(id string) bool { return id == "" })
				}
				if len(ids) == 0 {
					continue
				}
				src.setStops(func(s *stops) { s.mark(0, ids...) }) // what is read from now on is looked up before it starts
				for _, t := range src.find(setOf(ids)) {
					if w.marked(src, t.ID) {
						w.cancelTasks(t)
					}
				}
			}
		}
	}
}

// lookAtAll reads what must not run.
func (w *Worker) lookAtAll(src *source) {
	src.mu.Lock()
	group := src.group
	src.mu.Unlock()
	err := w.readMarks(src, group)
	if class := engine.Classify(err); err == nil || class == engine.Refused || class == engine.Denied {
		err = w.readSwitches(src, group)
	}
	if err != nil { // the next heartbeat tells of both
		w.log.Debug("what must not run cannot be read", "stream", src.stream.Name(), "err", err)
	}
}

// find returns what this worker holds of the jobs.
func (src *source) find(ids map[string]bool) []*task {
	return src.findAll(func(t *task) bool { return ids[t.ID] })
}

// findAll returns what this worker holds for which ok.
func (src *source) findAll(ok func(*task) bool) (tasks []*task) {
	for _, l := range src.inOrder() {
		l.mu.Lock()
		for t := l.head; t != nil; t = t.next {
			if ok(t) {
				tasks = append(tasks, t)
			}
		}
		l.mu.Unlock()
	}
	return tasks
}

// marked reports whether a job is to end as cancelled. What can't be asked is not, as far as this goes: the next heartbeat reads all marks.
func (w *Worker) marked(src *source, id string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.root), lookTimeout)
	defer cancel()
	src.mu.Lock()
	key := src.group.Marks
	src.mu.Unlock()
	err := w.rdb.ZScore(ctx, key, id).Err()
	switch {
	case err == nil:
		return true
	case errors.Is(err, redis.Nil):
		src.setStops(func(s *stops) { // it is another job's ID by now, or a hint that was false
			marks := make(map[string]int64, len(s.marks))
			for other, heard := range s.marks {
				if other != id {
					marks[other] = heard
				}
			}
			s.marks = marks
		})
	default:
		w.log.Debug("whether a job was cancelled cannot be read", "stream", src.stream.Name(), "job", id, "err", err)
		src.beats.ask()
	}
	return false
}

// obeyBeat acts upon what a heartbeat said that Redis was asked for at mono time at.
func (w *Worker) obeyBeat(src *source, group engine.GroupKeys, b engine.Beat, at int64) error {
	err := w.obeySwitches(src, group, b)
	if b.Marks > 0 {
		return errors.Join(err, w.readMarks(src, group))
	}
	if src.stops.Load() != nil {
		src.setStops(func(s *stops) { s.mark(at) })
	}
	return err
}

// readStops reads what must not run before anything does. A key of another type, or one that this user has no right to, stops nothing.
func (w *Worker) readStops(src *source, group engine.GroupKeys) error {
	for what, err := range map[string]error{"which jobs were cancelled": w.readMarks(src, group), "kill switches": w.readSwitches(src, group)} {
		class := engine.Classify(err)
		if class == engine.Refused || class == engine.Denied {
			w.log.Error(what+" cannot be read", "stream", src.stream.Name(), "err", err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// readMarks reads which jobs of the group are to end as cancelled, and ends those that run here.
func (w *Worker) readMarks(src *source, group engine.GroupKeys) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.root), lookTimeout)
	defer cancel()
	at := mono()
	v, err := engine.MarksCall(src.keys, group, w.group, src.lanes[1].delete).Run(ctx, w.rdb)
	if err != nil {
		return err
	}
	ids, _ := engine.ReadMarks(v)
	src.setStops(func(s *stops) { s.mark(at, ids...) })
	w.cancelTasks(src.find(setOf(ids))...)
	return nil
}

func setOf(ids []string) map[string]bool {
	set := make(map[string]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// cancelTasks tells the handlers of tasks, where they run, that their jobs are cancelled. What has not started won't.
func (w *Worker) cancelTasks(tasks ...*task) {
	for _, t := range tasks {
		if !t.ended() && !t.cancelled.Swap(true) {
			w.log.Info("a job was cancelled", "job", t.describe())
			w.endRun(t, ErrCancelled)
		}
	}
}

// endRun ends the context of the run that t is in, unless that is a batch's and goes on for others.
func (w *Worker) endRun(t *task, cause error) {
	for _, s := range w.slots {
		s.mu.Lock()
		run, all := s.run, slices.Contains(s.tasks, t)
		for _, other := range s.tasks {
			all = all && other.unwanted()
		}
		s.mu.Unlock()
		if all && run != nil {
			run.cancel(cause)
			return
		}
	}
}

// unwanted reports whether nobody needs the task to go on.
func (t *task) unwanted() bool { return t.lost.Load() || t.cancelled.Load() }

// forbids reports whether a task that is about to start must not, and decides how it ends then.
func (w *Worker) forbids(t *task, s *stops, lifts int64) bool {
	if _, ok := s.marks[t.ID]; ok && w.marked(t.lane.src, t.ID) {
		t.cancelNow()
		return true
	}
	if len(s.switches) > 0 {
		return w.switchedOff(t, s.switches, lifts)
	}
	return false
}

// cancelNow changes the end of a task whose job was found to be marked when it was about to go elsewhere.
func (t *task) cancelNow() {
	t.cancelled.Store(true)
	t.verdict = verdict{action: actCancel, err: t.verdict.err}
	t.conclude()
}

// cancellation is the script that ends a task as cancelled.
func (w *Worker) cancellation(t *task) ending {
	e := t.finalEntry()
	call := engine.CompleteCall(t.holding(w.group, w.name), t.groupKeys(), string(stream.Cancelled), e)
	return ending{call: call, tasks: []*task{t}, size: len(e.Record)}
}
