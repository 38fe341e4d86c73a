package consumer_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// callsOf is how many commands a server of this test's own has run, those of scripts among them, and how many of these were scripts.
func callsOf(t *testing.T, rdb *redis.Client) (all, scripts int) {
	t.Helper()
	info, err := rdb.Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(info) {
		name, rest, ok := strings.Cut(line, ":calls=")
		if !ok {
			continue
		}
		n := 0
		if _, err := fmt.Sscanf(rest, "%d", &n); err != nil {
			t.Fatal(err)
		}
		if all += n; name == "cmdstat_evalsha" || name == "cmdstat_eval" {
			scripts += n
		}
	}
	return all, scripts
}

// TestPauseSwitchOfMany: 10,000 jobs (2,000 under the race detector) of a type that is paused are put off by one script each time their turn comes, and that seldom; the
// others are worked on meanwhile; and once the switch is lifted all have run within seconds.
func TestPauseSwitchOfMany(t *testing.T) {
	t.Parallel()
	many := 10_000
	if redistest.Race {
		many = 2000
	}
	for name, pauses := range map[string]int{"at first": 0, "since long": 6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := redistest.Connect(t, &redis.Options{Addr: redistest.Server(t).Addr()})
			s := newStream(t, rdb, stream.Config{})
			sw := addSwitch(t, s, stream.Switch{Action: stream.PauseJobs, Type: "mail"})
			pipe := rdb.Pipeline()
			e := engine.Entry{Type: "mail", Opts: engine.Opts{Pauses: pauses}.String()}
			for range many {
				pipe.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: e.Fields()})
			}
			if _, err := pipe.Exec(t.Context()); err != nil {
				t.Fatal(err)
			}
			var book, others ledger
			w := newWorker(t, quick(), s)
			w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
				if d.Type == "mail" {
					book.add(d.ID)
				} else {
					others.add(d.ID)
				}
				return nil
			})
			run(t, w)
			work := func(n int) { // on jobs of another type, which come behind
				t.Helper()
				before := others.total()
				for range n {
					publish(t, s, stream.Job{Type: "page"})
				}
				redistest.Wait(t, "the other jobs to run", func() bool { return others.total() == before+n })
			}
			work(1)
			redistest.Wait(t, "all to be put off", func() bool { return w.Stats().Paused >= int64(many) })
			work(100)

			paused := w.Stats().Paused
			all, scripts := callsOf(t, rdb)
			after(t, 5*time.Second)
			put := int(w.Stats().Paused - paused)
			nowAll, nowScripts := callsOf(t, rdb)
			all, scripts = nowAll-all, nowScripts-scripts
			if pauses == 0 {
				// they come back after 3 to 4 s, and then after 6 to 8
				if put > 2*many || scripts > put+put/10+500 {
					t.Errorf("in 5 s jobs were put off %d times by %d scripts", put, scripts)
				}
			} else if put > 0 || all > 200 { // a heartbeat or two, and what a slow machine was late with
				t.Errorf("in 5 s of quiet jobs were put off %d times, with %d commands", put, all)
			}
			if d := depths(t, s); book.total() != 0 || d.Retrying+d.Waiting+d.Active != int64(many) {
				t.Errorf("%d have run, and here are %+v", book.total(), d)
			}
			work(100)

			before := w.Stats().Paused
			removeSwitch(t, s, sw)
			since := time.Now()
			redistest.Wait(t, "all to run", func() bool { return book.total() == many })
			idle(t, s)
			redistest.Wait(t, "the ends to be counted", func() bool { return w.Stats().Completed == int64(many)+201 })
			t.Logf("put off %d times, in the 5 s watched %d, by %d scripts, %d commands; all had run %s after the switch was lifted", before, put, scripts, all, time.Since(since))
			if n := w.Stats(); n.Completed != int64(many)+201 || n.Retried+n.Dead+n.Cancelled > 0 || pauses > 0 && n.Paused != before {
				t.Errorf("%+v, with %d put off before", n, before)
			}
			if n := rdb.Exists(t.Context(), key(s, "retrying"), key(s, "retrying:jobs")).Val(); n != 0 {
				t.Error("keys are left of what was put off")
			}
		})
	}
}

// TestSwitchIsObeyedInTime: within a second by the message that it was set, and within a heartbeat when that is lost; and so it
// is when it is lifted.
func TestSwitchIsObeyedInTime(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		lease time.Duration // a third of it is the time between heartbeats
		lost  bool
		most  time.Duration
	}{
		{"by hint", time.Hour, false, time.Second},
		{"hint lost", 3 * time.Second, true, time.Second + 500*time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStream(t, redistest.Client(t), stream.Config{})
			by := s
			if c.lost {
				by = mute(t, s)
			}
			cfg := quick()
			cfg.Lease = c.lease
			w := newWorker(t, cfg, s)
			var book ledger
			w.HandleOther(func(_ context.Context, d *consumer.Delivery) error { book.add(d.ID); return nil })
			run(t, w)
			publish(t, s, stream.Job{Type: "mail"})
			redistest.Wait(t, "it to work", func() bool { return book.total() == 1 })
			var set, lifted time.Duration
			for try := range 5 { // a busy machine may take its time, though hardly each time
				sw := addSwitch(t, by, stream.Switch{Action: stream.PauseJobs, Type: "mail"})
				since, paused := time.Now(), w.Stats().Paused
				redistest.Wait(t, "it to be obeyed", func() bool {
					publish(t, s, stream.Job{Type: "mail"})
					return w.Stats().Paused > paused
				})
				set = time.Since(since)
				removeSwitch(t, by, sw)
				since = time.Now()
				idle(t, s)
				lifted = time.Since(since)
				t.Logf("try %d: set %s, lifted %s", try, set, lifted)
				if set < c.most && lifted < c.most {
					return
				}
			}
			t.Errorf("obeyed after %s, and let go of after %s; want either within %s", set, lifted, c.most)
		})
	}
}
