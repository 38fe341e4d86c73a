package engine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// fillLane adds n entries to a lane's stream, and returns them.
func (w *world) fillLane(key string, n int) []string {
	w.t.Helper()
	pipe := w.rdb.Pipeline()
	var added []*redis.StringCmd
	for i := range n {
		added = append(added, pipe.XAdd(w.t.Context(), addArgs(key, i)))
	}
	w.must(pipe.Exec(w.t.Context()))
	entries := make([]string, n)
	for i, cmd := range added {
		entries[i] = cmd.Val()
	}
	return entries
}

// readAs gives the next n entries of a lane to a consumer.
func (w *world) readAs(consumer, key string, n int) {
	w.t.Helper()
	a := readArgs(key, int64(n))
	a.Consumer, a.Block = consumer, -1
	w.must(w.rdb.XReadGroup(w.t.Context(), a).Result())
}

func (w *world) forgetConsumer(key, consumer string) {
	w.t.Helper()
	w.must(w.rdb.XGroupDelConsumer(w.t.Context(), key, "g", consumer).Result())
}

// pendingWith is what a consumer has pending.
func (w *world) pendingWith(key, consumer string) (entries []string) {
	w.t.Helper()
	list, err := w.rdb.XPendingExt(w.t.Context(), &redis.XPendingExtArgs{Stream: key, Group: "g", Start: "-", End: "+", Count: 100_000, Consumer: consumer}).Result()
	w.must(list, err)
	for _, p := range list {
		entries = append(entries, p.ID)
	}
	return entries
}

// orphans is in which lanes a heartbeat sees entries in nobody's list.
func (w *world) orphans(goes bool) [engine.Lanes]bool {
	w.t.Helper()
	b, err := engine.ReadBeat(w.run(engine.BeatCall(w.Keys, w.g, "g", "other", time.Minute, 1, goes, [engine.Lanes][]string{}, 0)))
	w.must(b, err)
	return b.Orphans
}

// mend walks a whole lane, and returns how many entries were in nobody's list and how many steps that took.
func (w *world) mend(lane, limit int) (found, steps int) {
	w.t.Helper()
	for after := ""; ; steps++ {
		n, next, err := engine.ReadMend(w.run(engine.MendCall(w.Keys, w.g, "g", lane, after, limit)))
		w.must(n, err)
		if found += int(n); n > int64(limit) {
			w.t.Errorf("one step found %d entries, more than its limit of %d", n, limit)
		}
		if after = next; after == "" {
			return found, steps + 1
		}
	}
}

// TestMend: what a deleted consumer held is pending again, and all else is left alone.
func TestMend(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for lane := range engine.Lanes {
		w := newWorld(t, rdb, redistest.Name(t)+fmt.Sprint(lane))
		key := w.LaneKeys(w.g)[lane]
		entries := w.fillLane(key, 130)
		for range 10 { // in turns
			w.readAs("living", key, 4)
			w.readAs("dead", key, 8)
		}
		w.forgetConsumer(key, "dead")
		if found, steps := w.mend(lane, 50); found != 80 || steps != 3 {
			t.Errorf("lane %d: found %d in %d steps, want 80 in 3", lane, found, steps)
		}
		var mended, living []string
		for i, e := range entries[:120] {
			if i%12 < 4 {
				living = append(living, e)
			} else {
				mended = append(mended, e)
			}
		}
		if got := w.pendingWith(key, engine.Nobody); !slices.Equal(got, mended) {
			t.Errorf("lane %d: %d entries are nobody's, want the 80 of the dead", lane, len(got))
		}
		if got := w.pendingWith(key, "living"); !slices.Equal(got, living) {
			t.Errorf("lane %d: the living has %d entries, want its 40", lane, len(got))
		}
		if found, _ := w.mend(lane, 50); found != 0 {
			t.Errorf("lane %d: found %d more", lane, found)
		}
		if n := rdb.XLen(t.Context(), key).Val(); n != 130 {
			t.Errorf("lane %d: %d entries are left, want all", lane, n)
		}
		w.readAs("living", key, 10) // what nobody had read still waits
		if got := w.pendingWith(key, "living"); len(got) != 50 {
			t.Errorf("lane %d: the living has %d entries, want 50", lane, len(got))
		}
	}
}

// TestMendMany: each step looks at no more than it is told, whatever lies there.
func TestMendMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	w.fillLane(w.Stream, 10_000)
	w.readAs("dead", w.Stream, 10_000)
	w.forgetConsumer(w.Stream, "dead")
	if found, steps := w.mend(0, 100); found != 10_000 || steps > 101 {
		t.Errorf("found %d in %d steps, want 10,000 in 101 at most", found, steps)
	}
	if found, steps := w.mend(0, 100); found != 0 || steps > 101 {
		t.Errorf("found %d in %d steps, want none in 101 at most", found, steps)
	}

	large := newWorld(t, w.rdb, redistest.Name(t)+"-large")
	for range 40 {
		w.must(w.rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: large.Stream, Values: []string{"data", strings.Repeat("x", 200_000)}}).Result())
	}
	large.readAs("dead", large.Stream, 40)
	large.forgetConsumer(large.Stream, "dead")
	if found, steps := large.mend(0, 100); found != 40 || steps < 4 {
		t.Errorf("found %d in %d steps, want 40 in at least 4: Redis would stand still meanwhile", found, steps)
	}
}

// TestBeatSetBackBelowTheFloor: an adopted group that was set back has not read what lies above its floor, and some below it.
func TestBeatSetBackBelowTheFloor(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	entries := w.fillLane(w.Stream, 5)
	w.must(rdb.HSet(t.Context(), w.Config, "floor:g", entries[2]).Result())
	w.must(rdb.XGroupSetID(t.Context(), w.Stream, "g", entries[0]).Result())
	if got := w.orphans(true); got != [engine.Lanes]bool{} {
		t.Errorf("a heartbeat sees %v, and all of it is unread", got)
	}
	w.readAs("a", w.Stream, 4)
	w.forgetConsumer(w.Stream, "a")
	if got := w.orphans(true); got != [engine.Lanes]bool{true} {
		t.Errorf("a heartbeat sees %v of what a deleted consumer held", got)
	}
}

// TestBeatSeesOrphans: a heartbeat says where entries lie in nobody's list, and never where none does.
func TestBeatSeesOrphans(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for name, c := range map[string]struct {
		do   func(w *world, key string, entries []string)
		want bool
	}{
		"nothing read":           {func(*world, string, []string) {}, false},
		"some read":              {func(w *world, key string, _ []string) { w.readAs("a", key, 3) }, false},
		"all read":               {func(w *world, key string, _ []string) { w.readAs("a", key, 5) }, false},
		"the first ended":        {func(w *world, key string, e []string) { w.readAs("a", key, 3); w.end(key, e[0]) }, false},
		"one between ended":      {func(w *world, key string, e []string) { w.readAs("a", key, 5); w.end(key, e[2]) }, false},
		"all ended":              {func(w *world, key string, e []string) { w.readAs("a", key, 5); w.end(key, e...) }, false},
		"one that waits deleted": {func(w *world, key string, e []string) { w.readAs("a", key, 2); rdb.XDel(w.t.Context(), key, e[2]) }, false},
		"one that is held deleted": {func(w *world, key string, e []string) {
			w.readAs("a", key, 5)
			rdb.XDel(w.t.Context(), key, e[0], e[2])
		}, false},
		"set back": {func(w *world, key string, e []string) {
			w.readAs("a", key, 5)
			rdb.XGroupSetID(w.t.Context(), key, "g", e[1])
		}, false},
		"made again": {func(w *world, key string, _ []string) {
			w.readAs("a", key, 5)
			rdb.XGroupDestroy(w.t.Context(), key, "g")
			w.reopen()
		}, false},
		"the first in nobody's list": {func(w *world, key string, _ []string) {
			w.readAs("a", key, 1)
			w.readAs("b", key, 2)
			w.forgetConsumer(key, "a")
		}, true},
		"one between in nobody's list": {func(w *world, key string, _ []string) {
			w.readAs("b", key, 2)
			w.readAs("a", key, 1)
			w.readAs("b", key, 2)
			w.forgetConsumer(key, "a")
		}, true},
		"acknowledged by hand": {func(w *world, key string, e []string) {
			w.readAs("a", key, 5)
			rdb.XAck(w.t.Context(), key, "g", e[3])
		}, true},
		"skipped": {func(w *world, key string, _ []string) { rdb.XGroupSetID(w.t.Context(), key, "g", "$") }, true},
		"the greatest ID": {func(w *world, key string, _ []string) {
			w.readAs("a", key, 5)
			rdb.XAdd(w.t.Context(), &redis.XAddArgs{Stream: key, ID: "18446744073709551615-18446744073709551615", Values: []string{"a", "b"}})
			w.readAs("a", key, 1)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for lane := range engine.Lanes {
				w := newWorld(t, rdb, redistest.Name(t)+fmt.Sprint(lane))
				key := w.LaneKeys(w.g)[lane]
				c.do(w, key, w.fillLane(key, 5))
				var want [engine.Lanes]bool
				want[lane] = c.want
				if got := w.orphans(true); got != want {
					t.Errorf("lane %d: %v, want %v", lane, got, want)
				}
				if found, _ := w.mend(lane, 2); (found > 0) != c.want {
					t.Errorf("lane %d: %d were in nobody's list, want some: %v", lane, found, c.want)
				}
				if got := w.orphans(true); got != [engine.Lanes]bool{} {
					t.Errorf("lane %d: %v after it was mended", lane, got)
				}
			}
		})
	}
}

func (w *world) end(key string, entries ...string) {
	w.t.Helper()
	w.run(engine.SettleCall(engine.Held{Key: key, Group: "g", Consumer: "a", Entry: entries[0], Delete: true}, entries))
}

func (w *world) reopen() {
	w.t.Helper()
	if o, err := engine.Reopen(w.t.Context(), w.rdb, w.Keys, "g", "queue", 1); err != nil || o.Refusal != "" {
		w.t.Fatal(o, err)
	}
}

// TestMendLeavesTheDone: entries that stay when they are done look like those in nobody's list, and must not run again.
func TestMendLeavesTheDone(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	k := engine.NewKeys(redistest.Name(t))
	w := &world{t: t, rdb: rdb, Keys: k, g: k.Group("g", false)}
	done := w.fillLane(w.Stream, 10) // by a program that does not delete what it has done
	rdb.XGroupCreate(t.Context(), w.Stream, "g", "0")
	w.readAs("foreign", w.Stream, 8)
	rdb.XAck(t.Context(), w.Stream, "g", done[:7]...)
	open := func(kind string) {
		t.Helper()
		if o, err := engine.Open(t.Context(), rdb, k, "g", kind, true); err != nil || o.Refusal != "" {
			t.Fatal(o, err)
		}
	}
	untouched := func(when string) {
		t.Helper()
		if found, _ := w.mend(0, 100); found != 0 || w.orphans(true)[0] {
			t.Errorf("%s: %d entries that are done would run again", when, found)
		}
	}
	untouched("before the stream is ours")
	open("queue")
	untouched("when it has become ours")
	w.readAs("me", w.Stream, 2)
	untouched("with jobs running")
	w.end(w.Stream, done[8])
	open("queue")
	untouched("after another worker has come")
	fresh := w.fillLane(w.Stream, 3)
	w.readAs("dead", w.Stream, 2)
	w.readAs("me", w.Stream, 1)
	w.forgetConsumer(w.Stream, "dead")
	w.end(w.Stream, done[9])
	open("queue") // as each worker does that starts
	if !w.orphans(true)[0] {
		t.Error("nothing is seen of what a deleted consumer held since")
	}
	if found, _ := w.mend(0, 100); found != 2 || !slices.Equal(w.pendingWith(w.Stream, engine.Nobody), fresh[:2]) {
		t.Errorf("found %d, want the two that a deleted consumer held since", found)
	}
	rdb.Del(t.Context(), k.Config)
	untouched("after its config was deleted")
	open("queue")
	untouched("after that was made again")

	rdb.XGroupDestroy(t.Context(), w.Stream, "g") // now all of it is delivered again
	open("queue")
	w.readAs("dead", w.Stream, 100)
	w.forgetConsumer(w.Stream, "dead")
	if n, _ := w.mend(0, 100); int64(n) != rdb.XLen(t.Context(), w.Stream).Val() {
		t.Errorf("found %d of %d after the group was made again and its consumer deleted", n, rdb.XLen(t.Context(), w.Stream).Val())
	}

	k = engine.NewKeys(redistest.Name(t) + "-events")
	w = &world{t: t, rdb: rdb, Keys: k, g: k.Group("g", true)}
	open("events")
	entries := w.fillLane(w.Stream, 5)
	w.readAs("me", w.Stream, 5)
	rdb.XAck(t.Context(), w.Stream, "g", entries...)
	if found, _ := w.mend(0, 100); found != 0 || w.orphans(false) != [engine.Lanes]bool{} {
		t.Errorf("%d events would run again", found)
	}
	if w.orphans(true)[0] { // of a worker that knows no better
		t.Error("events are seen in nobody's list")
	}
}

// TestBeatClaimsFromNobody: what was put into nobody's list is its owner's for as long as it is heard of, or was deleted meanwhile.
func TestBeatClaimsFromNobody(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	a, b, c := w.held("a"), w.held("b"), w.held("c")
	w.forgetConsumer(w.Stream, "me")
	if found, _ := w.mend(0, 100); found != 3 {
		t.Fatalf("found %d, want all", found)
	}
	rdb.XDel(t.Context(), w.Stream, b.Entry)
	got, err := engine.ReadBeat(w.run(engine.BeatCall(w.Keys, w.g, "g", "me", time.Minute, 1, true, [engine.Lanes][]string{{a.Entry, b.Entry}, nil, nil}, 0)))
	if err != nil || len(got.Lost[0])+len(got.Missing[0]) != 0 || !slices.Equal(got.Deleted[0], []string{b.Entry}) || got.Mended != 1 {
		t.Errorf("%+v %v, want b deleted and a claimed back", got, err)
	}
	if mine, nobodys := w.pendingWith(w.Stream, "me"), w.pendingWith(w.Stream, engine.Nobody); !slices.Equal(mine, []string{a.Entry}) || !slices.Equal(nobodys, []string{c.Entry}) {
		t.Errorf("pending %v and %v, want a with its owner and c, which it does not hold, with nobody", mine, nobodys)
	}
}
