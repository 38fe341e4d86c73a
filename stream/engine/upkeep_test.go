package engine_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

var upkeepScenarios = map[string]scenario{
	"survey": {
		prepare: func(w *world) engine.Call {
			w.dead("x")
			w.held("y")
			return engine.SurveyCall(w.Keys, "me", time.Minute, false, []string{"g"})
		},
		first: starts("[1"), twice: starts("[1"), oom: true,
	},
	"survey groups": {
		prepare: func(w *world) engine.Call { return engine.SurveyCall(w.Keys, "me", time.Minute, false, nil) },
		first:   is("[groups g]"), twice: is("[groups g]"), oom: true,
	},
	"survey shut": {
		prepare: func(w *world) engine.Call {
			w.run(engine.SurveyCall(w.Keys, "other", time.Minute, false, []string{"g"}))
			return engine.SurveyCall(w.Keys, "me", time.Minute, false, []string{"g"})
		},
		first: starts("[shut "), twice: starts("[shut "), oom: true,
	},
	"trim": {
		prepare: func(w *world) engine.Call {
			w.events()
			w.done(3)
			return engine.TrimCall(w.Keys, 100, 0)
		},
		first: is(3), twice: is(0), delta: -3, oom: true,
	},
	"stale": {
		prepare: func(w *world) engine.Call {
			w.events()
			w.run(engine.PublishCall(w.Keys, "x", "n", 0, entry("x")))
			w.rdb.XTrimMaxLen(w.t.Context(), w.Stream, 0)
			return engine.StaleCall(w.Keys, "0", 10, -time.Hour, []string{"g"})
		},
		first: is("[0 1 1 []]"), twice: is("[0 0 0 []]"), oom: true,
	},
	"stale asks": {
		prepare: func(w *world) engine.Call {
			w.dead("x")
			w.rdb.Del(w.t.Context(), w.g.Dead)
			return engine.StaleCall(w.Keys, "0", 10, time.Hour, []string{"g"})
		},
		first: starts("[0 1 0 [x dead "), twice: starts("[0 1 0 [x dead "), oom: true,
	},
}

// events makes the world's stream an events stream.
func (w *world) events() {
	w.t.Helper()
	w.must(w.rdb.HSet(w.t.Context(), w.Config, "kind", "events").Result())
}

// add adds n entries that are as old as the epoch, and returns their IDs.
func (w *world) add(n int) []string {
	w.t.Helper()
	ids := make([]string, n)
	last := w.rdb.XInfoStream(w.t.Context(), w.Stream).Val().LastGeneratedID
	ms := engine.EntryTime(last).UnixMilli()
	for i := range ids {
		ids[i] = w.must(w.rdb.XAdd(w.t.Context(), &redis.XAddArgs{Stream: w.Stream, ID: fmt.Sprint(ms+1+int64(i), "-7"), Values: entry("").Fields()}).Result()).(string)
	}
	return ids
}

// done adds n entries that the group has read and acknowledged.
func (w *world) done(n int) []string {
	w.t.Helper()
	ids := w.add(n)
	for range ids {
		h := w.read(w.Stream)
		w.must(w.rdb.XAck(w.t.Context(), w.Stream, "g", h.Entry).Result())
	}
	return ids
}

func (w *world) group(name, from string) {
	w.t.Helper()
	w.must(w.rdb.XGroupCreate(w.t.Context(), w.Stream, name, from).Result())
}

// left are the entries of the stream.
func (w *world) left() []string {
	w.t.Helper()
	var ids []string
	for _, m := range w.must(w.rdb.XRange(w.t.Context(), w.Stream, "-", "+").Result()).([]redis.XMessage) {
		ids = append(ids, m.ID)
	}
	return ids
}

// trim trims until nothing goes any more.
func (w *world) trim(most int, least time.Duration) (n int64) {
	w.t.Helper()
	for {
		deleted := w.run(engine.TrimCall(w.Keys, most, least)).(int64)
		if n += deleted; deleted == 0 {
			return n
		}
	}
}

// TestTrimStopsAtTheHorizon: what any group has not acknowledged stays, and all behind it; the rest goes.
func TestTrimStopsAtTheHorizon(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for name, c := range map[string]struct {
		meddle func(w *world, ids []string)
		goes   int // of five entries that the group g has done, and one that it has not read
	}{
		"all done":                      {meddle: func(*world, []string) {}, goes: 5},
		"a foreign group has read none": {meddle: func(w *world, _ []string) { w.group("other", "0") }},
		"a foreign group has read two":  {meddle: func(w *world, ids []string) { w.group("other", ids[1]) }, goes: 2},
		"a foreign group has one pending": {meddle: func(w *world, ids []string) {
			w.group("other", ids[1])
			w.rdb.XReadGroup(w.t.Context(), &redis.XReadGroupArgs{Group: "other", Consumer: "c", Streams: []string{w.Stream, ">"}, Block: -1})
			w.rdb.XAck(w.t.Context(), w.Stream, "other", ids[3])
		}, goes: 2},
		"a group was set back": {meddle: func(w *world, ids []string) { w.rdb.XGroupSetID(w.t.Context(), w.Stream, "g", ids[2]) }, goes: 3},
		"a group was set back before what it has pending": {meddle: func(w *world, ids []string) {
			w.read(w.Stream)
			w.rdb.XGroupSetID(w.t.Context(), w.Stream, "g", ids[0])
		}, goes: 1},
		"a group was destroyed, its position known": {meddle: func(w *world, ids []string) {
			w.rdb.HSet(w.t.Context(), w.Config, "epoch:h", 1, "position:h", ids[1])
		}, goes: 2},
		"a group was destroyed, its position not known": {meddle: func(w *world, _ []string) { w.rdb.HSet(w.t.Context(), w.Config, "epoch:h", 1) }},
		"a group was destroyed, and so was the stream before": {meddle: func(w *world, _ []string) {
			w.rdb.HSet(w.t.Context(), w.Config, "epoch:h", 1, "position:h", "99999999999999999999-0")
		}},
		"no group is left": {meddle: func(w *world, _ []string) {
			w.rdb.XGroupDestroy(w.t.Context(), w.Stream, "g")
			w.rdb.HDel(w.t.Context(), w.Config, "epoch:g")
		}},
		"a queue":                        {meddle: func(w *world, _ []string) { w.rdb.HSet(w.t.Context(), w.Config, "kind", "queue") }},
		"no kind":                        {meddle: func(w *world, _ []string) { w.rdb.HDel(w.t.Context(), w.Config, "kind") }},
		"a retention of a later version": {meddle: func(w *world, _ []string) { w.rdb.HSet(w.t.Context(), w.Config, "retention", "forever") }},
		"a retention by age": {meddle: func(w *world, ids []string) {
			age := time.Since(engine.EntryTime(ids[0])) - time.Hour
			w.rdb.HSet(w.t.Context(), w.Config, "retention", fmt.Sprint(age.Milliseconds(), " 0"))
			w.rdb.XAdd(w.t.Context(), addArgs(w.Stream, 1)) // behind the horizon
		}, goes: 5},
		"a retention by age that none is past": {meddle: func(w *world, _ []string) {
			w.rdb.HSet(w.t.Context(), w.Config, "retention", fmt.Sprint(time.Since(time.UnixMilli(0)).Milliseconds()+1000, " 0"))
		}},
		"a retention by length that is not reached": {meddle: func(w *world, _ []string) { w.rdb.HSet(w.t.Context(), w.Config, "retention", "0 1") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			w.events()
			ids := w.done(5)
			ids = append(ids, w.add(1)...)
			c.meddle(w, ids)
			all := w.left()
			if n := w.trim(10, 0); n != int64(c.goes) || !slices.Equal(w.left(), all[c.goes:]) {
				t.Errorf("%d went, and %v are left of %v; want the first %d gone", n, w.left(), all, c.goes)
			}
		})
	}
}

// TestTrimMany: in chunks, to the very entry; and by length with no less left than is to be kept, and hardly more.
func TestTrimMany(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for _, c := range []struct {
		retention    string
		least        time.Duration
		fewest, most int
	}{
		{retention: "", fewest: 10, most: 10},
		{retention: "0 600", fewest: 600, most: 699},
		{retention: "0 5", fewest: 10, most: 110},                 // the ten are not read
		{retention: "3600000000000 600", fewest: 600, most: 699},  // nothing is that old
		{retention: "3600000 600", fewest: 10, most: 10},          // all is
		{retention: "", least: 1 << 62, fewest: 2010, most: 2010}, // nothing is old enough
		{retention: "0 600", least: 1 << 62, fewest: 2010, most: 2010},
	} {
		t.Run(fmt.Sprint(c.retention, " ", c.least), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			w.events()
			pipe := rdb.Pipeline()
			for i := range 2010 {
				pipe.XAdd(t.Context(), &redis.XAddArgs{Stream: w.Stream, ID: fmt.Sprint(i+1, "-0"), Values: entry("").Fields()})
			}
			w.must(pipe.Exec(t.Context()))
			w.must(rdb.XGroupSetID(t.Context(), w.Stream, "g", "2000-0").Result())
			if c.retention != "" {
				rdb.HSet(t.Context(), w.Config, "retention", c.retention)
			}
			if n := w.run(engine.TrimCall(w.Keys, 300, c.least)).(int64); n > 300 {
				t.Errorf("one chunk of 300 deleted %d", n)
			}
			w.trim(300, c.least)
			left := w.left()
			if n := len(left); n < c.fewest || n > c.most || left[n-1] != "2010-0" {
				t.Errorf("%d are left, from %s; want %d to %d", n, left[0], c.fewest, c.most)
			}
		})
	}
}

// TestTrimAtRandom: whatever groups read, acknowledge and are set to, what goes is exactly what comes before the first entry
// that one of them has not acknowledged.
func TestTrimAtRandom(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, rdb, redistest.Name(t))
	w.events()
	groups := []string{"g", "h", "i"}
	ctx := t.Context()
	trimmed := int64(0)
	for range 1500 {
		group := groups[r.IntN(3)]
		switch r.IntN(12) {
		case 0, 1, 2:
			w.add(1 + r.IntN(5))
		case 3, 4, 5:
			rdb.XReadGroup(ctx, &redis.XReadGroupArgs{Group: group, Consumer: fmt.Sprint(r.IntN(2)), Streams: []string{w.Stream, ">"}, Count: int64(1 + r.IntN(8)), Block: -1})
		case 6, 7, 8:
			for _, p := range rdb.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: w.Stream, Group: group, Start: "-", End: "+", Count: 50}).Val() {
				if r.IntN(6) > 0 {
					rdb.XAck(ctx, w.Stream, group, p.ID)
				}
			}
		case 9:
			if ids := w.left(); len(ids) > 0 && r.IntN(4) == 0 {
				rdb.XGroupSetID(ctx, w.Stream, group, ids[r.IntN(len(ids))])
			}
		case 10:
			if group != "g" && r.IntN(4) == 0 && rdb.XGroupDestroy(ctx, w.Stream, group).Val() == 0 {
				rdb.XGroupCreate(ctx, w.Stream, group, "0")
			}
		default:
			all := w.left()
			goes := 0
			for _, id := range all {
				if w.undone(id) {
					break
				}
				goes++
			}
			n := w.trim(1000, 0)
			trimmed += n
			if left := w.left(); n != int64(goes) || !slices.Equal(left, all[goes:]) {
				t.Fatalf("seed %d: %d of %d entries went, want %d", seed, n, len(all), goes)
			}
		}
	}
	if trimmed == 0 {
		t.Error("nothing was trimmed: this proves nothing")
	}
}

// undone reports whether a group has not read an entry, or has it pending.
func (w *world) undone(id string) bool {
	w.t.Helper()
	for _, g := range w.must(w.rdb.XInfoGroups(w.t.Context(), w.Stream).Result()).([]redis.XInfoGroup) {
		p := w.must(w.rdb.XPendingExt(w.t.Context(), &redis.XPendingExtArgs{Stream: w.Stream, Group: g.Name, Start: id, End: id, Count: 1}).Result()).([]redis.XPendingExt)
		if len(p) > 0 || engine.EntryLess(g.LastDeliveredID, id) {
			return true
		}
	}
	return false
}

// TestTrimFreesIDs: the ID of a trimmed entry is forgotten, but not while its publisher may repeat itself.
func TestTrimFreesIDs(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	w.events()
	for i := range 300 {
		id := fmt.Sprint("job-", i)
		w.run(engine.PublishCall(w.Keys, id, "n", 0, entry(id)))
	}
	for range 200 {
		w.must(rdb.XAck(t.Context(), w.Stream, "g", w.read(w.Stream).Entry).Result())
	}
	w.schedule("later", time.Hour)
	if n := w.trim(1000, 0); n != 200 {
		t.Fatalf("%d were trimmed, want 200", n)
	}
	walk := func(age time.Duration) (deleted int64) {
		t.Helper()
		for cursor := "0"; ; {
			s, err := engine.ReadStale(w.run(engine.StaleCall(w.Keys, cursor, 20, age, []string{"g"})))
			if err != nil || len(s.Suspect) > 0 {
				t.Fatalf("%+v, %v", s, err)
			}
			if deleted += s.Deleted; s.Cursor == "0" {
				return deleted
			}
			cursor = s.Cursor
		}
	}
	if n := walk(time.Hour); n != 0 || w.where("job-0") == "" {
		t.Errorf("%d IDs were forgotten while their publishers may repeat themselves", n)
	}
	if n := walk(-time.Hour); n != 200 || w.where("job-199") != "" || w.where("job-200") == "" || w.where("later") == "" {
		t.Errorf("%d IDs were forgotten, want those 200 that are gone", n)
	}
}

// TestStaleAsks: on a queue, and for what came back to groups, fields whose job is not there are left to free.lua.
func TestStaleAsks(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	w.dead("dead")
	w.run(engine.RetryCall(w.held("retrying"), w.g, "retrying", time.Hour, entry("retrying")))
	w.run(engine.ReleaseCall(w.held("redelivery"), w.g, "redelivery", entry("redelivery")))
	w.run(engine.SuspectCall(w.held("suspects"), w.g, "suspects", entry("suspects")))
	w.schedule("scheduled", time.Hour)
	w.run(engine.PublishCall(w.Keys, "orders", "n", 0, entry("orders")))
	rdb.HSet(t.Context(), w.IDs, "newer", "archived 5-5", "odd", "?")
	suspects := func() []string {
		t.Helper()
		s, err := engine.ReadStale(w.run(engine.StaleCall(w.Keys, "0", 100, time.Hour, []string{"g"})))
		if err != nil || s.Deleted != 0 || s.Looked != 8 {
			t.Fatalf("%+v, %v", s, err)
		}
		var ids []string
		for _, id := range s.Suspect {
			place, _, _ := engine.SplitWhere(id.Where)
			if place != id.ID {
				t.Errorf("%s is said to be in %s", id.ID, place)
			}
			ids = append(ids, id.ID)
		}
		slices.Sort(ids)
		return ids
	}
	if ids := suspects(); len(ids) > 0 {
		t.Errorf("%v are thought to be gone, and all are there", ids)
	}
	rdb.Del(t.Context(), w.Scheduled, w.g.Retrying) // their bodies are left: promote puts them back
	if ids := suspects(); len(ids) > 0 {
		t.Errorf("%v are thought to be gone, and will be put back", ids)
	}
	rdb.Del(t.Context(), w.ScheduledJobs, w.g.RetryingJobs, w.g.Dead, w.g.Redelivery, w.g.Suspects)
	rdb.XTrimMaxLen(t.Context(), w.Stream, 0)
	if ids := suspects(); strings.Join(ids, " ") != "dead orders redelivery retrying scheduled suspects" {
		t.Errorf("%v are thought to be gone, want all six", ids)
	}
}

// TestSurvey reads what it says of two groups, one of which is foreign.
func TestSurvey(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	dead := w.dead("dead")
	w.run(engine.ReleaseCall(w.held("back"), w.g, "back", entry("back")))
	held := w.held("held")
	w.run(engine.PublishCall(w.Keys, "waits", "n", 0, entry("waits")))
	waits := strings.Fields(w.where("waits"))[1]
	w.group("other", "0")
	rdb.HSet(t.Context(), w.Config, "epoch:lost", 3, "position:lost", "5-5", "retention", "7 8")
	rdb.HSet(t.Context(), w.g.Workers, "g:me", `{"at":1}`)
	survey := func(who string, force bool) engine.Survey {
		t.Helper()
		s, err := engine.ReadSurvey(w.run(engine.SurveyCall(w.Keys, who, time.Hour, force, []string{"lost", "g", "other", "gone"})))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := survey("", false)
	if rdb.Exists(t.Context(), w.Upkeep).Val() != 0 {
		t.Error("who only looks shut the gate")
	}
	if time.Since(s.Now).Abs() > time.Minute || s.Kind != "queue" || s.Retention != "7 8" || s.Entries != 2 || s.First != held.Entry || s.IDs != 4 || s.Workers["g:me"] == "" {
		t.Errorf("the stream is %+v", s)
	}
	want := map[string]engine.SurveyGroup{
		"g": {
			Name: "g", Ours: true, There: true, Position: held.Entry, Floor: "0-0", Pending: 1, Oldest: held.Entry, Unread: waits,
			Waiting: strings.Fields(w.where("back"))[1], FirstDead: dead,
		},
		"other": {Name: "other", There: true, Position: "0-0", Unread: held.Entry},
		"lost":  {Name: "lost", Ours: true, Position: "5-5"},
	}
	if len(s.Groups) != len(want) {
		t.Errorf("groups %+v", s.Groups)
	}
	for _, g := range s.Groups {
		if g != want[g.Name] {
			t.Errorf("%+v, want %+v", g, want[g.Name])
		}
	}
	if s := survey("me", false); s.Shut != 0 {
		t.Error("the gate is shut to the first")
	}
	if s := survey("me", false); s.Shut != 0 {
		t.Error("the gate is shut to who shut it")
	}
	if s := survey("you", false); s.Shut < 50*time.Minute || s.Shut > time.Hour || s.Kind != "" {
		t.Errorf("the gate answers another %+v", s)
	}
	if s := survey("you", true); s.Shut != 0 || rdb.Get(t.Context(), w.Upkeep).Val() != "you" {
		t.Error("the gate cannot be forced")
	}
}
