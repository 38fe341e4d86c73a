package stream_test

import (
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

func TestDepths(t *testing.T) {
	t.Parallel()
	for _, kind := range []stream.Kind{stream.KindQueue, stream.KindEvents} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			s, rdb := open(t, stream.Config{Kind: kind})
			if _, err := s.Group("g").Depths(ctx); !errors.Is(err, stream.ErrNotFound) {
				t.Errorf("no such group: %v", err)
			}
			g := group(t, s, "g")
			events := kind == stream.KindEvents
			check := func(when string, want stream.Depths) stream.Depths {
				t.Helper()
				got, err := s.Group("g").Depths(ctx)
				oldest := got.Oldest
				if got.Oldest = 0; err != nil || got != want {
					t.Errorf("%s: %+v, %v, want %+v", when, got, err, want)
				}
				got.Oldest = oldest
				return got
			}
			if d := check("empty", stream.Depths{}); d.Oldest != 0 {
				t.Errorf("empty: oldest %s", d.Oldest)
			}

			rdb.XAdd(ctx, &redis.XAddArgs{Stream: s.Name(), ID: "1000-1", Values: []string{"type", "a", "data", "", "traceparent", "", "opts", ""}})
			publish(t, s, stream.Job{Type: "a"}, stream.Job{Type: "a"}, stream.Job{Type: "a"}, stream.Job{Type: "a"}, stream.Job{Type: "a", Delay: time.Hour})
			if d := check("published", stream.Depths{Waiting: 5, Lag: 5, Scheduled: 1}); d.Oldest < 24*time.Hour {
				t.Errorf("published: oldest %s, the first is of 1970", d.Oldest)
			}

			held := read(t, s, s.Name(), "g", 4)
			for i := range held {
				held[i].Delete = !events
			}
			if d := check("read", stream.Depths{Waiting: 1, Lag: 1, Active: 4, Scheduled: 1, Workers: 1}); d.Oldest > time.Minute || d.Oldest < 0 {
				t.Errorf("read: oldest %s", d.Oldest)
			}
			call(t, s, engine.SettleCall(held[0].Held, []string{held[0].Entry}))
			call(t, s, engine.RetryCall(held[1].Held, g, held[1].id, time.Hour, held[1].entry))
			call(t, s, engine.ReleaseCall(held[2].Held, g, held[2].id, held[2].entry))
			kill(t, s, g, held[3], "{}")
			check("ended", stream.Depths{Waiting: 2, Lag: 1, Scheduled: 1, Retrying: 1, Dead: 1, Workers: 1})
			read(t, s, g.Redelivery, "g", 10)
			check("redelivered", stream.Depths{Waiting: 1, Lag: 1, Active: 1, Scheduled: 1, Retrying: 1, Dead: 1, Workers: 1})

			if events { // another group sees it all from its own side
				group(t, s, "h")
				if d, err := s.Group("h").Depths(ctx); err != nil || d.Waiting != 5 || d.Active != 0 || d.Dead != 0 {
					t.Errorf("another group: %+v, %v", d, err)
				}
			}
		})
	}
}

// TestDepthsOfEventsWithGaps: after an XDEL Redis has no lag; what is not known is not 0.
func TestDepthsOfEventsWithGaps(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{Kind: stream.KindEvents})
	group(t, s, "g")
	receipts := publish(t, s, make4()...)
	waits := func(when string, want int64) {
		t.Helper()
		if d, err := s.Group("g").Depths(t.Context()); err != nil || d.Waiting != want || d.Lag != want {
			t.Errorf("%s: %+v, %v, want %d waiting", when, d, err, want)
		}
	}
	rdb.XDel(t.Context(), s.Name(), receipts[2].ID)
	waits("none is read", 3)
	read(t, s, s.Name(), "g", 1)
	waits("one is read", -1)
	read(t, s, s.Name(), "g", 10)
	waits("all are read", 0)
	publish(t, s, make4()...)
	waits("and more", 4)
}
