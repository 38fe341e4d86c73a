package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
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

func TestMain(m *testing.M) { redistest.Main(m) }

// run starts a scheduler; stop ends it.
func run(t *testing.T, rdb redis.UniversalClient, cfg scheduler.Config) (s *scheduler.Scheduler, stop func()) {
	t.Helper()
	s, err := scheduler.New(rdb, cfg)
	if err != nil {
		t.Fatal(err)
	}
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
	return s, stop
}

// newStream is on a server of the test's own: a scheduler promotes the streams of every test that shares one.
func newStream(t *testing.T) (*redis.Client, *stream.Stream) {
	t.Helper()
	rdb := redistest.Connect(t, &redis.Options{Addr: redistest.Server(t).Addr()})
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return rdb, s
}

func publish(t *testing.T, s *stream.Stream, jobs ...stream.Job) []stream.Receipt {
	t.Helper()
	receipts, err := s.PublishAll(t.Context(), jobs)
	if err != nil {
		t.Fatal(err)
	}
	return receipts
}

// waiting waits until n entries are in the stream, and returns their numbers and when Redis stored each.
func waiting(t *testing.T, rdb *redis.Client, name string, n int) (data []string, at []time.Time) {
	t.Helper()
	var entries []redis.XMessage
	redistest.Wait(t, fmt.Sprintf("%d entries in %s", n, name), func() bool {
		entries = rdb.XRange(t.Context(), name, "-", "+").Val()
		return len(entries) >= n
	})
	if len(entries) != n {
		t.Fatalf("%d entries in %s, want %d", len(entries), name, n)
	}
	for _, e := range entries {
		data, at = append(data, e.Values["data"].(string)), append(at, engine.EntryTime(e.ID))
	}
	return data, at
}

func deferred(n int, delay time.Duration) stream.Job {
	return stream.Job{Type: "ping", Data: n, Delay: delay}
}

func TestPromotesInDueOrderAndNeverEarly(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	run(t, rdb, scheduler.Config{})
	var jobs []stream.Job
	for i := range 50 {
		jobs = append(jobs, deferred(i, time.Duration(300-5*i)*time.Millisecond)) // the last is due first
	}
	receipts := publish(t, s, jobs...)
	data, at := waiting(t, rdb, "orders", 50)
	last := time.Time{}
	for i := range data {
		n, err := strconv.Atoi(data[i])
		if err != nil {
			t.Fatal(err)
		}
		due := receipts[n].Due
		if due.Before(last) {
			t.Errorf("job %d, due %s, was promoted after one due %s", n, due, last)
		}
		if last = due; at[i].Before(due) {
			t.Errorf("job %d was promoted at %s, before it was due at %s", n, at[i], due)
		}
	}
}

// TestWokenByAnEarlierJob: the scheduler sleeps until the next due time, and a job due sooner must not wait for it.
func TestWokenByAnEarlierJob(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	sched, _ := run(t, rdb, scheduler.Config{PollDelay: time.Hour}) // polling can't help
	publish(t, s, deferred(1, time.Hour))
	redistest.Wait(t, "the scheduler's subscription", func() bool {
		return rdb.PubSubNumSub(t.Context(), engine.WakeChannel).Val()[engine.WakeChannel] == 1
	})
	receipt := publish(t, s, deferred(2, 50*time.Millisecond))[0]
	_, at := waiting(t, rdb, "orders", 1)
	if late := at[0].Sub(receipt.Due); late < 0 || late > 5*time.Second {
		t.Errorf("promoted %s after it was due", late)
	}
	redistest.Wait(t, "the count", func() bool { return sched.Promoted() == 1 })
}

func TestManySchedulersPromoteOnce(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	for range 4 {
		run(t, rdb, scheduler.Config{})
	}
	var jobs []stream.Job
	for i := range 3000 {
		jobs = append(jobs, deferred(i, time.Duration(i%200+1)*time.Millisecond))
	}
	publish(t, s, jobs...)
	data, _ := waiting(t, rdb, "orders", 3000)
	slices.Sort(data)
	if n := len(slices.Compact(data)); n != 3000 {
		t.Errorf("%d jobs were promoted, want 3000 different ones", n)
	}
	if n := rdb.ZCard(t.Context(), "{orders}:scheduled").Val() + rdb.HLen(t.Context(), "{orders}:scheduled:jobs").Val(); n != 0 {
		t.Errorf("%d leftovers of scheduled jobs", n)
	}
}

// TestPollsWhileTheChannelIsDown: without wake-ups a job is late by PollDelay at most, not by the refresh.
func TestPollsWhileTheChannelIsDown(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	// a user without any channel: subscribing is refused, everything else works
	if err := rdb.Do(t.Context(), "ACL", "SETUSER", "deaf", "on", ">pw", "~*", "+@all", "resetchannels").Err(); err != nil {
		t.Fatal(err)
	}
	deaf := redistest.Connect(t, &redis.Options{Addr: rdb.Options().Addr, Username: "deaf", Password: "pw"})
	run(t, deaf, scheduler.Config{PollDelay: 20 * time.Millisecond})
	for i := range 3 {
		publish(t, s, deferred(i, 30*time.Millisecond))
		waiting(t, rdb, "orders", i+1)
	}
}

func TestPromotesRetriesOfEveryGroup(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	k := engine.NewKeys("orders")
	opened, err := engine.Open(t.Context(), rdb, k, "billing", "queue", false)
	if err != nil || opened.Refusal != "" {
		t.Fatal(opened, err)
	}
	if err := s.Announce(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish(t, s, stream.Job{Type: "ping", Data: 1})
	entries := rdb.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "billing", Consumer: "me", Streams: []string{"orders", ">"}}).Val()[0].Messages
	held := engine.Held{Key: "orders", Group: "billing", Consumer: "me", Entry: entries[0].ID, Delete: true}
	g := k.Group("billing", false)
	if _, err := engine.RetryCall(held, g, entries[0].ID, 30*time.Millisecond, engine.Entry{Type: "ping", Data: "1"}).Run(t.Context(), rdb); err != nil {
		t.Fatal(err)
	}
	run(t, rdb, scheduler.Config{})
	waiting(t, rdb, g.Redelivery, 1)
}

func TestOnce(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	publish(t, s, deferred(1, time.Millisecond), deferred(2, time.Millisecond), deferred(3, time.Hour))
	sched, err := scheduler.New(rdb, scheduler.Config{})
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	redistest.Wait(t, "both to be due", func() bool {
		n, err := sched.Once(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		total += n
		return total >= 2
	})
	if total != 2 {
		t.Errorf("promoted %d, want 2", total)
	}
	waiting(t, rdb, "orders", 2)
}

func TestSurvivesARestartOfRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	run(t, rdb, scheduler.Config{PollDelay: 20 * time.Millisecond})
	publish(t, s, deferred(1, time.Millisecond))
	waiting(t, rdb, "orders", 1)
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish(t, s, deferred(2, time.Millisecond))
	waiting(t, rdb, "orders", 2)
}

// TestOneBadStreamStopsNoOther: a key of a wrong type on one stream must not keep the jobs of all others from coming due.
func TestOneBadStreamStopsNoOther(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	bad, err := stream.New(rdb, "aaa", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, bad, deferred(1, time.Millisecond))
	rdb.Del(t.Context(), "aaa")
	rdb.Set(t.Context(), "aaa", "no stream", 0)
	rdb.Set(t.Context(), "{bbb}:config", "no hash", 0)
	rdb.SAdd(t.Context(), engine.RegistryKey, "bbb")
	rdb.SAdd(t.Context(), engine.RegistryKey, "not a name")
	run(t, rdb, scheduler.Config{PollDelay: 20 * time.Millisecond})
	publish(t, s, deferred(2, time.Millisecond))
	waiting(t, rdb, "orders", 1)
	if n := rdb.ZCard(t.Context(), "{aaa}:scheduled").Val(); n != 1 {
		t.Errorf("%d jobs are left on the bad stream, want its one", n)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	defer ring.Close()
	if _, err := scheduler.New(ring, scheduler.Config{}); !errors.Is(err, stream.ErrUnsupportedClient) {
		t.Errorf("a ring: %v", err)
	}
	if _, err := scheduler.New(nil, scheduler.Config{PollDelay: -1}); err == nil || !strings.Contains(err.Error(), "PollDelay") || !errors.Is(err, stream.ErrUnsupportedClient) {
		t.Errorf("two faults: %v, want both", err)
	}
}

func TestRunsOnlyOnce(t *testing.T) {
	t.Parallel()
	rdb, _ := newStream(t)
	s, stop := run(t, rdb, scheduler.Config{})
	redistest.Wait(t, "the scheduler's subscription", func() bool {
		return rdb.PubSubNumSub(t.Context(), engine.WakeChannel).Val()[engine.WakeChannel] == 1
	})
	if err := s.Run(t.Context()); err == nil {
		t.Error("a second Run did not fail")
	}
	stop()
}

// migrating is a hook that answers for keys of one stream as a server does whose slot migrates.
type migrating struct{ key string }

type tryAgain struct{}

func (tryAgain) Error() string { return "TRYAGAIN Multiple keys request during rehashing of slot" }
func (tryAgain) RedisError()   {}

func (m migrating) DialHook(next redis.DialHook) redis.DialHook { return next }

func (m migrating) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (m migrating) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if strings.Contains(fmt.Sprint(cmd.Args()...), m.key) {
			cmd.SetErr(tryAgain{})
			return tryAgain{}
		}
		return next(ctx, cmd)
	}
}

// TestOneStreamThatCannotBeAskedStopsNoOther: nor its own deferred jobs, whose set is known by its name.
func TestOneStreamThatCannotBeAskedStopsNoOther(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	bad, err := stream.New(rdb, "aaa", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, bad, deferred(1, time.Millisecond))
	publish(t, s, deferred(2, time.Millisecond))
	other := redistest.Connect(t, rdb.Options())
	other.AddHook(migrating{"{aaa}:config"})
	run(t, other, scheduler.Config{PollDelay: 20 * time.Millisecond})
	waiting(t, rdb, "orders", 1)
	waiting(t, rdb, "aaa", 1)
	publish(t, bad, deferred(3, time.Millisecond))
	publish(t, s, deferred(4, time.Millisecond))
	sched, err := scheduler.New(other, scheduler.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sched.Once(t.Context()); !errors.As(err, new(tryAgain)) {
		t.Errorf("Once: %v, want the error of the stream that cannot be asked", err)
	}
	waiting(t, rdb, "orders", 2)
	waiting(t, rdb, "aaa", 2)
}
