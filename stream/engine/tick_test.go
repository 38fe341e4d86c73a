package engine_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// second is a tick, long ago: one of each second.
func second(n int64) time.Time { return time.Unix(1_000_000_000+n, 0) }

// seen puts on record that the schedule's last tick was that one.
func (w *world) seen(schedule string, tick int64, rest string) {
	w.t.Helper()
	w.rdb.HSet(w.t.Context(), w.Ticks, schedule, fmt.Sprint(second(tick).UnixMilli(), " ", rest))
}

// tick is the call for one of the schedule daily, whose job's ID is x.
func (w *world) tick(n int64, change ...func(*engine.Tick)) engine.Call {
	t := engine.Tick{Schedule: "daily", At: second(n), Fire: second(n)}
	for _, f := range change {
		f(&t)
	}
	return engine.TickCall(w.Keys, engine.PublishCall(w.Keys, "x", "n", 0, entry("x")), t)
}

func skip(t *engine.Tick)  { t.Skip = true }
func final(t *engine.Tick) { t.Final = true }

var replaceScenarios = map[string]scenario{
	"replace": {
		prepare: func(w *world) engine.Call { return engine.ReplaceCall(w.Ticks, "a", "", "1") },
		first:   is(1), twice: is(1),
	},
	"replace another": {
		prepare: func(w *world) engine.Call {
			w.rdb.HSet(w.t.Context(), w.Ticks, "a", "2")
			return engine.ReplaceCall(w.Ticks, "a", "1", "3")
		},
		first: is(0), twice: is(0), oom: true,
	},
	"replace gone": {
		prepare: func(w *world) engine.Call {
			w.rdb.HSet(w.t.Context(), w.Ticks, "a", "1")
			return engine.ReplaceCall(w.Ticks, "a", "1", "")
		},
		first: is(1), twice: is(1), oom: true,
	},
}

var tickScenarios = map[string]scenario{
	"tick": {
		prepare: func(w *world) engine.Call { w.seen("daily", 0, "published y"); return w.tick(1) },
		first:   ticked("published", 1, "published x"), twice: ticked("recorded", 1, "published x"), delta: 1,
	},
	"tick new": {
		prepare: func(w *world) engine.Call { return w.tick(1) },
		first:   starts("[new "), twice: starts("[recorded "),
	},
	"tick new since": {
		prepare: func(w *world) engine.Call {
			return w.tick(1, func(t *engine.Tick) { t.Since = second(2) })
		},
		first: ticked("new", 2, "new "), twice: ticked("recorded", 2, "new "),
	},
	"tick early": {
		prepare: func(w *world) engine.Call {
			w.seen("daily", 0, "new ")
			return w.tick(1, func(t *engine.Tick) { t.Fire = time.Now().Add(time.Hour) })
		},
		first: ticked("early", 0, "new "), twice: ticked("early", 0, "new "), oom: true,
	},
	"tick schedule": {
		prepare: func(w *world) engine.Call {
			w.seen("daily", 0, "new ")
			return engine.TickCall(w.Keys, engine.ScheduleCall(w.Keys, "x", "n", 0, time.Hour, time.Time{}, entry("x")), engine.Tick{Schedule: "daily", At: second(1), Fire: second(1)})
		},
		first: ticked("published", 1, "published x"), twice: ticked("recorded", 1, "published x"), delta: 1,
	},
	"tick unique": {
		prepare: func(w *world) engine.Call {
			w.seen("daily", 0, "new ")
			return engine.TickCall(w.Keys, w.uniqueCall("x", locked{}), engine.Tick{Schedule: "daily", At: second(1), Fire: second(1)})
		},
		first: ticked("published", 1, "published x"), twice: ticked("recorded", 1, "published x"), delta: 1,
	},
	"tick unique standing": {
		prepare: func(w *world) engine.Call {
			w.seen("daily", 0, "published before")
			w.run(w.uniqueCall("y", locked{}))
			return engine.TickCall(w.Keys, w.uniqueCall("x", locked{}), engine.Tick{Schedule: "daily", At: second(1), Fire: second(1)})
		},
		first: ticked("standing", 0, "published before"), twice: ticked("standing", 0, "published before"), oom: true,
	},
	"tick unique stands": {
		prepare: func(w *world) engine.Call {
			w.seen("daily", 0, "published before")
			w.run(w.uniqueCall("y", locked{}))
			return engine.TickCall(w.Keys, w.uniqueCall("x", locked{}), engine.Tick{Schedule: "daily", At: second(1), Fire: second(1), Final: true})
		},
		first: ticked("stands", 1, "stands y"), twice: ticked("recorded", 1, "stands y"),
	},
	"tick unique coalesce": {
		prepare: func(w *world) engine.Call {
			w.seen("daily", 0, "published before")
			w.run(w.uniqueCall("y", locked{conflict: engine.ConflictCoalesce}))
			return engine.TickCall(w.Keys, w.uniqueCall("x", locked{conflict: engine.ConflictCoalesce}), engine.Tick{Schedule: "daily", At: second(1), Fire: second(1)})
		},
		first: ticked("stands", 1, "stands y"), twice: ticked("recorded", 1, "stands y"),
	},
	"tick stands": {
		prepare: func(w *world) engine.Call {
			w.seen("daily", 0, "new ")
			w.run(engine.PublishCall(w.Keys, "x", "m", 0, entry("x")))
			return w.tick(1, final)
		},
		first: ticked("stands", 1, "stands x"), twice: ticked("recorded", 1, "stands x"),
	},
	"tick full": {
		prepare: func(w *world) engine.Call {
			w.seen("daily", 0, "new ")
			w.run(engine.PublishCall(w.Keys, "y", "m", 0, entry("y")))
			return engine.TickCall(w.Keys, engine.PublishCall(w.Keys, "x", "n", 1, entry("x")), engine.Tick{Schedule: "daily", At: second(1), Fire: second(1), Final: true})
		},
		first: ticked("refused", 0, "new "), twice: ticked("refused", 0, "new "), oom: true,
	},
	"tick unfinished": {
		prepare: func(w *world) engine.Call {
			w.seen("daily", 0, "published y")
			w.run(engine.PublishCall(w.Keys, "y", "m", 0, entry("y")))
			return w.tick(1, skip)
		},
		first: ticked("unfinished", 0, "published y"), twice: ticked("unfinished", 0, "published y"), oom: true,
	},
	"tick skipped": {
		prepare: func(w *world) engine.Call {
			w.seen("daily", 0, "published y")
			w.run(engine.PublishCall(w.Keys, "y", "m", 0, entry("y")))
			return w.tick(1, skip, final)
		},
		first: ticked("skipped", 1, "skipped y"), twice: ticked("recorded", 1, "skipped y"),
	},
	"tick skip none": { // the last job is dead
		prepare: func(w *world) engine.Call {
			w.dead("y")
			w.seen("daily", 0, "published y")
			return w.tick(1, skip)
		},
		first: ticked("published", 1, "published x"), twice: ticked("recorded", 1, "published x"), delta: 1,
	},
	"tick events": {
		prepare: func(w *world) engine.Call {
			w.seen("daily", 0, "published y")
			w.rdb.HSet(w.t.Context(), w.Config, "kind", "events")
			return w.tick(1, skip)
		},
		first: ticked("events", 0, "published y"), twice: ticked("events", 0, "published y"), oom: true,
	},
	"tick now": {
		prepare: func(w *world) engine.Call {
			w.seen("daily", 5, "skipped y")
			return w.tick(1, final, func(t *engine.Tick) { t.At, t.Fire = time.Time{}, time.Time{} })
		},
		first: ticked("published", 5, "skipped x"), twice: ticked("stands", 5, "skipped x"), delta: 1,
	},
}

// ticked is an answer that says what happened, and what is on record then.
func ticked(what string, last int64, rest string) func(any) bool {
	return func(v any) bool {
		list, _ := v.([]any)
		if len(list) != 6 {
			return false
		}
		return fmt.Sprint(list[0]) == what && fmt.Sprint(list[2]) == fmt.Sprint(second(last).UnixMilli()) && fmt.Sprint(list[3], " ", list[4]) == rest
	}
}

// TestTickOnce: many that believe they lead, each with all ticks of a minute, in any order and repeatedly. Each tick is published
// once, and after a later one not at all.
func TestTickOnce(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	w.seen("daily", 0, "new ")
	var leaders sync.WaitGroup
	for range 8 {
		leaders.Go(func() {
			for n := range int64(60) {
				id := fmt.Sprint("tick-", n+1)
				c := engine.TickCall(w.Keys, engine.PublishCall(w.Keys, id, "n", 0, entry(id)), engine.Tick{Schedule: "daily", At: second(n + 1), Fire: second(n + 1)})
				for range 2 {
					if _, err := c.Run(t.Context(), rdb); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	leaders.Wait()
	entries := rdb.XRange(t.Context(), w.Stream, "-", "+").Val()
	if len(entries) != 60 {
		t.Errorf("%d jobs of 60 ticks", len(entries))
	}
	for i, e := range entries {
		if want := fmt.Sprint("data of tick-", i+1); e.Values["data"] != want {
			t.Errorf("entry %d has %q, want %q", i, e.Values["data"], want)
		}
	}
	rdb.Del(t.Context(), w.Stream, w.IDs) // they are done, and their IDs are free again
	v := w.run(engine.TickCall(w.Keys, engine.PublishCall(w.Keys, "tick-60", "n", 0, entry("tick-60")), engine.Tick{Schedule: "daily", At: second(60), Fire: second(60)}))
	if !ticked("recorded", 60, "published tick-60")(v) || w.jobs() != 0 {
		t.Errorf("a late duplicate: answered %v; %d jobs", v, w.jobs())
	}
}

// TestTickSince: what is older than a schedule is not caught up on, and what is on record is not taken back by an older Since.
func TestTickSince(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	since := func(n int64) func(*engine.Tick) { return func(t *engine.Tick) { t.Since = second(n) } }
	before := time.Now().UnixMilli()
	got, err := engine.ReadTicked(w.run(w.tick(1)))
	if err != nil || got.What != engine.TickNew || got.Last.At.UnixMilli() < before-1000 || got.Last.At.UnixMilli() > time.Now().UnixMilli()+1000 {
		t.Errorf("%+v, %v: want a baseline of now", got, err)
	}
	if d := time.Since(got.Now); d < -time.Second || d > 10*time.Second {
		t.Errorf("Redis's clock is read as %s", got.Now)
	}
	w.seen("daily", 5, "published y") // removed, and made again at 10
	if v := w.run(w.tick(10, since(10))); !ticked("recorded", 10, "new y")(v) {
		t.Errorf("the tick of its making: %v", v)
	}
	if v := w.run(w.tick(11, since(10))); !ticked("published", 11, "published x")(v) {
		t.Errorf("the first after: %v", v)
	}
	if v := w.run(w.tick(11, since(10))); !ticked("recorded", 11, "published x")(v) {
		t.Errorf("the same again: %v", v)
	}
	last, ok := engine.ReadLastTick(rdb.HGet(t.Context(), w.Ticks, "daily").Val())
	if !ok || !last.At.Equal(second(11)) || last.Outcome != engine.TickPublished || last.Job != "x" {
		t.Errorf("on record: %+v %v", last, ok)
	}
	rdb.HSet(t.Context(), w.Ticks, "daily", "nonsense")
	if got, err := engine.ReadTicked(w.run(w.tick(12))); err != nil || got.What != engine.TickNew {
		t.Errorf("what cannot be read is taken for nothing: %+v, %v", got, err)
	}
	if _, ok := engine.ReadLastTick("nonsense"); ok {
		t.Error("nonsense is read as a tick")
	}
}

// TestTickRefusedIsNotRecorded: a full stream, and one that takes no entry, keep the tick for later.
func TestTickRefusedIsNotRecorded(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	c := tickScenarios["tick full"].prepare(w)
	got, err := engine.ReadTicked(w.run(c))
	if err != nil || got.What != engine.TickRefused {
		t.Fatalf("%+v, %v", got, err)
	}
	if s, err := engine.ReadStored(got.Inside, "n"); err != nil || !s.Full {
		t.Errorf("inside: %+v, %v", s, err)
	}
	rdb.XTrimMaxLen(t.Context(), w.Stream, 0)
	if v := w.run(c); !ticked("published", 1, "published x")(v) {
		t.Errorf("once there is room: %v", v)
	}
}

// TestTickNamesWhatStands: what stands in a tick's way is named, so that whoever asks can look if it is gone.
func TestTickNamesWhatStands(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	got, err := engine.ReadTicked(w.run(tickScenarios["tick unfinished"].prepare(w)))
	if err != nil || got.What != engine.TickUnfinished || !strings.HasPrefix(got.Where, "orders ") || got.Last.Job != "y" {
		t.Errorf("%+v, %v", got, err)
	}
	w = newWorld(t, rdb, redistest.Name(t))
	got, err = engine.ReadTicked(w.run(tickScenarios["tick unique standing"].prepare(w)))
	if err != nil || got.What != engine.TickStanding {
		t.Fatalf("%+v, %v", got, err)
	}
	if s, err := engine.ReadStored(got.Inside, "n"); err != nil || s.Holder != "y" || !strings.HasPrefix(s.Where, "orders ") {
		t.Errorf("inside: %+v, %v", s, err)
	}
}

// TestTickAtMaxmemory: what is refused then is not on record, and fires once there is room.
func TestTickAtMaxmemory(t *testing.T) {
	t.Parallel()
	rdb := redistest.Connect(t, &redis.Options{Addr: redistest.Server(t).Addr()})
	for name, sc := range tickScenarios {
		w := newWorld(t, rdb, strings.ReplaceAll(name, " ", "-"))
		c := sc.prepare(w)
		rdb.ConfigSet(t.Context(), "maxmemory", "1")
		_, _ = c.Run(t.Context(), rdb)
		rdb.ConfigSet(context.WithoutCancel(t.Context()), "maxmemory", "0")
		if v := w.run(c); !sc.first(v) {
			t.Errorf("%s: when there is room again it answers %v", name, v)
		}
	}
}

// TestTickFailsInside: an error of the script inside is the answer, and the tick is not recorded.
func TestTickFailsInside(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for _, name := range []string{"tick schedule", "tick unique"} {
		w := newWorld(t, rdb, redistest.Name(t))
		c := tickScenarios[name].prepare(w)
		rdb.Set(t.Context(), w.ScheduledJobs, "no hash", 0)
		if v, err := c.Run(t.Context(), rdb); engine.Classify(err) != engine.Refused {
			t.Errorf("%s: answered %v, %v", name, v, err)
		}
		rdb.Del(t.Context(), w.ScheduledJobs)
		if v := w.run(c); !tickScenarios[name].first(v) {
			t.Errorf("%s: once it may be stored it answers %v", name, v)
		}
	}
}
