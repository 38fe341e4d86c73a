package consumer

import (
	"context"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

// announced reports whether Redis hears of a task before it runs: its lock ends then, or later data are to be read.
func (t *task) announced() bool {
	o := t.opts
	return o.Unique != "" && !t.plain() && (o.Until == engine.UntilStarted || o.Coalesce)
}

// announce tells Redis of those of the tasks that it has to hear of before they run, and returns those that may run: the
// others are released. While Redis takes nothing they wait, as all would be released again and again by who reads them
// next: a slot that moves takes hand-backs, and no starts. When the worker stops they go back.
func (w *Worker) announce(tasks ...*task) []*task {
	var left []*task
	for _, t := range tasks {
		if t.announced() {
			left = append(left, t)
		}
	}
	if len(left) == 0 {
		return tasks
	}
	pauses, away := newPauses(), make(map[*task]bool)
	for left = w.tellStarts(left, away); len(left) > 0; left = w.tellStarts(left, away) {
		if w.stopsWithin(pauses.NextBackOff()) {
			for _, t := range left {
				away[t] = true
			}
			break
		}
	}
	run := make([]*task, 0, len(tasks))
	for _, t := range tasks {
		if away[t] {
			w.release(t)
			continue
		}
		run = append(run, t)
	}
	return run
}

// tellStarts is one pipeline of announce: it returns those that are to be tried again, and puts down those that must not run.
// It can be repeated: what holds the lock by now decides.
func (w *Worker) tellStarts(tasks []*task, away map[*task]bool) (again []*task) {
	calls := make([]engine.Call, len(tasks))
	for i, t := range tasks {
		held, keys := t.holding(w.group, w.name), t.groupKeys()
		calls[i] = engine.StartLatestCall(held, keys, t.ID, t.opts.Unique)
		if t.opts.Until == engine.UntilStarted {
			calls[i] = engine.StartUntilCall(held, keys, t.ID, t.opts.Unique)
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.root), settleTimeout)
	defer cancel()
	var last error
	for i, res := range engine.RunAll(ctx, w.rdb, calls) {
		t := tasks[i]
		if engine.Classify(res.Err) == engine.Lost {
			res.Val, res.Err = calls[i].Run(ctx, w.rdb)
		}
		switch class := engine.Classify(res.Err); {
		case class == engine.OK:
			ours, latest := engine.ReadStarted(res.Val)
			away[t] = !ours // the settler finds out whose it is
			t.take(latest)
		case class == engine.Lost: // the lock may have ended, as if it had started: so it does
		case class == engine.Refused, class == engine.Denied: // for good: the lock ends with the job, and what is behind it is run then
			w.log.Warn("a job starts before its unique key could be looked at", "job", t.describe(), "err", res.Err)
		case t.lost.Load():
			away[t] = true
		default:
			last = res.Err
			again = append(again, t)
		}
	}
	if last != nil {
		w.starts.began(w.log, "unique keys cannot be looked at: their jobs wait to start", last)
	} else {
		w.starts.over(w.log, "jobs with unique keys start again")
	}
	return again
}

// stopsWithin waits, and reports whether the worker stops meanwhile.
func (w *Worker) stopsWithin(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-w.stopped:
		return true
	case <-t.C:
		return false
	}
}

// take gives the task the latest data behind its lock, with which it goes on from then on, whatever becomes of this run. Those
// of a job of another type it leaves to that one, which is stored when this one ends.
func (t *task) take(latest engine.Latest) {
	if latest.Version == 0 || latest.Entry.Type != t.Type {
		return
	}
	opts, err := engine.ParseOpts(latest.Entry.Opts)
	if err != nil {
		return
	}
	o := *t.opts
	o.Header = opts.Header
	t.opts, t.Header = &o, opts.Header
	t.lane.mu.Lock() // kill switches look at it
	t.raw.Data = latest.Entry.Data
	t.lane.mu.Unlock()
	t.Payload = []byte(latest.Entry.Data)
	t.seen = latest.Version
}

// lock is the task's, which ends with it; one that is held for a time outlives its success.
func (t *task) lock() engine.Lock {
	if t.opts.Unique == "" || t.plain() || t.opts.Until > 0 && t.verdict.action == actComplete {
		return engine.Lock{}
	}
	return engine.Lock{Key: t.opts.Unique, Seen: t.seen}
}
