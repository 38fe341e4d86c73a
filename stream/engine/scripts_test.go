package engine_test

import (
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// scenario prepares what one script needs and returns its call; twice is what
// it answers when it comes a second time, late, and delta how the number of jobs changes.
type scenario struct {
	prepare func(*world) engine.Call
	first   func(any) bool
	twice   func(any) bool
	delta   int64
	oom     bool           // works at maxmemory
	full    func(any) bool // what it answers at maxmemory, when that differs
	waits   func(any) bool // what it answers at maxmemory, having done nothing
	moves   bool           // a second run moves idle times, which is its purpose
	part    bool           // it runs unlock.lua to its end
}

func is(want any) func(any) bool {
	return func(v any) bool { return fmt.Sprint(v) == fmt.Sprint(want) }
}

func isEntry(v any) bool { s, ok := v.(string); return ok && engine.IsEntryID(s) }

func starts(want string) func(any) bool {
	return func(v any) bool { return strings.HasPrefix(fmt.Sprint(v), want) }
}

func ends(want string) func(any) bool {
	return func(v any) bool { return strings.HasSuffix(fmt.Sprint(v), want) }
}

// end is that of a job with an ID.
func end(h engine.Held, id string, keep time.Duration) engine.End {
	return engine.End{Entry: h.Entry, ID: id, Indexed: true, Keep: keep}
}

func claimant(job string, fence int64, run string) engine.Claimant {
	return engine.Claimant{Job: job, Fence: fence, Run: run}
}

func promoteCall(slot engine.Slot) engine.Call {
	return engine.PromoteCall(slot, 10, "0")
}

var scenarios = merged(commonScenarios, uniqueScenarios, switchScenarios, upkeepScenarios, tickScenarios, replaceScenarios)

func merged(all ...map[string]scenario) map[string]scenario {
	m := make(map[string]scenario)
	for _, some := range all {
		maps.Copy(m, some)
	}
	return m
}

var commonScenarios = map[string]scenario{
	"publish": {
		prepare: func(w *world) engine.Call { return engine.PublishCall(w.Keys, "x", "n", 0, entry("x")) },
		first:   starts("[0 "), twice: starts("[1 orders "), delta: 1,
	},
	"publish gone": {
		prepare: func(w *world) engine.Call {
			c := engine.PublishCall(w.Keys, "x", "n", 0, entry("x"))
			w.run(c)
			w.rdb.XTrimMaxLen(w.t.Context(), w.Stream, 0)
			return c
		},
		first: starts("[3 orders "), twice: starts("[3 orders "), oom: true,
	},
	"schedule gone": {
		prepare: func(w *world) engine.Call {
			w.run(engine.PublishCall(w.Keys, "x", "n", 0, entry("x")))
			w.rdb.XTrimMaxLen(w.t.Context(), w.Stream, 0)
			return engine.ScheduleCall(w.Keys, "x", "n", 0, time.Hour, time.Time{}, entry("x"))
		},
		first: starts("[3 orders "), twice: starts("[3 orders "), oom: true,
	},
	"schedule": {
		prepare: func(w *world) engine.Call {
			return engine.ScheduleCall(w.Keys, "x", "n", 0, time.Hour, time.Time{}, entry("x"))
		},
		first: starts("[0 "), twice: starts("[1 scheduled "), delta: 1,
	},
	"promote": {
		prepare: func(w *world) engine.Call { w.due("x"); return promoteCall(engine.ScheduledSlot(w.Keys)) },
		first:   starts("[1 0 "), twice: starts("[0 0 "), oom: true,
	},
	"promote early": {
		prepare: func(w *world) engine.Call {
			w.schedule("x", time.Hour)
			return promoteCall(engine.ScheduledSlot(w.Keys))
		},
		first: starts("[0 0 "), twice: starts("[0 0 "), oom: true,
	},
	"promote retrying": {
		prepare: func(w *world) engine.Call {
			w.run(engine.RetryCall(w.held("x"), w.g, "x", -time.Second, entry("x")))
			return promoteCall(engine.RetryingSlot(w.g))
		},
		first: starts("[1 0 "), twice: starts("[0 0 "), oom: true,
	},
	"promote stranded": {
		prepare: func(w *world) engine.Call {
			w.schedule("x", time.Hour)
			w.rdb.ZRem(w.t.Context(), w.Scheduled, "x")
			return promoteCall(engine.ScheduledSlot(w.Keys))
		},
		first: ends(" 1 0]"), twice: ends(" 0 0]"), delta: 1, waits: ends(" 0 0]"),
	},
	"open": {
		prepare: func(w *world) engine.Call { return engine.OpenCall(w.Keys, "g", "queue", false, 0) },
		first:   is("[queue 1]"), twice: is("[queue 1]"), oom: true,
	},
	"beat": {
		prepare: func(w *world) engine.Call {
			h := w.held("x")
			return engine.BeatCall(w.Keys, w.g, "g", "me", time.Minute, 7, true, [engine.Lanes][]string{{h.Entry}, {"7-7"}, nil}, 0)
		},
		first: ends("[[] [] []] [[] [] []] 0 [ ] -1 1 [[] [] []] [[] [7-7] []] 0 [0 0 0] 1 0 ]"), twice: ends("[[] [] []] [[] [] []] 0 [ ] 7 1 [[] [] []] [[] [7-7] []] 0 [0 0 0] 1 0 ]"), moves: true, oom: true,
	},
	"sweep": {
		prepare: func(w *world) engine.Call {
			w.held("x")
			return engine.SweepCall(w.Keys, w.g, "g", "sweeper", 0, 0, time.Now().Add(time.Hour), 10)
		},
		first: starts("[watch "), twice: starts("[watch "), moves: true, oom: true,
	},
	"mend": {
		prepare: func(w *world) engine.Call {
			w.held("x")
			w.rdb.XGroupDelConsumer(w.t.Context(), w.Stream, "g", "me")
			return engine.MendCall(w.Keys, w.g, "g", 0, "", 10)
		},
		first: is("[1 ]"), twice: is("[0 ]"), oom: true,
	},
	"mend redelivery": {
		prepare: func(w *world) engine.Call {
			w.run(engine.ReleaseCall(w.held("x"), w.g, "x", entry("x")))
			w.read(w.g.Redelivery)
			w.rdb.XGroupDelConsumer(w.t.Context(), w.g.Redelivery, "g", "me")
			return engine.MendCall(w.Keys, w.g, "g", 1, "", 10)
		},
		first: is("[1 ]"), twice: is("[0 ]"), oom: true,
	},
	"settle": {
		prepare: func(w *world) engine.Call {
			h := w.held("x")
			return engine.SettleCall(h, []string{h.Entry})
		},
		first: is("[]"), twice: starts("[1"), delta: -1, oom: true,
	},
	"complete": {
		prepare: func(w *world) engine.Call {
			h := w.held("x")
			return engine.CompleteCall(h, w.g, "completed", end(h, "x", time.Minute))
		},
		first: is("[[] []]"), twice: starts("[[1"), delta: -1, oom: true,
	},
	"complete plain": {
		prepare: func(w *world) engine.Call {
			w.rdb.XAdd(w.t.Context(), addArgs(w.Stream, 1))
			h := w.read(w.Stream)
			return engine.CompleteCall(h, w.g, "completed", engine.End{Entry: h.Entry, ID: h.Entry, Keep: time.Hour, Record: []byte("completed \n{}\nresult")})
		},
		first: is("[[] []]"), twice: starts("[[1"), delta: -1, oom: true, full: starts("[[] [OOM "), // it ends, and leaves nothing
	},
	"complete batch": {
		prepare: func(w *world) engine.Call {
			x, y := w.held("x"), w.held("y")
			w.run(engine.ReleaseCall(y, w.g, "y", entry("y"))) // y's lease ran out, say
			return engine.CompleteCall(x, w.g, "completed", end(y, "y", time.Minute), end(x, "x", time.Minute), engine.End{Entry: "7-7", ID: "7-7", Keep: time.Hour})
		},
		first: starts("[[1"), twice: starts("[[1"), delta: -1, oom: true,
	},
	"retry": {
		prepare: func(w *world) engine.Call {
			return engine.RetryCall(w.held("x"), w.g, "x", time.Hour, entry("x"))
		},
		first: func(v any) bool { n, ok := v.(int64); return ok && n > time.Now().Add(50*time.Minute).UnixMilli() },
		twice: is(0), oom: true,
	},
	"move release": {
		prepare: func(w *world) engine.Call { return engine.ReleaseCall(w.held("x"), w.g, "x", entry("x")) },
		first:   isEntry, twice: is(""), oom: true,
	},
	"move dead": {
		prepare: func(w *world) engine.Call {
			return engine.DeadCall(w.held("x"), w.g, "x", entry("x"), "{}", engine.Lock{})
		},
		first: isEntry, twice: is(""), oom: true,
	},
	"redrive": {
		prepare: func(w *world) engine.Call {
			return engine.RedriveCall(w.g, w.dead("x"), "x", entry("x"), engine.Opts{})
		},
		first: isEntry, twice: is(""), oom: true,
	},
	"purge": {
		prepare: func(w *world) engine.Call {
			return engine.PurgeCall(w.g, []engine.Letter{{Entry: w.dead("x"), ID: "x"}})
		},
		first: is(1), twice: is(0), delta: -1, oom: true,
	},
	"free": {
		prepare: func(w *world) engine.Call {
			w.dead("x")
			c := engine.FreeCall(w.Keys, "x", w.where("x"), []string{"g"})
			w.rdb.Del(w.t.Context(), w.g.Dead)
			return c
		},
		first: is(1), twice: is(-1), oom: true,
	},
	"free retrying": {
		prepare: func(w *world) engine.Call {
			w.run(engine.RetryCall(w.held("x"), w.g, "x", time.Hour, entry("x")))
			c := engine.FreeCall(w.Keys, "x", w.where("x"), []string{"g"})
			w.rdb.Del(w.t.Context(), w.g.Retrying, w.g.RetryingJobs)
			return c
		},
		first: is(1), twice: is(-1), oom: true,
	},
	"free orders missed": {
		prepare: func(w *world) engine.Call { return w.trimmed("x") },
		first:   is(0), twice: is(0),
	},
	"free orders pending": {
		prepare: func(w *world) engine.Call {
			w.held("x")
			c := w.trimmed("x")
			w.missed("x", time.Minute)
			return c
		},
		first: is(0), twice: is(0), oom: true,
	},
	"free orders": {
		prepare: func(w *world) engine.Call {
			c := w.trimmed("x")
			w.missed("x", time.Minute)
			return c
		},
		first: is(1), twice: is(-1), oom: true,
	},
	"free missed": {
		prepare: func(w *world) engine.Call { return w.deletedByHand("x") },
		first:   is(0), twice: is(0),
	},
	"free redelivery": {
		prepare: func(w *world) engine.Call {
			c := w.deletedByHand("x")
			w.missed("x", time.Minute)
			return c
		},
		first: is(1), twice: is(-1), oom: true,
	},
	"get": {
		prepare: func(w *world) engine.Call {
			w.held("x")
			return engine.GetCall(w.Keys, "x", []string{"g"})
		},
		first: starts("[1"), twice: starts("[1"), oom: true, moves: true,
	},
	"get dead": {
		prepare: func(w *world) engine.Call { w.dead("x"); return engine.GetCall(w.Keys, "x", []string{"g"}) },
		first:   starts("[1"), twice: starts("[1"), oom: true,
	},
	"get groups": {
		prepare: func(w *world) engine.Call { return engine.GetCall(w.Keys, "x", []string{"another"}) },
		first:   is("[groups g]"), twice: is("[groups g]"), oom: true,
	},
	"cancel waiting": {
		prepare: func(w *world) engine.Call {
			w.run(engine.PublishCall(w.Keys, "x", "n", 0, entry("x")))
			return w.cancel("x")
		},
		first: is("[done  cancelled]"), twice: is("[done cancelled cancelled]"), delta: -1, oom: true,
	},
	"cancel scheduled": {
		prepare: func(w *world) engine.Call { w.schedule("x", time.Hour); return w.cancel("x") },
		first:   is("[done cancelled cancelled]"), twice: is("[done cancelled cancelled]"), delta: -1, oom: true,
	},
	"cancel retrying": {
		prepare: func(w *world) engine.Call {
			w.run(engine.RetryCall(w.held("x"), w.g, "x", time.Hour, entry("x")))
			return w.cancel("x")
		},
		first: is("[done  cancelled]"), twice: is("[done cancelled cancelled]"), delta: -1, oom: true,
	},
	"cancel redelivery": {
		prepare: func(w *world) engine.Call {
			w.run(engine.ReleaseCall(w.held("x"), w.g, "x", entry("x")))
			return w.cancel("x")
		},
		first: is("[done  cancelled]"), twice: is("[done cancelled cancelled]"), delta: -1, oom: true,
	},
	"cancel suspects": {
		prepare: func(w *world) engine.Call {
			w.run(engine.SuspectCall(w.held("x"), w.g, "x", entry("x")))
			return w.cancel("x")
		},
		first: is("[done  cancelled]"), twice: is("[done cancelled cancelled]"), delta: -1, oom: true,
	},
	"cancel active": {
		prepare: func(w *world) engine.Call { w.held("x"); return w.cancel("x") },
		first:   is("[done  active]"), twice: is("[done  active]"),
	},
	"cancel active again": {
		prepare: func(w *world) engine.Call { w.held("x"); w.run(w.cancel("x")); return w.cancel("x") },
		first:   is("[done  active]"), twice: is("[done  active]"), waits: is("[done  active]"), // at maxmemory it may be refused
	},
	"cancel dead": {
		prepare: func(w *world) engine.Call { w.dead("x"); return w.cancel("x") },
		first:   is("[done  dead]"), twice: is("[done  dead]"), oom: true,
	},
	"cancel completed": {
		prepare: func(w *world) engine.Call {
			h := w.held("x")
			w.run(engine.CompleteCall(h, w.g, "completed", end(h, "x", time.Minute)))
			return w.cancel("x")
		},
		first: is("[done completed completed]"), twice: is("[done completed completed]"), oom: true,
	},
	"cancel unknown": {
		prepare: func(w *world) engine.Call { return w.cancel("x") },
		first:   is("[done  ]"), twice: is("[done  ]"), oom: true,
	},
	"cancel groups": {
		prepare: func(w *world) engine.Call { return engine.CancelCall(w.Keys, "x", "", true, "", time.Hour, "", nil) },
		first:   is("[groups queue g]"), twice: is("[groups queue g]"), oom: true,
	},
	"marks": {
		prepare: func(w *world) engine.Call {
			w.held("x")
			h := w.held("y")
			w.run(w.cancel("x"))
			w.run(w.cancel("y"))
			w.run(engine.CompleteCall(h, w.g, "completed", end(h, "y", time.Minute))) // which wins
			return engine.MarksCall(w.Keys, w.g, "g", true)
		},
		first: is("[x]"), twice: is("[x]"), oom: true,
	},
	"move marked": {
		prepare: func(w *world) engine.Call {
			c := engine.ReleaseCall(w.held("x"), w.g, "x", entry("x"))
			w.run(w.cancel("x"))
			return c
		},
		first: is("cancelled"), twice: is("cancelled"), oom: true,
	},
	"retry marked": {
		prepare: func(w *world) engine.Call {
			c := engine.RetryCall(w.held("x"), w.g, "x", time.Hour, entry("x"))
			w.run(w.cancel("x"))
			return c
		},
		first: is(-3), twice: is(-3), oom: true,
	},
	"complete cancelled": {
		prepare: func(w *world) engine.Call {
			h := w.held("x")
			w.run(w.cancel("x"))
			return engine.CompleteCall(h, w.g, "cancelled", end(h, "x", time.Minute))
		},
		first: is("[[] []]"), twice: starts("[[1"), delta: -1, oom: true,
	},
	"publish cancelled": { // the mark of a job that succeeded all the same is not for the next one of its ID
		prepare: func(w *world) engine.Call {
			h := w.held("x")
			w.run(w.cancel("x"))
			w.run(engine.SettleCall(h, []string{h.Entry}))
			w.rdb.HDel(w.t.Context(), w.IDs, "x")
			return engine.PublishCall(w.Keys, "x", "n", 0, entry("x"))
		},
		first: starts("[0 "), twice: starts("[1 orders "), delta: 1,
	},
	"report": {
		prepare: func(w *world) engine.Call {
			return w.report(w.held("x"), "x", 1, "one", "two")
		},
		first: is("[[] []]"), twice: is("[[] []]"), oom: true, waits: starts("[[] [[1 OOM "),
	},
	"report late": {
		prepare: func(w *world) engine.Call {
			h := w.held("x")
			w.run(engine.ReleaseCall(h, w.g, "x", entry("x")))
			return w.report(h, "x", 1, "one")
		},
		first: is("[[1] []]"), twice: is("[[1] []]"), oom: true,
	},
	"reschedule": {
		prepare: func(w *world) engine.Call {
			w.schedule("x", time.Hour)
			return w.reschedule(engine.ScheduledSlot(w.Keys), "x", 2*time.Hour)
		},
		first: starts("[1 "), twice: is("[-1 ]"),
	},
	"reschedule retrying": {
		prepare: func(w *world) engine.Call {
			w.run(engine.RetryCall(w.held("x"), w.g, "x", time.Hour, entry("x")))
			return w.reschedule(engine.RetryingSlot(w.g), "x", 0)
		},
		first: starts("[1 "), twice: is("[-1 ]"),
	},
	"reschedule gone": {
		prepare: func(w *world) engine.Call { return w.reschedule(engine.ScheduledSlot(w.Keys), "x", 0) },
		first:   is("[0 ]"), twice: is("[0 ]"), oom: true,
	},
	"once claim": {
		prepare: func(w *world) engine.Call { return engine.ClaimCall(w.Keys, "x", claimant("a", 1, "r"), time.Minute) },
		first:   is("[mine ]"), twice: is("[mine ]"),
	},
	"once done": {
		prepare: func(w *world) engine.Call {
			w.run(engine.ClaimCall(w.Keys, "x", claimant("a", 1, "r"), time.Minute))
			return engine.DoneCall(w.Keys, "x", claimant("a", 1, "r"), []byte("result"), time.Minute)
		},
		first: is("[done ]"), twice: is("[done =result]"), oom: true,
	},
	"once release": {
		prepare: func(w *world) engine.Call {
			w.run(engine.ClaimCall(w.Keys, "x", claimant("a", 1, "r"), time.Minute))
			return engine.UnclaimCall(w.Keys, "x", claimant("a", 1, "r"))
		},
		first: is("[mine ]"), twice: is("[mine ]"), oom: true,
	},
	"leave": {
		prepare: func(w *world) engine.Call {
			w.run(engine.SettleCall(w.held("x"), []string{"0-1"})) // a consumer that still holds x
			h := w.held("y")
			w.run(engine.ReleaseCall(h, w.g, "y", entry("y")))
			h = w.read(w.g.Redelivery)
			w.run(engine.SettleCall(h, []string{h.Entry}))
			return engine.LeaveCall(w.Keys, w.g, "g", "me", time.Time{})
		},
		first: is(2), twice: is(2), oom: true,
	},
}

// TestScriptTwice runs each script twice: the second, late run changes nothing but what it says.
func TestScriptTwice(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for name, sc := range scenarios {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			c := sc.prepare(w)
			before := w.jobs()
			if v := w.run(c); !sc.first(v) {
				t.Errorf("the first run answers %v", v)
			}
			if n := w.jobs() - before; n != sc.delta {
				t.Errorf("the number of jobs changed by %d, want %d", n, sc.delta)
			}
			state := w.snapshot()
			if v := w.run(c); !sc.twice(v) {
				t.Errorf("the second run answers %v", v)
			}
			if name != "leave" && !sc.moves && w.snapshot() != state {
				t.Errorf("the second run changed\n%sto\n%s", state, w.snapshot())
			}
		})
	}
}

// TestScriptFailsWhole takes each key away, or puts one of another type in its
// place. Lua is not rolled back: a script that fails must have changed nothing.
func TestScriptFailsWhole(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for name, sc := range scenarios {
		for _, fault := range []string{"missing", "string", "list"} {
			t.Run(name+"/"+fault, func(t *testing.T) {
				t.Parallel()
				keys := len(sc.prepare(newWorld(t, rdb, redistest.Name(t))).Keys)
				for i := range keys {
					w := newWorld(t, rdb, redistest.Name(t))
					c := sc.prepare(w)
					key := c.Keys[i]
					rdb.Del(t.Context(), key)
					switch fault {
					case "string":
						rdb.Set(t.Context(), key, "another", 0) // the lock of which is somebody else's
					case "list":
						rdb.RPush(t.Context(), key, "x")
					}
					state, before := w.snapshot(), w.jobs()
					v, err := c.Run(t.Context(), rdb)
					if err != nil && w.snapshot() != state {
						t.Errorf("key %d: failed with %v, and changed\n%sto\n%s", i+1, err, state, w.snapshot())
					}
					lostBody := strings.HasPrefix(name, "promote") && i == 1 && fault == "missing"
					putBack := strings.HasPrefix(name, "promote") && i == 0 && fault == "missing"
					n := w.jobs() - before
					if putBack && (err != nil || n != 1) {
						t.Errorf("answered %v, %v: the job whose set was deleted is not there again", v, err)
					}
					forgotten := strings.HasSuffix(name, " gone") && key == w.IDs && fault == "missing"                   // it is stored, as nothing stands in its way
					behind := strings.HasSuffix(name, " next") && (n == sc.delta-1 || n == sc.delta+1 && key == w.Stream) // what is behind a lock goes with the keys that hold it, and comes though the job's entry has gone
					unlocked := strings.HasPrefix(name, "unique") && n == 1 && (key == w.IDs || key == w.Unique("k") || key == w.Config)
					ticked := strings.HasPrefix(name, "tick") && n == 1 && (key == w.Stream || key == w.IDs || key == w.Ticks || key == w.Config || key == w.Unique("k")) // what would keep it back is gone, or what is on record
					if err == nil && n != sc.delta && n != 0 && !behind && !unlocked && !lostBody && !putBack && !forgotten && !ticked {
						t.Errorf("key %d: answered %v, and the number of jobs changed by %d", i+1, v, n)
					}
					if fault != "missing" && err == nil && w.rdb.Type(t.Context(), key).Val() != fault {
						t.Errorf("key %d: a %s of somebody else's was overwritten", i+1, fault)
					}
				}
			})
		}
	}
}

// TestScriptDestinationTakesNothing: a stream whose last ID is the greatest
// there is refuses every XADD. No script may lose the job it was to move there.
func TestScriptDestinationTakesNothing(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	const greatest = "18446744073709551615-18446744073709551615"
	for _, name := range []string{"publish", "promote", "promote retrying", "move release", "move dead", "redrive", "tick"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			c := scenarios[name].prepare(w)
			dest := w.g.Redelivery
			switch name {
			case "publish", "promote", "tick":
				dest = w.Stream
			case "move dead":
				dest = w.g.Dead
			}
			rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: dest, ID: greatest, Values: []string{"a", "b"}})
			rdb.XDel(t.Context(), dest, greatest)
			before, where := w.jobs(), w.where("x")
			bodies := fmt.Sprint(rdb.HGetAll(t.Context(), w.ScheduledJobs).Val(), rdb.HGetAll(t.Context(), w.g.RetryingJobs).Val())
			scores := fmt.Sprint(rdb.ZRangeWithScores(t.Context(), w.Scheduled, 0, -1).Val(), rdb.ZRangeWithScores(t.Context(), w.g.Retrying, 0, -1).Val())
			for range 2 {
				if v, err := c.Run(t.Context(), rdb); engine.Classify(err) != engine.Refused {
					t.Errorf("answered %v, %v", v, err)
				}
			}
			if w.jobs() != before || w.where("x") != where {
				t.Errorf("%d jobs, were %d; x is at %q, was at %q", w.jobs(), before, w.where("x"), where)
			}
			if got := fmt.Sprint(rdb.HGetAll(t.Context(), w.ScheduledJobs).Val(), rdb.HGetAll(t.Context(), w.g.RetryingJobs).Val()); got != bodies {
				t.Errorf("bodies %s, were %s", got, bodies)
			}
			if got := fmt.Sprint(rdb.ZRangeWithScores(t.Context(), w.Scheduled, 0, -1).Val(), rdb.ZRangeWithScores(t.Context(), w.g.Retrying, 0, -1).Val()); got != scores {
				t.Errorf("due %s, was %s", got, scores)
			}
			if strings.HasPrefix(name, "move") {
				p, err := rdb.XPendingExt(t.Context(), &redis.XPendingExtArgs{Stream: w.Stream, Group: "g", Start: "-", End: "+", Count: 10, Consumer: "me"}).Result()
				if err != nil || len(p) != 1 {
					t.Errorf("pending %v, %v: want the job, still ours", p, err)
				}
			}
		})
	}
}

// TestScriptsAtMaxmemory: what ends or moves a job works when Redis is full, or a
// full queue would never drain; what makes one is refused and stores nothing.
func TestScriptsAtMaxmemory(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	for name, sc := range scenarios {
		t.Run(name, func(t *testing.T) {
			rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
			w := newWorld(t, rdb, strings.ReplaceAll(name, " ", "-"))
			c := sc.prepare(w)
			before, state := w.jobs(), w.snapshot()
			if err := rdb.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
				t.Fatal(err)
			}
			v, err := c.Run(t.Context(), rdb)
			if err := rdb.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
				t.Fatal(err)
			}
			if sc.waits != nil && err == nil {
				if !sc.waits(v) || w.snapshot() != state {
					t.Errorf("answered %v; want no change", v)
				}
				return
			}
			if !sc.oom {
				if engine.Classify(err) != engine.Full || w.snapshot() != state {
					t.Errorf("answered %v, %v; want OOM and no change", v, err)
				}
				return
			}
			first := sc.first
			if sc.full != nil {
				first = sc.full
			}
			if err != nil || !first(v) || w.jobs()-before != sc.delta {
				t.Errorf("answered %v, %v; the number of jobs changed by %d", v, err, w.jobs()-before)
			}
		})
	}
}

// TestScriptGuards: a worker that lost its entry changes nothing.
func TestScriptGuards(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for _, name := range []string{"retry", "move release", "move dead"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			c := scenarios[name].prepare(w)
			h := c.Args[2].(string)
			rdb.XClaim(t.Context(), &redis.XClaimArgs{Stream: w.Stream, Group: "g", Consumer: "other", Messages: []string{h}})
			state := w.snapshot()
			if v := w.run(c); !scenarios[name].twice(v) || w.snapshot() != state {
				t.Errorf("answered %v for an entry that another worker has", v)
			}
			w = newWorld(t, rdb, redistest.Name(t))
			c = scenarios[name].prepare(w)
			rdb.XDel(t.Context(), w.Stream, c.Args[2].(string))
			if v := w.run(c); !scenarios[name].first(v) || w.jobs() != 1 {
				t.Errorf("answered %v for an entry that was deleted while it was held; %d jobs, want it to go on", v, w.jobs())
			}
		})
	}
	t.Run("settle", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, rdb, redistest.Name(t))
		a, b, c := w.held("a"), w.held("b"), w.held("c")
		w.run(engine.ReleaseCall(b, w.g, "b", entry("b"))) // b's lease ran out, say
		if v := w.run(engine.SettleCall(a, []string{a.Entry, b.Entry, c.Entry})); fmt.Sprint(v) != fmt.Sprint([]any{b.Entry}) {
			t.Errorf("late %v, want %s alone", v, b.Entry)
		}
		if w.jobs() != 1 || w.rdb.XLen(t.Context(), w.Stream).Val() != 0 {
			t.Errorf("%d jobs, want b alone", w.jobs())
		}
	})
	t.Run("settle events", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, rdb, redistest.Name(t))
		a, b := w.held("a"), w.held("b")
		a.Delete, b.Delete = false, false
		w.run(engine.SettleCall(b, []string{b.Entry}))
		if v := w.run(engine.SettleCall(a, []string{a.Entry, b.Entry})); fmt.Sprint(v) != fmt.Sprint([]any{""}) {
			t.Errorf("late %q, want one that is not named", v)
		}
	})
	t.Run("retry of what is parked", func(t *testing.T) { // on an events stream whose group was made again
		t.Parallel()
		w := newWorld(t, rdb, redistest.Name(t))
		rdb.XAdd(t.Context(), addArgs(w.Stream, 1))
		h := w.read(w.Stream)
		h.Delete = false
		due := w.run(engine.RetryCall(h, w.g, h.Entry, time.Hour, entry(h.Entry)))
		rdb.XGroupSetID(t.Context(), w.Stream, "g", "0")
		h = w.read(w.Stream)
		h.Delete = false
		if v := w.run(engine.RetryCall(h, w.g, h.Entry, time.Hour, entry(h.Entry))); v != due {
			t.Errorf("answered %v, want %v: no other ID is left to park it under", v, due)
		}
		if n := rdb.XPending(t.Context(), w.Stream, "g").Val().Count; n != 0 || rdb.ZCard(t.Context(), w.g.Retrying).Val() != 1 {
			t.Errorf("%d pending, want the job to be parked, once", n)
		}
	})
	t.Run("schedule what is scheduled", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, rdb, redistest.Name(t))
		w.schedule("x", time.Hour)
		rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: w.Stream, Values: entry("x").Fields()}) // another program's, with the same ID
		h := w.read(w.Stream)
		w.run(engine.CompleteCall(h, w.g, "completed", end(h, "x", 0)))
		body := rdb.HGet(t.Context(), w.ScheduledJobs, "x").Val()
		e := entry("x")
		e.Data = "a third"
		s, err := engine.ReadStored(w.run(engine.ScheduleCall(w.Keys, "x", "m", 0, time.Hour, time.Time{}, e)), "m")
		if err != nil || !s.Duplicate || rdb.HGet(t.Context(), w.ScheduledJobs, "x").Val() != body {
			t.Errorf("%+v, %v: one job has overwritten another", s, err)
		}
	})
	t.Run("complete what was deleted", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, rdb, redistest.Name(t))
		w.run(engine.ReleaseCall(w.held("x"), w.g, "x", entry("x")))
		h := w.read(w.g.Redelivery)
		rdb.XDel(t.Context(), h.Key, h.Entry)
		c := engine.CompleteCall(h, w.g, "completed", end(h, "x", time.Minute))
		if v := w.run(c); fmt.Sprint(v) != "[[] []]" || w.where("x") != "" || rdb.Get(t.Context(), w.Job("x")).Val() != "completed n" {
			t.Errorf("answered %v, x is at %q: it is done, and its ID must not stay taken for good", v, w.where("x"))
		}
		if v := w.run(c); fmt.Sprint(v) != fmt.Sprintf("[[%s] []]", h.Entry) {
			t.Errorf("a second time it answered %v", v)
		}
	})
	t.Run("complete", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, rdb, redistest.Name(t))
		h := w.held("x")
		w.run(engine.ReleaseCall(h, w.g, "x", entry("x")))
		v := w.run(engine.CompleteCall(h, w.g, "completed", end(h, "x", time.Minute)))
		if fmt.Sprint(v) != fmt.Sprintf("[[%s] []]", h.Entry) || !strings.HasPrefix(w.where("x"), "redelivery ") || rdb.Exists(t.Context(), w.Job("x")).Val() != 0 {
			t.Errorf("late: answered %v, x is at %q", v, w.where("x"))
		}
	})
}

// TestScriptsAreTested keeps the table above complete.
func TestScriptsAreTested(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir("lua")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name, found := strings.TrimSuffix(f.Name(), ".lua"), false
		for sc, s := range scenarios {
			found = found || sc == name || strings.HasPrefix(sc, name+" ") || name == "unlock" && s.part
		}
		if !found {
			t.Errorf("lua/%s has no scenario", f.Name())
		}
	}
}
