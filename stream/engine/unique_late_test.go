package engine_test

import (
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// TestLateEndsFreeNothing: a worker that lost its job leaves alone the lock that goes on with it, and what is behind that.
func TestLateEndsFreeNothing(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for name, end := range map[string]func(w *world, h engine.Held) engine.Call{
		"complete": func(w *world, h engine.Held) engine.Call {
			return engine.CompleteCall(h, w.g, "completed", endLocked(h, "x", 0))
		},
		"dead": func(w *world, h engine.Held) engine.Call {
			return engine.DeadCall(h, w.g, "x", entry("x"), "{}", engine.Lock{Key: "k"})
		},
		"start": func(w *world, h engine.Held) engine.Call { return engine.StartUntilCall(h, w.g, "x", "k") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			h := w.behind()
			w.run(engine.ReleaseCall(h, w.g, "x", entry("x"))) // its lease ran out, say
			state := w.snapshot()
			if w.run(end(w, h)); w.lock() != "x" || w.snapshot() != state {
				t.Errorf("the lock is held by %q, and\n%sbecame\n%s", w.lock(), state, w.snapshot())
			}
		})
	}
}

// TestStartReadsItsOwn: what is behind another job's lock is that one's.
func TestStartReadsItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	h := w.behind()
	w.rdb.Set(t.Context(), w.Unique("k"), "another", 0)
	if ours, latest := engine.ReadStarted(w.run(engine.StartLatestCall(h, w.g, "x", "k"))); !ours || latest.Version != 0 {
		t.Errorf("ours: %v, and it reads %+v", ours, latest)
	}
}

// TestOlderThanTheLock: what was kept behind a lock whose holder is nowhere is older than the job that takes it.
func TestOlderThanTheLock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	w.behind()
	w.rdb.HDel(t.Context(), w.IDs, "x")
	w.run(w.uniqueCall("z", locked{}))
	if kept := w.rdb.HGetAll(t.Context(), w.Next).Val(); w.lock() != "z" || len(kept) > 0 {
		t.Errorf("behind the lock of %q: %v", w.lock(), kept)
	}
}

// TestMarkStays: a publisher whose answer was lost knows its job again wherever that has gone meanwhile.
func TestMarkStays(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for place, move := range map[string]func(w *world, h engine.Held){
		"retrying":   func(w *world, h engine.Held) { w.run(engine.RetryCall(h, w.g, "x", time.Hour, entry("x"))) },
		"redelivery": func(w *world, h engine.Held) { w.run(engine.ReleaseCall(h, w.g, "x", entry("x"))) },
		"dead": func(w *world, h engine.Held) {
			w.run(engine.DeadCall(h, w.g, "x", entry("x"), "{}", engine.Lock{Key: "k"}))
		},
		"sent back": func(w *world, h engine.Held) {
			e := w.run(engine.DeadCall(h, w.g, "x", entry("x"), "{}", engine.Lock{Key: "k"})).(string)
			w.run(engine.RedriveCall(w.g, e, "x", entry("x"), locked{}.opts("x")))
		},
		"cancelled": func(w *world, h engine.Held) {
			w.run(engine.ReleaseCall(h, w.g, "x", entry("x")))
			w.run(w.cancel("x"))
		},
		"completed": func(w *world, h engine.Held) {
			w.run(engine.CompleteCall(h, w.g, "completed", endLocked(h, "x", 0)))
		},
	} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			move(w, w.heldUnique("x", locked{}))
			for nonce, mine := range map[string]bool{"nx": true, "another's": false} {
				s, err := engine.ReadStored(w.run(w.uniqueCall("x", locked{nonce: nonce})), nonce)
				if err != nil || s.Mine != mine {
					t.Errorf("the mark %s: %+v, %v; want its own: %v", nonce, s, err, mine)
				}
			}
		})
	}
}
