package consumer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// TestIDOfDeletedJob: a worker runs a job, and another waits, when somebody deletes both. TestIDOfDeletedJobs says what
// becomes of their IDs.
func TestIDOfDeletedJob(t *testing.T) {
	t.Parallel()
	for how, meddle := range map[string]func(t *testing.T, rdb *redis.Client, key string){
		"key deleted": func(t *testing.T, rdb *redis.Client, key string) { rdb.Del(t.Context(), key) },
		"entries deleted": func(t *testing.T, rdb *redis.Client, key string) {
			for _, e := range rdb.XRange(t.Context(), key, "-", "+").Val() {
				rdb.XDel(t.Context(), key, e.ID)
			}
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			rdb := redistest.Client(t)
			s := newStream(t, rdb, stream.Config{})
			cfg := leased()
			cfg.MaxJobs = 1
			w := newWorker(t, cfg, s)
			var book ledger
			release := make(chan struct{})
			w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
				if book.add(d.ID) == 1 && d.ID == "runs" {
					<-release
				}
				return nil
			})
			stop := run(t, w)
			defer func() { _ = stop() }()
			publish(t, s, stream.Job{Type: "first", ID: "runs"})
			redistest.Wait(t, "the job to run", func() bool { return book.of("runs") == 1 })
			publish(t, s, stream.Job{Type: "first", ID: "waits"})
			meddle(t, rdb, s.Name())

			duplicate := func(id string, delay time.Duration) bool {
				t.Helper()
				r, err := s.Publish(t.Context(), stream.Job{Type: "again", ID: id, Delay: delay})
				if err != nil {
					t.Fatal(err)
				}
				return r.Duplicate
			}
			for begin := time.Now(); time.Since(begin) < 2*lease; <-time.After(lease / 20) {
				for _, id := range []string{"runs", "waits"} { // nobody can say which of them runs
					if !duplicate(id, 0) || !duplicate(id, time.Millisecond) {
						t.Fatalf("%s was stored again %s after it was deleted, while its worker ran a job that was", id, time.Since(begin))
					}
				}
			}
			close(release)
			redistest.Wait(t, "the job to end", func() bool { return w.Stats().Completed == 1 })
			if !duplicate("runs", 0) {
				t.Error("it has completed just now, and was stored again")
			}
			redistest.Wait(t, "the other's ID to be free", func() bool { return !duplicate("waits", 0) })
			redistest.Wait(t, "it to run", func() bool { return book.of("waits") == 1 })
			idle(t, s)
			if n := book.of("runs"); n != 1 || w.Stats().LeasesLost != 0 {
				t.Errorf("it ran %d times; %+v", n, w.Stats())
			}
		})
	}
}

// TestIDOfDeletedJobs: a worker runs a job that came back, and another waits, when somebody deletes both. What runs is a
// duplicate for as long as it does, though Redis has nothing of it; what waited is gone, and its ID is free a lease after it was missed.
func TestIDOfDeletedJobs(t *testing.T) {
	t.Parallel()
	for how, meddle := range map[string]func(t *testing.T, rdb *redis.Client, key string){
		"key deleted": func(t *testing.T, rdb *redis.Client, key string) { rdb.Del(t.Context(), key) },
		"trimmed":     func(t *testing.T, rdb *redis.Client, key string) { rdb.XTrimMaxLen(t.Context(), key, 0) },
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			rdb := redistest.Client(t)
			s := newStream(t, rdb, stream.Config{})
			cfg := leased()
			cfg.MaxJobs = 1
			w := newWorker(t, cfg, s)
			var book ledger
			release := make(chan struct{})
			w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
				switch n := book.add(d.ID); {
				case n == 1 && d.Type == "dies":
					return consumer.Permanent(errors.New("for now"))
				case d.ID == "runs" && n == 2:
					<-release
				}
				return nil
			})
			stop := run(t, w)
			defer func() { _ = stop() }()
			back := func(id string) {
				t.Helper()
				publish(t, s, stream.Job{Type: "dies", ID: id})
				deadLetters(t, s, 1)
				if n, err := s.Group(group).Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{}); err != nil || n.Moved != 1 {
					t.Fatal(n, err)
				}
			}
			publish(t, s, stream.Job{Type: "dies", ID: "waits"})
			deadLetters(t, s, 1)
			entry := rdb.XRange(t.Context(), key(s, "dead"), "-", "+").Val()[0]
			rdb.XDel(t.Context(), key(s, "dead"), entry.ID) // set aside
			back("runs")
			redistest.Wait(t, "the job to run", func() bool { return book.of("runs") == 2 })
			rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: key(s, "dead"), ID: "*", Values: flat(entry.Values)})
			if n, err := s.Group(group).Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{}); err != nil || n.Moved != 1 {
				t.Fatal(n, err)
			}
			redistest.Wait(t, "the other to wait unread", func() bool {
				p, err := rdb.XPending(t.Context(), key(s, "redelivery"), group).Result()
				return err == nil && p.Count == 1 && rdb.XLen(t.Context(), key(s, "redelivery")).Val() == 2
			})
			meddle(t, rdb, key(s, "redelivery"))

			duplicate := func(id string) bool {
				t.Helper()
				r, err := s.Publish(t.Context(), stream.Job{Type: "again", ID: id})
				if err != nil {
					t.Fatal(err)
				}
				return r.Duplicate
			}
			for begin := time.Now(); time.Since(begin) < 4*lease; <-time.After(lease / 20) {
				for _, id := range []string{"runs", "waits"} { // nobody can say which of them runs
					if !duplicate(id) {
						t.Fatalf("%s was stored again %s after it was deleted, while its worker ran a job that was", id, time.Since(begin))
					}
				}
			}
			close(release)
			redistest.Wait(t, "the job to end", func() bool { return w.Stats().Completed == 1 })
			if !duplicate("runs") {
				t.Error("it has completed just now, and was stored again")
			}
			redistest.Wait(t, "the other's ID to be free", func() bool { return !duplicate("waits") })
			redistest.Wait(t, "it to run", func() bool { return book.of("waits") == 2 })
			idle(t, s)
			if n := book.of("runs"); n != 2 || w.Stats().LeasesLost != 0 {
				t.Errorf("it ran %d times; %+v", n, w.Stats())
			}
		})
	}
}

// flat are an entry's fields in the order in which Penstock writes them.
func flat(values map[string]any) (list []any) {
	for _, field := range []string{"type", "data", "traceparent", "opts", "info"} {
		list = append(list, field, fmt.Sprint(values[field]))
	}
	return list
}

// TestIDOfDeletedJobWhileFull: a full Redis does not take what workers say of themselves, so all look dead before long.
func TestIDOfDeletedJobWhileFull(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, leased(), s)
	release := make(chan struct{})
	var runs, others atomic.Int32
	w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
		if d.Type == "again" {
			others.Add(1)
			return nil
		}
		if runs.Add(1) == 1 {
			return errors.New("once more")
		}
		<-release
		return nil
	})
	run(t, w)
	publish(t, s, stream.Job{Type: "a", ID: "x"})
	redistest.Wait(t, "the second try", func() bool { return runs.Load() == 2 })
	rdb.Del(t.Context(), key(s, "redelivery"))
	rdb.ConfigSet(t.Context(), "maxmemory", "1")
	redistest.Wait(t, "the worker to look dead", func() bool {
		var row struct{ At int64 }
		for _, text := range rdb.HGetAll(t.Context(), key(s, "workers")).Val() {
			if err := json.Unmarshal([]byte(text), &row); err != nil {
				t.Fatal(err)
			}
		}
		return rdb.Time(t.Context()).Val().UnixMilli()-row.At > 5*lease.Milliseconds()
	})
	again := func(when string) {
		t.Helper()
		if r, err := s.Publish(t.Context(), stream.Job{Type: "again", ID: "x"}); err == nil && !r.Duplicate {
			t.Errorf("%s: %+v, while its worker runs it", when, r)
		}
	}
	again("full")
	rdb.ConfigSet(t.Context(), "maxmemory", "0")
	for begin := time.Now(); time.Since(begin) < 3*lease; <-time.After(lease / 20) {
		again("no longer full")
	}
	close(release)
	redistest.Wait(t, "its end", func() bool { return w.Stats().Completed == 1 })
	if others.Load() > 0 || w.Stats().LeasesLost > 0 {
		t.Errorf("another ran beside it %d times; %+v", others.Load(), w.Stats())
	}
}
