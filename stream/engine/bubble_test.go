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
	answer func() (any, error)
}

func (f *offline) DialHook(redis.DialHook) redis.DialHook {
	return func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no network here") }
}

func (f *offline) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(_ context.Context, cmd redis.Cmder) error {
		f.calls.Add(1)
		v, err := f.answer()
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
	now := time.Now().UnixMilli()
	return []any{int64(0), int64(0), strconv.FormatInt(now+dueMS, 10), strconv.FormatInt(now, 10)}
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
				f := &offline{answer: func() (any, error) { return promoted(due), nil }}
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
		f := &offline{answer: func() (any, error) {
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

type loading struct{}

func (loading) Error() string { return "LOADING Redis is loading the dataset in memory" }
func (loading) RedisError()   {}
