package stream_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
)

// payload makes a job of 97 bytes on the wire.
var payload = []byte(`{"order":1234567,"cents":1999,"currency":"EUR"}`)

// BenchmarkPublish compares publishing with a plain XADD of the same four
// fields, at several numbers of concurrent callers; one iteration is 1,000 jobs.
func BenchmarkPublish(b *testing.B) {
	const jobs = 1000
	for _, callers := range []int{1, 8, 64} {
		for _, way := range []string{"publish", "XADD"} {
			b.Run(fmt.Sprintf("%s/callers=%d", way, callers), func(b *testing.B) {
				rdb, s := benchStream(b)
				one := func() error {
					_, err := s.Publish(b.Context(), stream.Job{Type: "order.paid", Data: payload})
					return err
				}
				if way == "XADD" {
					one = func() error {
						return rdb.XAdd(b.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []any{"type", "order.paid", "data", payload, "traceparent", "", "opts", ""}}).Err()
					}
				}
				b.ReportAllocs()
				total := 0
				for b.Loop() {
					var wg sync.WaitGroup
					for c := range callers {
						wg.Go(func() {
							for i := c; i < jobs; i += callers {
								if err := one(); err != nil {
									b.Error(err)
									return
								}
							}
						})
					}
					wg.Wait()
					total += jobs
				}
				b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "jobs/s")
			})
		}
	}
}

// BenchmarkPublishAll compares a slice of 1,000 jobs with pipelines of XADD.
func BenchmarkPublishAll(b *testing.B) {
	jobs := make([]stream.Job, 1000)
	for i := range jobs {
		jobs[i] = stream.Job{Type: "order.paid", Data: payload}
	}
	b.Run("PublishAll", func(b *testing.B) {
		_, s := benchStream(b)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.PublishAll(b.Context(), jobs); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N*len(jobs))/b.Elapsed().Seconds(), "jobs/s")
	})
	b.Run("XADD", func(b *testing.B) {
		rdb, s := benchStream(b)
		b.ReportAllocs()
		for b.Loop() {
			pipe := rdb.Pipeline()
			for range jobs {
				pipe.XAdd(b.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []any{"type", "order.paid", "data", payload, "traceparent", "", "opts", ""}})
			}
			if _, err := pipe.Exec(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N*len(jobs))/b.Elapsed().Seconds(), "jobs/s")
	})
}

func benchStream(b *testing.B) (*redis.Client, *stream.Stream) {
	opt := redistest.Options(b)
	opt.PoolSize = 100
	rdb := redistest.Connect(b, opt)
	s, err := stream.New(rdb, redistest.Name(b), stream.Config{})
	if err != nil {
		b.Fatal(err)
	}
	return rdb, s
}
