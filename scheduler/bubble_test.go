package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
)

// fake answers in place of a server, inside a bubble, as far as cron asks anything.
type fake struct {
	log     logBook
	mu      sync.Mutex
	ahead   time.Duration // of its clock
	down    bool
	taken   bool // another leads
	calls   int
	cron    int // of them, ticks
	early   int // of them, those that came too early
	last    map[string]int64
	fired   []time.Time   // by its clock
	ticks   []time.Time   // that fired
	lateMax time.Duration // of them
	lease   map[string]time.Time
}

func newFake() *fake { return &fake{last: make(map[string]int64), lease: make(map[string]time.Time)} }

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) now() time.Time { return time.Now().Add(f.ahead) }

func (f *fake) DialHook(redis.DialHook) redis.DialHook {
	return func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no network here") }
}

func (f *fake) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (f *fake) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(_ context.Context, cmd redis.Cmder) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.calls++
		if f.down {
			err := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
			cmd.SetErr(err)
			return err
		}
		return f.answer(cmd)
	}
}

func (f *fake) answer(cmd redis.Cmder) error {
	args := cmd.Args()
	switch c := cmd.(type) {
	case *redis.TimeCmd:
		c.SetVal(f.now())
		return nil
	case *redis.DurationCmd: // PTTL
		c.SetVal(max(f.lease[args[1].(string)].Sub(f.now()), -2))
		if f.taken {
			c.SetVal(time.Second)
		}
		return nil
	case *redis.BoolCmd: // SET NX
		if c.SetVal(!f.taken); f.taken {
			return nil
		}
		f.lease[args[1].(string)] = f.now().Add(time.Minute)
		return nil
	case *redis.SliceCmd, *redis.MapStringStringCmd:
		return nil
	}
	keys, _ := strconv.Atoi(fmt.Sprint(args[min(2, len(args)-1)]))
	c, ok := cmd.(interface{ SetVal(any) })
	switch {
	case !ok:
		return nil
	case keys == 1: // of the lease
		if len(args) == 5 {
			delete(f.lease, args[3].(string))
		}
		if c.SetVal(int64(1)); f.taken {
			c.SetVal(int64(0))
		}
	default:
		c.SetVal(f.tick(args[3+keys:]))
	}
	return nil
}

// tick does what the script does, for plain jobs.
func (f *fake) tick(args []any) []any {
	f.cron++
	n := len(args)
	name := args[n-6].(string)
	tick, _ := strconv.ParseInt(fmt.Sprint(args[n-5]), 10, 64)
	fire, _ := strconv.ParseInt(fmt.Sprint(args[n-4]), 10, 64)
	now := f.now()
	last, ok := f.last[name]
	what := "published"
	switch {
	case !ok:
		what, last = "new", now.UnixMilli()
	case tick <= last:
		what = "recorded"
	case fire > now.UnixMilli():
		if what = "early"; fire < now.Add(24*time.Hour).UnixMilli() {
			f.early++
		}
	default:
		last = tick
		f.fired, f.ticks = append(f.fired, now), append(f.ticks, time.UnixMilli(tick))
		f.lateMax = max(f.lateMax, now.Sub(time.UnixMilli(fire)))
	}
	f.last[name] = last
	return []any{what, strconv.FormatInt(now.UnixMicro(), 10), strconv.FormatInt(last, 10), what, "x", []any{int64(0), "1-1"}}
}

// runFake runs a scheduler in the bubble while f is changed.
func runFake(t *testing.T, f *fake, sc scheduler.Schedule, during func()) *scheduler.Scheduler {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer func() {
		_ = rdb.Close()
		time.Sleep(2 * time.Second) // its pool looks every second whether it can dial again, and then sees that it is closed
	}()
	rdb.AddHook(f)
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	sc.Stream, sc.Job = s, stream.Job{Type: "tick"}
	sched, err := scheduler.New(rdb, scheduler.Config{PollDelay: time.Hour, Logger: f.log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	if err := sched.Add(sc); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- sched.Run(ctx) }()
	during()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	return sched
}

// TestOutage: while Redis is away it is not asked in a hot loop; then each tick since comes out, since none is a minute late.
func TestOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		sched := runFake(t, f, scheduler.Schedule{Name: "heart", Every: time.Second}, func() {
			time.Sleep(10*time.Second + 500*time.Millisecond)
			f.set(func() { f.down, f.calls = true, 0 })
			time.Sleep(50 * time.Second)
			f.set(func() {
				if f.calls > 250 {
					t.Errorf("%d commands in 50 s of an outage", f.calls)
				}
				f.down = false
				f.lease = make(map[string]time.Time) // it ran out
			})
			time.Sleep(10 * time.Second)
		})
		f.set(func() {
			if n := len(f.ticks); n < 69 || n > 71 || sched.Fired() != int64(n) {
				t.Errorf("%d ticks in 70 s, Fired %d", n, sched.Fired())
			}
			for i := range f.ticks {
				if want := f.ticks[0].Add(time.Duration(i) * time.Second); !f.ticks[i].Equal(want) {
					t.Fatalf("tick %d is %s, want %s", i, f.ticks[i], want)
				}
			}
		})
	})
}

// TestLeadsAgain: what others have fired meanwhile was not missed.
func TestLeadsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		runFake(t, f, scheduler.Schedule{Name: "heart", Every: time.Second}, func() {
			time.Sleep(10*time.Second + 500*time.Millisecond)
			f.set(func() { f.taken = true })
			time.Sleep(5 * time.Minute)
			f.set(func() {
				if n := len(f.ticks); n > 15 {
					t.Errorf("%d ticks in 10 s, and while another led", n)
				}
				f.taken, f.last["heart"], f.ticks = false, f.now().UnixMilli(), nil
			})
			time.Sleep(10 * time.Second)
		})
		f.set(func() {
			if n := len(f.ticks); n < 8 || n > 10 || f.log.count("were missed") > 0 {
				t.Errorf("%d ticks in 10 s; the log:\n%s", n, f.log.b.String())
			}
		})
	})
}

// TestRedisClockDecides: a host an hour off fires nothing early and nothing late, and costs no more.
func TestRedisClockDecides(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{time.Hour, -time.Hour, 300 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.ahead = ahead
			runFake(t, f, scheduler.Schedule{Name: "minutely", Cron: "* * * * *", Jitter: 20 * time.Second}, func() { time.Sleep(30*time.Minute + time.Second) })
			f.set(func() {
				if n := len(f.ticks); n < 29 || n > 31 || f.early > 1 || f.lateMax > 5*time.Millisecond {
					t.Errorf("%s: %d ticks in 30 min, %d too early, %s late at most", ahead, n, f.early, f.lateMax)
				}
				if f.cron > 40 {
					t.Errorf("%s: %d scripts for 30 ticks", ahead, f.cron)
				}
			})
		})
	}
}

// TestRedisClockSteps: after a failover to a host whose clock differs, ticks come by the new one within a minute; one that it
// had fired already does not come again.
func TestRedisClockSteps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		runFake(t, f, scheduler.Schedule{Name: "ten", Every: 10 * time.Minute}, func() {
			time.Sleep(time.Minute)
			f.set(func() { f.ahead = 29*time.Minute - 30*time.Second })
			time.Sleep(3 * time.Minute) // past 30:00 there
			f.set(func() {
				n := len(f.ticks) - 1 // one before it was missed, and may have been made up for
				if n < 0 || n > 1 || f.ticks[n].Minute() != 30 || f.fired[n].Sub(f.ticks[n]) > time.Minute {
					t.Errorf("after a step forward: ticks %v, at %v", f.ticks, f.fired)
				}
				f.ahead, f.cron = 0, 0
			})
			time.Sleep(40 * time.Minute)
		})
		f.set(func() {
			seen := make(map[time.Time]bool)
			for _, tick := range f.ticks {
				if seen[tick] {
					t.Errorf("the tick %s came twice", tick)
				}
				seen[tick] = true
			}
			if n := len(f.ticks); f.ticks[n-1].Minute() != 40 || f.cron > 20 {
				t.Errorf("after a step back: ticks %v, %d scripts", f.ticks, f.cron)
			}
		})
	})
}

// TestClocksThatDiffer: on a Cluster answers come from several clocks. A tick is late by their difference at most, never early,
// and costs little more.
func TestClocksThatDiffer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ by, every, late time.Duration }{
		{300 * time.Millisecond, time.Second, 400 * time.Millisecond}, {3 * time.Millisecond, time.Minute, 10 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			stop := make(chan struct{})
			var other sync.WaitGroup
			const total = 20 * time.Minute
			runFake(t, f, scheduler.Schedule{Name: "heart", Every: c.every}, func() {
				other.Go(func() {
					for ahead := c.by; ; ahead = c.by - ahead {
						select {
						case <-stop:
							return
						case <-time.After(1700 * time.Millisecond):
							f.set(func() { f.ahead = ahead })
						}
					}
				})
				time.Sleep(total)
				close(stop)
				other.Wait()
			})
			f.set(func() {
				want := int(total / c.every)
				if n := len(f.ticks); n < want-3 || n > want+2 || f.lateMax > c.late || f.cron > 2*n+5 {
					t.Errorf("%s, every %s: %d ticks with %d scripts, %s late", c.by, c.every, n, f.cron, f.lateMax)
				}
			})
		})
	}
}

// TestIdleCostsNothing: without a schedule nobody leads, and Redis is asked once a minute.
func TestIdleCostsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
		defer func() {
			_ = rdb.Close()
			time.Sleep(2 * time.Second)
		}()
		rdb.AddHook(f)
		sched, err := scheduler.New(rdb, scheduler.Config{PollDelay: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute+time.Second)
		defer cancel()
		if err := sched.Run(ctx); err != nil {
			t.Error(err)
		}
		f.set(func() {
			if f.calls > 25 || len(f.lease) > 0 { // with the promoter's own
				t.Errorf("%d commands in ten idle minutes, leases %v", f.calls, f.lease)
			}
		})
	})
}
