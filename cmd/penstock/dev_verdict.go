package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// devFacts are what is known when everything has stopped.
type devFacts struct {
	jobs     int    // that were to be published; 0: no number was set
	ended    string // why it ended: "", all are settled; else what came in between
	kinds    []devTally
	depths   stream.Depths // of all streams together
	stats    consumer.Stats
	wrong    devFaults
	unproven error // what could not be read, and so not be checked
}

// devReport is the outcome, as --json prints it.
type devReport struct {
	OK         bool      `json:"ok"`
	Published  int64     `json:"published"`
	Completed  int64     `json:"completed"`
	Dead       int64     `json:"dead"`
	Left       int64     `json:"left"` // not ended: Waiting and what follows it
	Waiting    int64     `json:"waiting"`
	Active     int64     `json:"active"`
	Scheduled  int64     `json:"scheduled"`
	Retrying   int64     `json:"retrying"`
	Lost       int64     `json:"lost"` // published, and nowhere to be found
	Retries    int64     `json:"retries"`
	Snoozes    int64     `json:"snoozes"`
	Panics     int64     `json:"panics"`
	Duplicates int64     `json:"duplicates"` // publishes refused since their ID was taken
	Deferred   int64     `json:"deferred"`
	Runs       int64     `json:"runs"` // of handlers
	TookMS     int64     `json:"took_ms"`
	JobsPerSec float64   `json:"jobs_per_second"`
	Seed       uint64    `json:"seed"`
	Workers    int       `json:"workers"`
	MaxJobs    int       `json:"max_jobs"`
	Group      string    `json:"group"`
	Streams    []string  `json:"streams"`
	Redis      *devRedis `json:"redis"`
	Warnings   int       `json:"warnings"` // in the engine's log
	Errors     int       `json:"errors"`
	Faults     []string  `json:"faults"`
}

// verdict compares what the ledger, the dead letters, the depths in Redis and
// the engine's own counts say. The report is OK when all of them agree, and
// all jobs that were to be settled are.
func (f devFacts) verdict() devReport {
	all := sumTallies(f.kinds)
	d := f.depths
	r := devReport{
		Published: all.Published, Completed: all.Completed, Dead: all.Dead,
		Waiting: d.Waiting, Active: d.Active, Scheduled: d.Scheduled, Retrying: d.Retrying,
		Left:    d.Waiting + d.Active + d.Scheduled + d.Retrying,
		Retries: all.Retried, Snoozes: all.Snoozed, Panics: all.Panics, Duplicates: all.Duplicates, Runs: all.Runs,
	}
	for i, k := range devKinds {
		if k.deferred {
			r.Deferred += f.kinds[i].Published
		}
	}
	faults := f.wrong
	if f.unproven != nil {
		faults.add("not all could be checked: %v", f.unproven)
	}
	r.Lost = r.Published - r.Completed - r.Dead - r.Left
	if r.Lost < 0 && -r.Lost <= all.Unsure { // stored, though the answer was lost
		r.Published, r.Lost = r.Published-r.Lost, 0
	}
	switch {
	case f.unproven != nil:
		r.Lost = max(r.Lost, 0)
	case r.Lost > 0:
		faults.add("lost: %s were published and are nowhere", plural(r.Lost, "job"))
	case r.Lost < 0:
		faults.add("%s more than were published are completed, dead or left", plural(-r.Lost, "job"))
		r.Lost = 0
	}
	equal := func(what string, got, want int64) {
		if got != want && f.unproven == nil {
			faults.add("%s: %s, and %s would be right", what, count(got), count(want))
		}
	}
	equal("dead letters", r.Dead, all.Failed)
	equal("dead letters, as their stream is long", d.Dead, r.Dead)
	equal("completed by the workers' own count", f.stats.Completed, r.Completed)
	equal("dead by the workers' own count", f.stats.Dead, r.Dead)
	equal("retries by the workers' own count", f.stats.Retried, r.Retries)
	equal("snoozes by the workers' own count", f.stats.Snoozed, r.Snoozes)
	equal("panics by the workers' own count", f.stats.Panics, r.Panics)
	equal("runs by the workers' own count", f.stats.Started, r.Runs)
	if f.ended == "" {
		equal("waiting at the end", d.Waiting, 0)
		equal("active at the end", d.Active, 0)
		equal("scheduled at the end", d.Scheduled, 0)
		equal("retrying at the end", d.Retrying, 0)
		equal("published", r.Published+all.Unsure, int64(f.jobs)) // an answer may be lost before the job is stored
		f.expect(equal)
	}
	r.Faults = faults.list
	if more := faults.count - len(faults.list); more > 0 {
		r.Faults = append(r.Faults, fmt.Sprintf("and %s", plural(int64(more), "more fault")))
	}
	if r.Faults == nil {
		r.Faults = []string{}
	}
	r.OK = len(r.Faults) == 0 && (f.ended == "" || f.jobs == 0 && f.ended == endedByUser)
	return r
}

// expect compares each kind with what follows from its steps.
func (f devFacts) expect(equal func(what string, got, want int64)) {
	for i := range devKinds {
		k, t := &devKinds[i], f.kinds[i]
		var retried, snoozed, panics int64
		for at, s := range k.steps {
			switch {
			case s == stepSnooze:
				snoozed++
			case s == stepPanic:
				panics++
				retried++
			case (s == stepFail || s == stepRetryAfter) && at < len(k.steps)-1:
				retried++
			}
		}
		completed, dead := t.Published, int64(0)
		if k.dies() {
			completed, dead = 0, t.Published
		}
		equal(k.typ+" completed", t.Completed, completed)
		equal(k.typ+" dead", t.Dead, dead)
		equal(k.typ+" retries", t.Retried, retried*t.Published)
		equal(k.typ+" snoozes", t.Snoozed, snoozed*t.Published)
		equal(k.typ+" panics", t.Panics, panics*t.Published)
		equal(k.typ+" runs", t.Runs, int64(len(k.steps))*t.Published)
	}
}

// Why a run ended before all was settled.
const (
	endedByUser  = "stopped"
	endedStalled = "stalled"
	endedFailed  = "failed"
)

// summary is the outcome in two or three lines for people.
func (r devReport) summary(took time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "published %s = completed %s + dead %s", count(r.Published), count(r.Completed), count(r.Dead))
	if r.Left > 0 {
		var where []string
		for _, d := range []struct {
			name string
			n    int64
		}{{"waiting", r.Waiting}, {"active", r.Active}, {"scheduled", r.Scheduled}, {"retrying", r.Retrying}} {
			if d.n > 0 {
				where = append(where, d.name+" "+count(d.n))
			}
		}
		fmt.Fprintf(&b, " + left %s (%s)", count(r.Left), strings.Join(where, ", "))
	}
	fmt.Fprintf(&b, ", %s lost.\n%s, %s, %s, %s refused.\n", count(r.Lost), plurals(r.Retries, "retry", "retries"), plural(r.Snoozes, "snooze"),
		plural(r.Panics, "panic"), plural(r.Duplicates, "duplicate"))
	fmt.Fprintf(&b, "%s runs of handlers in %s, %s jobs/s settled.\n", count(r.Runs), short(took), count(int64(r.JobsPerSec+0.5)))
	return b.String()
}

func plurals(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}
