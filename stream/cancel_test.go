package stream_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// cancel cancels a job twice, which must both times leave it in that state.
func cancel(t *testing.T, s *stream.Stream, id string, want stream.State) {
	t.Helper()
	for range 2 {
		if state, err := s.Cancel(t.Context(), id); err != nil || state != want {
			t.Fatalf("cancel %q: %q, %v, want %s", id, state, err, want)
		}
	}
}

// TestCancelInEveryState cancels jobs of a queue wherever they can be, with IDs of their own and without.
func TestCancelInEveryState(t *testing.T) {
	t.Parallel()
	type place func(s *stream.Stream, g engine.GroupKeys, id string) string // takes a job there, and returns its ID
	waiting := func(s *stream.Stream, _ engine.GroupKeys, id string) string {
		return publish(t, s, stream.Job{Type: "t", ID: id, MaxTries: 5})[0].ID
	}
	take := func(s *stream.Stream, g engine.GroupKeys, id string) delivery {
		waiting(s, g, id)
		d := read(t, s, s.Name(), "g", 1)[0]
		o := d.opts.Moved(engine.StepFail)
		o.ID, o.Published = d.id, engine.EntryTime(d.Entry).UnixMilli()
		o.History = []engine.Attempt{{Attempt: 1, Worker: "me", Started: 1000, Took: 5, Error: "broken"}}
		d.entry.Opts = o.String()
		return d
	}
	places := map[string]place{
		"waiting": waiting,
		"scheduled": func(s *stream.Stream, _ engine.GroupKeys, id string) string {
			return publish(t, s, stream.Job{Type: "t", ID: id, Delay: time.Hour, MaxTries: 5})[0].ID
		},
		"retrying": func(s *stream.Stream, g engine.GroupKeys, id string) string {
			d := take(s, g, id)
			call(t, s, engine.RetryCall(d.Held, g, d.id, time.Hour, d.entry))
			return d.id
		},
		"redelivery": func(s *stream.Stream, g engine.GroupKeys, id string) string {
			d := take(s, g, id)
			call(t, s, engine.ReleaseCall(d.Held, g, d.id, d.entry))
			return d.id
		},
		"suspects": func(s *stream.Stream, g engine.GroupKeys, id string) string {
			d := take(s, g, id)
			call(t, s, engine.SuspectCall(d.Held, g, d.id, d.entry))
			return d.id
		},
	}
	for name, to := range places {
		for _, id := range []string{"chosen", ""} {
			t.Run(name+" "+id, func(t *testing.T) {
				t.Parallel()
				s, rdb := open(t, stream.Config{})
				g := group(t, s, "g")
				other := to(s, g, "other") // which stays
				before := get(t, s, other, map[bool]stream.State{true: stream.State(name), false: stream.Waiting}[name == "scheduled" || name == "retrying"])
				id := to(s, g, id)
				cancel(t, s, id, stream.Cancelled)
				info := get(t, s, id, stream.Cancelled)
				if info.Type != "t" || info.Published.IsZero() || info.Finished.IsZero() || info.MaxTries != 5 || info.Attempt != before.Attempt || len(info.History) != len(before.History) || !info.Ended() {
					t.Errorf("its record: %+v", info)
				}
				get(t, s, other, before.State)
				if r := publish(t, s, stream.Job{Type: "t", ID: "chosen"})[0]; id == "chosen" && (!r.Duplicate || r.State != stream.Cancelled) {
					t.Errorf("published again: %+v", r)
				}
				if n := rdb.ZCard(t.Context(), g.Marks).Val(); n != 0 {
					t.Errorf("%d marks for what nobody has", n)
				}
				if ttl := rdb.PTTL(t.Context(), g.Job(id)).Val(); ttl > time.Hour || ttl < 55*time.Minute {
					t.Errorf("its record is kept for %s", ttl)
				}
				cancel(t, s, other, stream.Cancelled)
				cancel(t, s, "chosen", stream.Cancelled)
				k := engine.NewKeys(s.Name())
				if n := rdb.Exists(t.Context(), k.IDs, k.Scheduled, k.ScheduledJobs, g.Retrying, g.RetryingJobs).Val(); n != 0 {
					t.Errorf("%d keys are left of jobs that are gone", n)
				}
			})
		}
	}
}

func TestCancelWhatIsNotThere(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	unknown := func(id string) {
		t.Helper()
		if state, err := s.Cancel(t.Context(), id); !errors.Is(err, stream.ErrNotFound) || state != "" {
			t.Errorf("cancel %q: %q, %v, want ErrNotFound", id, state, err)
		}
	}
	unknown("x") // there is not even a stream
	id := publish(t, s, stream.Job{Type: "t"})[0].ID
	cancel(t, s, id, stream.Cancelled) // there is no group yet
	if n := length(t, rdb, s.Name()); n != 0 {
		t.Errorf("%d entries are left", n)
	}
	g := group(t, s, "g")
	for _, id := range []string{"", "-", "+", "0-0", "1-", "99999999999999999999-0", "18446744073709551616-1", "a b", "x\ny", "*", "$", strings.Repeat("x", 10_000), "(1-1"} {
		unknown(id)
	}
	for _, where := range []string{"orders", "orders x", "orders 99999999999999999999-1 n", "dead ", "dead 1-1", "redelivery +", "nowhere 1-1", " ", "scheduled x"} {
		rdb.HSet(t.Context(), g.IDs, "odd", where)
		unknown("odd")
	}
	for _, id := range []string{"x", publish(t, s, stream.Job{Type: "t"})[0].ID, publish(t, s, stream.Job{Type: "t", Delay: time.Hour})[0].ID} {
		if _, err := s.Group("another").Cancel(t.Context(), id); !errors.Is(err, stream.ErrNotFound) {
			t.Errorf("in a group that there is not: %v", err)
		}
		if id != "x" {
			if info, err := s.Get(t.Context(), id); err != nil || info.State == stream.Cancelled {
				t.Errorf("a job that a group was asked to cancel that there is not: %s, %v", info.State, err)
			}
		}
	}
	if _, err := s.Group("a:b").Cancel(t.Context(), "x"); !errors.Is(err, stream.ErrInvalid) {
		t.Errorf("in a group that cannot be: %v", err)
	}
}

// TestCancelWhatHasEnded: it is said how, and stays.
func TestCancelWhatHasEnded(t *testing.T) {
	t.Parallel()
	s, _ := open(t, stream.Config{})
	g := group(t, s, "g")
	publish(t, s, stream.Job{Type: "t", ID: "done"}, stream.Job{Type: "t", ID: "dead"})
	list := read(t, s, s.Name(), "g", 2)
	call(t, s, engine.CompleteCall(list[0].Held, g, "completed", list[0].end(&engine.Note{}, nil)))
	kill(t, s, g, list[1], "{}")
	cancel(t, s, "done", stream.Completed)
	cancel(t, s, "dead", stream.Dead)
	get(t, s, "dead", stream.Dead)
	if n, err := s.Group("g").Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{}); err != nil || n.Moved != 1 {
		t.Errorf("redrive: %+v, %v", n, err)
	}
	cancel(t, s, "dead", stream.Cancelled) // it waits again
}

// TestCancelActive: it is marked, and nothing sends it anywhere but to its end.
func TestCancelActive(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"chosen", ""} {
		for _, deleted := range []bool{false, true} {
			t.Run(fmt.Sprintf("id %s, deleted %v", id, deleted), func(t *testing.T) {
				t.Parallel()
				s, rdb := open(t, stream.Config{})
				g := group(t, s, "g")
				publish(t, s, stream.Job{Type: "t", ID: id})
				d := read(t, s, s.Name(), "g", 1)[0]
				if deleted {
					rdb.XDel(t.Context(), s.Name(), d.Entry)
				}
				cancel(t, s, d.id, stream.Active)
				get(t, s, d.id, stream.Active)
				for name, c := range map[string]engine.Call{
					"retry": engine.RetryCall(d.Held, g, d.id, time.Hour, d.entry), "dead": engine.DeadCall(d.Held, g, d.id, d.entry, "{}", engine.Lock{}),
					"release": engine.ReleaseCall(d.Held, g, d.id, d.entry), "suspect": engine.SuspectCall(d.Held, g, d.id, d.entry),
				} {
					if v := call(t, s, c); !engine.Marked(v) {
						t.Errorf("%s answered %v", name, v)
					}
				}
				call(t, s, engine.CompleteCall(d.Held, g, "cancelled", engine.End{Entry: d.Entry, ID: d.id, Indexed: id != "", Keep: time.Hour, Record: new(engine.Note).Record("cancelled", nil)}))
				cancel(t, s, d.id, stream.Cancelled)
				if ids, ok := engine.ReadMarks(call(t, s, engine.MarksCall(engine.NewKeys(s.Name()), g, "g", true))); !ok || len(ids) != 0 || rdb.Exists(t.Context(), g.Marks).Val() != 0 {
					t.Errorf("marks are left: %q", ids)
				}
			})
		}
	}
}

// TestCancelInNobodysList: whoever had it may run it still, so it is marked and not deleted.
func TestCancelInNobodysList(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	publish(t, s, stream.Job{Type: "t", ID: "x"})
	read(t, s, s.Name(), "g", 1)
	rdb.XGroupDelConsumer(t.Context(), s.Name(), "g", "me")
	cancel(t, s, "x", stream.Active)
	if ids, ok := engine.ReadMarks(call(t, s, engine.MarksCall(engine.NewKeys(s.Name()), g, "g", true))); !ok || len(ids) != 1 || length(t, rdb, s.Name()) != 1 {
		t.Errorf("marks %q", ids)
	}
}

// TestCancelEvents: an entry is not one group's alone.
func TestCancelEvents(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"chosen", ""} {
		t.Run("id "+id, func(t *testing.T) {
			t.Parallel()
			s, rdb := open(t, stream.Config{Kind: stream.KindEvents})
			keys := engine.NewKeys(s.Name())
			a, b := group(t, s, "a"), group(t, s, "b")
			id := publish(t, s, stream.Job{Type: "t", ID: id})[0].ID
			in := func(group string, want stream.State) {
				t.Helper()
				if state, err := s.Group(group).Cancel(t.Context(), id); err != nil || state != want {
					t.Errorf("cancel in %s: %q, %v, want %s", group, state, err, want)
				}
			}
			marks := func(g engine.GroupKeys, name string) int {
				t.Helper()
				ids, ok := engine.ReadMarks(call(t, s, engine.MarksCall(keys, g, name, false)))
				if !ok || len(ids) > 0 && ids[0] != id {
					t.Errorf("marks of %s: %q", name, ids)
				}
				return len(ids)
			}
			in("a", stream.Waiting)
			if marks(a, "a") != 1 || marks(b, "b") != 0 || length(t, rdb, s.Name()) != 1 {
				t.Error("it is not marked in a alone")
			}
			d := read(t, s, s.Name(), "a", 1)[0]
			d.Delete = false
			in("a", stream.Active)
			call(t, s, engine.CompleteCall(d.Held, a, "cancelled", engine.End{Entry: d.Entry, ID: id, Keep: time.Hour, Record: new(engine.Note).Record("cancelled", nil)}))
			in("a", stream.Cancelled)
			if marks(a, "a") != 0 {
				t.Error("a mark is left")
			}
			d = read(t, s, s.Name(), "b", 1)[0]
			d.Delete = false
			d.entry.Opts = engine.Opts{ID: id, Errors: 1}.String()
			call(t, s, engine.RetryCall(d.Held, b, id, time.Hour, d.entry))
			in("a", stream.Cancelled)
			if info := get(t, s, id, stream.Retrying); info.Groups["a"].State != stream.Cancelled || info.Groups["b"].State != stream.Retrying {
				t.Errorf("%+v", info)
			}
			cancel(t, s, id, stream.Cancelled)
			if info := get(t, s, id, stream.Cancelled); info.Groups["b"].State != stream.Cancelled || info.Groups["b"].Attempt != 2 {
				t.Errorf("%+v", info)
			}
		})
	}
	t.Run("scheduled", func(t *testing.T) {
		t.Parallel()
		s, rdb := open(t, stream.Config{Kind: stream.KindEvents})
		keys := engine.NewKeys(s.Name())
		a, b := group(t, s, "a"), group(t, s, "b")
		publish(t, s, stream.Job{Type: "t", ID: "x", Delay: time.Hour}, stream.Job{Type: "t", ID: "y", Delay: time.Hour})
		cancel(t, s, "x", stream.Cancelled)
		get(t, s, "x", stream.Cancelled)
		if state, err := s.Group("a").Cancel(t.Context(), "y"); err != nil || state != stream.Scheduled {
			t.Errorf("in one group: %s, %v", state, err)
		}
		if ids, _ := engine.ReadMarks(call(t, s, engine.MarksCall(keys, a, "a", false))); len(ids) != 1 {
			t.Errorf("marks of a before it is due: %q", ids)
		}
		rdb.ZAdd(t.Context(), keys.Scheduled, redis.Z{Score: 1, Member: "y"})
		if _, err := engine.Promote(t.Context(), rdb, engine.ScheduledSlot(keys), 10); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]int{"a": 1, "b": 0} {
			g := map[string]engine.GroupKeys{"a": a, "b": b}[name]
			if ids, _ := engine.ReadMarks(call(t, s, engine.MarksCall(keys, g, name, false))); len(ids) != want {
				t.Errorf("marks of %s when it is due: %q", name, ids)
			}
		}
	})
}

// TestCancelKeepsAsTheJobSays: how long its record is kept is up to the job first.
func TestCancelKeepsAsTheJobSays(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	for _, c := range []struct {
		job      stream.Job
		min, max time.Duration
	}{
		{stream.Job{Type: "t", ID: "a", KeepResult: 3 * time.Hour}, 2 * time.Hour, 3 * time.Hour},
		{stream.Job{Type: "t", ID: "b", KeepResult: stream.None}, 50 * time.Second, time.Minute}, // its publisher may repeat itself
		{stream.Job{Type: "t", KeepResult: stream.None}, -2, -2},
	} {
		id := publish(t, s, c.job)[0].ID
		if state, err := s.Cancel(t.Context(), id); err != nil || state != stream.Cancelled {
			t.Errorf("%+v: %s, %v", c.job, state, err)
		}
		if ttl := rdb.PTTL(t.Context(), g.Job(id)).Val(); ttl < c.min || ttl > c.max {
			t.Errorf("%+v: its record is kept for %s", c.job, ttl)
		}
	}
}

// TestCancelIsAnnounced: who waits for the job hears of its end at once.
func TestCancelIsAnnounced(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	publish(t, s, stream.Job{Type: "t", ID: "x", Delay: time.Hour})
	sub := rdb.Subscribe(t.Context(), engine.NewKeys(s.Name()).Ended)
	defer func() { _ = sub.Close() }()
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel(t, s, "x", stream.Cancelled)
	if v, err := sub.ReceiveTimeout(t.Context(), 20*time.Second); err != nil || v.(*redis.Message).Payload != "x" {
		t.Fatalf("%v, %v", v, err)
	}
	if info, err := s.Wait(t.Context(), "x"); err != nil || info.State != stream.Cancelled {
		t.Errorf("wait: %+v, %v", info, err)
	}
}

// TestCancelEndsTheLock: wherever a job with a unique key is cancelled, its key is free; what was kept behind it becomes a
// job, and another job's lock is left alone.
func TestCancelEndsTheLock(t *testing.T) {
	t.Parallel()
	type place func(s *stream.Stream, g engine.GroupKeys, d delivery)
	places := map[string]place{
		"waiting": nil,
		"retrying": func(s *stream.Stream, g engine.GroupKeys, d delivery) {
			call(t, s, engine.RetryCall(d.Held, g, d.id, time.Hour, d.entry))
		},
		"redelivery": func(s *stream.Stream, g engine.GroupKeys, d delivery) {
			call(t, s, engine.ReleaseCall(d.Held, g, d.id, d.entry))
		},
		"active": func(*stream.Stream, engine.GroupKeys, delivery) {},
	}
	for name, put := range places {
		for _, u := range []stream.Unique{{Key: "k"}, {Key: "k", For: time.Hour}, {Key: "k", OnConflict: stream.Coalesce}} {
			t.Run(fmt.Sprint(name, " ", u.OnConflict, u.For), func(t *testing.T) {
				t.Parallel()
				s, rdb := open(t, stream.Config{})
				g := group(t, s, "g")
				k := engine.NewKeys(s.Name())
				job := stream.Job{Type: "t", ID: "first", Data: 1, Unique: u}
				publish(t, s, job)
				var d delivery
				if put != nil {
					d = read(t, s, s.Name(), "g", 1)[0]
					put(s, g, d)
				}
				job.ID, job.Data = "second", 2
				if r := publish(t, s, job)[0]; !r.Duplicate || r.ID != "first" || r.Updated != (u.OnConflict == stream.Coalesce) {
					t.Fatalf("behind the lock: %+v", r)
				}
				if name == "active" {
					cancel(t, s, "first", stream.Active)
					e := d.end(&engine.Note{Type: "t"}, nil)
					e.Lock = engine.Lock{Key: "k"}
					call(t, s, engine.CompleteCall(d.Held, g, "cancelled", e))
				} else {
					cancel(t, s, "first", stream.Cancelled)
				}
				want, n := "", int64(0)
				if u.OnConflict == stream.Coalesce {
					want, n = "second", 1
					if d := read(t, s, s.Name(), "g", 1)[0]; d.id != "second" || d.entry.Data != "2" {
						t.Errorf("what was kept: %+v", d)
					}
				}
				if holder := rdb.Get(t.Context(), k.Unique("k")).Val(); holder != want || rdb.XLen(t.Context(), s.Name()).Val() != n || rdb.HLen(t.Context(), k.Next).Val() != 0 {
					t.Errorf("held by %q, want %q; %d jobs wait, want %d", holder, want, rdb.XLen(t.Context(), s.Name()).Val(), n)
				}
			})
		}
	}
	t.Run("scheduled, and not its own", func(t *testing.T) {
		t.Parallel()
		s, rdb := open(t, stream.Config{})
		group(t, s, "g")
		k := engine.NewKeys(s.Name())
		for _, id := range []string{"first", "second"} {
			publish(t, s, stream.Job{Type: "t", ID: id, Delay: time.Hour, Unique: stream.Unique{Key: "k"}})
			if holder := rdb.Get(t.Context(), k.Unique("k")).Val(); holder != id {
				t.Fatalf("held by %q, want %q", holder, id)
			}
			cancel(t, s, id, stream.Cancelled)
		}
		publish(t, s, stream.Job{Type: "t", ID: "third", Unique: stream.Unique{Key: "k"}})
		rdb.Set(t.Context(), k.Unique("k"), "other", 0)
		cancel(t, s, "third", stream.Cancelled)
		if holder := rdb.Get(t.Context(), k.Unique("k")).Val(); holder != "other" {
			t.Errorf("another's lock is held by %q", holder)
		}
	})
}

// TestCancelByEntry: who has only the ID of an entry cancels its job, though that has an ID of its own, by which it goes on.
func TestCancelByEntry(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"us", "another program"} {
		for _, held := range []bool{false, true} {
			t.Run(fmt.Sprintf("published by %s, held %v", by, held), func(t *testing.T) {
				t.Parallel()
				s, rdb := open(t, stream.Config{})
				g, k := group(t, s, "g"), engine.NewKeys(s.Name())
				if by == "us" {
					publish(t, s, stream.Job{Type: "t", ID: "own", Unique: stream.Unique{Key: "k"}})
				} else {
					rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []string{"type", "t", "data", "", "traceparent", "", "opts", `{"id":"own"}`}})
				}
				entry := rdb.XRange(t.Context(), s.Name(), "-", "+").Val()[0].ID
				if !held {
					if state, err := s.Cancel(t.Context(), entry); err != nil || state != stream.Cancelled {
						t.Fatalf("cancel: %s, %v", state, err)
					}
				} else {
					d := read(t, s, s.Name(), "g", 1)[0]
					cancel(t, s, entry, stream.Active)
					cancel(t, s, "own", stream.Active)
					if ids, _ := engine.ReadMarks(call(t, s, engine.MarksCall(k, g, "g", true))); len(ids) != 1 || ids[0] != "own" {
						t.Errorf("marks: %q", ids)
					}
					if v := call(t, s, engine.RetryCall(d.Held, g, d.id, time.Hour, d.entry)); !engine.Marked(v) {
						t.Errorf("retry answered %v", v)
					}
					call(t, s, engine.CompleteCall(d.Held, g, "cancelled", engine.End{Entry: d.Entry, ID: "own", Indexed: true, Keep: time.Hour, Record: new(engine.Note).Record("cancelled", nil), Lock: engine.Lock{Key: "k"}}))
				}
				get(t, s, "own", stream.Cancelled)
				if n := length(t, rdb, s.Name()) + rdb.Exists(t.Context(), k.IDs, k.Unique("k")).Val(); n != 0 {
					t.Errorf("its entry, its ID or its lock are left: %v", rdb.HGetAll(t.Context(), k.IDs).Val())
				}
			})
		}
	}
	t.Run("another job has its ID", func(t *testing.T) {
		t.Parallel()
		s, rdb := open(t, stream.Config{})
		g := group(t, s, "g")
		publish(t, s, stream.Job{Type: "t", ID: "own"})
		entry := rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []string{"type", "t", "data", "", "traceparent", "", "opts", `{"id":"own"}`}}).Val()
		if state, err := s.Cancel(t.Context(), entry); !errors.Is(err, stream.ErrNotFound) {
			t.Errorf("%s, %v", state, err)
		}
		if length(t, rdb, s.Name()) != 2 || rdb.Exists(t.Context(), g.Marks).Val() != 0 {
			t.Error("one of the two was cancelled, and nobody can say which was meant")
		}
	})
}
