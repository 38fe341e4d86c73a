package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

func newStore(t *testing.T, rdb redis.UniversalClient) *scheduler.Store {
	t.Helper()
	s, err := scheduler.New(rdb, scheduler.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return s.Store()
}

// hears waits until schedulers hear of changes.
func hears(t *testing.T, rdb *redis.Client, n int64) {
	t.Helper()
	redistest.Wait(t, "the subscriptions", func() bool {
		return rdb.PubSubNumSub(t.Context(), engine.CronChannel).Val()[engine.CronChannel] == n
	})
}

// TestStorePauseWhileATickFails: a tick that Redis refuses is tried again until its schedule is paused, and not beyond.
func TestStorePauseWhileATickFails(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	store := newStore(t, rdb)
	runWith(t, rdb, scheduler.Config{})
	hears(t, rdb, 1)
	if err := store.Put(t.Context(), each("heart", s)); err != nil {
		t.Fatal(err)
	}
	waitTicks(t, rdb, "orders", "heart", 1)
	rdb.Rename(t.Context(), "orders", "aside")
	rdb.Set(t.Context(), "orders", "oops", 0)
	redistest.Wait(t, "a tick that fails", func() bool {
		st, err := store.Show(t.Context(), "heart")
		return err == nil && rdb.Time(t.Context()).Val().Sub(st.Last) > 1300*time.Millisecond
	})
	if err := store.Pause(t.Context(), "heart"); err != nil {
		t.Fatal(err)
	}
	others, err := stream.New(rdb, "others", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), each("later", others)); err != nil { // who fires it has heard of the pause
		t.Fatal(err)
	}
	waitTicks(t, rdb, "others", "later", 1)
	rdb.Del(t.Context(), "orders")
	waitTicks(t, rdb, "others", "later", 4)
	if n := rdb.Exists(t.Context(), "orders").Val(); n != 0 {
		t.Errorf("%d ticks were published though the schedule is paused", len(fired(t, rdb, "orders", "heart")))
	}
	if err := store.Resume(t.Context(), "heart"); err != nil {
		t.Fatal(err)
	}
	waitTicks(t, rdb, "orders", "heart", 2)
}

// TestStoreTakeoverByOneThatHeardNothing: a scheduler that has not heard that a schedule was paused, and begins to lead, fires
// none of the ticks of the pause, nor makes up for them.
func TestStoreTakeoverByOneThatHeardNothing(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	store := newStore(t, rdb)
	if err := store.Put(t.Context(), each("heart", s)); err != nil {
		t.Fatal(err)
	}
	_, stop := runWith(t, rdb, scheduler.Config{})
	waitTicks(t, rdb, "orders", "heart", 1)
	if err := rdb.Do(t.Context(), "ACL", "SETUSER", "deaf", "on", ">pw", "~*", "+@all", "resetchannels").Err(); err != nil {
		t.Fatal(err)
	}
	opt := *rdb.Options()
	opt.Username, opt.Password = "deaf", "pw"
	var asked commands
	deaf := redistest.Connect(t, &opt)
	deaf.AddHook(&asked)
	log := new(logBook)
	runWith(t, deaf, scheduler.Config{Logger: log.logger()})
	redistest.Wait(t, "it to wait for the lease", func() bool { return asked.count("pttl") > 0 }) // which it wants since it has read of the schedule
	paused := rdb.Time(t.Context()).Val()
	if err := store.Pause(t.Context(), "heart"); err != nil {
		t.Fatal(err)
	}
	stop()
	redistest.Wait(t, "it to lead", func() bool { return log.count("this scheduler fires the ticks") > 0 })
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(1500 * time.Millisecond))) // over one tick
	resumed := rdb.Time(t.Context()).Val()
	if err := store.Resume(t.Context(), "heart"); err != nil {
		t.Fatal(err)
	}
	runWith(t, rdb, scheduler.Config{}) // it hears
	waitTicks(t, rdb, "orders", "heart", len(fired(t, rdb, "orders", "heart"))+2)
	for _, g := range fired(t, rdb, "orders", "heart") {
		if g.tick.After(paused.Add(time.Second)) && g.tick.Before(resumed) {
			t.Errorf("the tick %s was published at %s; it was paused from %s to %s", g.tick, g.stored, paused, resumed)
		}
	}
}

// commands counts what a client asks for.
type commands struct {
	mu   sync.Mutex
	seen map[string]int
}

func (c *commands) count(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[name]
}

func (c *commands) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *commands) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (c *commands) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.mu.Lock()
		if c.seen == nil {
			c.seen = make(map[string]int)
		}
		c.seen[cmd.Name()]++
		c.mu.Unlock()
		return next(ctx, cmd)
	}
}

// TestStoreChangesAtRunTime: what is put, paused, resumed and removed is so in running schedulers at once.
func TestStoreChangesAtRunTime(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	store := newStore(t, rdb)
	for range 2 {
		runWith(t, rdb, scheduler.Config{})
	}
	hears(t, rdb, 2)
	if keys := rdb.Keys(t.Context(), engine.LeaderPrefix+"*").Val(); len(keys) > 0 {
		t.Errorf("leases %q while there is no schedule", keys)
	}
	put := rdb.Time(t.Context()).Val()
	if err := store.Put(t.Context(), each("heart", s)); err != nil {
		t.Fatal(err)
	}
	got := waitTicks(t, rdb, "orders", "heart", 3)
	gapless(t, got)
	if first := got[0].tick; !first.After(put) || first.After(put.Add(5*time.Second)) {
		t.Errorf("put at %s, the first tick is %s", put, first)
	}
	if err := store.Pause(t.Context(), "heart"); err != nil {
		t.Fatal(err)
	}
	paused := rdb.Time(t.Context()).Val()
	list, err := store.List(t.Context())
	if err != nil || len(list) != 1 || !list[0].Paused || !list[0].Next.IsZero() || list[0].Outcome != "published" || list[0].State != stream.Waiting || list[0].Last.Before(got[2].tick) {
		t.Errorf("paused: %+v, %v", list, err)
	}
	time.Sleep(2500 * time.Millisecond) // ticks that must not come
	if err := store.Resume(t.Context(), "heart"); err != nil {
		t.Fatal(err)
	}
	resumed := rdb.Time(t.Context()).Val()
	n := len(fired(t, rdb, "orders", "heart"))
	got = waitTicks(t, rdb, "orders", "heart", n+2)
	for _, g := range got {
		if g.tick.After(paused.Add(time.Second)) && g.tick.Before(resumed) {
			t.Errorf("the tick %s was fired, though it was paused from %s to %s", g.tick, paused, resumed)
		}
	}
	if err := store.Remove(t.Context(), "heart"); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, "the lease to be released", func() bool { return len(rdb.Keys(t.Context(), engine.LeaderPrefix+"*").Val()) == 0 })
	if list, err := store.List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("removed: %+v, %v", list, err)
	}
}

// TestStorePutAnew: a schedule whose time is changed makes up for nothing that it would have done before.
func TestStorePutAnew(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	store := newStore(t, rdb)
	put := func(cron string) {
		t.Helper()
		if err := store.Put(t.Context(), scheduler.Schedule{Name: "a", Cron: cron, Stream: s, Job: stream.Job{Type: "t"}}); err != nil {
			t.Fatal(err)
		}
	}
	put("0 0 1 1 *")
	before := rdb.HGet(t.Context(), engine.SchedulesKey, "a").Val()
	put("0 0 1 1 *")
	if now := rdb.HGet(t.Context(), engine.SchedulesKey, "a").Val(); !strings.Contains(now, `"version":2`) || since(now) != since(before) {
		t.Errorf("the same again: %s, was %s", now, before)
	}
	time.Sleep(5 * time.Millisecond)
	rdb.HSet(t.Context(), "{orders}:ticks", "a", fmt.Sprint(time.Now().Add(-3*time.Hour).UnixMilli(), " published x")) // of its life before
	put("* * * * *")
	if now := rdb.HGet(t.Context(), engine.SchedulesKey, "a").Val(); since(now) == since(before) {
		t.Errorf("another time: %s, was %s", now, before)
	}
	once, err := scheduler.New(rdb, scheduler.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := once.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := fired(t, rdb, "orders", "a"); len(got) > 1 || len(got) == 1 && time.Since(got[0].tick) > time.Minute {
		t.Errorf("fired %v", got)
	}
}

func since(text string) string {
	_, rest, _ := strings.Cut(text, `"since":`)
	n, _, _ := strings.Cut(rest, ",")
	return n
}

func TestStoreRefuses(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	sched, err := scheduler.New(rdb, scheduler.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := sched.Add(each("mine", s)); err != nil {
		t.Fatal(err)
	}
	store := sched.Store()
	for name, err := range map[string]error{
		"Pause": store.Pause(t.Context(), "none"), "Resume": store.Resume(t.Context(), "none"), "Remove": store.Remove(t.Context(), "none"),
	} {
		if !errors.Is(err, stream.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := store.RunNow(t.Context(), "none"); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("RunNow: %v", err)
	}
	if _, err := store.Show(t.Context(), "none"); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("Show: %v", err)
	}
	for name, err := range map[string]error{
		"Put": store.Put(t.Context(), each("mine", s)), "Pause": store.Pause(t.Context(), "mine"), "Remove": store.Remove(t.Context(), "mine"),
	} {
		if !errors.Is(err, stream.ErrInvalid) || !strings.Contains(err.Error(), "the program (Add)") {
			t.Errorf("%s of a schedule of the program: %v", name, err)
		}
	}
	if err := store.Put(t.Context(), each("bad name", s)); !errors.Is(err, stream.ErrInvalid) {
		t.Errorf("a bad one: %v", err)
	}
	if n := rdb.HLen(t.Context(), engine.SchedulesKey).Val(); n != 0 {
		t.Errorf("%d are kept", n)
	}
}

// TestStoreRunNow: an extra job, that a later tick with OverlapSkip waits for, and ticks as before.
func TestStoreRunNow(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	store := newStore(t, rdb)
	if err := store.Put(t.Context(), scheduler.Schedule{Name: "a", Cron: "0 0 1 1 *", Overlap: scheduler.OverlapSkip, Stream: s, Job: stream.Job{Type: "t", Data: 7}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		id, published, err := store.RunNow(t.Context(), "a")
		if err != nil || !published || !strings.HasPrefix(id, "cron:a:now:") {
			t.Fatalf("%q, %v", id, err)
		}
		status, err := store.Show(t.Context(), "a")
		if err != nil || status.Job != id || status.State != stream.Waiting || status.Next.IsZero() || !status.Last.IsZero() {
			t.Errorf("%+v, %v", status, err)
		}
	}
	if n := rdb.XLen(t.Context(), "orders").Val(); n != 2 {
		t.Errorf("%d jobs", n)
	}
}

// TestStoreChangesTogether: of many that change one schedule at once, each has its effect.
func TestStoreChangesTogether(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	store := newStore(t, rdb)
	if err := store.Put(t.Context(), each("a", s)); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for range 3 {
				err := store.Pause(t.Context(), "a")
				if i%2 == 0 {
					err = store.Resume(t.Context(), "a")
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	rdb.HSet(t.Context(), engine.SchedulesKey, "a", strings.Replace(rdb.HGet(t.Context(), engine.SchedulesKey, "a").Val(), "{", `{"newer":[1],`, 1))
	if err := store.Pause(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	text := rdb.HGet(t.Context(), engine.SchedulesKey, "a").Val()
	if !strings.Contains(text, `"newer":[1]`) || !strings.Contains(text, `"paused":true`) {
		t.Errorf("it is %s", text)
	}
}

// TestBadKeptSchedules: one that cannot be read is logged once, listed with its fault, and keeps none of the others back.
func TestBadKeptSchedules(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	store := newStore(t, rdb)
	if err := store.Put(t.Context(), each("good", s)); err != nil {
		t.Fatal(err)
	}
	rdb.HSet(t.Context(), engine.SchedulesKey, "a", "no json", "b", `{"spec":{"name":"c"}}`, "mine", rdb.HGet(t.Context(), engine.SchedulesKey, "good").Val())
	log := new(logBook)
	sched, _ := runWith(t, rdb, scheduler.Config{Logger: log.logger()}, each("mine", s))
	waitTicks(t, rdb, "orders", "good", 2)
	waitTicks(t, rdb, "orders", "mine", 2)
	for _, text := range []string{"schedule=a", "schedule=b", "schedule=mine"} {
		if n := log.count("not in force\" " + text); n != 1 {
			t.Errorf("%s is logged %d times", text, n)
		}
	}
	list, err := sched.Store().List(t.Context())
	if err != nil || len(list) != 4 || list[0].Err == nil || list[1].Err == nil || list[2].Err != nil || list[3].Err == nil {
		t.Errorf("%+v, %v", list, err)
	}
}

const file = `schedules:
  - name: heart
    stream: orders
    every: 1s
    type: tick
`

// TestFileIsReloaded: a change is in force soon; one with faults changes nothing, and is logged with line and field.
func TestFileIsReloaded(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	path := filepath.Join(t.TempDir(), "schedules.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(file)
	log := new(logBook)
	sched, err := scheduler.New(rdb, scheduler.Config{SchedulesFile: path, Logger: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	start(t, sched)
	waitTicks(t, rdb, "orders", "heart", 1)
	write(strings.Replace(file, "every: 1s", "every: never", 1))
	redistest.Wait(t, "the fault to be logged", func() bool {
		return log.count("cannot be used") == 1 && log.count("line 4") == 1 && log.count("every") > 0
	})
	n := len(fired(t, rdb, "orders", "heart"))
	gapless(t, waitTicks(t, rdb, "orders", "heart", n+2))
	write(file + strings.Replace(strings.TrimPrefix(file, "schedules:\n"), "heart", "second", 1))
	waitTicks(t, rdb, "orders", "second", 1)
	if err := sched.Add(each("second", s)); !errors.Is(err, stream.ErrInvalid) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "the program (Add)") {
		t.Errorf("a name that the file has: %v", err)
	}
	if err := sched.Add(each("third", s)); err != nil {
		t.Error(err)
	}
	write(strings.Replace(file, "heart", "third", 1))
	redistest.Wait(t, "the clash to be logged", func() bool { return log.count("the program (Add)") == 1 })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, "its loss to be logged", func() bool { return log.count("no such file") == 1 })
	n = len(fired(t, rdb, "orders", "heart"))
	gapless(t, waitTicks(t, rdb, "orders", "heart", n+1))
}

func TestRunRefusesABadFile(t *testing.T) {
	t.Parallel()
	rdb, _ := newStream(t)
	for _, path := range []string{filepath.Join(t.TempDir(), "none.yaml"), "store_test.go"} {
		sched, err := scheduler.New(rdb, scheduler.Config{SchedulesFile: path})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := sched.ReadSchedules(); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("ReadSchedules: %v", err)
			}
		}
		if err := sched.Run(t.Context()); err == nil {
			t.Error("Run did not fail")
		}
	}
}
