package engine_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// locked is a job with the unique key "k".
type locked struct {
	until    int64
	conflict string
	delay    time.Duration
	data     string
	nonce    string
}

func (l locked) opts(id string) engine.Opts {
	return engine.Opts{ID: id, Unique: "k", Until: l.until, Coalesce: l.conflict == engine.ConflictCoalesce}
}

func (l locked) entry(id string) engine.Entry {
	data := l.data
	if data == "" {
		data = "data of " + id
	}
	return engine.Entry{Type: "t", Data: data, Opts: l.opts(id).String()}
}

// uniqueCall publishes a job with the key.
func (w *world) uniqueCall(id string, l locked) engine.Call {
	conflict, nonce := l.conflict, l.nonce
	if conflict == "" {
		conflict = engine.ConflictKeep
	}
	if nonce == "" {
		nonce = "n" + id
	}
	return engine.UniqueCall(w.Keys, id, nonce, 0, l.delay, time.Time{}, engine.Locked{Key: "k", Until: l.until, Conflict: conflict}, l.entry(id), l.opts(id))
}

// heldUnique publishes one and reads it.
func (w *world) heldUnique(id string, l locked) engine.Held {
	w.t.Helper()
	w.run(w.uniqueCall(id, l))
	return w.read(w.Stream)
}

// behind has x held and the data of y behind its lock, as their first version.
func (w *world) behind() engine.Held {
	w.t.Helper()
	h := w.heldUnique("x", locked{conflict: engine.ConflictCoalesce})
	w.run(w.uniqueCall("y", locked{conflict: engine.ConflictCoalesce}))
	return h
}

// deadUnique makes a dead letter that had the key.
func (w *world) deadUnique(id string, l locked) string {
	w.t.Helper()
	h := w.heldUnique(id, l)
	return w.run(engine.DeadCall(h, w.g, id, l.entry(id), "{}", engine.Lock{Key: "k"})).(string)
}

func (w *world) lock() string { return w.rdb.Get(w.t.Context(), w.Unique("k")).Val() }

func endLocked(h engine.Held, id string, seen int64) engine.End {
	e := end(h, id, time.Minute)
	e.Lock = engine.Lock{Key: "k", Seen: seen}
	return e
}

func contains(parts ...string) func(any) bool {
	return func(v any) bool {
		text, rest := fmt.Sprint(v), true
		for _, part := range parts {
			rest = rest && strings.Contains(text, part)
		}
		return rest
	}
}

var uniqueScenarios = map[string]scenario{
	"unique": {
		prepare: func(w *world) engine.Call { return w.uniqueCall("x", locked{}) },
		first:   starts("[0 "), twice: starts("[1 orders "), delta: 1,
	},
	"unique later": {
		prepare: func(w *world) engine.Call { return w.uniqueCall("x", locked{delay: time.Hour}) },
		first:   starts("[0 "), twice: starts("[1 scheduled "), delta: 1,
	},
	"unique timed": {
		prepare: func(w *world) engine.Call { return w.uniqueCall("x", locked{until: 60_000}) },
		first:   starts("[0 "), twice: starts("[1 orders "), delta: 1,
	},
	"unique held": {
		prepare: func(w *world) engine.Call {
			w.heldUnique("y", locked{})
			return w.uniqueCall("x", locked{})
		},
		first: contains("[1 orders ", " y]"), twice: contains("[1 orders ", " y]"), oom: true,
	},
	"unique held for a time": {
		prepare: func(w *world) engine.Call {
			h := w.heldUnique("y", locked{until: 60_000})
			w.run(engine.CompleteCall(h, w.g, "completed", end(h, "y", 0)))
			return w.uniqueCall("x", locked{})
		},
		first: is("[1  y]"), twice: is("[1  y]"), oom: true,
	},
	"unique gone": {
		prepare: func(w *world) engine.Call {
			w.run(w.uniqueCall("y", locked{}))
			w.rdb.XTrimMaxLen(w.t.Context(), w.Stream, 0)
			return w.uniqueCall("x", locked{})
		},
		first: contains("[3 orders ", " y]"), twice: contains("[3 orders ", " y]"), oom: true,
	},
	"unique left behind": { // by a job that is nowhere
		prepare: func(w *world) engine.Call {
			w.rdb.Set(w.t.Context(), w.Unique("k"), "y", 0)
			return w.uniqueCall("x", locked{})
		},
		first: starts("[0 "), twice: starts("[1 orders "), delta: 1,
	},
	"unique left by the dead": { // whose worker knew nothing of locks
		prepare: func(w *world) engine.Call {
			h := w.heldUnique("y", locked{})
			w.run(engine.DeadCall(h, w.g, "y", entry("y"), "{}", engine.Lock{}))
			return w.uniqueCall("x", locked{})
		},
		first: starts("[0 "), twice: starts("[1 orders "), delta: 1,
	},
	"unique replaces": {
		prepare: func(w *world) engine.Call {
			w.run(w.uniqueCall("y", locked{delay: time.Hour}))
			return w.uniqueCall("x", locked{conflict: engine.ConflictReplace, delay: 2 * time.Hour})
		},
		first: contains("[5 scheduled ", " y]"), twice: contains("[5 scheduled ", " y]"),
	},
	"unique replaces at once": {
		prepare: func(w *world) engine.Call {
			w.run(w.uniqueCall("y", locked{delay: time.Hour}))
			return w.uniqueCall("x", locked{conflict: engine.ConflictReplace})
		},
		first: contains("[5 orders ", " y]"), twice: contains("[5 orders ", " y]"),
	},
	"unique coalesces": {
		prepare: func(w *world) engine.Call {
			w.heldUnique("y", locked{conflict: engine.ConflictCoalesce})
			return w.uniqueCall("x", locked{conflict: engine.ConflictCoalesce})
		},
		first: contains("[5 orders ", " y]"), twice: contains("[5 orders ", " y]"),
	},
	"unique coalesces behind a gone": {
		prepare: func(w *world) engine.Call {
			w.heldUnique("y", locked{conflict: engine.ConflictCoalesce})
			w.rdb.XTrimMaxLen(w.t.Context(), w.Stream, 0)
			return w.uniqueCall("x", locked{conflict: engine.ConflictCoalesce})
		},
		first: contains("[7 orders ", " y]"), twice: contains("[7 orders ", " y]"),
	},
	"unique for events": {
		prepare: func(w *world) engine.Call {
			w.rdb.HSet(w.t.Context(), w.Config, "kind", "events")
			return w.uniqueCall("x", locked{})
		},
		first: is("[4 events]"), twice: is("[4 events]"), oom: true,
	},
	"start end": {
		prepare: func(w *world) engine.Call {
			return engine.StartUntilCall(w.heldUnique("x", locked{until: engine.UntilStarted}), w.g, "x", "k")
		},
		first: is("[1 ]"), twice: is("[1 ]"), oom: true,
	},
	"start end next": {
		prepare: func(w *world) engine.Call {
			h := w.heldUnique("x", locked{until: engine.UntilStarted})
			w.run(w.uniqueCall("y", locked{conflict: engine.ConflictCoalesce}))
			return engine.StartUntilCall(h, w.g, "x", "k")
		},
		first: is("[1 ]"), twice: is("[1 ]"), delta: 1, oom: true, part: true,
	},
	"start read": {
		prepare: func(w *world) engine.Call { return engine.StartLatestCall(w.behind(), w.g, "x", "k") },
		first:   starts("[1 1 ny y\n"), twice: starts("[1 1 ny y\n"), oom: true,
	},
	"start late": {
		prepare: func(w *world) engine.Call {
			h := w.heldUnique("x", locked{until: engine.UntilStarted})
			w.run(engine.ReleaseCall(h, w.g, "x", entry("x")))
			return engine.StartUntilCall(h, w.g, "x", "k")
		},
		first: is("[0]"), twice: is("[0]"), oom: true,
	},
	"complete locked": {
		prepare: func(w *world) engine.Call {
			h := w.heldUnique("x", locked{})
			return engine.CompleteCall(h, w.g, "completed", endLocked(h, "x", 0))
		},
		first: is("[[] []]"), twice: starts("[[1"), delta: -1, oom: true,
	},
	"complete next": {
		prepare: func(w *world) engine.Call {
			h := w.behind()
			return engine.CompleteCall(h, w.g, "completed", endLocked(h, "x", 0))
		},
		first: is("[[] []]"), twice: starts("[[1"), oom: true, part: true,
	},
	"complete seen": {
		prepare: func(w *world) engine.Call {
			h := w.behind()
			return engine.CompleteCall(h, w.g, "completed", endLocked(h, "x", 1))
		},
		first: is("[[] []]"), twice: starts("[[1"), delta: -1, oom: true,
	},
	"move dead locked": {
		prepare: func(w *world) engine.Call {
			return engine.DeadCall(w.heldUnique("x", locked{}), w.g, "x", entry("x"), "{}", engine.Lock{Key: "k"})
		},
		first: isEntry, twice: is(""), oom: true,
	},
	"move dead next": {
		prepare: func(w *world) engine.Call {
			return engine.DeadCall(w.behind(), w.g, "x", entry("x"), "{}", engine.Lock{Key: "k"})
		},
		first: isEntry, twice: is(""), delta: 1, oom: true, part: true,
	},
	"redrive locked": {
		prepare: func(w *world) engine.Call {
			return engine.RedriveCall(w.g, w.deadUnique("x", locked{}), "x", entry("x"), locked{}.opts("x"))
		},
		first: isEntry, twice: is(""), oom: true,
	},
	"redrive held": {
		prepare: func(w *world) engine.Call {
			e := w.deadUnique("x", locked{})
			w.run(w.uniqueCall("y", locked{}))
			return engine.RedriveCall(w.g, e, "x", entry("x"), locked{}.opts("x"))
		},
		first: starts("[y orders "), twice: starts("[y orders "), oom: true,
	},
	"purge locked": {
		prepare: func(w *world) engine.Call {
			h := w.heldUnique("x", locked{})
			e := w.run(engine.DeadCall(h, w.g, "x", entry("x"), "{}", engine.Lock{})).(string)
			return engine.PurgeCall(w.g, []engine.Letter{{Entry: w.dead("z"), ID: "z"}, {Entry: e, ID: "x", Unique: "k"}})
		},
		first: is(2), twice: is(0), delta: -2, oom: true,
	},
}

// TestLocksEnd: each end of a job takes its lock along, and no other job's.
func TestLocksEnd(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for name, want := range map[string]string{ // holder of the lock afterwards
		"unique": "x", "unique later": "x", "unique timed": "x", "unique held": "y", "unique left behind": "x", "unique left by the dead": "x",
		"unique replaces": "y", "unique replaces at once": "y", "unique coalesces": "y",
		"start end": "", "start end next": "y", "start read": "x", "start late": "x",
		"complete locked": "", "complete next": "y", "complete seen": "", "move dead locked": "", "move dead next": "y",
		"redrive locked": "x", "redrive held": "y", "purge locked": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			w.run(uniqueScenarios[name].prepare(w))
			if w.lock() != want {
				t.Errorf("the lock is held by %q, want %q", w.lock(), want)
			}
			if strings.HasSuffix(name, "next") || name == "complete seen" {
				if n := rdb.Exists(t.Context(), w.Next).Val(); n != 0 {
					t.Error("something is still behind the lock")
				}
			}
			if strings.HasSuffix(name, "next") && !strings.HasPrefix(w.where("y"), "orders ") {
				t.Errorf("y is at %q, want it stored", w.where("y"))
			}
			if ttl := rdb.PTTL(t.Context(), w.Unique("k")).Val(); (ttl > 0) != (name == "unique timed") {
				t.Errorf("the lock ends by itself in %s", ttl)
			}
		})
		if !strings.HasPrefix(name, "complete") && !strings.HasPrefix(name, "move") && !strings.HasPrefix(name, "start end") && name != "purge locked" {
			continue
		}
		t.Run(name+" of another", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			c := uniqueScenarios[name].prepare(w)
			rdb.Set(t.Context(), w.Unique("k"), "another", 0)
			kept := rdb.HGetAll(t.Context(), w.Next).Val()
			w.run(c)
			if w.lock() != "another" || fmt.Sprint(rdb.HGetAll(t.Context(), w.Next).Val()) != fmt.Sprint(kept) {
				t.Errorf("the lock is held by %q: another's was freed, or what is behind it is gone", w.lock())
			}
		})
	}
}

// TestReplaced: the job that stands keeps its ID, and has all else of the one that replaced it.
func TestReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	ctx := t.Context()
	w.run(w.uniqueCall("y", locked{delay: time.Hour}))
	w.run(w.uniqueCall("x", locked{conflict: engine.ConflictReplace, delay: 2 * time.Hour, data: "newer"}))
	e, ok := engine.ParseBody(w.rdb.HGet(ctx, w.ScheduledJobs, "y").Val())
	o, err := engine.ParseOpts(e.Opts)
	if !ok || err != nil || e.Data != "newer" || o.ID != "y" || o.Unique != "k" {
		t.Errorf("scheduled is %+v, %v", e, err)
	}
	if due := time.UnixMilli(int64(w.rdb.ZScore(ctx, w.Scheduled, "y").Val())); time.Until(due) < 90*time.Minute {
		t.Errorf("it is due at %s, which is the first one's time", due)
	}
	w.run(w.uniqueCall("z", locked{conflict: engine.ConflictReplace, data: "newest"}))
	res := w.rdb.XRange(ctx, w.Stream, "-", "+").Val()
	if len(res) != 1 || res[0].Values["data"] != "newest" || !strings.Contains(fmt.Sprint(res[0].Values["opts"]), `"id":"y"`) {
		t.Errorf("the stream has %v", res)
	}
	if w.rdb.Exists(ctx, w.Scheduled, w.ScheduledJobs).Val() != 0 {
		t.Error("it is scheduled still")
	}
}

// TestOneBehind: of all that is published under a held lock the last is kept, and an ID that JSON has to escape survives.
func TestOneBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	h := w.heldUnique("x", locked{conflict: engine.ConflictCoalesce})
	for i := range 3 {
		w.run(w.uniqueCall(fmt.Sprintf(`y"/\%d`, i), locked{conflict: engine.ConflictCoalesce, data: fmt.Sprint("version ", i+1)}))
	}
	_, latest := engine.ReadStarted(w.run(engine.StartLatestCall(h, w.g, "x", "k")))
	if latest.Version != 3 || latest.Entry.Data != "version 3" {
		t.Errorf("behind the lock is %+v", latest)
	}
	w.run(engine.CompleteCall(h, w.g, "completed", endLocked(h, "x", 2)))
	res := w.rdb.XRange(t.Context(), w.Stream, "-", "+").Val()
	if len(res) != 1 || res[0].Values["data"] != "version 3" {
		t.Fatalf("the stream has %v, want one job with the last data", res)
	}
	o, err := engine.ParseOpts(res[0].Values["opts"].(string))
	if err != nil || o.ID != `y"/\2` || w.lock() != o.ID || w.where(o.ID) != "orders "+res[0].ID+" n"+o.ID {
		t.Errorf("it has the ID %q, %v; the lock %q, the index %q", o.ID, err, w.lock(), w.where(o.ID))
	}
}

// TestNothingTakesWhatIsBehind: a stream that takes no entry loses no data behind a lock.
func TestNothingTakesWhatIsBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	const greatest = "18446744073709551615-18446744073709551615"
	h := w.behind()
	w.rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: w.Stream, ID: greatest, Values: []string{"a", "b"}})
	w.run(engine.CompleteCall(h, w.g, "completed", endLocked(h, "x", 0)))
	if w.rdb.HLen(t.Context(), w.Next).Val() != 1 || w.lock() != "" {
		t.Errorf("behind the lock of %q: %v", w.lock(), w.rdb.HGetAll(t.Context(), w.Next).Val())
	}
}
