package engine_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
	"github.com/redis/go-redis/v9"
)

func sweep(w *world, by string, lease time.Duration, notAfter time.Time, limit int) engine.Sweep {
	w.t.Helper()
	s, err := engine.ReadSweep(w.run(engine.SweepCall(w.Keys, w.g, "g", by, lease, 0, notAfter, limit)))
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func TestSweep(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	later := time.Now().Add(time.Hour)
	held := make(map[string]bool)
	for i := range 5 {
		held[w.held(fmt.Sprintf("job%d", i)).Entry] = true
	}
	if s := sweep(w, "b", time.Hour, later, 10); s.State != engine.SweepQuiet || len(s.Taken[0]) != 0 || s.Wait != 20*time.Minute {
		t.Errorf("within the lease: %+v, want quiet for the next third of it", s)
	}
	if s := sweep(w, "c", 0, later, 10); s.State != engine.SweepShut || s.Wait < 19*time.Minute {
		t.Errorf("after another found that all is quiet: %+v, want shut for as long as that holds", s)
	}
	if s := sweep(w, "b", 0, time.Now().Add(-time.Hour), 10); s.State != engine.SweepLate || len(s.Taken[0]) != 0 {
		t.Errorf("past its time: %+v, want late, and nothing taken", s)
	}
	const lease = 100 * time.Millisecond
	redistest.Wait(t, "the lease to be over", func() bool {
		p := rdb.XPendingExt(t.Context(), pendingArgs(w.Stream)).Val()
		return len(p) == 5 && p[4].Idle > lease
	})
	first := sweep(w, "b", lease, later, 3)
	if first.State != engine.SweepWatch || len(first.Taken[0]) != 3 {
		t.Fatalf("swept %+v, want the limit of three", first)
	}
	for _, e := range first.Taken[0] {
		if !held[e.Entry] || e.Owner != "me" || len(e.Values) != 8 {
			t.Errorf("taken over: %+v, want an entry of me with its fields", e)
		}
	}
	if s := sweep(w, "c", lease, later, 10); s.State != engine.SweepShut || len(s.Taken[0]) != 0 {
		t.Errorf("right after another's sweep: %+v, want shut", s)
	}
	if s := sweep(w, "b", lease, later, 10); s.State != engine.SweepWatch || len(s.Taken[0]) < 2 || s.Taken[0][len(s.Taken[0])-1].Owner != "me" {
		t.Errorf("the same sweeper goes on: %+v, want the gate open to it, and the other two", s)
	}
}

func TestBeatTellsWhatWasLost(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	a, b, c := w.held("a"), w.held("b"), w.held("c")
	sweep(w, "thief", 0, time.Now().Add(time.Hour), 1) // takes a, the oldest
	rdb.XDel(t.Context(), w.Stream, b.Entry)
	beat, err := engine.ReadBeat(w.run(engine.BeatCall(w.Keys, w.g, "g", "me", time.Minute, 1, true, [engine.Lanes][]string{{a.Entry, b.Entry, c.Entry}, nil, nil}, 0)))
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(beat.Lost[0]) != fmt.Sprint([]string{a.Entry}) || fmt.Sprint(beat.Deleted[0]) != fmt.Sprint([]string{b.Entry}) {
		t.Errorf("lost %v, deleted %v; want %s and %s", beat.Lost[0], beat.Deleted[0], a.Entry, b.Entry)
	}
	if time.Since(beat.Now).Abs() > time.Minute || beat.Epoch == 0 {
		t.Errorf("beat = %+v, want Redis's time and the group's epoch", beat)
	}
	owners, err := rdb.XPendingExt(t.Context(), pendingArgs(w.Stream)).Result()
	if err != nil || len(owners) != 2 || owners[0].Consumer != "thief" || owners[1].Consumer != "me" {
		t.Errorf("pending: %+v %v; want a with the thief and c with me", owners, err)
	}
}

// TestBeatMendsItsList: what somebody took off a worker's list is put back where that is safe, and the worker hears of the rest.
func TestBeatMendsItsList(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for _, goes := range []bool{true, false} {
		w := newWorld(t, rdb, redistest.Name(t))
		a, b, c, d := w.held("a"), w.held("b"), w.held("c"), w.held("d")
		sweep(w, "thief", 0, time.Now().Add(time.Hour), 1) // takes a, the oldest
		rdb.XDel(t.Context(), w.Stream, b.Entry)
		rdb.XGroupDelConsumer(t.Context(), w.Stream, "g", "me")
		rdb.XGroupSetID(t.Context(), w.Stream, "g", c.Entry) // d is going to be delivered again
		got, err := engine.ReadBeat(w.run(engine.BeatCall(w.Keys, w.g, "g", "me", time.Minute, 1, goes, [engine.Lanes][]string{{a.Entry, b.Entry, c.Entry, d.Entry}, nil, nil}, 0)))
		if err != nil {
			t.Fatal(err)
		}
		var want engine.Beat
		want.Lost[0], want.Missing[0] = []string{a.Entry}, []string{b.Entry}
		mine := ""
		if goes {
			want.Mended, mine = 2, c.Entry+" "+d.Entry+" "
		} else {
			want.Unowned[0] = []string{c.Entry}
		}
		if fmt.Sprint(got.Lost, got.Deleted, got.Unowned, got.Missing, got.Mended) != fmt.Sprint(want.Lost, want.Deleted, want.Unowned, want.Missing, want.Mended) {
			t.Errorf("entries go as they end: %v: %+v, want %+v", goes, got, want)
		}
		now := ""
		for _, p := range rdb.XPendingExt(t.Context(), pendingArgs(w.Stream)).Val() {
			if p.Consumer == "me" {
				now += p.ID + " "
			}
		}
		if now != mine {
			t.Errorf("entries go as they end: %v: %q are pending, want %q", goes, now, mine)
		}
	}
}

// TestBeatOfThousands: what one worker holds can be more than Lua unpacks at once.
func TestBeatOfThousands(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	const n = 9000
	var entries []string
	pipe := rdb.Pipeline()
	for i := range n {
		pipe.XAdd(t.Context(), addArgs(w.Stream, i))
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, m := range rdb.XReadGroup(t.Context(), readArgs(w.Stream, n)).Val()[0].Messages {
		entries = append(entries, m.ID)
	}
	beat, err := engine.ReadBeat(w.run(engine.BeatCall(w.Keys, w.g, "g", "me", time.Minute, 1, true, [engine.Lanes][]string{entries, nil, nil}, 0)))
	if err != nil || len(entries) != n || len(beat.Lost[0])+len(beat.Deleted[0]) != 0 {
		t.Errorf("%d entries: lost %d, deleted %d, %v", len(entries), len(beat.Lost[0]), len(beat.Deleted[0]), err)
	}
}

func pendingArgs(key string) *redis.XPendingExtArgs {
	return &redis.XPendingExtArgs{Stream: key, Group: "g", Start: "-", End: "+", Count: 10}
}

func addArgs(key string, i int) *redis.XAddArgs {
	return &redis.XAddArgs{Stream: key, Values: []any{"type", "t", "data", i, "traceparent", "", "opts", ""}}
}

func readArgs(key string, n int64) *redis.XReadGroupArgs {
	return &redis.XReadGroupArgs{Group: "g", Consumer: "me", Streams: []string{key, ">"}, Count: n}
}

// TestSweepGoesByTheLongestLease: workers of a group may have different leases, as when a deploy changes them.
func TestSweepGoesByTheLongestLease(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	h := w.held("x")
	beat := func(lease time.Duration) {
		w.run(engine.BeatCall(w.Keys, w.g, "g", "me", lease, 1, true, [engine.Lanes][]string{{h.Entry}, nil, nil}, 0))
	}
	beat(time.Hour)
	beat(time.Second) // a worker with a shorter one changes nothing
	if ttl := rdb.PTTL(t.Context(), w.g.Lease).Val(); ttl < 4*time.Hour || ttl > 5*time.Hour {
		t.Errorf("the longest lease is remembered for %s, want five of it", ttl)
	}
	idle := func(d time.Duration) {
		if err := rdb.Do(t.Context(), "XCLAIM", w.Stream, "g", "me", 0, h.Entry, "IDLE", d.Milliseconds(), "JUSTID").Err(); err != nil {
			t.Fatal(err)
		}
	}
	later := time.Now().Add(time.Hour)
	idle(30 * time.Minute)
	if s := sweep(w, "short", time.Second, later, 10); len(s.Taken[0]) != 0 {
		t.Errorf("swept %+v, want nothing: the owner's lease is longer than the sweeper's", s)
	}
	rdb.Del(t.Context(), w.g.Gate)
	idle(time.Hour)
	if s := sweep(w, "short", time.Second, later, 10); len(s.Taken[0]) != 1 {
		t.Errorf("swept %+v, want the entry whose lease is over", s)
	}
	beat(20 * time.Minute) // its owner began anew with another lease: the old one is forgotten when nobody renews it
	rdb.Del(t.Context(), w.g.Lease)
	beat(20 * time.Minute)
	if got := rdb.Get(t.Context(), w.g.Lease).Val(); got != "1200000" {
		t.Errorf("the longest lease is %s ms, want that of 20 minutes", got)
	}
}

// BenchmarkSweep looks for leases that have run out among entries whose leases have not.
func BenchmarkSweep(b *testing.B) {
	for _, pending := range []int{10, 100_000} {
		b.Run(fmt.Sprintf("pending=%d", pending), func(b *testing.B) {
			rdb := redistest.Client(b)
			w := newWorld(b, rdb, redistest.Name(b))
			pipe := rdb.Pipeline()
			for i := range pending {
				pipe.XAdd(b.Context(), &redis.XAddArgs{Stream: w.Stream, Values: []any{"type", "t", "data", i, "traceparent", "", "opts", ""}})
			}
			if _, err := pipe.Exec(b.Context()); err != nil {
				b.Fatal(err)
			}
			if err := rdb.XReadGroup(b.Context(), &redis.XReadGroupArgs{Group: "g", Consumer: "me", Streams: []string{w.Stream, ">"}, Count: int64(pending), Block: -1}).Err(); err != nil {
				b.Fatal(err)
			}
			later := time.Now().Add(time.Hour)
			for b.Loop() {
				if s := sweep(w, "sweeper", time.Hour, later, 100); s.State != engine.SweepQuiet {
					b.Fatalf("%+v, want quiet", s)
				}
			}
		})
	}
}

// BenchmarkBeat is a heartbeat of a worker that holds nothing, whatever lies in the stream.
func BenchmarkBeat(b *testing.B) {
	for name, prepare := range map[string]func(w *world, n int){
		"waiting": func(*world, int) {},
		"pending": func(w *world, n int) { w.readAs("me", w.Stream, n) },
		"orphans": func(w *world, n int) { w.readAs("me", w.Stream, n); w.forgetConsumer(w.Stream, "me") },
	} {
		for _, n := range []int{10, 100_000} {
			b.Run(fmt.Sprintf("%s=%d", name, n), func(b *testing.B) {
				w := newWorld(b, redistest.Client(b), redistest.Name(b))
				w.fillLane(w.Stream, n)
				prepare(w, n)
				call := engine.BeatCall(w.Keys, w.g, "g", "other", time.Minute, 1, true, [engine.Lanes][]string{}, 0)
				for b.Loop() {
					w.run(call)
				}
			})
		}
	}
}

// TestSweepLeavesDeletedOfTheLiving: an entry that somebody deleted is its owner's for as long as its lease lasts, and
// a sweep that takes over its neighbours must not let go of it.
func TestSweepLeavesDeletedOfTheLiving(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	first, living, last := w.held("a"), w.held("b"), w.held("c")
	for _, h := range []engine.Held{first, last} {
		if err := rdb.Do(t.Context(), "XCLAIM", w.Stream, "g", "dead", 0, h.Entry, "IDLE", 100_000, "JUSTID").Err(); err != nil {
			t.Fatal(err)
		}
	}
	rdb.XDel(t.Context(), w.Stream, living.Entry, last.Entry)
	s := sweep(w, "sweeper", time.Minute, time.Now().Add(time.Hour), 10)
	if len(s.Taken[0]) != 1 || s.Taken[0][0].Entry != first.Entry || s.Deleted != 1 {
		t.Errorf("swept %+v, want the first taken over, the last one counted as deleted, and that between them left alone", s)
	}
	beat, err := engine.ReadBeat(w.run(engine.BeatCall(w.Keys, w.g, "g", "me", time.Minute, 1, true, [engine.Lanes][]string{{living.Entry}, nil, nil}, 0)))
	if err != nil || len(beat.Deleted[0]) != 1 || len(beat.Lost[0]) != 0 {
		t.Errorf("its owner hears %+v %v, want that it was deleted, not lost", beat, err)
	}
}

// TestSweepNeedsItsHeartbeat: a Redis that does not know the sweeper's last heartbeat has older data than it had, and
// the idle times in them say nothing.
func TestSweepNeedsItsHeartbeat(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	h := w.held("a")
	if err := rdb.Do(t.Context(), "XCLAIM", w.Stream, "g", "dead", 0, h.Entry, "IDLE", 100_000, "JUSTID").Err(); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	sweepAs := func(beat int64) engine.Sweep {
		s, err := engine.ReadSweep(w.run(engine.SweepCall(w.Keys, w.g, "g", "sweeper", time.Second, beat, later, 10)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for n := range int64(3) {
		b, err := engine.ReadBeat(w.run(engine.BeatCall(w.Keys, w.g, "g", "sweeper", time.Second, n+1, true, [engine.Lanes][]string{}, 0)))
		if want := n; err != nil || !b.Took || n > 0 && b.Last != want || n == 0 && b.Last != -1 {
			t.Errorf("heartbeat %d: %+v %v, want it taken, and the one before it known", n+1, b, err)
		}
	}
	for _, beat := range []int64{2, 4} {
		if s := sweepAs(beat); s.State != engine.SweepLate || len(s.Taken[0]) != 0 {
			t.Errorf("swept as of heartbeat %d: %+v, want it refused", beat, s)
		}
	}
	if s := sweepAs(3); len(s.Taken[0]) != 1 {
		t.Errorf("swept %+v, want the entry", s)
	}
}

// TestLeaveSparesTheLiving: a worker that was heard of is not removed, however idle Redis calls its consumer.
func TestLeaveSparesTheLiving(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	h := w.held("a")
	w.run(engine.BeatCall(w.Keys, w.g, "g", "me", time.Minute, 1, true, [engine.Lanes][]string{{h.Entry}, nil, nil}, 0))
	w.run(engine.SettleCall(h, []string{h.Entry}))
	consumers := func() int { return len(rdb.XInfoConsumers(t.Context(), w.Stream, "g").Val()) }
	w.run(engine.LeaveCall(w.Keys, w.g, "g", "me", time.Now().Add(-time.Minute)))
	if consumers() != 1 {
		t.Error("a consumer that was heard of a moment ago was removed")
	}
	w.run(engine.LeaveCall(w.Keys, w.g, "g", "me", time.Now().Add(time.Minute)))
	if n := rdb.HLen(t.Context(), w.g.Workers).Val(); consumers() != 0 || n != 0 {
		t.Errorf("%d consumers and %d workers are left", consumers(), n)
	}
}

// TestFenceOfRedelivery: a group that was destroyed on one of its own streams reads again what it had there, under a higher fence.
func TestFenceOfRedelivery(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for _, lane := range []int{1, 2} {
		w := newWorld(t, rdb, redistest.Name(t))
		key := w.LaneKeys(w.g)[lane]
		if n := rdb.XGroupDestroy(t.Context(), key, "g").Val(); n != 1 {
			t.Fatalf("%s has no group", key)
		}
		if o, err := engine.Reopen(t.Context(), rdb, w.Keys, "g", "queue", 1); err != nil || o.Epoch != 2 {
			t.Errorf("%s: epoch %d, %v, want 2: what was delivered before has the same fence", key, o.Epoch, err)
		}
	}
}

// TestBeatSaysWhatIsGone: a worker's row says how many jobs it has of which Redis has nothing: those that it
// knows of, and those that this heartbeat finds.
func TestBeatSaysWhatIsGone(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	a, b, c := w.held("a"), w.held("b"), w.held("c")
	rdb.XDel(t.Context(), w.Stream, b.Entry, c.Entry)
	rdb.XAck(t.Context(), w.Stream, "g", c.Entry)
	beat, err := engine.ReadBeat(w.run(engine.BeatCall(w.Keys, w.g, "g", "me", time.Minute, 1, true, [engine.Lanes][]string{{a.Entry, b.Entry, c.Entry}, nil, nil}, 4)))
	if err != nil || len(beat.Deleted[0]) != 1 || len(beat.Missing[0]) != 1 {
		t.Fatalf("%+v, %v", beat, err)
	}
	if row := rdb.HGet(t.Context(), w.g.Workers, "g:me").Val(); !strings.Contains(row, `"gone":6,"run":[]}`) {
		t.Errorf("the row is %s, want 4 that it knew and two more", row)
	}
}

// TestFreeKnowsItsGroups: a job may be with a group that the caller has not heard of, whoever else knows it.
func TestFreeKnowsItsGroups(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for name, meddle := range map[string]func(w *world){
		"known to the config": func(w *world) { rdb.XGroupDestroy(t.Context(), w.Stream, "g") },
		"known to the stream": func(w *world) { rdb.Del(t.Context(), w.Config) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			w.dead("x")
			rdb.Del(t.Context(), w.g.Dead)
			meddle(w)
			for _, groups := range [][]string{nil, {"h"}} {
				if v := w.run(engine.FreeCall(w.Keys, "x", w.where("x"), groups)); v != int64(0) {
					t.Errorf("asked about the groups %q it answers %v", groups, v)
				}
			}
			if v := w.run(engine.FreeCall(w.Keys, "x", w.where("x"), []string{"g", "h"})); v != int64(1) {
				t.Errorf("asked about all it answers %v", v)
			}
		})
	}
}
