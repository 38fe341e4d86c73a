package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// TestDevNotices meddles with the jobs: a run that lost one must not end well.
func TestDevNotices(t *testing.T) {
	t.Parallel()
	meddle := map[string]struct {
		do   func(ctx context.Context, rdb *redis.Client, name string) bool
		want []string
	}{
		"a deferred job that is forgotten": {
			func(ctx context.Context, rdb *redis.Client, name string) bool {
				keys := engine.NewKeys(strings.TrimSuffix(name, "orders") + "mail")
				last, err := rdb.ZRange(ctx, keys.Scheduled, -1, -1).Result()
				if err != nil || len(last) == 0 {
					return false
				}
				var gone *redis.IntCmd
				_, err = rdb.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
					gone = pipe.ZRem(ctx, keys.Scheduled, last[0])
					pipe.HDel(ctx, keys.ScheduledJobs, last[0]) // or it would be put back
					return nil
				})
				return err == nil && gone.Val() == 1
			},
			[]string{"nothing has happened for 2s", "mail.reminder ", " of mail: 0 of 1 runs", "lost: 1 job"},
		},
		"a job that nobody can handle": {
			func(ctx context.Context, rdb *redis.Client, name string) bool {
				return rdb.Exists(ctx, name).Val() == 1 && rdb.XAdd(ctx, &redis.XAddArgs{Stream: name, Values: []any{
					"type", "strange", "data", "", "traceparent", "", "opts", ""}}).Err() == nil
			},
			[]string{"nothing has happened for 2s", "1 job more than were published"},
		},
		"a dead letter that is deleted": {
			func(ctx context.Context, rdb *redis.Client, name string) bool {
				key := engine.NewKeys(name).Group(devGroup, false).Dead
				got, err := rdb.XRangeN(ctx, key, "-", "+", 1).Result()
				return err == nil && len(got) > 0 && rdb.XDel(ctx, key, got[0].ID).Val() == 1
			},
			[]string{"does not add up", "lost: 1 job", "it is not among the dead letters"},
		},
		"a job that runs again": {
			func(ctx context.Context, rdb *redis.Client, name string) bool {
				data, err := json.Marshal(devMix{seed: 7}.job(0).order)
				return err == nil && rdb.Exists(ctx, engine.NewKeys(name).Group(devGroup, false).Dead).Val() == 1 && rdb.XAdd(ctx, &redis.XAddArgs{Stream: name, Values: []any{
					"type", devKinds[0].typ, "data", data, "traceparent", "", "opts", ""}}).Err() == nil
			},
			[]string{"does not add up", "ran 2 times, 1 would be right"},
		},
	}
	for name, m := range meddle {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Server(t)
			rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan bool, 1)
			go func() {
				for pauseFor(ctx, time.Millisecond) {
					keys, _ := rdb.Keys(ctx, "penstock-dev-*-orders").Result()
					if len(keys) > 0 && m.do(ctx, rdb, keys[0]) {
						done <- true
						return
					}
				}
				done <- false
			}()
			opt := devTestOptions(200)
			opt.yours, opt.stall, opt.rate = true, 2*time.Second, 400
			r, err := runDev(t, t.Context(), &app{redis: server.URL()}, opt)
			cancel()
			if !<-done {
				t.Fatal("the run was over before anything could be done to it")
			}
			if r.OK || err == nil {
				t.Fatalf("it ended well: %+v", r)
			}
			for _, want := range m.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("it says %q, want %q in it", err, want)
				}
			}
			if left, err := rdb.Keys(t.Context(), "*").Result(); err != nil || len(left) > 0 {
				t.Errorf("%v is left, %v", left, err)
			}
		})
	}
}
