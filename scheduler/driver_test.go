package scheduler_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// each is a schedule that fires each second.
func each(name string, s *stream.Stream, change ...func(*scheduler.Schedule)) scheduler.Schedule {
	sc := scheduler.Schedule{Name: name, Every: time.Second, Stream: s, Job: stream.Job{Type: "tick"}}
	for _, f := range change {
		f(&sc)
	}
	return sc
}

// runWith starts a scheduler with schedules of its program.
func runWith(t *testing.T, rdb redis.UniversalClient, cfg scheduler.Config, schedules ...scheduler.Schedule) (s *scheduler.Scheduler, stop func()) {
	t.Helper()
	s, err := scheduler.New(rdb, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Add(schedules...); err != nil {
		t.Fatal(err)
	}
	return s, start(t, s)
}

func start(t *testing.T, s *scheduler.Scheduler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil after a requested stop", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// ticked is a job that a schedule has published.
type ticked struct {
	tick, stored time.Time
	opts         engine.Opts
}

// fired are the jobs that a schedule has published to a stream, in order of their entries.
func fired(t *testing.T, rdb redis.UniversalClient, name, schedule string) []ticked {
	t.Helper()
	var out []ticked
	for _, e := range rdb.XRange(t.Context(), name, "-", "+").Val() {
		o, err := engine.ParseOpts(e.Values["opts"].(string))
		if err != nil {
			t.Fatal(err)
		}
		text, ok := strings.CutPrefix(o.ID, "cron:"+schedule+":")
		if !ok {
			continue
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil || o.Header["penstock-schedule"] != schedule || o.Header["penstock-tick"] != text {
			t.Errorf("a job of %s has the ID %s and headers %v", schedule, o.ID, o.Header)
		}
		out = append(out, ticked{at, engine.EntryTime(e.ID), o})
	}
	return out
}

// waitTicks waits until a schedule has published n jobs.
func waitTicks(t *testing.T, rdb redis.UniversalClient, name, schedule string, n int) []ticked {
	t.Helper()
	var got []ticked
	redistest.Wait(t, fmt.Sprintf("%d ticks of %s in %s", n, schedule, name), func() bool {
		got = fired(t, rdb, name, schedule)
		return len(got) >= n
	})
	return got
}

// gapless checks that there is one job for each second between the first and the last, and none too early.
func gapless(t *testing.T, got []ticked) {
	t.Helper()
	for i, g := range got {
		if want := got[0].tick.Add(time.Duration(i) * time.Second); !g.tick.Equal(want) {
			t.Errorf("job %d is of the tick %s, want %s: one was lost or published twice", i, g.tick, want)
		}
		if g.stored.Before(g.tick) {
			t.Errorf("the tick %s was published at %s", g.tick, g.stored)
		}
	}
}

func TestFiresEachTickOnce(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	still := redistest.Standstill(t)
	before := rdb.Time(t.Context()).Val()
	var all []*scheduler.Scheduler
	for range 3 {
		sc, _ := runWith(t, rdb, scheduler.Config{}, each("heart", s))
		all = append(all, sc)
	}
	got := waitTicks(t, rdb, "orders", "heart", 4)
	gapless(t, got)
	if first := got[0].tick; !first.After(before) || first.After(before.Add(5*time.Second)) {
		t.Errorf("the first tick is %s, it was started at %s", first, before)
	}
	for _, g := range got {
		if late := g.stored.Sub(g.tick); late > 2*time.Second+still() {
			t.Errorf("the tick %s was published %s late", g.tick, late)
		}
	}
	busy := 0
	for _, sc := range all {
		if sc.Fired() > 0 {
			busy++
		}
	}
	if busy != 1 {
		t.Errorf("%d of 3 schedulers published, want the leader alone", busy)
	}
}

// TestTakesOver: at once when the leader stops.
func TestTakesOver(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	first, stop := runWith(t, rdb, scheduler.Config{}, each("heart", s))
	waitTicks(t, rdb, "orders", "heart", 1)
	second, _ := runWith(t, rdb, scheduler.Config{}, each("heart", s))
	redistest.Wait(t, "the second's subscription", func() bool {
		return rdb.PubSubNumSub(t.Context(), engine.CronChannel).Val()[engine.CronChannel] == 2
	})
	for range 2 {
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(1100 * time.Millisecond))) // between two ticks
	}
	still := redistest.Standstill(t)
	stop()
	stopped, n := time.Now(), len(fired(t, rdb, "orders", "heart"))
	got := waitTicks(t, rdb, "orders", "heart", n+2)
	gapless(t, got)
	if late := got[n].stored.Sub(got[n].tick); late > 3*time.Second+still() { // a lease that runs out takes longer
		t.Errorf("the first tick behind the stop, at %s, was %s late", stopped, late)
	}
	if first.Fired() == 0 || second.Fired() == 0 {
		t.Errorf("the two have published %d and %d ticks", first.Fired(), second.Fired())
	}
	if keys := rdb.Keys(t.Context(), engine.LeaderPrefix+"*").Val(); len(keys) != 1 {
		t.Errorf("leases %q, want one", keys)
	}
}

// TestDifferentProgramsShareNoLease: schedulers of other programs on the same Redis do not keep this one's schedules from firing.
func TestDifferentProgramsShareNoLease(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	runWith(t, rdb, scheduler.Config{}, each("a", s))
	waitTicks(t, rdb, "orders", "a", 1)
	runWith(t, rdb, scheduler.Config{}, each("b", s))
	waitTicks(t, rdb, "orders", "b", 1)
}

// TestCatchesUp: what was due while nobody ran is made up for, by the policy, and a schedule that was not there is not.
func TestCatchesUp(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	now := rdb.Time(t.Context()).Val().Truncate(time.Minute).Add(-30 * time.Minute) // of the last tick: far from both of its neighbours
	hourly := func(name string, policy scheduler.MissedPolicy) scheduler.Schedule {
		rdb.HSet(t.Context(), "{orders}:ticks", name, fmt.Sprint(now.Add(-5*time.Hour).UnixMilli(), " published x"))
		return scheduler.Schedule{Name: name, Cron: fmt.Sprint(now.Minute(), " * * * *"), Missed: scheduler.Missed{Policy: policy}, Stream: s, Job: stream.Job{Type: "tick"}}
	}
	schedules := []scheduler.Schedule{hourly("once", ""), hourly("all", scheduler.MissedAll), hourly("skip", scheduler.MissedSkip), hourly("new", "")}
	rdb.HDel(t.Context(), "{orders}:ticks", "new")
	runWith(t, rdb, scheduler.Config{}, schedules...)
	waitTicks(t, rdb, "orders", "all", 5)
	redistest.Wait(t, "the last tick to be on record", func() bool {
		return strings.Contains(rdb.HGet(t.Context(), "{orders}:ticks", "once").Val(), "published cron:once:")
	})
	if got := fired(t, rdb, "orders", "once"); len(got) != 1 || got[0].tick.Before(now) {
		t.Errorf("once: %v", got)
	}
	for i, got := range fired(t, rdb, "orders", "all") {
		if want := now.Add(time.Duration(i-4) * time.Hour); !got.tick.Equal(want) {
			t.Errorf("all: job %d is of %s, want %s", i, got.tick, want)
		}
	}
	redistest.Wait(t, "a new schedule's record", func() bool { return rdb.HExists(t.Context(), "{orders}:ticks", "new").Val() })
	if got := append(fired(t, rdb, "orders", "skip"), fired(t, rdb, "orders", "new")...); len(got) > 0 && got[0].tick.Before(now.Add(time.Hour)) {
		t.Errorf("skip, new: %v", got)
	}
}

// TestFiresWithOptions: jitter, delay, expiry and unique keys.
func TestFiresWithOptions(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	runWith(t, rdb, scheduler.Config{},
		each("jitter", s, func(sc *scheduler.Schedule) { sc.Jitter = 900 * time.Millisecond }),
		each("delay", s, func(sc *scheduler.Schedule) { sc.Job.Delay = time.Hour }),
		each("expires", s, func(sc *scheduler.Schedule) { sc.ExpiresIn = time.Hour }),
		each("unique", s, func(sc *scheduler.Schedule) { sc.Job.Unique.Key = "u" }),
		each("skip", s, func(sc *scheduler.Schedule) { sc.Overlap = scheduler.OverlapSkip }),
	)
	got := waitTicks(t, rdb, "orders", "jitter", 3)
	gapless(t, got)
	for _, g := range waitTicks(t, rdb, "orders", "expires", 2) {
		if d := time.UnixMilli(g.opts.Expires).Sub(g.tick); d < time.Hour || d > time.Hour+10*time.Second {
			t.Errorf("it expires %s after its tick", d)
		}
	}
	redistest.Wait(t, "two delayed jobs", func() bool { return rdb.ZCard(t.Context(), "{orders}:scheduled").Val() >= 2 })
	for _, name := range []string{"unique", "skip"} {
		want := map[string]string{"unique": "stands", "skip": "skipped"}[name]
		redistest.Wait(t, name+" to pass over a tick", func() bool {
			return strings.Contains(rdb.HGet(t.Context(), "{orders}:ticks", name).Val(), " "+want+" cron:"+name+":")
		})
		if got := fired(t, rdb, "orders", name); len(got) != 1 {
			t.Errorf("%s: %d jobs while the first waits", name, len(got))
		}
	}
}

// logBook is a log that tests read.
type logBook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBook) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

func (l *logBook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// TestRefusedTicksFireLater: a full stream costs no tick, and is logged once.
func TestRefusedTicksFireLater(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	full, err := stream.New(rdb, "full", stream.Config{MaxLen: 1})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, full, stream.Job{Type: "other"})
	log := new(logBook)
	runWith(t, rdb, scheduler.Config{Logger: log.logger()}, each("full", full), each("fine", s))
	waitTicks(t, rdb, "orders", "fine", 3)
	if n := log.count("a tick cannot be published, trying again"); n != 1 {
		t.Errorf("it was logged %d times", n)
	}
	if err := rdb.Del(t.Context(), "full").Err(); err != nil {
		t.Fatal(err)
	}
	waitTicks(t, rdb, "full", "full", 1)
	redistest.Wait(t, "the end to be logged", func() bool { return log.count("ticks are published again") == 1 })
}

// TestFiresAfterARestartOfRedis: nothing is lost or published twice while Redis is away.
func TestFiresAfterARestartOfRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t, "--appendfsync", "always")
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		runWith(t, rdb, scheduler.Config{}, each("heart", s))
	}
	got := waitTicks(t, rdb, "orders", "heart", 2)
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	gapless(t, waitTicks(t, rdb, "orders", "heart", len(got)+4))
}

func TestAddRefuses(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	sc, err := scheduler.New(rdb, scheduler.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := sc.Add(each("a", s)); err != nil {
		t.Fatal(err)
	}
	err = sc.Add(each("a", s), each("b", nil), each("c", s), each("c", s))
	if !errors.Is(err, stream.ErrInvalid) || !strings.Contains(err.Error(), "schedule a") || !strings.Contains(err.Error(), "schedule b: Stream") || !strings.Contains(err.Error(), "schedule c") {
		t.Errorf("%v, want all three faults", err)
	}
	if err := sc.Add(each("b", s), each("c", s)); err != nil {
		t.Errorf("%v: none of the others may have been taken in", err)
	}
}

func TestOnceFires(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	for i := range 2 {
		sc, err := scheduler.New(rdb, scheduler.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := sc.Add(each("heart", s)); err != nil {
			t.Fatal(err)
		}
		if _, err := sc.Once(t.Context()); err != nil || sc.Fired() != int64(i) {
			t.Errorf("time %d: %d fired, %v", i, sc.Fired(), err)
		}
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(1050 * time.Millisecond))) // over one tick
	}
}
