package scheduler

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
)

// TestFires: gocron is told the next time at which a tick is published, wherever it asks from.
func TestFires(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer rdb.Close()
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, sc := range []Schedule{
		{Every: time.Second}, {Every: 7 * time.Second, Jitter: 5 * time.Second}, {Cron: "*/5 * * * *", Jitter: 24 * time.Hour},
		{Cron: "0 3 * * *", Jitter: 2 * time.Hour, Zone: "Europe/Berlin"}, {Every: time.Hour, Jitter: 10 * time.Second},
	} {
		sc.Name, sc.Stream, sc.Job.Type = "x", s, "t"
		e, err := newEntry(sc, inProgram, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		var want []time.Time // all of them
		for tick := range sc.Ticks(start.Add(-48 * time.Hour)) {
			if len(want) == 20_000 || tick.After(start.Add(30*24*time.Hour)) {
				break
			}
			want = append(want, e.plan.fire(tick))
		}
		span := want[len(want)-1].Sub(want[0])
		for range 300 {
			after := want[0].Add(rand.N(span))
			if rand.N(4) == 0 {
				after = want[rand.N(len(want)-1)] // gocron asks from one to the next
			}
			i := 0
			for !want[i].After(after) {
				i++
			}
			if got := (fires{e.plan}).Next(after); !got.Equal(want[i]) || got.Location() != time.UTC {
				t.Fatalf("%+v: after %s comes %s, want %s", sc, after, got, want[i])
			}
		}
	}
	ended, err := newEntry(Schedule{Name: "x", Every: time.Hour, End: start, Stream: s, Job: stream.Job{Type: "t"}}, inProgram, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if got := (fires{ended.plan}).Next(start); !got.Equal(never) {
		t.Errorf("after the end comes %s", got)
	}
}
