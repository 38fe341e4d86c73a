package consumer_test

import (
	"context"
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// TestEndsWithoutItsGroup: what runs while somebody deletes its group or stream goes on as its handler says.
func TestEndsWithoutItsGroup(t *testing.T) {
	t.Parallel()
	for _, kind := range []stream.Kind{stream.KindQueue, stream.KindEvents} {
		for name, meddle := range map[string]func(*redis.Client, string) error{
			"group": func(rdb *redis.Client, s string) error {
				return rdb.XGroupDestroy(context.Background(), s, group).Err()
			},
			"stream": func(rdb *redis.Client, s string) error { return rdb.Del(context.Background(), s).Err() },
		} {
			t.Run(string(kind)+" "+name, func(t *testing.T) {
				t.Parallel()
				rdb := redistest.Client(t)
				s := newStream(t, rdb, stream.Config{Kind: kind})
				cfg := quick()
				cfg.MaxJobs = 2 // so that nobody reads, and makes the group again, before the jobs have ended
				w := newWorker(t, cfg, s)
				release := make(chan struct{})
				var book ledger
				consumer.Handle(w, ping, func(ctx context.Context, job *consumer.Job[int]) error {
					book.add(job.ID)
					switch job.Data {
					case -1:
						<-ctx.Done()
						return ctx.Err()
					case -2:
						return nil
					}
					if job.Attempt == 1 {
						<-release
						return errors.New("once more")
					}
					if job.Data == 1 {
						return consumer.Permanent(errors.New("never"))
					}
					return nil
				})
				run(t, w)
				// A heartbeat says nothing of a read that it overlaps. The wake-up channel asks for one when it comes up, as it has when it
				// told of a cancel, and what is published then ends the read that was under way.
				first := publish(t, s, ping.Job(-1))[0].ID
				redistest.Wait(t, "a first job to run", func() bool { return len(w.Running()) == 1 })
				cancelJob(t, s, first, stream.Active)
				redistest.Wait(t, "it to be cancelled", func() bool { return w.Stats().Cancelled == 1 })
				consumer.Heartbeat(w) // which may have been under way
				consumer.Heartbeat(w)
				publish(t, s, ping.Job(-2))
				redistest.Wait(t, "another read", func() bool { return w.Stats().Completed == 1 })
				ids := []string{"", ""}
				for i, r := range publish(t, s, many(2)...) {
					ids[i] = r.ID
				}
				redistest.Wait(t, "the jobs to run", func() bool { return len(w.Running()) == 2 })
				if err := meddle(rdb, s.Name()); err != nil {
					t.Fatal(err)
				}
				close(release)
				if letter := deadLetters(t, s, 1)[0]; letter.ID != ids[1] {
					t.Errorf("dead letter = %+v, want the job that is never well", letter)
				}
				redistest.Wait(t, "the other to complete", func() bool { return book.of(ids[0]) > 1 && w.Stats().Completed > 1 })
				idle(t, s)
			})
		}
	}
}
