package stream_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// TestOnCluster: the keys of a stream are in one slot, and streams on all nodes. A script that
// named a key of another slot would be refused.
func TestOnCluster(t *testing.T) {
	t.Parallel()
	rdb, servers := redistest.Cluster(t)
	ctx := t.Context()
	var nodes []*redis.Client
	for _, server := range servers {
		nodes = append(nodes, redistest.Connect(t, &redis.Options{Addr: server.Addr()}))
	}
	for i := range 6 {
		s := over(t, rdb, fmt.Sprintf("orders%d", i), stream.Config{})
		g := group(t, s, "g")
		receipts := publish(t, s, stream.Job{Type: "a"}, stream.Job{Type: "a"}, stream.Job{Type: "a", ID: "x"}, stream.Job{Type: "a", ID: "y", At: time.Now()}, stream.Job{Type: "a", Delay: time.Hour})
		if receipts[0].State != stream.Waiting || receipts[4].State != stream.Scheduled {
			t.Errorf("receipts %+v", receipts)
		}
		if _, err := s.Publish(ctx, stream.Job{Type: "a"}); err != nil {
			t.Error(err)
		}
		redistest.Wait(t, "y is promoted", func() bool {
			p, err := engine.Promote(ctx, rdb, engine.ScheduledSlot(engine.NewKeys(s.Name())), 10)
			if err != nil {
				t.Fatal(err)
			}
			return p.Moved == 1
		})
		held := read(t, s, s.Name(), "g", 10)
		kill(t, s, g, held[2], "{}")
		call(t, s, engine.RetryCall(held[3].Held, g, held[3].id, time.Hour, held[3].entry))
		call(t, s, engine.SettleCall(held[0].Held, []string{held[0].Entry}))
		get(t, s, receipts[4].ID, stream.Scheduled)
		get(t, s, "x", stream.Dead)
		get(t, s, held[1].id, stream.Active)
		results := waiting(ctx, s, held[1].id)
		redistest.Wait(t, "somebody waits", func() bool { return listenersOf(t, nodes, s) == 1 })
		complete(t, s, g, `"r"`, held[1])
		if texts, errs := results(); texts[0] != "r" {
			t.Errorf("%q, %v", texts, errs)
		}
		if d, err := s.Group("g").Depths(ctx); err != nil || d.Active != 1 || d.Scheduled != 1 || d.Retrying != 1 || d.Dead != 1 {
			t.Errorf("depths %+v, %v", d, err)
		}
		if sweep, err := s.Group("g").Redrive(ctx, stream.DeadFilter{}, stream.RedriveOptions{}); err != nil || sweep.Moved != 1 {
			t.Errorf("redrive %+v, %v", sweep, err)
		}
	}
	if names, err := stream.Names(ctx, rdb); err != nil || len(names) != 6 {
		t.Errorf("registry %v, %v", names, err)
	}
}

// listenersOf is how many connections to any node follow the ends of jobs of s.
func listenersOf(t *testing.T, nodes []*redis.Client, s *stream.Stream) (n int64) {
	t.Helper()
	for _, node := range nodes {
		n += listeners(t, node, s)
	}
	return n
}
