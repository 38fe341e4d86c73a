package scheduler_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream/engine"
)

// fill adds entries n at a time, with IDs that are long over.
const fill = `for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], ARGV[2] + i .. '-0', 'data', '{"order":7}') end`

// BenchmarkUpkeep is one pass over a stream: on a queue of which a dead worker holds much, on an events stream that is trimmed
// from a million entries to none, by a group that has read all of it, and over many IDs of jobs that stand. redis-us is how
// long Redis was busy with its scripts.
func BenchmarkUpkeep(b *testing.B) {
	for _, c := range []struct {
		name    string
		kind    string
		prepare func(b *testing.B, rdb *redis.Client, last int64) int64
	}{
		{"idle", "queue", func(*testing.B, *redis.Client, int64) int64 { return 0 }},
		{"pending=100000", "queue", func(b *testing.B, rdb *redis.Client, last int64) int64 {
			if last > 0 {
				return last
			}
			last = add(b, rdb, 100_000, last)
			rdb.XReadGroup(b.Context(), &redis.XReadGroupArgs{Group: "billing", Consumer: "dead", Streams: []string{"orders", ">"}, Count: 100_000, Block: -1})
			return last
		}},
		{"entries=1000000", "events", func(b *testing.B, rdb *redis.Client, last int64) int64 {
			if last == 0 {
				last = add(b, rdb, 1_000_000, last)
				rdb.XGroupSetID(b.Context(), "orders", "billing", "$")
				rdb.Copy(b.Context(), "orders", "{orders}:full", 0, true)
			}
			rdb.Copy(b.Context(), "{orders}:full", "orders", 0, true)
			return last
		}},
		{"ids=50000", "queue", func(b *testing.B, rdb *redis.Client, last int64) int64 {
			if last > 0 {
				return last
			}
			pipe := rdb.Pipeline()
			for i := range 50_000 {
				pipe.HSet(b.Context(), "{orders}:ids", fmt.Sprint("job-", i), "orders 1-0 nonce")
			}
			if _, err := pipe.Exec(b.Context()); err != nil {
				b.Fatal(err)
			}
			return add(b, rdb, 1, last)
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			rdb := redistest.Connect(b, &redis.Options{Addr: redistest.Server(b).Addr(), ReadTimeout: time.Minute})
			if o, err := engine.Open(b.Context(), rdb, engine.NewKeys("orders"), "billing", c.kind, false); err != nil || o.Refusal != "" {
				b.Fatal(o, err)
			}
			rdb.SAdd(b.Context(), engine.RegistryKey, "orders")
			s, err := scheduler.New(rdb, scheduler.Config{})
			if err != nil {
				b.Fatal(err)
			}
			last, busy, n := int64(0), 0.0, 0
			for b.Loop() {
				b.StopTimer()
				last = c.prepare(b, rdb, last)
				rdb.ConfigResetStat(b.Context())
				b.StartTimer()
				if _, err := s.Once(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				busy, n = busy+redisBusy(b, rdb), n+1
				b.StartTimer()
			}
			b.ReportMetric(busy/float64(n), "redis-us/op")
			b.ReportMetric(float64(s.Upkeep().Trimmed)/float64(n), "trimmed/op")
		})
	}
}

func add(b *testing.B, rdb *redis.Client, n int, last int64) int64 {
	b.Helper()
	for done := 0; done < n; {
		some := min(n-done, 50_000)
		if err := rdb.Eval(b.Context(), fill, []string{"orders"}, some, last).Err(); err != nil && err != redis.Nil { //nolint:errorlint // the script answers nothing
			b.Fatal(err)
		}
		done, last = done+some, last+int64(some)
	}
	return last
}

// redisBusy is how long scripts took by Redis's own account, in microseconds.
func redisBusy(b *testing.B, rdb *redis.Client) (us float64) {
	b.Helper()
	stats, err := rdb.InfoMap(b.Context(), "commandstats").Result()
	if err != nil {
		b.Fatal(err)
	}
	for command, text := range stats["Commandstats"] {
		if command != "cmdstat_evalsha" { // which has what it calls in it
			continue
		}
		var calls, usec float64
		if _, err := fmt.Sscanf(text, "calls=%g,usec=%g", &calls, &usec); err == nil {
			us += usec
		}
	}
	return us
}
