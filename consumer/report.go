package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

const (
	reportEvery = 500 * time.Millisecond // what handlers say goes to Redis no more often
	reportAgain = 2 * time.Second        // after it could not be written
	reportKeep  = 24 * time.Hour         // how long it stays there while its job lives, and as a dead letter's at least
	reportTouch = time.Hour              // how often it is looked for reports that would go before their run has ended
	reportCalls = 100                    // jobs in one script
	reportBytes = 256 << 10              // and their lines
	lastReport  = time.Second            // how long the ends of jobs wait for their last reports
)

// Progress says how far the job is, from 0 to 1, and what it does now, for
// those who look: [Worker.Running], [stream.Stream.Get], penstock job get and wait. What was said last
// reaches Redis within half a second, and once more when the run ends. That costs a worker one request to Redis each half second
// for all of its jobs, so Progress may be called as often as it is convenient. It never
// fails, and a job that does not call it costs nothing. A note has at most 200 bytes.
func (d *Delivery) Progress(fraction float64, note string) {
	if r := d.report(); r != nil {
		r.progressed(fraction, note)
	}
}

// Logf adds a line to the log of the job, which [stream.Stream.Log] and penstock job log show: what people want to know
// who look at this one job. It is written together with the job's progress, and costs as
// little. The latest 200 lines are kept, 32 KiB of them, and of each at most 1 KiB. They go with the record of the
// finished job, a minute behind its end when it leaves none, or a day behind it when it is dead.
func (d *Delivery) Logf(format string, args ...any) {
	if r := d.report(); r != nil {
		r.log(fmt.Sprintf(format, args...))
	}
}

// report of the job; nil where there is no job.
func (d *Delivery) report() *report {
	if d.task == nil {
		return nil
	}
	return d.task.reported()
}

// reported is the task's report, which the first that is said makes.
func (t *task) reported() *report {
	if r := t.report.Load(); r != nil {
		return r
	}
	src := t.lane.src
	r := &report{src: src, attempt: t.Attempt, first: 1, run: strconv.FormatInt(time.Now().UnixNano(), 36)}
	if !t.report.CompareAndSwap(nil, r) {
		return t.report.Load()
	}
	src.reports.add(t)
	return r
}

// report is what a handler says of one job in one run. Its methods may be called at any time.
type report struct {
	src     *source
	attempt int
	run     string // which no other run of the job has

	progress atomic.Pointer[progress] // nil: nothing was said of it

	mu      sync.Mutex
	ended   bool     // the run is over: nothing more is taken
	lines   []string // those that Redis may not have
	first   int64    // number of the first of them, from 1
	bytes   int      // of the lines
	has     int64    // the version of the progress that Redis has
	written int64    // mono time: when Redis last took something; 0: never
	silent  bool     // its key is somebody else's
	closed  bool     // all has been said
}

type progress struct {
	fraction float64
	note     string
	at       int64 // ms by Redis's clock
	version  int64 // counts changes, from 1
}

func (r *report) progressed(fraction float64, note string) {
	if !(fraction > 0) { // nor NaN
		fraction = 0
	}
	p := &progress{min(fraction, 1), clip(note, engine.NoteMax), r.src.now().UnixMilli(), 1}
	r.mu.Lock()
	if !r.ended {
		if last := r.progress.Load(); last != nil {
			p.version = last.version + 1
		}
		r.progress.Store(p)
	}
	r.mu.Unlock()
	r.src.reports.ping()
}

func (r *report) log(text string) {
	line := engine.Line(r.src.now().UnixMilli(), r.attempt, clip(strings.TrimRight(text, "\n"), engine.LineMax))
	r.mu.Lock()
	if !r.ended {
		r.lines = append(r.lines, line)
		r.bytes += len(line)
		for len(r.lines) > engine.ReportLines || r.bytes > engine.ReportBytes {
			r.drop(1)
		}
	}
	r.mu.Unlock()
	r.src.reports.ping()
}

// drop lets go of the first n lines; r.mu is held.
func (r *report) drop(n int) {
	for _, line := range r.lines[:n] {
		r.bytes -= len(line)
	}
	r.lines = slices.Delete(r.lines, 0, n)
	r.first += int64(n)
}

// end takes nothing more from the handler.
func (r *report) end() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
}

// said is what there is to write of a task that runs; false: nothing.
func (t *task) said() (engine.Report, bool) {
	r := t.report.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.progress.Load()
	fresh := len(r.lines) > 0 || p != nil && p.version > r.has
	if r.ended || r.silent || !fresh && (r.written == 0 || mono()-r.written < int64(reportKeep/4)) {
		return engine.Report{}, false
	}
	return t.compose(r, p, reportKeep), true
}

// lastWords is what there is to write of a task whose run is over, before its end; false: nothing.
func (t *task) lastWords() (engine.Report, bool) {
	r := t.report.Load()
	if r == nil || t.verdict.action == actDrop {
		return engine.Report{}, false
	}
	keep := reportKeep
	switch t.verdict.action {
	case actRetry, actSnooze, actBounce, actRelease, actReclaim:
		keep += t.verdict.after
	case actDead:
		if k := t.policy.keep; k != nil {
			keep = max(keep, k.time)
		}
	default:
		keep = tombstone
		if t.kept != nil {
			keep = max(keep, t.kept.time)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	nobody := t.verdict.action == actComplete && t.kept == nil && t.plain() // who asks for the job will not find it
	if r.silent || r.closed || nobody && r.written == 0 && len(r.lines) == 0 {
		return engine.Report{}, false
	}
	return t.compose(r, r.progress.Load(), keep), true
}

// compose is the report as it stands; r.mu is held.
func (t *task) compose(r *report, p *progress, keep time.Duration) engine.Report {
	out := engine.Report{
		Entry: t.entry, ID: t.ID, Age: t.Published.UnixMilli(), Fence: t.Fence, Run: r.run, Keep: keep, First: r.first, Lines: slices.Clone(r.lines),
	}
	if t.gone.Load() {
		out.Entry = ""
	}
	if p != nil {
		out.Version = p.version
		out.Said = engine.Said{Age: out.Age, Fence: t.Fence, Attempt: t.Attempt, At: p.at, Fraction: p.fraction, Note: p.note}
	}
	return out
}

// took notes that Redis has what was composed, and whether that was the last.
func (r *report) took(what engine.Report, last bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = r.closed || last
	r.has, r.written = max(r.has, what.Version), mono()
	if n := what.First + int64(len(what.Lines)) - r.first; n > 0 {
		r.drop(min(int(n), len(r.lines)))
	}
}

// reporter has the reports of all jobs that a worker runs.
type reporter struct {
	mu    sync.Mutex
	tasks map[*task]struct{}
	wake  chan struct{} // capacity 1: something was said

	trouble outage
	odd     atomic.Int64 // mono time: when it was logged last that single reports are refused; 0: never
}

func newReporter() *reporter {
	return &reporter{tasks: make(map[*task]struct{}), wake: make(chan struct{}, 1)}
}

func (r *reporter) add(t *task) {
	r.mu.Lock()
	r.tasks[t] = struct{}{}
	r.mu.Unlock()
}

func (r *reporter) ping() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// ended lets go of a task whose run is over: the settler has it now.
func (r *reporter) ended(t *task) {
	r.mu.Lock()
	delete(r.tasks, t)
	r.mu.Unlock()
}

// all tasks that have a report and run, by lane.
func (r *reporter) all() map[*lane][]*task {
	r.mu.Lock()
	defer r.mu.Unlock()
	lanes := make(map[*lane][]*task)
	for t := range r.tasks {
		if !t.lost.Load() {
			lanes[t.lane] = append(lanes[t.lane], t)
		}
	}
	return lanes
}

// report writes what handlers say until nobody settles any more: at once, and then no more often than each reportEvery.
func (w *Worker) report() {
	touch := time.NewTicker(reportTouch)
	defer touch.Stop()
	pause := time.NewTimer(time.Hour)
	defer pause.Stop()
	for {
		select {
		case <-w.gone:
			return
		case <-w.reports.wake:
		case <-touch.C:
		}
		wait := reportEvery
		if !w.writeReports(settleTimeout, w.reports.all(), (*task).said, false) {
			wait = reportAgain
			w.reports.ping()
		}
		pause.Reset(wait)
		select {
		case <-w.gone:
			return
		case <-pause.C:
		}
	}
}

// lastReports writes what was said of jobs whose ends are to be written next: behind that Redis takes no more of it. That it
// can't be written is no reason for the ends to wait.
func (w *Worker) lastReports(tasks []*task) {
	var lanes map[*lane][]*task
	for _, t := range tasks {
		if t.report.Load() == nil {
			continue
		}
		if lanes == nil {
			lanes = make(map[*lane][]*task)
		}
		lanes[t.lane] = append(lanes[t.lane], t)
	}
	if lanes != nil {
		w.writeReports(lastReport, lanes, (*task).lastWords, true)
	}
}

// reporting is one script of reports.
type reporting struct {
	call  engine.Call
	tasks []*task
	what  []engine.Report
}

// writeReports writes what there is to say of tasks in one pipeline, and reports whether that could be.
func (w *Worker) writeReports(timeout time.Duration, lanes map[*lane][]*task, say func(*task) (engine.Report, bool), last bool) bool {
	var todo []reporting
	for l, tasks := range lanes {
		g := tasks[0].groupKeys()
		var one reporting
		size := 0
		flush := func() {
			if len(one.what) > 0 {
				one.call = engine.ReportCall(engine.Held{Key: l.key, Group: w.group, Consumer: w.name}, g, one.what...)
				todo = append(todo, one)
			}
			one, size = reporting{}, 0
		}
		for _, t := range tasks {
			what, ok := say(t)
			if !ok {
				continue
			}
			one.tasks, one.what = append(one.tasks, t), append(one.what, what)
			for _, line := range what.Lines {
				size += len(line)
			}
			if len(one.what) == reportCalls || size >= reportBytes {
				flush()
			}
		}
		flush()
	}
	if len(todo) == 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.root), timeout)
	defer cancel()
	calls := make([]engine.Call, len(todo))
	for i := range todo {
		calls[i] = todo[i].call
	}
	var failed error
	for i, res := range engine.RunAll(ctx, w.rdb, calls) {
		err := res.Err
		if err == nil {
			err = w.reportsTaken(todo[i], res.Val, last)
		}
		if err != nil {
			failed = err
		}
	}
	if failed != nil {
		w.reports.trouble.began(w.log, "progress and logs of jobs cannot be written, trying again; the jobs go on all the same", failed)
		return false
	}
	w.reports.trouble.over(w.log, "progress and logs of jobs are written again")
	return true
}

// reportsTaken notes what Redis has taken, by what the script answered. An error says that it is full: it is to be asked again.
func (w *Worker) reportsTaken(r reporting, answer any, last bool) error {
	late, refused, ok := engine.ReadReported(answer)
	if !ok {
		return fmt.Errorf("unexpected answer %v", answer)
	}
	var full error
	for i, t := range r.tasks {
		rep := t.report.Load()
		err, bad := refused[i]
		switch {
		case bad && strings.HasPrefix(err, "OOM"):
			full = errors.New(err)
		case bad:
			w.refusedReport(t, err)
			rep.mu.Lock()
			rep.silent = true
			rep.mu.Unlock()
		case !late[i]: // else a heartbeat tells whether it is lost, or claims it back
			rep.took(r.what[i], last)
		}
	}
	return full
}

// refusedReport logs that a job's report can't be written, as when its key is somebody else's.
func (w *Worker) refusedReport(t *task, err string) {
	if at := w.reports.odd.Load(); at == 0 || mono()-at > int64(recordsSilence) {
		w.reports.odd.Store(mono())
		w.log.Warn("progress and log of a job cannot be written; the job goes on all the same", "job", t.describe(), "err", err)
	}
}
