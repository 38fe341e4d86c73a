package consumer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// ErrResultTooLarge says that what a handler returned has more than Config.MaxResult bytes. The job is dead-lettered, since to run
// it again would not make its result smaller.
var ErrResultTooLarge = errors.New("result is too large")

// KeepStatus says which jobs leave a record behind though their handlers return nothing.
type KeepStatus string

// What Config.KeepStatus may be.
const (
	KeepAll    KeepStatus = "all"    // every one
	KeepFailed KeepStatus = "failed" // those that did not succeed
	KeepNone   KeepStatus = "none"
)

// keeping is what a finished job leaves behind, by its settings.
type keeping struct {
	time   time.Duration // 0: nothing
	always bool          // though its handler returns nothing
	failed bool          // when it did not succeed
	most   int           // bytes of a result
}

func (c Config) keeping() *keeping {
	return &keeping{time: max(c.KeepResult, 0), always: c.KeepStatus == KeepAll, failed: c.KeepStatus != KeepNone, most: c.MaxResult}
}

// with applies a setting of a type or a job, which is meant even where there is no result.
func (k *keeping) with(keep time.Duration) *keeping {
	if keep == 0 || k == nil {
		return k
	}
	return &keeping{time: max(keep, 0), always: keep > 0, failed: keep > 0, most: k.most}
}

// kept is what one job leaves behind.
type kept struct {
	result []byte // nil: its handler returned none
	record []byte // of its end
	time   time.Duration
}

// returned takes what a handler returned, to be kept if the job completes.
func (d *Delivery) returned(v any) error {
	t := d.task
	if t == nil || t.policy.keep == nil || t.policy.keep.time == 0 {
		return nil
	}
	var result []byte
	switch r := v.(type) {
	case []byte:
		result = slices.Clone(r) // it may be the handler's to use again
	case json.RawMessage:
		result = slices.Clone([]byte(r))
	default:
		codec := d.codec
		if codec == nil {
			codec = stream.JSON
		}
		if err := guard(func() (err error) { result, err = codec.Marshal(v); return err }); err != nil {
			return Permanent(fmt.Errorf("the result of %s cannot be encoded: %w", d.Type, err))
		}
	}
	if len(result) > t.policy.keep.most {
		return Permanent(fmt.Errorf("%w: %d bytes, at most %d are kept (MaxResult)", ErrResultTooLarge, len(result), t.policy.keep.most))
	}
	if result == nil {
		result = []byte{} // which is something
	}
	t.kept = &kept{result: result}
	return nil
}

// conclude decides what a task that was judged leaves behind, and writes it.
func (t *task) conclude() {
	k := t.policy.keep
	if t.verdict.action == actCancel && k != nil && k.failed && k.time > 0 {
		n := t.note()
		if err := t.verdict.err; err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, ErrCancelled) {
			n.Error = text(err)
		}
		if s := t.barredBy.Load(); s != nil && n.Error == "" {
			n.Error = reasonOf(s)
		} else if s != nil {
			n.Error = reasonOf(s) + "; it ended with: " + n.Error
		}
		n.Error = clip(n.Error, historyError)
		t.kept = &kept{time: k.time, record: n.Record(string(stream.Cancelled), nil)}
		return
	}
	if k == nil || t.kept == nil && !k.always {
		return
	}
	if t.verdict.action != actComplete {
		t.kept = nil
		return
	}
	if t.kept == nil {
		t.kept = new(kept)
	}
	t.kept.time = k.time
	t.kept.record = t.note().Record(string(stream.Completed), t.kept.result)
	t.kept.result = nil
}

// note is what the record says of the job.
func (t *task) note() *engine.Note {
	n := &engine.Note{
		Type:      t.Type,
		Published: t.Published.UnixMilli(),
		Took:      t.took.Milliseconds(),
		Worker:    t.worker,
		Attempt:   t.Attempt,
		MaxTries:  t.MaxTries,
		Crashes:   t.opts.Crashes,
		Trace:     t.raw.Traceparent,
		History:   t.opts.History,
	}
	if t.started.IsZero() { // it was cancelled before
		n.Finished = t.lane.src.now().UnixMilli()
	} else {
		n.Started = t.started.Add(time.Duration(t.lane.src.clock.Load())).UnixMilli()
	}
	if !t.Due.Equal(t.Published) {
		n.Due = t.Due.UnixMilli()
	}
	return n
}

// completions are the scripts that end successes of one lane whose jobs have an ID or leave a record.
func (w *Worker) completions(tasks []*task) []ending {
	var endings []ending
	for len(tasks) > 0 {
		n, size := 0, 0
		ends := make([]engine.End, 0, min(len(tasks), engine.CompleteMax))
		for n < len(tasks) && n < engine.CompleteMax && size < settleBytes {
			e := tasks[n].finalEntry()
			ends = append(ends, e)
			size += len(e.Record)
			n++
		}
		call := engine.CompleteCall(tasks[0].holding(w.group, w.name), tasks[0].groupKeys(), string(stream.Completed), ends...)
		endings = append(endings, ending{call: call, tasks: tasks[:n], size: size})
		tasks = tasks[n:]
	}
	return endings
}

// finalEntry is how a success ends that has an ID or leaves a record.
func (t *task) finalEntry() engine.End {
	e := engine.End{Entry: t.entry, ID: t.ID, Indexed: !t.plain(), Lock: t.lock()}
	if e.Indexed && !engine.IsEntryID(t.ID) { // else nobody publishes it again
		e.Keep = tombstone
	}
	if t.kept != nil {
		e.Keep, e.Record = max(e.Keep, t.kept.time), t.kept.record
	}
	return e
}

// written says which of the tasks were not ours to end any more, of the answer of any script that completes, and logs which
// records Redis did not take.
func (w *Worker) written(tasks []*task, answer any) any {
	late, refused, ok := engine.ReadCompleted(answer)
	if !ok {
		return answer
	}
	if len(refused) > 0 && time.Since(w.records) > recordsSilence {
		w.records = time.Now()
		w.log.Warn("records of finished jobs cannot be written; the jobs are done all the same", "stream", tasks[0].Stream, "jobs", len(refused), "err", refused[0])
	}
	list := make([]any, len(late))
	for i, entry := range late {
		list[i] = entry
	}
	return list
}

// recordsSilence is how long nothing more is said of records that can't be written.
const recordsSilence = time.Minute

// tellRunning is how many of the jobs that run each heartbeat tells.
const tellRunning = 100

// longestRunning are the jobs of a source that have run longest, for those who look them up.
func (w *Worker) longestRunning(src *source) []engine.Running {
	w.mu.Lock()
	slots := w.slots
	w.mu.Unlock()
	clock := src.clock.Load()
	var list []engine.Running
	for _, s := range slots {
		s.mu.Lock()
		for _, t := range s.tasks {
			if t.lane.src == src {
				list = append(list, engine.Running{ID: t.ID, Since: t.started.Add(time.Duration(clock)).UnixMilli()})
			}
		}
		s.mu.Unlock()
	}
	if len(list) > tellRunning {
		slices.SortFunc(list, func(a, b engine.Running) int { return cmp.Compare(a.Since, b.Since) })
		list = list[:tellRunning]
	}
	return list
}
