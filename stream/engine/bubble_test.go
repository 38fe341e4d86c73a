package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/engine"
)

// offline answers commands in place of a server, inside a bubble; nobody can be dialled, so the wake-up channel is down.
type offline struct {
	calls  atomic.Int64
	answer func(args []any) (any, error)
}

func (f *offline) DialHook(redis.DialHook) redis.DialHook {
	return func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no network here") }
}

func (f *offline) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(_ context.Context, cmd redis.Cmder) error {
		f.calls.Add(1)
		v, err := f.answer(cmd.Args())
		if c, ok := cmd.(interface{ SetVal(any) }); ok && err == nil {
			c.SetVal(v)
		}
		cmd.SetErr(err)
		return err
	}
}

func (f *offline) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// promoted is what the script answers that has moved nothing, and sees the next job due in so many milliseconds.
func promoted(dueMS int64) []any {
	now := time.Now()
	return []any{int64(0), int64(0), strconv.FormatInt(now.UnixMilli()+dueMS, 10), strconv.FormatInt(now.UnixMicro(), 10), int64(0), "0"}
}

// runOffline runs a promoter in the bubble for d, with its wake-up channel down.
func runOffline(t *testing.T, f *offline, poll, d time.Duration) {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer func() {
		_ = rdb.Close()
		time.Sleep(2 * time.Second) // its pool looks every second whether it can dial again, and then sees that it is closed
	}()
	rdb.AddHook(f)
	slots := []engine.Slot{engine.ScheduledSlot(engine.NewKeys("orders"))}
	p := &engine.Promoter{
		Client: rdb,
		Slots:  func(context.Context) ([]engine.Slot, error) { return slots, nil },
		Poll:   poll,
		Logger: slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	p.Run(ctx)
}

// TestPromoterPollsAtItsPace: while the wake-up channel is down it looks once a PollDelay, whatever is due when.
func TestPromoterPollsAtItsPace(t *testing.T) {
	t.Parallel()
	for name, due := range map[string]int64{"due in an hour": 3_600_000, "due in four centuries": 12_600_000_000_000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := &offline{answer: func([]any) (any, error) { return promoted(due), nil }}
				runOffline(t, f, 500*time.Millisecond, time.Minute)
				if n := f.calls.Load(); n < 100 || n > 260 {
					t.Errorf("%d looks in a minute of polling every 500ms", n)
				}
			})
		})
	}
}

// TestPromoterBacksOff: a server that is loading is not asked in a hot loop, and what is due comes out when it is back.
func TestPromoterBacksOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		back := time.Now().Add(50 * time.Second)
		var after atomic.Int64
		f := &offline{answer: func([]any) (any, error) {
			if time.Now().Before(back) {
				return nil, loading{}
			}
			after.Add(1)
			return promoted(3_600_000), nil
		}}
		runOffline(t, f, 500*time.Millisecond, time.Minute)
		if n := f.calls.Load() - after.Load(); n < 10 || n > 250 {
			t.Errorf("%d tries in 50 s of an outage", n)
		}
		if after.Load() == 0 {
			t.Error("not tried again after the outage")
		}
	})
}

// TestPromoterSearches: a set where nothing is due is looked at once in 15 s. A search for what somebody took out of it
// goes on where it was, at its own pace, though the sets are listed anew meanwhile; it is over when it is over.
func TestPromoterSearches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const steps = 2000
		var began, ended time.Time
		var before, during, after int
		cursor := "0"
		f := &offline{answer: func(args []any) (any, error) {
			if from := args[len(args)-1]; from != cursor {
				t.Errorf("it looks from %v on, want %s", from, cursor)
			}
			v := promoted(3_600_000)
			switch {
			case before < 5:
				before++
			case during < steps:
				if during++; during == 1 {
					began = time.Now()
				}
				if cursor = strconv.Itoa(during); during == steps {
					cursor, ended = "0", time.Now()
				}
			default:
				after++
			}
			v[5] = cursor
			return v, nil
		}}
		start := time.Now()
		runOffline(t, f, time.Hour, 10*time.Minute)
		if wait := began.Sub(start) / 5; wait < 10*time.Second || wait > 15*time.Second {
			t.Errorf("a set is looked at every %s", wait)
		}
		if took := ended.Sub(began); during != steps || took < 35*time.Second || took > time.Minute {
			t.Errorf("%d steps took %s", during, took)
		}
		if most := int(start.Add(10*time.Minute).Sub(ended)/(10*time.Second)) + 1; after < 20 || after > most {
			t.Errorf("after that it was looked at %d times in %s", after, start.Add(10*time.Minute).Sub(ended))
		}
	})
}

type loading struct{}

func (loading) Error() string { return "LOADING Redis is loading the dataset in memory" }
func (loading) RedisError()   {}
