package engine_test

import (
	"fmt"
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
	oom     bool // works at maxmemory
	moves   bool // a second run moves idle times, which is its purpose
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

func promoteCall(slot engine.Slot) engine.Call {
	return engine.PromoteCall(slot, 10)
}

var scenarios = map[string]scenario{
	"publish": {
		prepare: func(w *world) engine.Call { return engine.PublishCall(w.Keys, "x", "n", 0, entry("x")) },
		first:   starts("[0 "), twice: starts("[1 orders "), delta: 1,
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
	"promote retrying": {
		prepare: func(w *world) engine.Call {
			w.run(engine.RetryCall(w.held("x"), w.g, "x", -time.Second, entry("x")))
			return promoteCall(engine.RetryingSlot(w.g))
		},
		first: starts("[1 0 "), twice: starts("[0 0 "), oom: true,
	},
	"open": {
		prepare: func(w *world) engine.Call { return engine.OpenCall(w.Keys, "g", "queue", false) },
		first:   is("[queue 1]"), twice: is("[queue 1]"), oom: true,
	},
	"beat": {
		prepare: func(w *world) engine.Call {
			h := w.held("x")
			return engine.BeatCall(w.Keys, w.g, "g", "me", [engine.Lanes][]string{{h.Entry}, {"7-7"}, nil})
		},
		first: ends("[[] [7-7] []] [[] [] []]]"), twice: ends("[[] [7-7] []] [[] [] []]]"), moves: true, oom: true,
	},
	"sweep": {
		prepare: func(w *world) engine.Call {
			w.held("x")
			return engine.SweepCall(w.Keys, w.g, "g", "sweeper", 0, time.Now().Add(time.Hour), 10)
		},
		first: starts("[watch "), twice: starts("[watch "), moves: true, oom: true,
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
			return engine.CompleteCall(w.held("x"), w.IDs, w.Job("x"), "x", "completed", time.Minute)
		},
		first: is(1), twice: is(0), delta: -1, oom: true,
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
		prepare: func(w *world) engine.Call { return engine.DeadCall(w.held("x"), w.g, "x", entry("x"), "{}") },
		first:   isEntry, twice: is(""), oom: true,
	},
	"redrive": {
		prepare: func(w *world) engine.Call { return engine.RedriveCall(w.g, w.dead("x"), "x", entry("x")) },
		first:   isEntry, twice: is(""), oom: true,
	},
	"purge": {
		prepare: func(w *world) engine.Call { return engine.PurgeCall(w.g, []any{w.dead("x"), "x"}) },
		first:   is(1), twice: is(0), delta: -1, oom: true,
	},
	"leave": {
		prepare: func(w *world) engine.Call {
			w.run(engine.SettleCall(w.held("x"), []string{"0-1"})) // a consumer that still holds x
			h := w.held("y")
			w.run(engine.ReleaseCall(h, w.g, "y", entry("y")))
			h = w.read(w.g.Redelivery)
			w.run(engine.SettleCall(h, []string{h.Entry}))
			return engine.LeaveCall([]string{w.Stream, w.g.Redelivery}, "g", "me")
		},
		first: is(1), twice: is(1), oom: true,
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
						rdb.Set(t.Context(), key, "x", 0)
					case "list":
						rdb.RPush(t.Context(), key, "x")
					}
					state, before := w.snapshot(), w.jobs()
					v, err := c.Run(t.Context(), rdb)
					if err != nil && w.snapshot() != state {
						t.Errorf("key %d: failed with %v, and changed\n%sto\n%s", i+1, err, state, w.snapshot())
					}
					lostBody := strings.HasPrefix(name, "promote") && i == 1 && fault == "missing"
					if n := w.jobs() - before; err == nil && n != sc.delta && n != 0 && !lostBody {
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
	for _, name := range []string{"publish", "promote", "promote retrying", "move release", "move dead", "redrive"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			c := scenarios[name].prepare(w)
			dest := w.g.Redelivery
			switch name {
			case "publish", "promote":
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
			if !sc.oom {
				if engine.Classify(err) != engine.Full || w.snapshot() != state {
					t.Errorf("answered %v, %v; want OOM and no change", v, err)
				}
				return
			}
			if err != nil || !sc.first(v) || w.jobs()-before != sc.delta {
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
	t.Run("complete", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, rdb, redistest.Name(t))
		h := w.held("x")
		w.run(engine.ReleaseCall(h, w.g, "x", entry("x")))
		v := w.run(engine.CompleteCall(h, w.IDs, w.Job("x"), "x", "completed", time.Minute))
		if fmt.Sprint(v) != "0" || !strings.HasPrefix(w.where("x"), "redelivery ") || rdb.Exists(t.Context(), w.Job("x")).Val() != 0 {
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
		for sc := range scenarios {
			found = found || sc == name || strings.HasPrefix(sc, name+" ")
		}
		if !found {
			t.Errorf("lua/%s has no scenario", f.Name())
		}
	}
}
