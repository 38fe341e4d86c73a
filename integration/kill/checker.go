package kill

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-go/penstock/integration/kill/ledger"
	"github.com/penstock-go/penstock/stream"
)

// blur is by how much two processes' reports to the ledger may be out of order.
const blur = 500 * time.Millisecond

// earlyBlur is by how much a deferred job may seem to run too soon: Redis's clock has milliseconds.
const earlyBlur = 20 * time.Millisecond

// settleWithin is how long after its handler a job's end is in Redis, when Redis is there.
const settleWithin = 5 * time.Second

// Check returns everything in the books that cannot be right. An empty answer means:
// nothing was lost, whatever ran twice did so because of a fault, and tries and fences are right.
func Check(b Books) []Finding {
	x := newIndex(b)
	findings := x.strays
	for _, j := range x.jobs {
		findings = append(findings, x.checkEnd(j)...)
		findings = append(findings, x.checkRuns(j)...)
		findings = append(findings, x.checkTries(j)...)
		findings = append(findings, x.checkTimes(j)...)
	}
	findings = append(findings, x.checkPublishing()...)
	findings = append(findings, x.checkFinal()...)
	return append(findings, x.checkLives()...)
}

// checkEnd: what was acknowledged, or has begun, ended as it had to.
func (x *index) checkEnd(j *job) []Finding {
	fault := func(rule, format string, args ...any) []Finding {
		return []Finding{{rule, j.n, j.group + ": " + fmt.Sprintf(format, args...)}}
	}
	switch {
	case j.work == nil:
		return fault(RuleLedger, "job %s was never published", j.id)
	case len(j.dead) > 1:
		return fault(RuleEnd, "it has %d dead letters", len(j.dead))
	}
	completed := slices.ContainsFunc(j.runs, func(r run) bool { return r.result == ledger.OK })
	if len(j.dead) == 0 {
		switch {
		case !completed && len(j.runs) == 0:
			return fault(RuleLost, "it never ran")
		case !completed:
			return fault(RuleLost, "no run of it succeeded, and it has no dead letter")
		}
		return nil
	}
	letter := j.dead[0]
	has := func(result string) bool {
		return slices.ContainsFunc(j.runs, func(r run) bool { return r.result == result })
	}
	switch letter.Reason {
	case "failed":
		if j.work.Fails < x.Rules.MaxTries || !has(ledger.Failed) {
			return fault(RuleEnd, "dead as failed, which it should not be")
		}
	case "permanent":
		if !j.work.Permanent || !has(ledger.Permanent) {
			return fault(RuleEnd, "dead as permanent, which it should not be")
		}
	case "crashed":
		if letter.Crashes < x.Rules.MaxCrashes {
			return fault(RuleEnd, "dead as crashed after %d crashes, %d are allowed", letter.Crashes, x.Rules.MaxCrashes)
		}
		if n := x.crashes(j); n < x.Rules.MaxCrashes {
			return fault(RuleEnd, "dead as crashed, and no more than %d faults can have crashed it", n)
		}
	default:
		return fault(RuleEnd, "dead as %q", letter.Reason)
	}
	return nil
}

// crashes is how many times faults can have made a lease of the job run out.
func (x *index) crashes(j *job) int {
	var at []time.Duration
	for _, l := range x.lives {
		if l.Group != j.group {
			continue
		}
		if l.Killed > 0 {
			at = append(at, l.Killed)
		}
		if x.stoppedWithoutRedis(l) {
			at = append(at, l.Died)
		}
		for _, f := range x.silences(l.Process) {
			at = append(at, f.At)
		}
	}
	slices.Sort(at)
	n, last := 0, time.Duration(-1)
	for _, t := range at {
		if t < x.published(j.n) || last >= 0 && t < last+x.unrenewed() {
			continue // one lease can't run out twice in so short a time
		}
		n, last = n+1, t
	}
	return n
}

// unrenewed is the least that is left of a lease at any time while it is renewed.
func (x *index) unrenewed() time.Duration { return x.Rules.Lease*2/3 - x.Rules.Slack }

// silences are the times at which a process did not run for long enough to lose its leases.
func (x *index) silences(process string) []Blow {
	var list []Blow
	for _, target := range []string{process, Machine} {
		for _, b := range x.blows[target] {
			if b.Until-b.At >= x.unrenewed() {
				list = append(list, b)
			}
		}
	}
	return list
}

// stoppedWithoutRedis: it could not hand back what it held, nor write down what had ended.
func (x *index) stoppedWithoutRedis(l Life) bool {
	return l.Told > 0 && l.Died > 0 && slices.ContainsFunc(x.outages, func(o Blow) bool {
		return o.At <= l.Died && l.Told-x.Rules.Slack <= o.Until+time.Second
	})
}

// checkRuns: each run but the first has a reason, and no two go on at once without one.
func (x *index) checkRuns(j *job) []Finding {
	var findings []Finding
	fault := func(rule, format string, args ...any) {
		findings = append(findings, Finding{rule, j.n, j.group + ": " + fmt.Sprintf(format, args...)})
	}
	for i := 1; i < len(j.runs); i++ {
		a, b := j.runs[i-1], j.runs[i]
		if a.Fence == b.Fence {
			fault(RuleFence, "runs %d and %d have the same fence, %d: one delivery started twice", a.Run, b.Run, a.Fence)
			continue
		}
		if b.At < a.At && !x.lateStart(a) {
			fault(RuleFence, "run %d started after run %d with a smaller fence, and its worker did not stand still", a.Run, b.Run)
		}
		switch why := x.why(a, b); why {
		case explained:
		case tooEarly:
			fault(RuleEarly, "run %d began on %s when the lease of run %d on %s can't have run out", b.Run, b.Worker, a.Run, a.Worker)
		default:
			if a.At < b.At && x.overlap(a, b) {
				fault(RuleOwners, "run %d began on %s while run %d went on on %s, whose worker lived", b.Run, b.Worker, a.Run, a.Worker)
			} else {
				fault(RuleTwice, "run %d (%s) was followed by run %d, and nothing explains it", a.Run, said(a), b.Run)
			}
		}
	}
	return findings
}

func said(r run) string {
	switch {
	case !r.over():
		return "still going on"
	case r.result == "":
		return "killed"
	}
	return r.result
}

func (x *index) overlap(a, b run) bool { return !a.over() || b.At < a.end-blur }

// lateStart: its worker stood still just before.
func (x *index) lateStart(r run) bool {
	return slices.ContainsFunc(x.silences(r.Worker), func(f Blow) bool {
		return f.At <= r.At && r.At <= f.Until+x.Rules.Slack
	})
}

type reason int

const (
	unexplained reason = iota
	tooEarly           // it would be, had it happened later
	explained
)

// why a job whose last run was a may run again, as b.
func (x *index) why(a, b run) reason {
	if a.result == ledger.Failed && b.Attempt == a.Attempt+1 && !x.overlap(a, b) {
		return explained // the next try
	}
	if x.handedBack(a) && !x.overlap(a, b) {
		return explained
	}
	return x.leaseOver(a, b)
}

// handedBack: its worker stopped, and gave up waiting for it.
func (x *index) handedBack(a run) bool {
	l := x.lives[a.Worker]
	return l.Told > 0 && a.over() && a.end >= l.Told+x.Rules.Grace-blur
}

// leaseOver: the lease of a had run out by the time of b, or b could not know
// that a had ended, because a fault kept its worker from saying so.
func (x *index) leaseOver(a, b run) reason {
	l, best := x.lives[a.Worker], unexplained
	// settled: its end was in Redis before t
	settled := func(t time.Duration) bool {
		return a.over() && a.result != "" && x.withRedis(a.end, t) > settleWithin
	}
	lost := func(at time.Duration) {
		switch {
		case settled(at):
		case b.At >= at+x.unrenewed():
			best = explained
		default:
			best = max(best, tooEarly)
		}
	}
	if l.Killed > 0 && a.At <= l.Killed+x.Rules.Slack {
		lost(l.Killed)
	}
	for _, f := range x.silences(a.Worker) {
		if a.At <= f.Until+x.Rules.Slack && f.At <= b.At {
			lost(f.At)
		}
	}
	if x.stoppedWithoutRedis(l) && !x.overlap(a, b) && !settled(l.Told) {
		best = explained
	}
	return best
}

// checkTries: each failed run counts, nothing else does.
func (x *index) checkTries(j *job) []Finding {
	var findings []Finding
	fault := func(format string, args ...any) {
		findings = append(findings, Finding{RuleTries, j.n, j.group + ": " + fmt.Sprintf(format, args...)})
	}
	least, most := 1, 1 // the attempt of the next run
	for i, r := range j.runs {
		if r.Attempt < least || r.Attempt > most {
			fault("run %d is attempt %d, from %d to %d are right", r.Run, r.Attempt, least, most)
		}
		if r.Attempt > x.Rules.MaxTries {
			fault("run %d is attempt %d of %d", r.Run, r.Attempt, x.Rules.MaxTries)
		}
		if r.result == ledger.Failed || r.result == ledger.Permanent {
			most++
			if i+1 == len(j.runs) || x.leaseOver(r, j.runs[i+1]) != explained && !x.handedBack(r) {
				least++
			}
		}
	}
	for _, d := range j.dead {
		if d.Reason == "failed" && (d.Attempt != x.Rules.MaxTries || most-1 < x.Rules.MaxTries) {
			fault("dead after %d failed tries of %d; the ledger knows %d", d.Attempt, x.Rules.MaxTries, most-1)
		}
		if j.work != nil && j.work.Poison && len(j.runs) > x.Rules.MaxCrashes {
			fault("it crashed its workers %d times, %d are allowed", len(j.runs), x.Rules.MaxCrashes)
		}
	}
	return findings
}

// checkTimes: not before it is due, and not too long after.
func (x *index) checkTimes(j *job) []Finding {
	var findings []Finding
	first := time.Duration(-1)
	for _, r := range j.runs {
		if first < 0 || r.At < first {
			first = r.At
		}
	}
	if first < 0 || j.acked == 0 {
		return nil
	}
	if first < j.due-earlyBlur {
		findings = append(findings, Finding{RuleDue, j.n, fmt.Sprintf("%s: it ran %s before it was due", j.group, j.due-first)})
	}
	if wait := first - max(j.acked, j.due); x.Rules.MaxWait > 0 && wait > x.Rules.MaxWait {
		findings = append(findings, Finding{RuleWait, j.n, fmt.Sprintf("%s: it began after %s, at most %s are allowed", j.group, wait, x.Rules.MaxWait)})
	}
	return findings
}

// checkPublishing: what Publish said of each job is true.
func (x *index) checkPublishing() []Finding {
	ids := make(map[int]map[string]bool)
	for _, j := range x.jobs {
		if ids[j.n] == nil {
			ids[j.n] = make(map[string]bool)
		}
		ids[j.n][j.id] = true
	}
	var findings []Finding
	for n, seen := range ids {
		may, twice, ambiguous, chosen := 0, false, 0, false
		for _, r := range x.records[n] {
			switch r.What {
			case ledger.Published:
				chosen = r.Work.ID != ""
			case ledger.Acknowledged:
				may++
				twice = twice || r.Twice && ambiguous == 0
			case ledger.Ambiguous:
				may++
				ambiguous++
			}
		}
		if chosen {
			may = min(may, 1)
		}
		if len(seen) > may {
			findings = append(findings, Finding{RuleStored, n, fmt.Sprintf("%d jobs were stored, and at most %d can have been", len(seen), may)})
		}
		if twice {
			findings = append(findings, Finding{RuleStored, n, "a job with this ID was there, though Publish had said that nothing was stored"})
		}
	}
	return findings
}

// checkFinal: nothing is left over in Redis.
func (x *index) checkFinal() []Finding {
	var findings []Finding
	fault := func(format string, args ...any) {
		findings = append(findings, Finding{RuleLeft, 0, fmt.Sprintf(format, args...)})
	}
	dead := make(map[string]bool) // stream, group and ID
	letters := make(map[string]int64)
	events := make(map[string]bool)
	for _, g := range x.Final.Groups {
		d := g.Depths
		if d.Waiting != 0 || d.Active != 0 || d.Scheduled != 0 || d.Retrying != 0 {
			fault("%s/%s: %d jobs wait, %d are active, %d scheduled, %d retrying", g.Stream, g.Group, d.Waiting, d.Active, d.Scheduled, d.Retrying)
		}
		if d.Dead != int64(len(g.Dead)) {
			fault("%s/%s: %d dead letters are counted, %d listed", g.Stream, g.Group, d.Dead, len(g.Dead))
		}
		events[g.Stream] = g.Kind == stream.KindEvents
		letters["{"+g.Stream+"}:g:"+g.Group+":dead"] = int64(len(g.Dead))
		for _, l := range g.Dead {
			dead[g.Stream+" "+l.ID] = true
			dead[g.Stream+" "+g.Group+" "+l.ID] = true
		}
	}
	for _, key := range x.Final.Keys {
		if why := leftOver(key, dead, letters, events); why != "" {
			fault("key %s: %s", key.Name, why)
		}
	}
	return findings
}

// leftOver says why a key should not be there, or "".
func leftOver(key Key, dead map[string]bool, letters map[string]int64, events map[string]bool) string {
	if key.Name == "penstock:streams" {
		return ""
	}
	name, rest, own := strings.Cut(strings.TrimPrefix(key.Name, "{"), "}:")
	if !own {
		isEvents, known := events[key.Name]
		switch {
		case !known:
			return "it belongs to no stream"
		case !isEvents && key.Len > 0:
			return fmt.Sprintf("%d entries", key.Len)
		}
		return ""
	}
	group, part := "", rest
	if g, found := strings.CutPrefix(rest, "g:"); found {
		group, part, _ = strings.Cut(g, ":")
	}
	switch {
	case part == "config":
		return ""
	case part == "redelivery", part == "suspects":
		if key.Len > 0 {
			return fmt.Sprintf("%d entries", key.Len)
		}
		return ""
	case part == "dead":
		if key.Len != letters[key.Name] {
			return fmt.Sprintf("%d entries, %d letters", key.Len, letters[key.Name])
		}
		return ""
	case part == "sweep", part == "lease", part == "workers", part == "upkeep", strings.HasPrefix(part, "job:"):
		if key.TTL == -1 { // what has gone since it was listed has -2
			return "it has no end"
		}
		return ""
	case part == "ids":
		for id, where := range key.Fields {
			of := name + " " + id
			if group != "" {
				of = name + " " + group + " " + id
			}
			if place, _, _ := strings.Cut(where, " "); place == "dead" && dead[of] || events[name] && group == "" && place == "orders" {
				continue
			}
			return fmt.Sprintf("job %s is said to be in %q", id, where)
		}
		return ""
	}
	return fmt.Sprintf("a %s of %d", key.Type, key.Len)
}

// lateStop is how long after its grace period a worker that was told to stop may
// take: 3 s for stuck handlers, 2 s to write what is left, and what a loaded machine adds.
const lateStop = 5 * time.Second

// checkLives: processes end only when they are told or killed, and then well and in time.
func (x *index) checkLives() []Finding {
	var findings []Finding
	for _, l := range x.Lives {
		fault := func(format string, args ...any) {
			findings = append(findings, Finding{RuleLife, 0, l.Process + " " + fmt.Sprintf(format, args...)})
		}
		limit := x.Rules.Grace + lateStop + 5*x.Rules.Slack
		switch {
		case l.Died == 0:
			fault("has never ended")
		case l.Killed > 0:
		case l.Told == 0:
			fault("ended by itself at %s: %s", seconds(l.Died), l.Exit)
		case l.Mute && l.Exit == "signal: terminated" && l.Told-l.Born <= x.Rules.Slack: // before main could listen the kernel's default counts
		case l.Exit != "exit status 0" && !x.stoppedWithoutRedis(l):
			fault("was told to stop at %s, and ended with %s", seconds(l.Told), l.Exit)
		case l.Died-l.Told > limit:
			fault("was told to stop at %s and ended at %s, %s later; %s are allowed", seconds(l.Told), seconds(l.Died), seconds(l.Died-l.Told), limit)
		}
	}
	return findings
}
