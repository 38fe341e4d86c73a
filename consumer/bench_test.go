package consumer_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// BenchmarkDrain works off a backlog of jobs that do nothing; one iteration is
// 50,000 of them. jobs/s counts from the first that starts to the last that is settled.
func BenchmarkDrain(b *testing.B) {
	const backlog = 50_000
	for _, maxJobs := range []int{10, 100} {
		b.Run(fmt.Sprintf("MaxJobs=%d", maxJobs), func(b *testing.B) {
			rdb := redistest.Client(b)
			b.ReportAllocs()
			total, took := 0, time.Duration(0)
			for b.Loop() {
				b.StopTimer()
				took += drain(b, rdb, maxJobs, backlog)
				total += backlog
				b.StartTimer()
			}
			b.ReportMetric(float64(total)/took.Seconds(), "jobs/s")
		})
	}
}

func drain(b *testing.B, rdb *redis.Client, maxJobs, backlog int) time.Duration {
	s, err := stream.New(rdb, redistest.Name(b), stream.Config{})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.PublishAll(b.Context(), many(backlog)); err != nil {
		b.Fatal(err)
	}
	w, err := consumer.New(group, consumer.Config{MaxJobs: maxJobs}, s)
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	var left atomic.Int64
	left.Store(int64(backlog))
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error {
		if left.Add(-1) == 0 {
			stop() // Run returns when the last is settled
		}
		return nil
	})
	b.StartTimer()
	start := time.Now()
	if err := w.Run(ctx); err != nil {
		b.Fatal(err)
	}
	took := time.Since(start)
	b.StopTimer()
	if got := w.Stats().Completed; got != int64(backlog) {
		b.Fatalf("%d jobs completed, want %d", got, backlog)
	}
	return took
}
