package kill

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-go/penstock/integration/kill/ledger"
)

// Rules are what was promised.
type Rules struct {
	Lease      time.Duration
	Grace      time.Duration
	MaxTries   int
	MaxCrashes int
	// MaxWait from when a job is due to its first start; zero: anything goes, as it must when Redis is struck.
	MaxWait time.Duration
	// Slack is what a loaded machine may add to any of these. Default: 2 s.
	Slack time.Duration
}

// Books are all that is known of a run that is over.
type Books struct {
	Rules   Rules
	Streams []Stream
	Records []ledger.Record
	Lives   []Life
	Blows   []Blow
	Final   Final
}

// Finding is something that cannot be right.
type Finding struct {
	Rule string // one of the Rule constants
	N    int    // the job's number; 0: it is about no single job
	Text string
}

func (f Finding) String() string {
	if f.N == 0 {
		return f.Rule + ": " + f.Text
	}
	return fmt.Sprintf("%s: job %d: %s", f.Rule, f.N, f.Text)
}

// What a finding is about.
const (
	RuleLost   = "lost"                  // an acknowledged job ended nowhere
	RuleTwice  = "ran twice"             // no fault explains why a job ran again
	RuleOwners = "two owners"            // it ran again while a run went on whose worker lived and held the lease
	RuleEarly  = "stolen early"          // it ran again before the lease of a dead or frozen worker can have run out
	RuleFence  = "fence"                 // it did not grow
	RuleTries  = "tries"                 // a try too many, too few, or one that no failure explains
	RuleEnd    = "wrong end"             // it ended in another way than it had to
	RuleDue    = "before it was due"     // a deferred job ran too soon
	RuleStored = "stored"                // it was stored twice, or though Publish said that it was not
	RuleWait   = "waited"                // longer than Rules.MaxWait
	RuleLeft   = "left over"             // in Redis
	RuleLife   = "process"               // one that ended by itself, badly, or too late
	RuleLedger = "ledger out of balance" // the books themselves are wrong
)

// run is one run of a handler.
type run struct {
	ledger.Record               // its start
	end           time.Duration // zero: it never ended
	result        string        // "": it was killed, or never ended
}

func (r run) over() bool { return r.end > 0 }

// Job is one job of one group, with all of its runs by fence.
type job struct {
	n     int
	group string
	id    string
	work  *ledger.Work // nil: nobody published it
	acked time.Duration
	due   time.Duration
	runs  []run
	dead  []Letter
}

// index is the books, sorted for the checks.
type index struct {
	Books
	jobs    []*job
	lives   map[string]Life
	blows   map[string][]Blow // by target
	outages []Blow            // of Redis, and of the machine
	records map[int][]ledger.Record
	strays  []Finding
}

type jobKey struct {
	n         int
	group, id string
}

func newIndex(b Books) *index {
	if b.Rules.Slack == 0 {
		b.Rules.Slack = 2 * time.Second
	}
	x := &index{Books: b, lives: make(map[string]Life), blows: make(map[string][]Blow), records: make(map[int][]ledger.Record)}
	for _, l := range b.Lives {
		x.lives[l.Process] = l
	}
	for _, blow := range b.Blows {
		x.blows[blow.Target] = append(x.blows[blow.Target], blow)
		if blow.Target == Redis || blow.Target == Machine {
			x.outages = append(x.outages, blow)
		}
	}
	groups := make(map[string][]string)
	for _, s := range b.Streams {
		groups[s.Name] = s.Groups
	}
	works := make(map[int]*ledger.Work)
	jobs := make(map[jobKey]*job)
	find := func(n int, group, id string) *job {
		key := jobKey{n, group, id}
		j := jobs[key]
		if j == nil {
			j = &job{n: n, group: group, id: id, work: works[n]}
			jobs[key] = j
			x.jobs = append(x.jobs, j)
		}
		return j
	}
	ends := make(map[int]ledger.Record)
	for _, r := range b.Records {
		x.records[r.N] = append(x.records[r.N], r)
		switch r.What {
		case ledger.Published:
			works[r.N] = r.Work
		case ledger.Ended, ledger.Gone:
			ends[r.Run] = r
		}
	}
	for _, r := range b.Records {
		switch r.What {
		case ledger.Acknowledged:
			if works[r.N] == nil {
				x.strays = append(x.strays, Finding{RuleLedger, r.N, "acknowledged, and never published"})
				continue
			}
			for _, group := range groups[works[r.N].Stream] {
				j := find(r.N, group, r.ID)
				j.acked, j.due = r.At, r.Due
			}
		case ledger.Started:
			j := find(r.N, r.Group, r.ID)
			e := ends[r.Run]
			j.runs = append(j.runs, run{r, e.At, e.Result})
		}
	}
	for _, g := range b.Final.Groups {
		for _, letter := range g.Dead {
			j := find(letter.N, g.Group, letter.ID)
			j.dead = append(j.dead, letter)
		}
	}
	for _, j := range x.jobs {
		slices.SortStableFunc(j.runs, func(a, b run) int { return cmp.Compare(a.Fence, b.Fence) })
	}
	return x
}

// published is when a job was first published.
func (x *index) published(n int) time.Duration {
	for _, r := range x.records[n] {
		if r.What == ledger.Published {
			return r.At
		}
	}
	return 0
}

// withRedis is how much of the time between from and to Redis was there, and had been for a second.
func (x *index) withRedis(from, to time.Duration) time.Duration {
	d := to - from
	for _, o := range x.outages {
		d -= max(min(to, o.Until+time.Second)-max(from, o.At), 0)
	}
	return d
}

// History is all that the ledger says of a job, a line each.
func (b Books) History(n int) string {
	var lines strings.Builder
	starts := make(map[int]ledger.Record)
	for _, r := range b.Records {
		if r.N != n {
			continue
		}
		fmt.Fprintf(&lines, "  %10s  %-12s", seconds(r.At), r.What)
		switch r.What {
		case ledger.Published:
			fmt.Fprintf(&lines, " %+v", *r.Work)
		case ledger.Acknowledged:
			fmt.Fprintf(&lines, " as %s", r.ID)
			if r.Twice {
				lines.WriteString(", a job with this ID was there")
			}
			if r.Due > 0 {
				fmt.Fprintf(&lines, ", due at %s", seconds(r.Due))
			}
		case ledger.Ambiguous, ledger.Refused:
			fmt.Fprintf(&lines, " %s", r.Text)
		case ledger.Started:
			starts[r.Run] = r
			fmt.Fprintf(&lines, " run %d of %s on %s: attempt %d, fence %d, job %s", r.Run, r.Group, r.Worker, r.Attempt, r.Fence, r.ID)
		case ledger.Ended, ledger.Gone:
			fmt.Fprintf(&lines, " run %d of %s on %s after %s %s", r.Run, starts[r.Run].Group, starts[r.Run].Worker, seconds(r.At-starts[r.Run].At), r.Result)
		}
		lines.WriteByte('\n')
	}
	for _, g := range b.Final.Groups {
		for _, d := range g.Dead {
			if d.N == n {
				fmt.Fprintf(&lines, "  %10s  dead letter of %s/%s: %s, %d tries failed, %d crashes, by %s\n", "in the end", g.Stream, g.Group, d.Reason, d.Attempt, d.Crashes, d.Worker)
			}
		}
	}
	return lines.String()
}
