package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// TestPendingWhileItRuns: a job is acknowledged by its end and not before, or it would be gone with its worker.
func TestPendingWhileItRuns(t *testing.T) {
	t.Parallel()
	for _, kind := range []stream.Kind{stream.KindQueue, stream.KindEvents} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			rdb := redistest.Client(t)
			s := newStream(t, rdb, stream.Config{Kind: kind})
			w := newWorker(t, quick(), s)
			check := func(ctx context.Context, d *consumer.Delivery) {
				for _, key := range []string{s.Name(), "{" + s.Name() + "}:g:" + group + ":redelivery"} {
					list, err := rdb.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: key, Group: group, Start: "-", End: "+", Count: 100, Consumer: w.Name()}).Result()
					if err != nil {
						t.Error(err)
					}
					for _, p := range list {
						for _, e := range rdb.XRange(ctx, key, p.ID, p.ID).Val() {
							if e.ID == d.ID || strings.Contains(fmt.Sprint(e.Values["opts"]), `"`+d.ID+`"`) {
								return
							}
						}
					}
				}
				t.Errorf("job %s (%s) runs in attempt %d and is not pending under its worker's name", d.ID, d.Type, d.Attempt)
			}
			w.HandleOther(func(ctx context.Context, d *consumer.Delivery) error {
				check(ctx, d)
				switch {
				case d.Type == "retries" && d.Attempt == 1:
					return errors.New("once more")
				case d.Type == "dies":
					return consumer.Permanent(errors.New("never"))
				}
				return nil
			})
			consumer.HandleBatch(w, ping, 5, func(ctx context.Context, jobs []*consumer.Job[int]) []error {
				for _, job := range jobs {
					check(ctx, job.Delivery)
				}
				return make([]error, len(jobs))
			})
			for i, typ := range []string{"completes", "retries", "dies"} {
				publish(t, s, stream.Job{Type: typ}, stream.Job{Type: typ, ID: fmt.Sprint("job-", i)})
			}
			publish(t, s, many(5)...)
			run(t, w)
			redistest.Wait(t, "all jobs to end", func() bool {
				got := w.Stats()
				return t.Failed() || got.Completed == 9 && got.Dead == 2
			})
		})
	}
}
