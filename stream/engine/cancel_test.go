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

// TestMarkOfAnEarlierJob: what stores a job takes away the mark of one that had its ID before, and had succeeded all the same.
func TestMarkOfAnEarlierJob(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for name, store := range map[string]func(w *world) engine.Call{
		"publish": func(w *world) engine.Call { return engine.PublishCall(w.Keys, "x", "n", 0, entry("x")) },
		"schedule": func(w *world) engine.Call {
			return engine.ScheduleCall(w.Keys, "x", "n", 0, time.Hour, time.Time{}, entry("x"))
		},
		"unique": func(w *world) engine.Call { return w.uniqueCall("x", locked{}) },
		"unique coalesces": func(w *world) engine.Call {
			w.run(w.uniqueCall("holder", locked{conflict: engine.ConflictCoalesce}))
			return w.uniqueCall("x", locked{conflict: engine.ConflictCoalesce})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			call := store(w)
			rdb.ZAdd(t.Context(), w.g.Marks, redis.Z{Score: 1, Member: "x"}, redis.Z{Score: 1, Member: "y"})
			w.run(call)
			if left := rdb.ZRange(t.Context(), w.g.Marks, 0, -1).Val(); !slices.Equal(left, []string{"y"}) {
				t.Errorf("marks %q, want y's alone", left)
			}
		})
	}
}

// TestMarkEndsWithItsJob: of a job that has an ID of its own and succeeds all the same, no mark is left for the next one with this ID.
func TestMarkEndsWithItsJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	x := w.held("x")
	w.held("y")
	for _, id := range []string{"x", "y"} {
		w.run(w.cancel(id))
	}
	w.run(engine.CompleteCall(x, w.g, "completed", end(x, "x", time.Minute)))
	if left := w.rdb.ZRange(t.Context(), w.g.Marks, 0, -1).Val(); !slices.Equal(left, []string{"y"}) {
		t.Errorf("marks %q, want y's alone", left)
	}
	w.run(engine.CompleteCall(x, w.g, "completed", end(x, "y", time.Minute))) // x has ended before
	if left := w.rdb.ZRange(t.Context(), w.g.Marks, 0, -1).Val(); !slices.Equal(left, []string{"y"}) {
		t.Errorf("after a late success: marks %q, want y's", left)
	}
}

// TestMarkGoesWithItsJob: no worker of the group may come before the next job with its ID.
func TestMarkGoesWithItsJob(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for name, end := range map[string]func(w *world){
		"cancelled by its worker": func(w *world) {
			h := w.held("x")
			w.run(w.cancel("x"))
			w.run(engine.CompleteCall(h, w.g, "cancelled", end(h, "x", time.Minute)))
		},
		"succeeded": func(w *world) {
			h := w.held("x")
			w.run(w.cancel("x"))
			w.run(engine.CompleteCall(h, w.g, "completed", end(h, "x", time.Minute)))
		},
		"retrying": func(w *world) {
			w.run(engine.RetryCall(w.held("x"), w.g, "x", time.Hour, entry("x")))
			w.mark("x") // an older worker had not looked
			w.run(w.cancel("x"))
		},
		"redelivery": func(w *world) {
			w.run(engine.ReleaseCall(w.held("x"), w.g, "x", entry("x")))
			w.mark("x")
			w.run(w.cancel("x"))
		},
		"scheduled": func(w *world) {
			w.schedule("x", time.Hour)
			w.mark("x")
			w.run(w.cancel("x"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			end(w)
			if left := rdb.ZRange(t.Context(), w.g.Marks, 0, -1).Val(); len(left) > 0 {
				t.Errorf("marks %q are left", left)
			}
			if n := rdb.HLen(t.Context(), w.IDs).Val(); n != 0 {
				t.Errorf("the job has not ended")
			}
		})
	}
}

func (w *world) mark(id string) {
	w.rdb.ZAdd(w.t.Context(), w.g.Marks, redis.Z{Score: 1, Member: id})
}

// TestMarkOfAForgedID: an ID that only looks like an entry's, which another program chose, is forgotten as its job ends, too.
func TestMarkOfAForgedID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	w.mark("99999999999999999999999-1")
	if ids, ok := engine.ReadMarks(w.run(engine.MarksCall(w.Keys, w.g, "g", true))); !ok || len(ids) > 0 {
		t.Errorf("marked: %q", ids)
	}
}

// TestCancelAtMaxmemory: what is cancelled then leaves no more than the line that keeps its ID taken.
func TestCancelAtMaxmemory(t *testing.T) {
	t.Parallel()
	rdb := redistest.Connect(t, &redis.Options{Addr: redistest.Server(t).Addr()})
	w := newWorld(t, rdb, redistest.Name(t))
	w.schedule("x", time.Hour)
	if err := rdb.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	w.run(w.cancel("x"))
	if r := rdb.Get(t.Context(), w.Job("x")).Val(); !strings.HasPrefix(r, "cancelled ") || strings.Contains(r, "\n") {
		t.Errorf("the record is %q", r)
	}
}

// TestStopsAreAnnounced: a mark and a switch are said on the wake-up channel, and the next heartbeat tells of both.
func TestStopsAreAnnounced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	sub := w.rdb.Subscribe(t.Context(), engine.WakeChannel)
	defer func() { _ = sub.Close() }()
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	said := func(what string, ours func(text string) bool) {
		t.Helper()
		end := "end of " + what + " of " + w.Stream // what was said before this has come before it
		w.must(nil, w.rdb.Publish(t.Context(), engine.WakeChannel, end).Err())
		for heard := false; ; {
			v, err := sub.ReceiveTimeout(t.Context(), 20*time.Second)
			if err != nil {
				t.Fatalf("waiting for %s: %v", what, err)
			}
			m, ok := v.(*redis.Message)
			if ok && m.Payload == end {
				if !heard {
					t.Errorf("%s was not said", what)
				}
				return
			}
			heard = heard || ok && ours(m.Payload)
		}
	}
	beat := func(number int64) engine.Beat {
		t.Helper()
		b, err := engine.ReadBeat(w.run(engine.BeatCall(w.Keys, w.g, "g", "me", time.Minute, number, true, [engine.Lanes][]string{}, 0)))
		w.must(b, err)
		return b
	}
	if b := beat(1); b.Marks != 0 || b.Switches != "" {
		t.Errorf("before: %+v", b)
	}
	w.held("x")
	w.run(w.cancel("x"))
	said("the mark", func(text string) bool {
		marks, id, ok := engine.CancelHint(text)
		return ok && marks == w.g.Marks && id == "x"
	})
	w.run(engine.SwitchCall(w.Keys, aSwitch("s"), 0))
	said("the switch", func(text string) bool {
		key, ok := engine.SwitchHint(text)
		return ok && key == w.Switches
	})
	if b := beat(2); b.Marks != 1 || b.Switches != w.switches().Version {
		t.Errorf("after: %d marks, switches %q", b.Marks, b.Switches)
	}
	w.run(engine.PauseCall(w.held("y"), w.g, "y", time.Hour, entry("y")))
	w.run(engine.ResumeCall(w.g))
	said("what is due now", func(text string) bool { return strings.HasSuffix(text, " "+w.g.Retrying) })
}

// TestManyMarks: those that can't all be looked at in one call have their turn one after the other; and there are not more of them
// than a worker can know.
func TestManyMarks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	const live, gone = 1000, 100 // one call looks at so many
	pipe := w.rdb.Pipeline()
	for range live {
		pipe.XAdd(t.Context(), &redis.XAddArgs{Stream: w.Stream, Values: engine.Entry{Type: "t"}.Fields()})
	}
	w.must(pipe.Exec(t.Context()))
	var marks []redis.Z
	for _, m := range w.rdb.XRange(t.Context(), w.Stream, "-", "+").Val() {
		marks = append(marks, redis.Z{Score: 1, Member: m.ID})
	}
	for i := range gone {
		marks = append(marks, redis.Z{Score: 2, Member: fmt.Sprint("gone-", i)})
	}
	w.rdb.ZAdd(t.Context(), w.g.Marks, marks...)
	for _, want := range []int{live + gone, live} {
		ids, ok := engine.ReadMarks(w.run(engine.MarksCall(w.Keys, w.g, "g", true)))
		if !ok || len(ids) != want {
			t.Errorf("%d marks, want %d", len(ids), want)
		}
	}
	marks = marks[:0]
	for i := range engine.MarksMax - live {
		marks = append(marks, redis.Z{Score: 3, Member: fmt.Sprint("more-", i)})
	}
	w.rdb.ZAdd(t.Context(), w.g.Marks, marks...)
	w.held("x")
	cancel := func(id string) engine.Cancelled {
		c, err := engine.ReadCancelled(w.run(engine.CancelCall(w.Keys, id, "", false, "", time.Hour, "", []string{"g"})))
		w.must(c, err)
		return c
	}
	first := w.rdb.XRange(t.Context(), w.Stream, "-", "+").Val()[0].ID // which "held" has read, in place of x
	if c := cancel(first); c.Full {
		t.Errorf("one that is marked already is one too many: %+v", c)
	}
	w.rdb.ZRem(t.Context(), w.g.Marks, first)
	w.rdb.ZAdd(t.Context(), w.g.Marks, redis.Z{Score: 3, Member: "the last"})
	if c := cancel(first); !c.Full {
		t.Errorf("one too many: %+v", c)
	}
}

// TestCancelStranded: a job whose body alone is left, as somebody took it out of its set by hand, is not put back by promote
// once it is cancelled.
func TestCancelStranded(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"scheduled", "retrying"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, redistest.Client(t), redistest.Name(t))
			set, slot := w.Scheduled, engine.ScheduledSlot(w.Keys)
			if kind == "retrying" {
				set, slot = w.g.Retrying, engine.RetryingSlot(w.g)
				w.run(engine.RetryCall(w.held("x"), w.g, "x", time.Hour, entry("x")))
			} else {
				w.schedule("x", time.Hour)
			}
			w.rdb.ZRem(t.Context(), set, "x")
			w.run(w.cancel("x"))
			if v := w.run(promoteCall(slot)); !starts("[0 0 ")(v) || w.rdb.ZCard(t.Context(), set).Val() != 0 || w.where("x") != "" {
				t.Errorf("promote answered %v, and x is at %q", v, w.where("x"))
			}
		})
	}
}

// TestMoved: what each step counts. A kill switch takes no try, and how often it put a job off counts until that runs.
func TestMoved(t *testing.T) {
	t.Parallel()
	o := engine.Opts{Errors: 1, Crashes: 1, Bounces: 1, BouncedAt: 1, Pauses: 1, Moves: 1, Expires: 1}
	for step, want := range map[engine.Step]engine.Opts{
		engine.StepPark:    {Errors: 1, Crashes: 1, Moves: 2, Expires: 1},
		engine.StepFail:    {Errors: 2, Crashes: 1, Moves: 2, Expires: 1},
		engine.StepBounce:  {Errors: 1, Crashes: 1, Bounces: 2, BouncedAt: 1, Pauses: 1, Moves: 2, Expires: 1},
		engine.StepPause:   {Errors: 1, Crashes: 1, Pauses: 2, Moves: 2, Expires: 1},
		engine.StepRelease: {Errors: 1, Crashes: 1, Bounces: 1, BouncedAt: 1, Pauses: 1, Moves: 2, Expires: 1},
		engine.StepReclaim: {Errors: 1, Crashes: 2, Bounces: 1, BouncedAt: 1, Pauses: 1, Moves: 2, Expires: 1},
		engine.StepRedrive: {Moves: 2},
	} {
		if got := o.Moved(step); got.String() != want.String() {
			t.Errorf("step %d: %s, want %s", step, got, want.String())
		}
	}
}
