package stream_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
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

// TestDepthsCountNoWorkerForNobody: the consumer that has the jobs of a deleted one is no worker.
func TestDepthsCountNoWorkerForNobody(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	if _, err := s.PublishAll(t.Context(), []stream.Job{{Type: "a"}, {Type: "a"}}); err != nil {
		t.Fatal(err)
	}
	read(t, s, s.Name(), "g", 1)
	consumer := rdb.XInfoConsumers(t.Context(), s.Name(), "g").Val()[0].Name
	rdb.XGroupDelConsumer(t.Context(), s.Name(), "g", consumer)
	call(t, s, engine.MendCall(engine.NewKeys(s.Name()), g, "g", 0, "", 10))
	for want := range int64(2) {
		if d, err := s.Group("g").Depths(t.Context()); err != nil || d.Workers != want || d.Active != 1+want || d.Waiting != 1-want {
			t.Errorf("%+v %v, want %d workers and the job of the deleted one active", d, err, want)
		}
		read(t, s, s.Name(), "g", 1)
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

// TestDepthsOfTrimmedEvents: Redis 7.0 counts what was trimmed before it was read as waiting, for ever.
func TestDepthsOfTrimmedEvents(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{Kind: stream.KindEvents})
	group(t, s, "g")
	publish(t, s, make4()...)
	read(t, s, s.Name(), "g", 1)
	rdb.XTrimMaxLen(t.Context(), s.Name(), 0)
	publish(t, s, make4()...)
	read(t, s, s.Name(), "g", 10)
	if d, err := s.Group("g").Depths(t.Context()); err != nil || d.Waiting != 0 || d.Lag != 0 {
		t.Errorf("%+v, %v; want nothing waiting", d, err)
	}
}

// beforeExists is a hook that stands in front of EXISTS.
type beforeExists struct{ do func() error }

func (b beforeExists) DialHook(next redis.DialHook) redis.DialHook { return next }

func (b beforeExists) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (b beforeExists) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "exists" {
			if err := b.do(); err != nil {
				cmd.SetErr(err)
				return err
			}
		}
		return next(ctx, cmd)
	}
}

// TestDescribeAStreamThatIsMade: Redis refuses to list the groups of no stream, and what is asked next may find one, or nobody.
func TestDescribeAStreamThatIsMade(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	direct := redistest.Client(t)
	var err error
	rdb.AddHook(beforeExists{func() error { return err }})
	err = io.ErrUnexpectedEOF
	if _, got := s.Describe(t.Context()); !errors.Is(got, stream.ErrUnavailable) {
		t.Errorf("Describe = %v, want ErrUnavailable: the connection broke", got)
	}
	err = nil
	if d, err := s.Describe(t.Context()); err != nil || len(d.Groups) != 0 {
		t.Errorf("Describe = %+v, %v; want no groups of no stream", d, err)
	}
	rdb.AddHook(beforeExists{func() error {
		return direct.XGroupCreateMkStream(t.Context(), s.Name(), "g", "0").Err()
	}})
	if d, err := s.Describe(t.Context()); err != nil || len(d.Groups) != 1 {
		t.Errorf("Describe = %+v, %v; want the group that was made meanwhile", d, err)
	}
}
