package scheduler_test

import (
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// TestUpkeepOnMiniredis: what penstock dev runs on where there is no Redis knows all that upkeep asks.
func TestUpkeepOnMiniredis(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer rdb.Close()
	for _, kind := range []stream.Kind{stream.KindQueue, stream.KindEvents} {
		st, err := stream.New(rdb, string(kind), stream.Config{Kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := engine.Open(t.Context(), rdb, engine.NewKeys(string(kind)), "billing", string(kind), false); err != nil {
			t.Fatal(err)
		}
		if err := st.Announce(t.Context()); err != nil {
			t.Fatal(err)
		}
		rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: string(kind), ID: "1-0", Values: []string{"a", "b"}})
		publish(t, st, stream.Job{Type: "ping", ID: "x"}, stream.Job{Type: "ping", ID: "later", Delay: 1e12})
		rdb.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "billing", Consumer: "c", Streams: []string{string(kind), ">"}, Block: -1})
		rdb.XAck(t.Context(), string(kind), "billing", "1-0")
	}
	s, err := scheduler.New(rdb, scheduler.Config{KeepDead: 1e12})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Once(t.Context()); err != nil || s.Upkeep().Passes != 2 || s.Upkeep().Trimmed != 1 || rdb.XLen(t.Context(), "events").Val() != 1 {
		t.Errorf("%v, %+v", err, s.Upkeep())
	}
}
