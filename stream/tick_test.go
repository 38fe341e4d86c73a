package stream_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// tickOf is tick n of the schedule daily, the first of which is on record: one of each second, long ago.
func tickOf(n int64) engine.Tick {
	at := time.Unix(1_000_000_000+n, 0)
	return engine.Tick{Schedule: "daily", At: at, Fire: at}
}

// recorded has tick 0 on record, with the schedule's last job.
func recorded(t *testing.T, rdb *redis.Client, s *stream.Stream, job string) {
	t.Helper()
	rdb.HSet(t.Context(), engine.NewKeys(s.Name()).Ticks, "daily", fmt.Sprint(tickOf(0).At.UnixMilli(), " published ", job))
}

func TestTickCarriesOptions(t *testing.T) {
	t.Parallel()
	expires := time.Now().Add(time.Hour)
	for name, change := range map[string]func(*stream.Job){
		"plain":   func(*stream.Job) {},
		"delayed": func(j *stream.Job) { j.Delay = time.Hour },
		"unique":  func(j *stream.Job) { j.Unique.Key = "k" },
		"both":    func(j *stream.Job) { j.Delay, j.Unique.Key = time.Hour, "k" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, rdb := open(t, stream.Config{})
			keys := engine.NewKeys(s.Name())
			recorded(t, rdb, s, "")
			job := stream.Job{Type: "a", Data: 7, ID: "cron:daily:1", ExpiresAt: expires, MaxTries: 3, Header: map[string]string{"tick": "1"}}
			change(&job)
			for i, want := range []string{engine.TickPublished, engine.TickRecorded} {
				got, err := s.Tick(t.Context(), job, tickOf(1))
				if err != nil || got.What != want || !got.Last.At.Equal(tickOf(1).At) || got.Last.Job != job.ID {
					t.Errorf("time %d: %+v, %v", i, got, err)
				}
			}
			var e engine.Entry
			if job.Delay > 0 {
				e, _ = engine.ParseBody(rdb.HGet(t.Context(), keys.ScheduledJobs, job.ID).Val())
			} else {
				v := rdb.XRange(t.Context(), s.Name(), "-", "+").Val()[0].Values
				e = engine.Entry{Type: v["type"].(string), Data: v["data"].(string), Opts: v["opts"].(string)}
			}
			o, err := engine.ParseOpts(e.Opts)
			if err != nil || e.Type != "a" || e.Data != "7" || o.ID != job.ID || o.MaxTries != 3 || o.Header["tick"] != "1" || o.Expires != expires.UnixMilli() || o.Unique != job.Unique.Key {
				t.Errorf("stored %+v %+v, %v", e, o, err)
			}
			if n := length(t, rdb, s.Name()) + rdb.ZCard(t.Context(), keys.Scheduled).Val(); n != 1 {
				t.Errorf("%d jobs", n)
			}
			if d, err := s.Get(t.Context(), job.ID); err != nil || d.ID != job.ID {
				t.Errorf("looked up: %+v, %v", d, err)
			}
		})
	}
}

// TestTickLostReply: a tick whose answer was lost is asked again, and counts once.
func TestTickLostReply(t *testing.T) {
	t.Parallel()
	s, p, direct := behind(t, stream.Config{})
	other := over(t, direct, redistest.Name(t), stream.Config{})
	recorded(t, direct, other, "")
	if _, err := other.Tick(t.Context(), stream.Job{Type: "a", ID: "x"}, tickOf(1)); err != nil { // the script is known
		t.Fatal(err)
	}
	recorded(t, direct, s, "")
	p.LoseReplies("EVALSHA", 2)
	got, err := s.Tick(t.Context(), stream.Job{Type: "a", ID: "x"}, tickOf(1))
	if err != nil || got.What != engine.TickRecorded || got.Last.Job != "x" || length(t, direct, s.Name()) != 1 || p.Lost() != 2 {
		t.Errorf("%+v, %v after %d lost replies", got, err, p.Lost())
	}
	now := engine.Tick{Schedule: "daily"}
	p.LoseReplies("EVALSHA", 1)
	if got, err := s.Tick(t.Context(), stream.Job{Type: "a", ID: "y"}, now); err != nil || got.What != engine.TickPublished || length(t, direct, s.Name()) != 2 {
		t.Errorf("now: %+v, %v", got, err)
	}
}

func TestTickRefused(t *testing.T) {
	t.Parallel()
	job := stream.Job{Type: "a", ID: "x"}
	t.Run("full", func(t *testing.T) {
		t.Parallel()
		s, rdb := open(t, stream.Config{MaxLen: 1})
		recorded(t, rdb, s, "")
		publish(t, s, stream.Job{Type: "b"})
		if got, err := s.Tick(t.Context(), job, tickOf(1)); !errors.Is(err, stream.ErrStreamFull) || !got.Last.At.Equal(tickOf(0).At) {
			t.Errorf("%+v, %v", got, err)
		}
		rdb.XTrimMaxLen(t.Context(), s.Name(), 0)
		if got, err := s.Tick(t.Context(), job, tickOf(1)); err != nil || got.What != engine.TickPublished {
			t.Errorf("once there is room: %+v, %v", got, err)
		}
	})
	t.Run("events", func(t *testing.T) {
		t.Parallel()
		s, rdb := open(t, stream.Config{Kind: stream.KindEvents})
		group(t, s, "g")
		recorded(t, rdb, s, "y")
		tick := tickOf(1)
		tick.Skip = true
		if got, err := s.Tick(t.Context(), job, tick); !errors.Is(err, stream.ErrKind) {
			t.Errorf("skip: %+v, %v", got, err)
		}
		any := over(t, rdb, s.Name(), stream.Config{})
		if got, err := any.Tick(t.Context(), stream.Job{Type: "a", ID: "x", Unique: stream.Unique{Key: "k"}}, tickOf(1)); !errors.Is(err, stream.ErrKind) {
			t.Errorf("unique: %+v, %v", got, err)
		}
		if n := length(t, rdb, s.Name()); n != 0 {
			t.Errorf("%d jobs", n)
		}
	})
	t.Run("bad", func(t *testing.T) {
		t.Parallel()
		s, _ := open(t, stream.Config{})
		for _, bad := range []stream.Job{{ID: "x"}, {Type: "a"}} {
			if _, err := s.Tick(t.Context(), bad, tickOf(1)); !errors.Is(err, stream.ErrInvalid) {
				t.Errorf("%+v: %v", bad, err)
			}
		}
	})
}

// TestTickSkips: while the last job lives, wherever it is; not for one that is dead, done or deleted by hand.
func TestTickSkips(t *testing.T) {
	t.Parallel()
	for _, place := range append(places, "completed", "deleted") {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			s, rdb := open(t, stream.Config{})
			g := group(t, s, "g")
			recorded(t, rdb, s, "x")
			want := engine.TickSkipped
			switch place {
			case "completed":
				want = engine.TickPublished
				bring(t, s, rdb, g, "orders")
				d := read(t, s, s.Name(), "g", 1)[0]
				call(t, s, engine.CompleteCall(d.Held, g, "completed", engine.End{Entry: d.Entry, ID: "x", Indexed: true, Keep: time.Minute}))
			case "deleted":
				want = engine.TickPublished
				bring(t, s, rdb, g, "retrying")
				rdb.Del(t.Context(), g.Retrying, g.RetryingJobs)
			default:
				bring(t, s, rdb, g, place)
				if place == "dead" {
					want = engine.TickPublished
				}
			}
			tick := tickOf(1)
			tick.Skip = true
			got, err := s.Tick(t.Context(), stream.Job{Type: "a", ID: "y"}, tick)
			job := map[string]string{engine.TickPublished: "y", engine.TickSkipped: "x"}[want]
			if err != nil || got.What != want || got.Last.Job != job || !got.Last.At.Equal(tick.At) {
				t.Errorf("%+v, %v; want %s", got, err, want)
			}
		})
	}
}

// TestTickBehindADeletedHolder: a unique key whose holder was deleted by hand does not keep ticks back for ever.
func TestTickBehindADeletedHolder(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	keys := engine.NewKeys(s.Name())
	unique := stream.Unique{Key: "k"}
	publish(t, s, stream.Job{Type: "a", ID: "h", Unique: unique})
	recorded(t, rdb, s, "")
	job := stream.Job{Type: "a", ID: "x", Unique: unique}
	if got, err := s.Tick(t.Context(), job, tickOf(1)); err != nil || got.What != engine.TickStands || got.Last.Job != "h" {
		t.Errorf("%+v, %v", got, err)
	}
	d := read(t, s, s.Name(), "g", 1)[0]
	call(t, s, engine.RetryCall(d.Held, g, "h", time.Hour, d.entry))
	rdb.Del(t.Context(), g.Retrying, g.RetryingJobs)
	if got, err := s.Tick(t.Context(), job, tickOf(2)); err != nil || got.What != engine.TickPublished || got.Last.Job != "x" {
		t.Errorf("with its holder gone: %+v, %v", got, err)
	}
	if at := rdb.Get(t.Context(), keys.Unique("k")).Val(); at != "x" {
		t.Errorf("the key is held by %q", at)
	}
}

// TestTickBehindTwoDeleted: the last job and the holder of the unique key, both deleted by hand.
func TestTickBehindTwoDeleted(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	unique := stream.Unique{Key: "k"}
	for _, job := range []stream.Job{{Type: "a", ID: "last"}, {Type: "a", ID: "holder", Unique: unique}} {
		publish(t, s, job)
		d := read(t, s, s.Name(), "g", 1)[0]
		call(t, s, engine.RetryCall(d.Held, g, job.ID, time.Hour, d.entry))
	}
	rdb.Del(t.Context(), g.Retrying, g.RetryingJobs)
	recorded(t, rdb, s, "last")
	tick := tickOf(1)
	tick.Skip = true
	if got, err := s.Tick(t.Context(), stream.Job{Type: "a", ID: "x", Unique: unique}, tick); err != nil || got.What != engine.TickPublished {
		t.Errorf("%+v, %v", got, err)
	}
}
