package stream_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
)

// letters answers for a group with so many dead letters, in place of a server, inside a bubble; it notes when each is redriven.
type letters struct {
	n     int
	moved []time.Time
}

func (l *letters) DialHook(redis.DialHook) redis.DialHook {
	return func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no network here") }
}

func (l *letters) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(_ context.Context, cmd redis.Cmder) error { l.answer(cmd); return nil }
}

func (l *letters) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(_ context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			l.answer(cmd)
		}
		return nil
	}
}

func (l *letters) answer(cmd redis.Cmder) {
	switch c := cmd.(type) {
	case *redis.SliceCmd: // HMGET config
		c.SetVal([]any{"queue", "1"})
	case *redis.TimeCmd:
		c.SetVal(time.Now())
	case *redis.XMessageSliceCmd: // the newest
		c.SetVal([]redis.XMessage{{ID: fmt.Sprintf("%d-1", l.n)}})
	case interface{ SetVal(any) }:
		if cmd.Name() != "xrange" { // a redrive
			l.moved = append(l.moved, time.Now())
			c.SetVal("9-9")
			return
		}
		from, count := 0, 0
		_, _ = fmt.Sscanf(fmt.Sprint(cmd.Args()[2]), "(%d-1", &from)
		_, _ = fmt.Sscan(fmt.Sprint(cmd.Args()[5]), &count)
		entries := []any{}
		for i := from + 1; i <= l.n && len(entries) < count; i++ {
			id := fmt.Sprintf("%d-1", i)
			entries = append(entries, []any{id, []any{"type", "t", "data", "", "traceparent", "", "opts", "", "info", "{}"}})
		}
		c.SetVal(entries)
	}
}

// TestRedriveKeepsItsRate: 100 letters at 5/s take 20 s, and no second sees more than it should.
func TestRedriveKeepsItsRate(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{0, 5, 50} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := &letters{n: 100}
				rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
				defer rdb.Close()
				rdb.AddHook(l)
				s, err := stream.New(rdb, "orders", stream.Config{})
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				done, err := s.Group("billing").Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{Rate: rate})
				if err != nil || done.Moved != 100 || len(l.moved) != 100 {
					t.Fatalf("redrove %+v, %v: %d scripts", done, err, len(l.moved))
				}
				took := time.Since(start)
				if rate == 0 {
					if took != 0 {
						t.Errorf("without a rate it waited %s", took)
					}
					return
				}
				if want := time.Duration(100 / rate * float64(time.Second)); took > want || took < want-time.Second {
					t.Errorf("took %s at %g/s, want about %s", took, rate, want)
				}
				for i, at := range l.moved {
					within := 0
					for _, other := range l.moved[i:] {
						if other.Sub(at) < time.Second {
							within++
						}
					}
					if float64(within) > rate*1.2 {
						t.Fatalf("%d letters within a second, want %g", within, rate)
					}
				}
			})
		})
	}
}
