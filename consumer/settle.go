package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

const (
	// tombstone is how long the ID of a finished job stays taken, at least as long as a publisher repeats itself
	// after a lost answer: the repeat must not store the job again.
	tombstone = time.Minute

	settleTimeout = 3 * time.Second
	settleCalls   = 512     // scripts in one pipeline
	settleBytes   = 4 << 20 // and their payloads
	parkedFor     = 2 * time.Second
	askedFor      = 50 * time.Millisecond
)

// settler writes the ends of jobs to Redis: what has piled up while the last
// batch was on the wire makes the next. There is no timer, so an idle worker settles at once.
type settler struct {
	w       *Worker
	tasks   []*task // to write next
	parked  []*task // refused by the server, which is nobody else's fault: tried again now and then
	refused int     // of the parked, those that Redis would not take
	retry   time.Time
}

// settle runs until drain is closed and all is written, or can't be within settleAfter.
func (w *Worker) settle() {
	s := &settler{w: w}
	pauses := newPauses()
	drain := w.drain
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s.due()
		s.gather()
		var wake time.Duration
		switch {
		case len(s.tasks) > 0 && s.flush():
			pauses.Reset()
			continue
		case s.tooLate():
			s.abandon()
			return
		case len(s.tasks) > 0:
			wake = pauses.NextBackOff()
		case len(s.parked) > 0:
			wake = time.Until(s.retry)
		case drain == nil && len(w.done) == 0:
			return
		default:
			wake = time.Hour
		}
		if by := w.drainBy.Load(); by > 0 {
			wake = min(wake, time.Until(time.Unix(0, by)))
		}
		timer.Reset(max(wake, 0))
		done := w.done
		if len(s.tasks) > 0 || len(s.parked) >= engine.SettleMax {
			done = nil // Redis is away, or refuses much: the slots have to wait, or memory would grow
		}
		select {
		case t := <-done:
			s.tasks = append(s.tasks, t)
		case <-timer.C:
		case <-drain:
			drain = nil
		}
	}
}

// tooLate reports whether the worker has stopped for so long that what Redis
// did not take by now stays behind.
func (s *settler) tooLate() bool {
	by := s.w.drainBy.Load()
	return by > 0 && len(s.tasks)+len(s.parked) > 0 && time.Now().UnixNano() >= by
}

// gather takes what has piled up.
func (s *settler) gather() {
	for len(s.tasks) < engine.SettleMax && len(s.parked) < engine.SettleMax {
		select {
		case t := <-s.w.done:
			s.tasks = append(s.tasks, t)
		default:
			return
		}
	}
}

func (s *settler) abandon() {
	if n := len(s.tasks) + len(s.parked); n > 0 {
		s.w.log.Error("the ends of jobs could not be written; they run again when their lease is over", "jobs", n)
	}
}

// ending is one script and the tasks it ends.
type ending struct {
	call  engine.Call
	tasks []*task
	size  int // bytes of what it keeps
}

// flush writes all tasks, each lane's plain successes in one script. It
// reports false when Redis could not be used; what was not written is left in s.tasks.
func (s *settler) flush() bool {
	s.w.lastReports(s.tasks)
	var endings []ending
	plain := make(map[*lane][]*task, 4)
	var others map[*lane][]*task // successes that have an ID or leave a record
	for _, t := range s.tasks {
		switch {
		case t.verdict.action == actDrop:
			t.lane.forget([]*task{t})
		case t.verdict.action == actComplete && t.plain() && t.kept == nil:
			plain[t.lane] = append(plain[t.lane], t)
		case t.verdict.action == actCancel:
			endings = append(endings, s.w.cancellation(t))
		case t.verdict.action == actComplete:
			if others == nil {
				others = make(map[*lane][]*task)
			}
			others[t.lane] = append(others[t.lane], t)
		default:
			endings = append(endings, ending{call: s.w.call(t), tasks: []*task{t}})
		}
	}
	for _, tasks := range others {
		endings = append(endings, s.w.completions(tasks)...)
	}
	for l, tasks := range plain {
		for len(tasks) > 0 {
			n := min(len(tasks), engine.SettleMax)
			entries := make([]string, n)
			for i, t := range tasks[:n] {
				entries[i] = t.entry
			}
			endings = append(endings, ending{call: engine.SettleCall(tasks[0].holding(s.w.group, s.w.name), entries), tasks: tasks[:n]})
			tasks = tasks[n:]
		}
		delete(plain, l)
	}
	s.tasks = s.tasks[:0]
	for len(endings) > 0 {
		n, size := 0, 0
		for n < len(endings) && n < settleCalls && size < settleBytes {
			size += len(endings[n].tasks[0].raw.Data) + endings[n].size
			n++
		}
		if !s.send(endings[:n]) {
			for _, e := range endings[n:] {
				s.tasks = append(s.tasks, e.tasks...)
			}
			return false
		}
		endings = endings[n:]
	}
	s.w.settled.Store(time.Now().UnixNano())
	s.w.writes.over(s.w.log, "the ends of jobs are written again")
	if s.refused == 0 {
		s.w.refused.over(s.w.log, "the ends of all jobs are written again")
	}
	return true
}

// send writes one pipeline, and sorts out what became of each script.
func (s *settler) send(endings []ending) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.w.root), settleTimeout)
	defer cancel()
	calls := make([]engine.Call, len(endings))
	for i, e := range endings {
		calls[i] = e.call
		for _, t := range e.tasks {
			t.sent.Store(true)
		}
	}
	var away error
	written := 0
	var undone []*task
	for i, res := range engine.RunAll(ctx, s.w.rdb, calls) {
		tasks := endings[i].tasks
		class := engine.Classify(res.Err)
		if class != engine.OK && class != engine.Lost { // else it is done, or may be, and only the next try tells
			unsent(tasks)
		}
		switch class {
		case engine.OK:
			written++
			if t := tasks[0]; engine.Taken(res.Val) { // two jobs with one ID: this one goes on under its entry's
				if t.ID == t.entry { // which the other has too: wait until that is due, and not by asking again and again
					unsent(tasks)
					t.tell()
					s.setAside(t, parkedFor)
					continue
				}
				s.w.log.Warn("two jobs carry the same ID, one goes on under its entry's", "job", t.describe(), "entry", t.entry)
				t.ID = t.entry
				unsent(tasks)
				s.tasks = append(s.tasks, t)
				continue
			}
			if t := tasks[0]; engine.Marked(res.Val) {
				unsent(tasks)
				t.cancelNow()
				s.tasks = append(s.tasks, t)
				continue
			}
			if t := tasks[0]; notOurs(t, res.Val) && !t.lost.Load() && (!t.unsure || !t.checked) {
				// Somebody else's, or deleted and let go of by our own heartbeat: the next one tells which. Of an end whose
				// answer was lost, nothing tells; but what a meddler took off our list meanwhile is claimed back then.
				t.checked = t.unsure
				unsent(tasks)
				t.asked = t.lane.src.beats.ask()
				s.setAside(t, askedFor)
				continue
			}
			s.w.ended(tasks, res.Val)
		case engine.NoGroup: // the heartbeat makes it again, and takes care that what is held stays ours
			unsent(tasks)
			tasks[0].lane.src.beats.ask()
			s.parked, s.retry = append(s.parked, tasks...), time.Now().Add(parkedFor)
		case engine.Refused:
			s.park(tasks, res.Err)
		default:
			if class == engine.Lost {
				for _, t := range tasks {
					t.unsure = true
				}
			}
			away = res.Err
			undone = append(undone, tasks...)
		}
	}
	if away != nil && written > 0 { // one node of a Cluster, or a slot that moves: the others must not wait for it
		s.park(undone, away)
		return true
	}
	s.tasks = append(s.tasks, undone...)
	if away != nil {
		s.w.writes.began(s.w.log, "the ends of jobs cannot be written, trying again", away)
	}
	return away == nil
}

// unsent notes that nothing of the tasks' ends is on its way, unless an answer was lost.
func unsent(tasks []*task) {
	for _, t := range tasks {
		if !t.unsure {
			t.sent.Store(false)
		}
	}
}

// park sets tasks aside whose end can't be written while others' can.
func (s *settler) park(tasks []*task, err error) {
	s.w.refused.beganAt(s.w.log, slog.LevelError, "the ends of some jobs cannot be written, trying again", fmt.Errorf("the end of %s: %w", tasks[0].describe(), err))
	for _, t := range tasks {
		t.tell() // it has run, and what refuses its end is no reason for other suspects to wait
		t.refused = true
		s.setAside(t, parkedFor)
	}
	s.refused += len(tasks)
}

// setAside parks a task that is to be tried again after a while.
func (s *settler) setAside(t *task, wait time.Duration) {
	t.again = time.Now().Add(wait)
	if len(s.parked) == 0 || t.again.Before(s.retry) {
		s.retry = t.again
	}
	s.parked = append(s.parked, t)
}

// due takes up what was set aside for long enough, and about which the heartbeat it asked for, if any, has answered:
// to write it again before that would keep the answer from being believed (see ended).
func (s *settler) due() {
	now := time.Now()
	if len(s.parked) == 0 || now.Before(s.retry) {
		return
	}
	parked := s.parked
	s.parked = nil
	for _, t := range parked {
		wait := time.Until(t.again)
		if wait <= 0 && t.asked != nil {
			select {
			case <-t.asked:
			default:
				wait = askedFor
			}
		}
		if wait > 0 {
			s.setAside(t, wait)
			continue
		}
		if t.refused {
			s.refused--
		}
		t.refused, t.asked = false, nil
		s.tasks = append(s.tasks, t)
	}
}

// call is the script that ends a task as its verdict says, unless it completes.
func (w *Worker) call(t *task) engine.Call {
	held := t.holding(w.group, w.name)
	keys := t.groupKeys()
	v := t.verdict
	switch v.action {
	case actRetry, actSnooze, actBounce:
		return engine.RetryCall(held, keys, t.ID, v.after, t.moved(v))
	case actPause:
		return engine.PauseCall(held, keys, t.ID, v.after, t.moved(v))
	case actReclaim:
		if t.opts.Crashes > 0 { // not the first time: it may be what kills its workers
			return engine.SuspectCall(held, keys, t.ID, t.moved(v))
		}
		return engine.ReleaseCall(held, keys, t.inIDs(), t.moved(v))
	case actRelease:
		if t.suspect() { // it must not come back among others
			return engine.SuspectCall(held, keys, t.inIDs(), t.moved(v))
		}
		return engine.ReleaseCall(held, keys, t.inIDs(), t.moved(v))
	default:
		return engine.DeadCall(held, keys, t.ID, t.moved(v), t.deadInfo(), t.lock())
	}
}

// deadInfo is what the dead letter says of the job's end.
func (t *task) deadInfo() string {
	info := engine.DeadInfo{
		ID:       t.ID,
		Reason:   t.verdict.reason,
		Error:    clip(text(t.verdict.err), deadErrorMax),
		Worker:   t.worker,
		MaxTries: t.MaxTries,
	}
	if panicked, ok := errors.AsType[*PanicError](t.verdict.err); ok {
		info.Stack = clip(string(panicked.Stack), stackMax)
	}
	b, err := json.Marshal(info)
	if err != nil {
		panic("penstock: a dead letter cannot be encoded: " + err.Error()) // plain strings
	}
	return string(b)
}

// ended counts tasks whose script has answered, and lets go of them.
func (w *Worker) ended(tasks []*task, answer any) {
	tasks[0].lane.forget(tasks)
	if tasks[0].verdict.action == actComplete {
		elsewhere := late(tasks, w.written(tasks, answer))
		w.counts.completed.Add(int64(len(tasks)) - elsewhere)
		if elsewhere > 0 {
			w.log.Warn("jobs completed here had been ended elsewhere", "stream", tasks[0].Stream, "jobs", elsewhere)
		}
		if w.log.Enabled(w.root, slog.LevelDebug) {
			for _, t := range tasks {
				w.logEnd(t, "completed")
			}
		}
		return
	}
	t := tasks[0]
	if t.verdict.action == actCancel {
		if late(tasks, w.written(tasks, answer)) > 0 {
			w.log.Warn("a job cancelled here had been ended elsewhere", "job", t.describe())
			return
		}
		w.counts.cancelled.Add(1)
		w.logEnd(t, "cancelled")
		return
	}
	if notOurs(t, answer) && !t.unsure {
		w.log.Warn("a job that ended here was not this worker's any more", "job", t.describe())
		return
	}
	switch t.verdict.action {
	case actRetry:
		w.counts.retried.Add(1)
		w.logEnd(t, "retrying")
	case actSnooze:
		w.counts.snoozed.Add(1)
		w.logEnd(t, "snoozed")
	case actBounce:
		w.counts.bounced.Add(1)
		w.logEnd(t, "bounced")
	case actPause:
		w.counts.paused.Add(1)
		w.putOff(t)
		w.logEnd(t, "paused")
	case actReclaim:
		w.counts.reclaimed.Add(1)
		if t.opts.Crashes > 0 {
			w.lookForSuspects()
		}
		w.logEnd(t, "taken over")
	case actRelease:
		if t.suspect() {
			w.lookForSuspects()
		}
		w.counts.handedBack.Add(1)
		w.logEnd(t, "handed back")
	default:
		w.counts.dead.Add(1)
		w.logEnd(t, "dead")
	}
}

// late counts those of the tasks that others ended before, by what a script that completes answered: which were not
// completed, or on an events stream, where nothing tells which, as many empty ones.
// Not late is what our own try ended, whose answer was lost, nor what had been deleted and was ours all the same.
func late(tasks []*task, answer any) (n int64) {
	excused := func(t *task) bool { return t.unsure || t.gone.Load() }
	a, _ := answer.([]any)
	if len(a) == 0 {
		return 0
	}
	named := make(map[string]bool, len(a))
	for _, v := range a {
		id, _ := v.(string)
		named[id] = true
	}
	for _, t := range tasks {
		switch {
		case named[t.entry] && !excused(t):
			n++
		case named[""] && excused(t):
			n--
		}
	}
	if named[""] {
		n = max(n+int64(len(a)), 0)
	}
	return n
}

// notOurs reports whether a script that moves a task found that this worker does not own it.
func notOurs(t *task, answer any) bool {
	return t.verdict.action != actComplete && (answer == int64(0) || answer == "")
}

// logEnd is one line a job, at debug level.
func (w *Worker) logEnd(t *task, outcome string) {
	if !w.log.Enabled(w.root, slog.LevelDebug) {
		return
	}
	attrs := []slog.Attr{
		slog.String("outcome", outcome), slog.String("stream", t.Stream), slog.String("job", t.ID),
		slog.String("type", t.Type), slog.Int("attempt", t.Attempt),
	}
	if !t.started.IsZero() {
		attrs = append(attrs, slog.Duration("took", t.took))
	}
	if t.verdict.after > 0 {
		attrs = append(attrs, slog.Duration("after", t.verdict.after))
	}
	if t.verdict.err != nil {
		attrs = append(attrs, slog.String("err", clip(text(t.verdict.err), deadErrorMax)))
	}
	w.log.LogAttrs(w.root, slog.LevelDebug, "job ended", attrs...)
}
