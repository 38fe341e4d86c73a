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

// get looks a job up that must be there, in that state.
func get(t *testing.T, s *stream.Stream, id string, want stream.State) stream.Info {
	t.Helper()
	info, err := s.Get(t.Context(), id)
	if err != nil || info.State != want {
		t.Fatalf("get %q: %+v, %v, want it %s", id, info, err, want)
	}
	return info
}

func missing(t *testing.T, s *stream.Stream, id string) {
	t.Helper()
	if info, err := s.Get(t.Context(), id); !errors.Is(err, stream.ErrNotFound) || !strings.Contains(err.Error(), "PENSTOCK_KEEP_STATUS") {
		t.Errorf("get %q: %+v, %v, want ErrNotFound that names the setting", id, info, err)
	}
}

// end is how a delivery ends that leaves a record.
func (d delivery) end(note *engine.Note, result []byte) engine.End {
	e := engine.End{Entry: d.Entry, ID: d.id, Indexed: d.opts.ID != "", Keep: time.Hour}
	if note != nil {
		e.Record = note.Record("completed", result)
	}
	return e
}

const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// TestGetInEveryState takes jobs through their lives, with IDs of their own and without.
func TestGetInEveryState(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"paid-7", ""} {
		t.Run("id "+id, func(t *testing.T) {
			t.Parallel()
			s, rdb := open(t, stream.Config{})
			missing(t, s, "1-1")
			if id == "" {
				id = rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []string{"type", "t", "data", "d", "traceparent", parent, "opts", ""}}).Val()
			} else {
				publish(t, s, stream.Job{Type: "t", ID: id, MaxTries: 5})
			}
			info := get(t, s, id, stream.Waiting) // no group yet
			if info.Type != "t" || info.Attempt != 1 || info.Published.IsZero() || !info.Due.Equal(info.Published) {
				t.Errorf("waiting: %+v", info)
			}
			if id != "paid-7" && info.TraceID != "4bf92f3577b34da6a3ce929d0e0e4736" {
				t.Errorf("trace ID %q", info.TraceID)
			}
			g := group(t, s, "g")
			get(t, s, id, stream.Waiting)
			d := read(t, s, s.Name(), "g", 1)[0]
			if info = get(t, s, id, stream.Active); info.Worker != "me" || info.Type != "t" {
				t.Errorf("active: %+v", info)
			}

			o := d.opts.Moved(engine.StepFail)
			o.ID = id
			o.History = []engine.Attempt{{Attempt: 1, Worker: "me", Started: 1000, Took: 5, Error: "broken"}}
			d.entry.Opts = o.String()
			call(t, s, engine.RetryCall(d.Held, g, id, time.Hour, d.entry))
			info = get(t, s, id, stream.Retrying)
			if info.Attempt != 2 || info.Err != "broken" || info.Worker != "me" || len(info.History) != 1 || time.Until(info.Due) < 50*time.Minute {
				t.Errorf("retrying: %+v", info)
			}
			if info.Paused != 0 {
				t.Errorf("no switch has put it off: %+v", info)
			}
			d.entry.Opts = d.opts.Moved(engine.StepFail).Moved(engine.StepPause).Moved(engine.StepPause).String()
			rdb.HSet(t.Context(), g.RetryingJobs, id, d.entry.Body())
			if info = get(t, s, id, stream.Retrying); info.Paused != 2 {
				t.Errorf("put off twice: %+v", info)
			}
			d.entry.Opts = o.String()
			rdb.HSet(t.Context(), g.RetryingJobs, id, d.entry.Body())
			rdb.ZAdd(t.Context(), g.Retrying, redis.Z{Score: 1, Member: id})
			if _, err := engine.Promote(t.Context(), rdb, engine.RetryingSlot(g), 10); err != nil {
				t.Fatal(err)
			}
			if info = get(t, s, id, stream.Waiting); info.Attempt != 2 {
				t.Errorf("promoted: %+v", info)
			}
			d = read(t, s, g.Redelivery, "g", 1)[0]
			rdb.HSet(t.Context(), g.Workers, "g:me", fmt.Sprintf(`{"at":1,"run":[["other",5],[%q,1726000000000]]}`, id))
			if info = get(t, s, id, stream.Active); info.Started.UnixMilli() != 1726000000000 || info.Attempt != 2 {
				t.Errorf("active again: %+v", info)
			}
			call(t, s, engine.SuspectCall(d.Held, g, id, d.entry))
			get(t, s, id, stream.Waiting)
			d = read(t, s, g.Suspects, "g", 1)[0]
			get(t, s, id, stream.Active)

			kill(t, s, g, d, `{"reason":"permanent","error":"no","worker":"w","max_tries":3}`)
			info = get(t, s, id, stream.Dead)
			if info.Reason != "permanent" || info.Err != "no" || info.Worker != "w" || info.Finished.IsZero() || !info.Ended() {
				t.Errorf("dead: %+v", info)
			}
			if _, err := s.Group("g").Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{}); err != nil {
				t.Fatal(err)
			}
			get(t, s, id, stream.Waiting)
			d = read(t, s, g.Redelivery, "g", 1)[0]
			note := &engine.Note{Type: "t", Published: 1000, Started: 3000, Took: 500, Worker: "w", Attempt: 1, MaxTries: 3, Trace: parent}
			call(t, s, engine.CompleteCall(d.Held, g, "completed", d.end(note, []byte("a\nb"))))
			info = get(t, s, id, stream.Completed)
			if string(info.Result) != "a\nb" || info.Type != "t" || info.Finished.UnixMilli() != 3500 || info.Worker != "w" || info.MaxTries != 3 || info.TraceID == "" {
				t.Errorf("completed: %+v", info)
			}
			rdb.Del(t.Context(), g.Job(id))
			missing(t, s, id)
		})
	}
}

func TestGetScheduled(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	r := publish(t, s, stream.Job{Type: "t", Delay: time.Hour, MaxTries: 2, Data: strings.Repeat("x", 1000)})[0]
	info := get(t, s, r.ID, stream.Scheduled)
	if info.Type != "t" || !info.Due.Equal(r.Due) || info.MaxTries != 2 || info.Published.IsZero() {
		t.Errorf("%+v, due %s", info, r.Due)
	}
	rdb.ZAdd(t.Context(), engine.NewKeys(s.Name()).Scheduled, redis.Z{Score: 1, Member: r.ID})
	if _, err := engine.Promote(t.Context(), rdb, engine.ScheduledSlot(engine.NewKeys(s.Name())), 10); err != nil {
		t.Fatal(err)
	}
	get(t, s, r.ID, stream.Waiting)
}

// TestGetOdd: what other programs added, what was deleted under a worker, and what is no job of ours.
func TestGetOdd(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{Kind: stream.KindQueue})
	g := group(t, s, "g")
	foreign := rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []string{"type", "f", "color", "red"}}).Val()
	if info := get(t, s, foreign, stream.Waiting); info.Type != "f" || info.Attempt != 1 {
		t.Errorf("a foreign entry: %+v", info)
	}
	broken := rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []string{"type", "b", "data", "", "traceparent", "", "opts", "no JSON"}}).Val()
	if info := get(t, s, broken, stream.Waiting); info.Type != "b" {
		t.Errorf("opts that can't be read: %+v", info)
	}
	own := rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []string{"type", "o", "data", "", "traceparent", "", "opts", `{"id":"mine"}`}}).Val()
	if info := get(t, s, own, stream.Waiting); info.ID != "mine" {
		t.Errorf("an entry that carries an ID: %+v", info)
	}
	missing(t, s, "mine") // nothing knows where

	read(t, s, s.Name(), "g", 1)
	rdb.XDel(t.Context(), s.Name(), foreign)
	if info := get(t, s, foreign, stream.Active); info.Worker != "me" {
		t.Errorf("deleted under its worker: %+v", info)
	}
	for _, id := range []string{"", "-", "+", "0-0", "1-", "99999999999999999999-0", "18446744073709551616-1", "a b", "x\ny", "\x00", "*", "$", strings.Repeat("x", 10_000), "(1-1"} {
		missing(t, s, id)
	}
	keys := engine.NewKeys(s.Name())
	for _, where := range []string{"orders", "orders x", "orders 99999999999999999999-1 n", "dead ", "redelivery +", "nowhere 1-1", " ", "scheduled x"} {
		rdb.HSet(t.Context(), keys.IDs, "odd", where)
		missing(t, s, "odd")
	}
	rdb.HDel(t.Context(), keys.IDs, "odd")
	for value, state := range map[string]stream.State{"completed": stream.Completed, "completed n": stream.Completed, "cancelled \n{}": stream.Cancelled, "completed \nno JSON": stream.Completed, "completed \n{\"zz\":1}\nr": stream.Completed} {
		rdb.Set(t.Context(), g.Job("odd"), value, time.Minute)
		get(t, s, "odd", state)
	}
	for _, value := range []string{"", "missed 1 redelivery 1-1", "\n"} {
		rdb.Set(t.Context(), g.Job("odd"), value, time.Minute)
		missing(t, s, "odd")
	}
	rdb.Del(t.Context(), g.Job("odd"))
	rdb.HSet(t.Context(), g.Job("odd"), "state", "completed") // as versions before had it
	missing(t, s, "odd")
}

// TestGetLearnsOfGroups: the first look does not know the groups, and later ones may be made.
func TestGetLearnsOfGroups(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{Kind: stream.KindEvents})
	other := over(t, rdb, s.Name(), stream.Config{Kind: stream.KindEvents})
	id := publish(t, s, stream.Job{Type: "t"})[0].ID
	get(t, s, id, stream.Waiting)
	for n, name := range []string{"a", "b"} {
		group(t, other, name)
		if info := get(t, s, id, stream.Waiting); len(info.Groups) != n+1 {
			t.Errorf("groups %+v, want %d", info.Groups, n+1)
		}
	}
}

// TestGetEvents: a state for each group, and over all that of the one farthest from its end.
func TestGetEvents(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"chosen", ""} {
		t.Run("id "+id, func(t *testing.T) {
			t.Parallel()
			s, _ := open(t, stream.Config{Kind: stream.KindEvents})
			a, b := group(t, s, "a"), group(t, s, "b")
			id := publish(t, s, stream.Job{Type: "t", ID: id})[0].ID
			states := func(all, inA, inB stream.State) stream.Info {
				t.Helper()
				info := get(t, s, id, all)
				if info.Groups["a"].State != inA || info.Groups["b"].State != inB || info.Type != "t" || info.ID != id {
					t.Errorf("%+v, want %s and %s", info, inA, inB)
				}
				return info
			}
			states(stream.Waiting, stream.Waiting, stream.Waiting)
			da := read(t, s, s.Name(), "a", 1)[0]
			da.Delete = false
			states(stream.Active, stream.Active, stream.Waiting)
			e := da.end(&engine.Note{Type: "t", Started: 1}, []byte("r"))
			call(t, s, engine.CompleteCall(da.Held, a, "completed", e))
			if info := states(stream.Waiting, stream.Completed, stream.Waiting); string(info.Result) != "r" || string(info.Groups["a"].Result) != "r" {
				t.Errorf("the one result: %q", info.Result)
			}
			db := read(t, s, s.Name(), "b", 1)[0]
			db.Delete = false
			db.entry.Opts = engine.Opts{ID: id, Errors: 1}.String()
			call(t, s, engine.RetryCall(db.Held, b, id, time.Hour, db.entry))
			states(stream.Retrying, stream.Completed, stream.Retrying)
			if info, err := s.Get(t.Context(), id); err != nil || info.Groups["b"].Attempt != 2 || info.Groups["a"].Attempt != 0 {
				t.Errorf("%+v, %v", info, err)
			}
			s.Client().ZAdd(t.Context(), b.Retrying, redis.Z{Score: 1, Member: id})
			if _, err := engine.Promote(t.Context(), s.Client(), engine.RetryingSlot(b), 1); err != nil {
				t.Fatal(err)
			}
			states(stream.Waiting, stream.Completed, stream.Waiting)
			db = read(t, s, b.Redelivery, "b", 1)[0]
			states(stream.Active, stream.Completed, stream.Active)
			kill(t, s, b, db, `{"reason":"failed","error":"no"}`)
			states(stream.Dead, stream.Completed, stream.Dead)
		})
	}
	t.Run("done without a record", func(t *testing.T) {
		t.Parallel()
		s, _ := open(t, stream.Config{Kind: stream.KindEvents})
		group(t, s, "a")
		id := publish(t, s, stream.Job{Type: "t"})[0].ID
		d := read(t, s, s.Name(), "a", 1)[0]
		d.Delete = false
		call(t, s, engine.SettleCall(d.Held, []string{d.Entry}))
		if info := get(t, s, id, stream.Completed); info.Groups["a"].State != stream.Completed {
			t.Errorf("%+v", info)
		}
	})
}

// TestStaleSuccess: the record is of the end that counted. Once another worker has the job back for the group, retried it or
// buried it, a late success writes none; before that it ends the job, and the other's move finds nothing.
func TestStaleSuccess(t *testing.T) {
	t.Parallel()
	moves := map[string]func(d delivery, g engine.GroupKeys) engine.Call{
		"retry": func(d delivery, g engine.GroupKeys) engine.Call {
			return engine.RetryCall(d.Held, g, d.id, time.Hour, d.entry)
		},
		"dead": func(d delivery, g engine.GroupKeys) engine.Call {
			return engine.DeadCall(d.Held, g, d.id, d.entry, `{"reason":"failed"}`, engine.Lock{})
		},
		"reclaim": func(d delivery, g engine.GroupKeys) engine.Call { return engine.ReleaseCall(d.Held, g, d.id, d.entry) },
	}
	after := map[string]stream.State{"retry": stream.Retrying, "dead": stream.Dead, "reclaim": stream.Waiting}
	for name, move := range moves {
		for _, id := range []string{"chosen", ""} {
			t.Run(name+" "+id, func(t *testing.T) {
				t.Parallel()
				s, rdb := open(t, stream.Config{})
				g := group(t, s, "g")
				take := func() (stale, other delivery) {
					publish(t, s, stream.Job{Type: "t", ID: id})
					stale = read(t, s, s.Name(), "g", 1)[0]
					rdb.XClaim(t.Context(), &redis.XClaimArgs{Stream: s.Name(), Group: "g", Consumer: "other", Messages: []string{stale.Entry}})
					other = stale
					other.Consumer = "other"
					return stale, other
				}
				stale, other := take()
				call(t, s, move(other, g))
				late, refused, ok := engine.ReadCompleted(call(t, s, engine.CompleteCall(stale.Held, g, "completed", stale.end(&engine.Note{}, []byte("r")))))
				if !ok || len(late) != 1 || len(refused) != 0 || rdb.Exists(t.Context(), g.Job(stale.id)).Val() != 0 {
					t.Errorf("late: %v, %v, and a record: want none", late, refused)
				}
				get(t, s, stale.id, after[name])

				if id != "" {
					id += "-2"
				}
				stale, other = take()
				call(t, s, engine.CompleteCall(stale.Held, g, "completed", stale.end(&engine.Note{}, []byte("r"))))
				if v := call(t, s, move(other, g)); v != "" && v != int64(0) {
					t.Errorf("moved what had ended: %v", v)
				}
				if info := get(t, s, stale.id, stream.Completed); string(info.Result) != "r" {
					t.Errorf("%+v", info)
				}
			})
		}
	}
}
