package main

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/penstock-go/penstock/consumer"
)

// devLedger is what the publisher and the handlers themselves know of each
// job. It takes nothing from the engine's own counts: it is what they are checked against.
type devLedger struct {
	mu    sync.Mutex
	kinds []devTally
	jobs  []devRecord      // by number
	live  map[int]*devLive // announced, not ended as far as the handlers know
	wrong devFaults        // what must not happen
	moved time.Time        // when something last happened
}

// devTally counts the jobs of one kind.
type devTally struct {
	Published  int64 // stored for certain, duplicates not counted
	Completed  int64 // by their handlers
	Failed     int64 // jobs whose last run failed: they must be among the dead letters
	Dead       int64 // found among the dead letters, at the end
	Retried    int64
	Snoozed    int64
	Panics     int64
	Duplicates int64
	Runs       int64
	Stopped    int64 // runs cut short when their worker stopped
	Unsure     int64 // publishes without an answer, jobs that no handler has seen
}

// devRecord is what is kept of a job for good: little, since a load may run for days.
type devRecord struct {
	kind  uint8
	runs  uint8
	flags uint8
}

const (
	jobPublished = 1 << iota
	jobUnsure    // its publish had no answer
	jobRunning
	jobCompleted
	jobFailed
	jobDead // found among the dead letters
)

// devLive is what is kept of a job while it lives.
type devLive struct {
	id    string
	fence int64
	ran   bool
}

// devFaults are the first few of what went wrong, and how many there are.
type devFaults struct {
	list  []string
	count int
}

const maxFaults = 20

func (f *devFaults) add(format string, args ...any) {
	if f.count++; f.count <= maxFaults {
		f.list = append(f.list, fmt.Sprintf(format, args...))
	}
}

func newDevLedger() *devLedger {
	return &devLedger{kinds: make([]devTally, len(devKinds)), live: make(map[int]*devLive), moved: time.Now()}
}

// announce enters a job before it is published: its handler may be quicker than the publisher's answer.
func (l *devLedger) announce(j devJob) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.jobs) <= j.n {
		l.jobs = append(l.jobs, devRecord{})
	}
	l.jobs[j.n] = devRecord{kind: uint8(j.kind)} //nolint:gosec // there are a dozen
	l.live[j.n] = &devLive{id: j.id}
}

// published notes the job's receipt.
func (l *devLedger) published(j devJob, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.moved = time.Now()
	l.stored(j.n)
	if live := l.live[j.n]; live != nil {
		if live.id != "" && live.id != id {
			l.wrong.add("job %d was published as %s and ran as %s", j.n, id, live.id)
		}
		live.id = id
	}
}

// stored counts a job as published; l.mu is held.
func (l *devLedger) stored(n int) {
	rec := &l.jobs[n]
	tally := &l.kinds[rec.kind]
	if rec.flags&jobUnsure != 0 {
		tally.Unsure--
	}
	if rec.flags&jobPublished == 0 {
		tally.Published++
	}
	rec.flags = rec.flags&^jobUnsure | jobPublished
}

// unsure notes that the publish had no answer: the job may be stored or not.
func (l *devLedger) unsure(j devJob) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rec := &l.jobs[j.n]
	if rec.runs > 0 {
		l.stored(j.n)
		return
	}
	rec.flags |= jobUnsure
	l.kinds[j.kind].Unsure++
}

// refused forgets a job that was not stored.
func (l *devLedger) refused(j devJob) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.jobs[j.n].runs > 0 {
		l.wrong.add("job %d ran though its publish had failed", j.n)
	}
	delete(l.live, j.n)
}

func (l *devLedger) duplicate(j devJob) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kinds[j.kind].Duplicates++
}

func (l *devLedger) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong.add(format, args...)
}

// begin notes the start of a run and returns what it has to do.
func (l *devLedger) begin(kind int, d *consumer.Delivery, n int) devStep {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.moved = time.Now()
	k := &devKinds[kind]
	if n < 0 || n >= len(l.jobs) || int(l.jobs[n].kind) != kind {
		l.wrong.add("%s %s ran and was never published: order %d", k.typ, d.ID, n)
		return stepOK
	}
	rec := &l.jobs[n]
	if rec.flags&jobUnsure != 0 { // so it was stored after all
		l.stored(n)
	}
	if rec.flags&jobRunning != 0 {
		l.wrong.add("%s %s ran twice at the same time", k.typ, d.ID)
	}
	rec.flags |= jobRunning
	rec.runs = min(rec.runs+1, 250)
	runs := int(rec.runs)
	l.kinds[kind].Runs++
	live := l.live[n]
	if live == nil || runs > len(k.steps) {
		l.wrong.add("%s %s ran %d times, %d would be right", k.typ, d.ID, runs, len(k.steps))
		return stepOK
	}
	switch {
	case live.id != "" && live.id != d.ID:
		l.wrong.add("job %d ran as %s and is %s", n, d.ID, live.id)
	case live.ran && d.Fence <= live.fence:
		l.wrong.add("%s %s: fence %d after %d", k.typ, d.ID, d.Fence, live.fence)
	case d.Attempt != 1+k.failures(runs-1):
		l.wrong.add("%s %s: run %d is called attempt %d", k.typ, d.ID, runs, d.Attempt)
	}
	*live = devLive{id: d.ID, fence: d.Fence, ran: true}
	return k.steps[runs-1]
}

// end notes how a run ended, just before its handler says so.
func (l *devLedger) end(kind, n int, step devStep, stopped bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.moved = time.Now()
	if n < 0 || n >= len(l.jobs) || int(l.jobs[n].kind) != kind {
		return
	}
	rec, k, tally := &l.jobs[n], &devKinds[kind], &l.kinds[kind]
	rec.flags &^= jobRunning
	if stopped { // it is handed back, and has the same step before it
		tally.Stopped++
		rec.runs--
		return
	}
	last := int(rec.runs) >= len(k.steps)
	switch step {
	case stepOK, stepPermanent:
	case stepSnooze:
		tally.Snoozed++
	case stepPanic:
		tally.Panics++
		tally.Retried++
	default:
		if !last {
			tally.Retried++
		}
	}
	if !last || rec.flags&(jobCompleted|jobFailed) != 0 {
		return
	}
	delete(l.live, n)
	if step == stepOK {
		rec.flags |= jobCompleted
		tally.Completed++
	} else {
		rec.flags |= jobFailed
		tally.Failed++
	}
}

// dead notes a job found among the dead letters.
func (l *devLedger) dead(id, typ, reason string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n < 0 || n >= len(l.jobs) {
		l.wrong.add("%s %s is among the dead letters and was never published", typ, id)
		return
	}
	rec := &l.jobs[n]
	l.kinds[rec.kind].Dead++
	switch {
	case rec.flags&jobDead != 0:
		l.wrong.add("%s %s is among the dead letters twice", typ, id)
	case devKinds[rec.kind].typ != typ || rec.flags&jobFailed == 0:
		l.wrong.add("%s %s is among the dead letters (%s), which its handler did not bring about", typ, id, reason)
	}
	rec.flags |= jobDead
}

// audit looks at each job for a wrong number of runs, and for an end that did not happen.
func (l *devLedger) audit() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, rec := range l.jobs {
		k := &devKinds[rec.kind]
		switch {
		case rec.flags&jobRunning != 0:
			l.wrong.add("%s, order %d: its handler has not returned", k.typ, n)
		case rec.flags&jobFailed != 0 && rec.flags&jobDead == 0:
			l.wrong.add("%s, order %d: its last try failed, and it is not among the dead letters", k.typ, n)
		case rec.flags&(jobCompleted|jobFailed) != 0 && int(rec.runs) != len(k.steps):
			l.wrong.add("%s, order %d: it ran %d times, %d would be right", k.typ, n, rec.runs, len(k.steps))
		}
	}
}

// counts returns what is known of each kind, and the sum.
func (l *devLedger) counts() (kinds []devTally, all devTally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kinds = slices.Clone(l.kinds)
	return kinds, sumTallies(kinds)
}

func sumTallies(kinds []devTally) (all devTally) {
	for _, t := range kinds {
		all.Published += t.Published
		all.Completed += t.Completed
		all.Failed += t.Failed
		all.Dead += t.Dead
		all.Retried += t.Retried
		all.Snoozed += t.Snoozed
		all.Panics += t.Panics
		all.Duplicates += t.Duplicates
		all.Runs += t.Runs
		all.Stopped += t.Stopped
		all.Unsure += t.Unsure
	}
	return all
}

// open is how many jobs have not ended as far as the handlers know, and for how long nothing has happened.
func (l *devLedger) open() (jobs int, quiet time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.live) - int(sumTallies(l.kinds).Unsure), time.Since(l.moved)
}

// hanging describes some of the jobs that have not ended.
func (l *devLedger) hanging(most int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	numbers := make([]int, 0, len(l.live))
	for n := range l.live {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	var list []string
	for _, n := range numbers[:min(most, len(numbers))] {
		rec := l.jobs[n]
		k := &devKinds[rec.kind]
		list = append(list, fmt.Sprintf("%s %s of %s: %d of %d runs", k.typ, l.live[n].id, devStreams[k.stream], rec.runs, len(k.steps)))
	}
	return list
}

// faults are those noted so far.
func (l *devLedger) faults() devFaults {
	l.mu.Lock()
	defer l.mu.Unlock()
	return devFaults{slices.Clone(l.wrong.list), l.wrong.count}
}
