package engine_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
	"github.com/redis/go-redis/v9"
)

func sweep(w *world, by string, lease time.Duration, notAfter time.Time, limit int) engine.Sweep {
	w.t.Helper()
	s, err := engine.ReadSweep(w.run(engine.SweepCall(w.Keys, w.g, "g", by, lease, notAfter, limit)))
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
	if s := sweep(w, "b", time.Hour, later, 10); s.State != engine.SweepQuiet || len(s.Taken[0]) != 0 {
		t.Errorf("within the lease: %+v, want quiet", s)
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
	beat, err := engine.ReadBeat(w.run(engine.BeatCall(w.Keys, w.g, "g", "me", [engine.Lanes][]string{{a.Entry, b.Entry, c.Entry}, nil, nil})))
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
	beat, err := engine.ReadBeat(w.run(engine.BeatCall(w.Keys, w.g, "g", "me", [engine.Lanes][]string{entries, nil, nil})))
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
