//go:build unix

package kill_test

import (
	"strings"
	"testing"
	"time"

	"github.com/penstock-go/penstock/integration/kill"
	"github.com/penstock-go/penstock/integration/kill/ledger"
	"github.com/penstock-go/penstock/stream"
)

// writer makes books by hand. Times are in seconds.
type writer struct {
	kill.Books
	runs int
}

const sec = time.Second

func at(s float64) time.Duration { return time.Duration(s * float64(sec)) }

// newBooks have one job, 1, that was published at 1 s, and two workers that live from 0 to 100 s.
func newBooks() *writer {
	w := &writer{}
	w.Rules = kill.Rules{Lease: 9 * sec, Grace: sec, MaxTries: 3, MaxCrashes: 3}
	w.Streams = []kill.Stream{
		{Name: "jobs", Kind: stream.KindQueue, Groups: []string{"main"}},
		{Name: "events", Kind: stream.KindEvents, Groups: []string{"main", "mail"}},
	}
	for _, s := range w.Streams {
		for _, group := range s.Groups {
			w.Final.Groups = append(w.Final.Groups, kill.GroupState{Stream: s.Name, Group: group, Kind: s.Kind})
		}
	}
	w.Final.Keys = []kill.Key{
		{Name: "jobs", Type: "stream", TTL: -1}, {Name: "events", Type: "stream", TTL: -1, Len: 7}, {Name: "penstock:streams", Type: "set", TTL: -1, Len: 2},
		{Name: "{jobs}:config", Type: "hash", TTL: -1, Len: 2}, {Name: "{jobs}:g:main:redelivery", Type: "stream", TTL: -1},
		{Name: "{jobs}:job:x", Type: "string", TTL: 30 * sec},
		{Name: "{events}:ids", Type: "hash", TTL: -1, Len: 1, Fields: map[string]string{"job-9": "orders 5-0 x"}},
	}
	for _, name := range []string{"a.1", "b.1"} {
		w.Lives = append(w.Lives, kill.Life{Process: name, Slot: name[:1], Group: "main", Told: at(100), Died: at(101), Exit: "exit status 0"})
	}
	w.publish(1, ledger.Work{N: 1, Stream: "jobs"})
	w.ack(1.1, 1, "1-0")
	return w
}

func (w *writer) add(s float64, r ledger.Record) {
	r.At = at(s)
	w.Records = append(w.Records, r)
}

func (w *writer) publish(s float64, work ledger.Work) {
	w.add(s, ledger.Record{What: ledger.Published, N: work.N, Work: &work})
}

func (w *writer) ack(s float64, n int, id string) {
	w.add(s, ledger.Record{What: ledger.Acknowledged, N: n, ID: id})
}

// start is a run of job 1; the fences count the runs.
func (w *writer) start(s float64, worker string, attempt int) int {
	w.runs++
	w.add(s, ledger.Record{What: ledger.Started, N: 1, ID: "1-0", Run: w.runs, Stream: "jobs", Group: "main", Worker: worker, Attempt: attempt, Fence: int64(w.runs)})
	return w.runs
}

func (w *writer) end(s float64, run int, result string) {
	w.add(s, ledger.Record{What: ledger.Ended, N: 1, Run: run, Result: result})
}

func (w *writer) gone(s float64, run int) {
	w.add(s, ledger.Record{What: ledger.Gone, N: 1, Run: run})
}

func (w *writer) runs1(worker string, from, to float64, attempt int, result string) {
	w.end(to, w.start(from, worker, attempt), result)
}

func (w *writer) blow(action, target string, from, to float64) {
	w.Blows = append(w.Blows, kill.Blow{Action: action, Target: target, At: at(from), Until: at(to)})
}

// kill is the end of a worker by SIGKILL.
func (w *writer) kill(name string, s float64) {
	for i := range w.Lives {
		if w.Lives[i].Process == name {
			w.Lives[i].Killed, w.Lives[i].Died, w.Lives[i].Told, w.Lives[i].Exit = at(s), at(s), 0, "signal: killed"
		}
	}
	w.blow("kill", name, s, s)
}

func (w *writer) told(name string, s, died float64) {
	for i := range w.Lives {
		if w.Lives[i].Process == name {
			w.Lives[i].Told, w.Lives[i].Died = at(s), at(died)
		}
	}
}

func (w *writer) fence(run int, fence int64) {
	for i := range w.Records {
		if r := &w.Records[i]; r.What == ledger.Started && r.Run == run {
			r.Fence = fence
		}
	}
}

func (w *writer) letter(l kill.Letter) {
	g := &w.Final.Groups[0]
	g.Dead = append(g.Dead, l)
	g.Depths.Dead++
	w.Final.Keys = append(w.Final.Keys, kill.Key{Name: "{jobs}:g:main:dead", Type: "stream", TTL: -1, Len: g.Depths.Dead})
}

func (w *writer) work(change func(*ledger.Work)) { change(w.Records[0].Work) }

// TestCheckFindsFaults: each kind of wrong books is found, and named. Were Check
// to find nothing in them, the kill test would prove nothing.
func TestCheckFindsFaults(t *testing.T) {
	t.Parallel()
	failed := func(w *writer) { w.work(func(w *ledger.Work) { w.Fails = 1000 }) }
	for name, c := range map[string]struct {
		want  string
		books func(w *writer)
	}{
		"a lost job":                    {kill.RuleLost, func(*writer) {}},
		"a job lost after a failed try": {kill.RuleLost, func(w *writer) { w.runs1("a.1", 2, 3, 1, ledger.Failed) }},
		"a job lost with its worker":    {kill.RuleLost, func(w *writer) { w.gone(3, w.start(2, "a.1", 1)); w.kill("a.1", 3) }},
		"a job that only one of two groups had": {kill.RuleLost, func(w *writer) {
			w.work(func(w *ledger.Work) { w.Stream = "events" })
			w.runs1("a.1", 2, 3, 1, ledger.OK)
		}},
		"a job that ran, stored ambiguously, and was lost": {kill.RuleLost, func(w *writer) {
			w.Records[1] = ledger.Record{At: at(1.1), What: ledger.Ambiguous, N: 1}
			w.runs1("a.1", 2, 3, 1, ledger.Failed)
		}},
		"an unexplained duplicate": {kill.RuleTwice, func(w *writer) {
			w.runs1("a.1", 2, 3, 1, ledger.OK)
			w.runs1("b.1", 5, 6, 1, ledger.OK)
		}},
		"a duplicate long after the end, though its worker was killed later": {kill.RuleTwice, func(w *writer) {
			w.runs1("a.1", 2, 3, 1, ledger.OK)
			w.kill("a.1", 20)
			w.runs1("b.1", 40, 41, 1, ledger.OK)
		}},
		"a duplicate that only a stall of Redis explains": {kill.RuleTwice, func(w *writer) {
			w.blow("stall", kill.Redis, 4, 18)
			w.runs1("a.1", 2, 5, 1, ledger.OK)
			w.runs1("b.1", 19, 20, 1, ledger.OK)
		}},
		"a job taken from a live worker after a stall": {kill.RuleOwners, func(w *writer) {
			w.blow("stall", kill.Redis, 4, 18)
			w.runs1("a.1", 2, 30, 1, ledger.OK)
			w.runs1("b.1", 19, 20, 1, ledger.OK)
		}},
		"two live owners": {kill.RuleOwners, func(w *writer) {
			w.runs1("a.1", 2, 30, 1, ledger.OK)
			w.runs1("b.1", 15, 16, 1, ledger.OK)
		}},
		"two live owners, one run apart": {kill.RuleOwners, func(w *writer) {
			w.runs1("a.1", 2, 60, 1, ledger.Failed)
			w.runs1("b.1", 3, 4, 1, ledger.Failed)
			w.runs1("b.1", 15, 16, 2, ledger.OK)
		}},
		"two owners after a freeze shorter than a lease": {kill.RuleOwners, func(w *writer) {
			w.runs1("a.1", 2, 30, 1, ledger.OK)
			w.blow("blink", "a.1", 5, 8)
			w.runs1("b.1", 15, 16, 1, ledger.OK)
		}},
		"a job taken from a killed worker at once": {kill.RuleEarly, func(w *writer) {
			w.gone(3, w.start(2, "a.1", 1))
			w.kill("a.1", 3)
			w.runs1("b.1", 4, 5, 1, ledger.OK)
		}},
		"a job taken from a frozen worker at once": {kill.RuleEarly, func(w *writer) {
			w.runs1("a.1", 2, 20, 1, ledger.OK)
			w.blow("freeze", "a.1", 5, 17)
			w.runs1("b.1", 7, 8, 1, ledger.OK)
		}},
		"interrupted before the grace period was over": {kill.RuleTwice, func(w *writer) {
			w.told("a.1", 3, 4)
			w.runs1("a.1", 2, 3.1, 1, ledger.Interrupted)
			w.runs1("b.1", 4, 5, 1, ledger.OK)
		}},
		"a fence that fell": {kill.RuleFence, func(w *writer) {
			w.kill("a.1", 3)
			w.gone(3, w.start(2, "a.1", 1))
			w.runs1("b.1", 15, 16, 1, ledger.OK)
			w.fence(1, 7)
		}},
		"a fence that stood still": {kill.RuleFence, func(w *writer) {
			w.kill("a.1", 3)
			w.gone(3, w.start(2, "a.1", 1))
			w.runs1("b.1", 15, 16, 1, ledger.OK)
			w.fence(2, 1)
		}},
		"a try too many": {kill.RuleTries, func(w *writer) {
			failed(w)
			for i := range 4 {
				w.runs1("a.1", float64(2*i+2), float64(2*i+3), i+1, ledger.Failed)
			}
			w.letter(kill.Letter{N: 1, ID: "1-0", Reason: "failed", Attempt: 3})
		}},
		"a try too few": {kill.RuleTries, func(w *writer) {
			failed(w)
			w.runs1("a.1", 2, 3, 1, ledger.Failed)
			w.runs1("a.1", 4, 5, 2, ledger.Failed)
			w.letter(kill.Letter{N: 1, ID: "1-0", Reason: "failed", Attempt: 3})
		}},
		"a try that a hand-back cost": {kill.RuleTries, func(w *writer) {
			w.told("a.1", 3, 4.2)
			w.runs1("a.1", 2, 4, 1, ledger.Interrupted)
			w.runs1("b.1", 5, 6, 2, ledger.OK)
		}},
		"a try that a crash cost": {kill.RuleTries, func(w *writer) {
			w.gone(3, w.start(2, "a.1", 1))
			w.kill("a.1", 3)
			w.runs1("b.1", 15, 16, 2, ledger.OK)
		}},
		"a failed try that did not count": {kill.RuleTries, func(w *writer) {
			w.runs1("a.1", 2, 3, 1, ledger.Failed)
			w.runs1("b.1", 5, 6, 1, ledger.OK)
		}},
		"a poison job that went on": {kill.RuleTries, func(w *writer) {
			w.work(func(w *ledger.Work) { w.Poison = true })
			w.Lives = nil
			for i, name := range []string{"a.1", "a.2", "a.3", "a.4"} {
				s := float64(2 + 15*i)
				w.Lives = append(w.Lives, kill.Life{Process: name, Group: "main"})
				w.gone(s+1, w.start(s, name, 1))
				w.kill(name, s+1)
			}
			w.letter(kill.Letter{N: 1, ID: "1-0", Reason: "crashed", Crashes: 4})
		}},
		"dead as crashed after one crash": {kill.RuleEnd, func(w *writer) {
			w.gone(3, w.start(2, "a.1", 1))
			w.kill("a.1", 3)
			w.letter(kill.Letter{N: 1, ID: "1-0", Reason: "crashed", Crashes: 3})
		}},
		"dead, and it should have succeeded": {kill.RuleEnd, func(w *writer) {
			w.runs1("a.1", 2, 3, 1, ledger.OK)
			w.letter(kill.Letter{N: 1, ID: "1-0", Reason: "permanent", Attempt: 1})
		}},
		"dead as lost": {kill.RuleEnd, func(w *writer) { w.letter(kill.Letter{N: 1, ID: "1-0", Reason: "lost"}) }},
		"dead twice": {kill.RuleEnd, func(w *writer) {
			w.work(func(w *ledger.Work) { w.Permanent = true })
			w.runs1("a.1", 2, 3, 1, ledger.Permanent)
			w.letter(kill.Letter{N: 1, ID: "1-0", Reason: "permanent"})
			w.letter(kill.Letter{N: 1, ID: "1-0", Reason: "permanent"})
		}},
		"a deferred job that ran too soon": {kill.RuleDue, func(w *writer) {
			w.Records[1].Due = at(5)
			w.runs1("a.1", 4, 5, 1, ledger.OK)
		}},
		"a job that waited": {kill.RuleWait, func(w *writer) {
			w.Rules.MaxWait = 10 * sec
			w.runs1("a.1", 14, 15, 1, ledger.OK)
		}},
		"stored twice": {kill.RuleStored, func(w *writer) {
			w.runs1("a.1", 2, 3, 1, ledger.OK)
			w.add(4, ledger.Record{What: ledger.Started, N: 1, ID: "2-0", Run: 9, Stream: "jobs", Group: "main", Worker: "a.1", Attempt: 1, Fence: 1})
			w.end(5, 9, ledger.OK)
		}},
		"stored, though nothing was stored": {kill.RuleStored, func(w *writer) {
			w.Records[1] = ledger.Record{At: at(1.1), What: ledger.Refused, N: 1}
			w.runs1("a.1", 2, 3, 1, ledger.OK)
		}},
		"an ID that was taken, though nothing was stored": {kill.RuleStored, func(w *writer) {
			w.Records[1].Twice = true
			w.runs1("a.1", 2, 3, 1, ledger.OK)
		}},
		"a job that nobody published": {kill.RuleLedger, func(w *writer) {
			w.Records = w.Records[:0]
			w.runs1("a.1", 2, 3, 1, ledger.OK)
		}},
		"a worker that died by itself": {kill.RuleLife, func(w *writer) {
			w.runs1("a.1", 2, 3, 1, ledger.OK)
			w.Lives[0].Told, w.Lives[0].Exit = 0, "exit status 2"
		}},
		"a worker that ended badly": {kill.RuleLife, func(w *writer) {
			w.runs1("a.1", 2, 3, 1, ledger.OK)
			w.Lives[0].Exit = "exit status 1"
		}},
		"a worker that had said nothing for long and did not catch the signal": {kill.RuleLife, func(w *writer) {
			w.told("a.1", 3, 3)
			w.Lives[0].Exit, w.Lives[0].Mute, w.Lives[0].Born = "signal: terminated", true, at(0.5)
		}},
		"a worker that was up and did not catch the signal": {kill.RuleLife, func(w *writer) {
			w.Lives[0].Exit = "signal: terminated"
		}},
		"a worker that ended badly without a word": {kill.RuleLife, func(w *writer) {
			w.Lives[0].Exit, w.Lives[0].Mute = "exit status 1", true
		}},
		"a worker that took long to stop": {kill.RuleLife, func(w *writer) {
			w.runs1("a.1", 2, 3, 1, ledger.OK)
			w.told("a.1", 10, 60)
		}},
		"a job that waits still": {kill.RuleLeft, func(w *writer) {
			w.runs1("a.1", 2, 3, 1, ledger.OK)
			w.Final.Groups[0].Depths.Waiting = 1
		}},
		"an entry left over":       {kill.RuleLeft, func(w *writer) { w.runs1("a.1", 2, 3, 1, ledger.OK); w.Final.Keys[0].Len = 1 }},
		"a key left over":          leftKey(kill.Key{Name: "{jobs}:unique:x", Type: "string", TTL: -1}),
		"a key of no stream":       leftKey(kill.Key{Name: "other", Type: "string", TTL: -1}),
		"a record without an end":  leftKey(kill.Key{Name: "{jobs}:job:y", Type: "string", TTL: -1}),
		"an upkeep without an end": leftKey(kill.Key{Name: "{jobs}:upkeep", Type: "string", TTL: -1}),
		"a sorted set left over":   leftKey(kill.Key{Name: "{jobs}:g:main:retrying", Type: "zset", TTL: -1, Len: 1}),
		"a redelivery left over":   leftKey(kill.Key{Name: "{events}:g:mail:redelivery", Type: "stream", TTL: -1, Len: 1}),
		"an ID of a finished job":  leftKey(kill.Key{Name: "{jobs}:ids", Type: "hash", TTL: -1, Fields: map[string]string{"job-1": "orders 1-0 x"}}),
		"an ID of no dead letter":  leftKey(kill.Key{Name: "{jobs}:ids", Type: "hash", TTL: -1, Fields: map[string]string{"job-1": "dead 1-0"}}),
		"an ID in a group's index": leftKey(kill.Key{Name: "{events}:g:mail:ids", Type: "hash", TTL: -1, Fields: map[string]string{"job-1": "retrying 1"}}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newBooks()
			c.books(w)
			findings := kill.Check(w.Books)
			for _, f := range findings {
				if f.Rule == c.want {
					return
				}
			}
			t.Errorf("no finding of %q among %d: %v\n%s", c.want, len(findings), findings, w.History(1))
		})
	}
}

func leftKey(key kill.Key) struct {
	want  string
	books func(w *writer)
} {
	return struct {
		want  string
		books func(w *writer)
	}{kill.RuleLeft, func(w *writer) {
		w.runs1("a.1", 2, 3, 1, ledger.OK)
		w.Final.Keys = append(w.Final.Keys, key)
	}}
}

// TestCheckAccepts: what faults explain is no finding.
func TestCheckAccepts(t *testing.T) {
	t.Parallel()
	for name, books := range map[string]func(w *writer){
		"a job that ran once": func(w *writer) { w.runs1("a.1", 2, 3, 1, ledger.OK) },
		"a job that failed, and then did not": func(w *writer) {
			w.runs1("a.1", 2, 3, 1, ledger.Failed)
			w.runs1("b.1", 4, 5, 2, ledger.Failed)
			w.runs1("b.1", 6, 7, 3, ledger.OK)
		},
		"a job out of tries": func(w *writer) {
			w.work(func(w *ledger.Work) { w.Fails = 1000 })
			for i := range 3 {
				w.runs1("a.1", float64(2*i+2), float64(2*i+3), i+1, ledger.Failed)
			}
			w.letter(kill.Letter{N: 1, ID: "1-0", Reason: "failed", Attempt: 3})
		},
		"a killed worker": func(w *writer) {
			w.gone(3, w.start(2, "a.1", 1))
			w.kill("a.1", 3)
			w.runs1("b.1", 12.5, 16, 1, ledger.OK)
		},
		"a worker killed before it could say that its handler had ended": func(w *writer) {
			w.runs1("a.1", 2, 3, 1, ledger.OK)
			w.kill("a.1", 3.1)
			w.runs1("b.1", 12.5, 16, 1, ledger.OK)
		},
		"a failed try that a killed worker could not count": func(w *writer) {
			w.runs1("a.1", 2, 3, 1, ledger.Failed)
			w.kill("a.1", 3.1)
			w.runs1("b.1", 12.5, 16, 1, ledger.OK)
		},
		"a handler that outlives its killed worker": func(w *writer) {
			w.runs1("a.1", 2, 30, 1, ledger.OK)
			w.kill("a.1", 3)
			w.runs1("b.1", 12.5, 16, 1, ledger.OK)
		},
		"a frozen worker": func(w *writer) {
			w.runs1("a.1", 2, 20, 1, ledger.OK)
			w.blow("freeze", "a.1", 5, 17)
			w.runs1("b.1", 14, 15, 1, ledger.OK)
		},
		"a delivery that a frozen worker starts too late": func(w *writer) {
			w.blow("freeze", "a.1", 2, 17)
			w.runs1("a.1", 17.1, 18, 1, ledger.Interrupted)
			w.runs1("b.1", 14, 15, 1, ledger.OK)
		},
		"a machine that stood still": func(w *writer) {
			w.runs1("a.1", 2, 20, 1, ledger.OK)
			w.blow("stall", kill.Machine, 5, 14)
			w.runs1("b.1", 14, 15, 1, ledger.OK)
		},
		"a hand-back": func(w *writer) {
			w.told("a.1", 3, 4.2)
			w.runs1("a.1", 2, 4, 1, ledger.Interrupted)
			w.runs1("b.1", 4.1, 6, 1, ledger.OK)
		},
		"a worker that stopped while Redis was away": func(w *writer) {
			w.blow("stall", kill.Redis, 2.5, 15)
			w.told("a.1", 3, 8)
			w.Lives[0].Exit = "exit status 1"
			w.runs1("a.1", 2, 3.2, 1, ledger.OK)
			w.runs1("b.1", 26, 27, 1, ledger.OK)
		},
		"a worker that was told to stop before it could listen": func(w *writer) {
			w.told("a.1", 3, 3)
			w.Lives[0].Exit, w.Lives[0].Mute, w.Lives[0].Born = "signal: terminated", true, at(2.7)
			w.runs1("b.1", 4.1, 6, 1, ledger.OK)
		},
		"a poison job": func(w *writer) {
			w.work(func(w *ledger.Work) { w.Poison = true })
			w.Lives = nil
			for i, name := range []string{"a.1", "a.2", "a.3"} {
				s := float64(2 + 15*i)
				w.Lives = append(w.Lives, kill.Life{Process: name, Group: "main"})
				w.gone(s+1, w.start(s, name, 1))
				w.kill(name, s+1)
			}
			w.letter(kill.Letter{N: 1, ID: "1-0", Reason: "crashed", Crashes: 3})
		},
		"a job of two groups": func(w *writer) {
			w.work(func(w *ledger.Work) { w.Stream = "events" })
			w.runs1("a.1", 2, 3, 1, ledger.OK)
			w.runs1("a.1", 4, 5, 1, ledger.OK)
			for i := range w.Records {
				if r := &w.Records[i]; r.Run == 2 && r.What == ledger.Started {
					r.Group, r.Fence = "mail", 1
				}
			}
		},
		"a job whose answer was lost, and it was stored": func(w *writer) {
			w.Records[1] = ledger.Record{At: at(1.1), What: ledger.Ambiguous, N: 1}
			w.runs1("a.1", 2, 3, 1, ledger.OK)
		},
		"a job whose answer was lost, and it was not": func(w *writer) {
			w.Records[1] = ledger.Record{At: at(1.1), What: ledger.Ambiguous, N: 1}
		},
		"an ID of a dead letter": func(w *writer) {
			w.Records[1].ID = "job-1"
			w.work(func(w *ledger.Work) { w.ID, w.Permanent = "job-1", true })
			w.runs1("a.1", 2, 3, 1, ledger.Permanent)
			w.Records[2].ID = "job-1"
			w.letter(kill.Letter{N: 1, ID: "job-1", Reason: "permanent"})
			w.Final.Keys = append(w.Final.Keys, kill.Key{Name: "{jobs}:ids", Type: "hash", TTL: -1, Fields: map[string]string{"job-1": "dead 5-0 x"}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newBooks()
			books(w)
			if findings := kill.Check(w.Books); len(findings) > 0 {
				t.Errorf("%v\n%s", findings, w.History(1))
			}
		})
	}
}

// TestReport: a report says what, when, and all that is known of the job.
func TestReport(t *testing.T) {
	t.Parallel()
	w := newBooks()
	w.blow("stall", kill.Redis, 4, 18)
	w.runs1("a.1", 2, 30, 1, ledger.OK)
	w.runs1("b.1", 19, 20, 1, ledger.OK)
	text := kill.Report{Books: w.Books, Findings: kill.Check(w.Books), Logs: t.TempDir()}.String()
	for _, part := range []string{"two owners: job 1: main: run 2 began on b.1", "4.00s  stall          redis until 18.00s", "19.00s  started", "attempt 1, fence 2, job 1-0", "2 ok"} {
		if !strings.Contains(text, part) {
			t.Errorf("the report lacks %q:\n%s", part, text)
		}
	}
}
