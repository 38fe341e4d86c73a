package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// evalshas is how many scripts the server has run.
func evalshas(t *testing.T, rdb *redis.Client) (n int) {
	t.Helper()
	for line := range strings.Lines(rdb.Info(t.Context(), "commandstats").Val()) {
		if _, err := fmt.Sscanf(line, "cmdstat_evalsha:calls=%d,", &n); err == nil {
			return n
		}
	}
	return 0
}

// quiet waits until no script has run for a while.
func quiet(t *testing.T, rdb *redis.Client, what string) {
	t.Helper()
	last, since := -1, time.Now()
	redistest.Wait(t, what, func() bool {
		if n := evalshas(t, rdb); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 200*time.Millisecond
	})
}

// run runs p until the test ends.
func run(t *testing.T, p *engine.Promoter) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func slots(list ...engine.Slot) func(context.Context) ([]engine.Slot, error) {
	return func(context.Context) ([]engine.Slot, error) { return list, nil }
}

// TestPromoterFarAhead: what is due in centuries, or never, is waited for asleep.
func TestPromoterFarAhead(t *testing.T) {
	t.Parallel()
	rdb := redistest.Connect(t, &redis.Options{Addr: redistest.Server(t).Addr()})
	w := newWorld(t, rdb, "orders")
	w.run(engine.ScheduleCall(w.Keys, "far", "n", 0, 0, time.Date(9998, 1, 1, 0, 0, 0, 0, time.UTC), entry("far")))
	promoter(t, w, rdb, &lines{}, time.Hour)
	subscribed(t, rdb, 1)
	quiet(t, rdb, "it sleeps")
	rdb.ZAddXX(t.Context(), w.Scheduled, redis.Z{Score: inf, Member: "far"})
	if p, err := engine.Promote(t.Context(), rdb, engine.ScheduledSlot(w.Keys), 10); err != nil || p.Next < p.Now || p.More {
		t.Errorf("due never: %+v, %v", p, err)
	}
}

var inf = math.Inf(1)

// TestPromoteLargeJobs: one script moves about 1 MiB at most, or one job, and says that more is due.
func TestPromoteLargeJobs(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	slot := engine.ScheduledSlot(w.Keys)
	const n = 12
	for i := range n {
		e := entry(fmt.Sprint(i))
		if e.Data = strings.Repeat("x", 300<<10); i == 0 {
			e.Data = strings.Repeat("x", 2<<20)
		}
		w.run(engine.ScheduleCall(w.Keys, fmt.Sprint(i), "n", 0, 0, time.UnixMilli(int64(i)), e)) // the first was due in 1970: its score is 0
	}
	for i, want := range []int64{1, 4} {
		p, err := engine.Promote(t.Context(), rdb, slot, 500)
		if err != nil || p.Moved != want || !p.More {
			t.Errorf("run %d: %+v, %v, want %d moved and more", i, p, err, want)
		}
	}
	if p, err := engine.Promote(t.Context(), rdb, slot, 3); err != nil || p.Moved != 3 || !p.More {
		t.Errorf("%+v, %v, want 3 moved and more", p, err)
	}
	p := &engine.Promoter{Client: rdb, Logger: slog.New(slog.DiscardHandler)}
	if err := p.Empty(t.Context(), slot); err != nil || p.Moved() != n-8 || w.jobs() != n {
		t.Errorf("%d moved, %v, %d jobs", p.Moved(), err, w.jobs())
	}
}

// TestPromoteKeepsTheMark: a publisher whose answer was lost knows its job again when it has been promoted meanwhile.
func TestPromoteKeepsTheMark(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	w.due("x")
	if _, err := engine.Promote(t.Context(), rdb, engine.ScheduledSlot(w.Keys), 10); err != nil {
		t.Fatal(err)
	}
	for nonce, dup := range map[string]bool{"n": false, "other": true} {
		c := engine.ScheduleCall(w.Keys, "x", nonce, 0, 0, time.UnixMilli(1000), entry("x"))
		s, err := engine.ReadStored(w.run(c), nonce)
		if err != nil || s.Duplicate != dup || s.Deferred || dup == engine.IsEntryID(s.Entry) {
			t.Errorf("published again by %q: %+v, %v", nonce, s, err)
		}
	}
	// and it keeps it when the job has failed since, as it does in retrying and in the record
	w.run(engine.RetryCall(w.read(w.Stream), w.g, "x", -time.Second, entry("x")))
	if _, err := engine.Promote(t.Context(), rdb, engine.RetryingSlot(w.g), 10); err != nil {
		t.Fatal(err)
	}
	if place, _, mark := engine.SplitWhere(w.where("x")); place != "redelivery" || mark != "n" {
		t.Errorf("x is at %q, want the mark of its publisher", w.where("x"))
	}
}

// faults is a hook that answers some commands itself.
type faults struct {
	on    atomic.Bool
	tries atomic.Int64
	match func(redis.Cmder) bool
	err   error
}

func (f *faults) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f *faults) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (f *faults) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if f.on.Load() && f.match(cmd) {
			f.tries.Add(1)
			cmd.SetErr(f.err)
			return f.err
		}
		return next(ctx, cmd)
	}
}

// refusal is an error that a server answers.
type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) RedisError()     {}

func mentions(text string) func(redis.Cmder) bool {
	return func(cmd redis.Cmder) bool { return strings.Contains(fmt.Sprint(cmd.Args()...), text) }
}

// TestPromoterOneSetFails: a set that cannot be promoted for a while, as when its slot migrates or its
// scripts take longer than a client waits, keeps no other back, is tried now and then, and logged once.
func TestPromoterOneSetFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err   error
		warns string
		most  int64
	}{
		"migrating": {refusal("TRYAGAIN Multiple keys request during rehashing of slot"), "due jobs of one set cannot be promoted", 12},
		"lost":      {errors.New("i/o timeout"), "due jobs cannot be promoted", 1000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			direct := redistest.Connect(t, &redis.Options{Addr: redistest.Server(t).Addr()})
			bad, good := newWorld(t, direct, "bad"), newWorld(t, direct, "good")
			rdb := redistest.Connect(t, &redis.Options{Addr: direct.Options().Addr})
			f := &faults{match: mentions("{bad}"), err: c.err}
			f.on.Store(true)
			rdb.AddHook(f)
			log := &lines{}
			bad.due("x")
			run(t, &engine.Promoter{
				Client: rdb, Slots: slots(engine.ScheduledSlot(bad.Keys), engine.ScheduledSlot(good.Keys)),
				Poll: 20 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(log, nil)),
			})
			for i := range 5 {
				good.schedule(fmt.Sprint(i), 100*time.Millisecond)
				redistest.Wait(t, "the other set's job", func() bool { return direct.XLen(t.Context(), good.Stream).Val() == int64(i+1) })
			}
			if n := f.tries.Load(); n > c.most {
				t.Errorf("the failing set was tried %d times in half a second", n)
			}
			if log.count("WARN") != 1 || log.count(c.warns) != 1 || log.count("level=") != 1 {
				t.Errorf("logged\n%s", log.text.String())
			}
			f.on.Store(false)
			redistest.Wait(t, "its own job", func() bool { return direct.XLen(t.Context(), bad.Stream).Val() == 1 })
			redistest.Wait(t, "all is well", func() bool { return log.count("INFO") == 1 })
		})
	}
}

// TestPromoterAllSetsFail: when nothing works that is one outage, and logged as one.
func TestPromoterAllSetsFail(t *testing.T) {
	t.Parallel()
	direct := redistest.Connect(t, &redis.Options{Addr: redistest.Server(t).Addr()})
	a, b := newWorld(t, direct, "a"), newWorld(t, direct, "b")
	rdb := redistest.Connect(t, &redis.Options{Addr: direct.Options().Addr})
	f := &faults{match: mentions("EVALSHA"), err: refusal("LOADING Redis is loading the dataset in memory")}
	f.on.Store(true)
	rdb.AddHook(f)
	log := &lines{}
	a.due("x")
	b.due("x")
	run(t, &engine.Promoter{
		Client: rdb, Slots: slots(engine.ScheduledSlot(a.Keys), engine.ScheduledSlot(b.Keys)),
		Poll: 5 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	redistest.Wait(t, "some tries", func() bool { return f.tries.Load() > 10 })
	if log.count("due jobs cannot be promoted") != 1 || log.count("level=") != 1 {
		t.Errorf("logged\n%s", log.text.String())
	}
	f.on.Store(false)
	redistest.Wait(t, "both jobs", func() bool {
		return direct.XLen(t.Context(), "a").Val() == 1 && direct.XLen(t.Context(), "b").Val() == 1
	})
	redistest.Wait(t, "the all-clear", func() bool { return log.count("due jobs are promoted again") == 1 })
}

// TestPromoterListingFails: slots that are known go on while they cannot be listed again; what is found with an error is promoted.
func TestPromoterListingFails(t *testing.T) {
	t.Parallel()
	rdb := redistest.Connect(t, &redis.Options{Addr: redistest.Server(t).Addr()})
	a, b := newWorld(t, rdb, "a"), newWorld(t, rdb, "b")
	log := &lines{}
	var asked atomic.Int64
	var well atomic.Bool
	run(t, &engine.Promoter{
		Client: rdb, Poll: 5 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(log, nil)),
		Slots: func(context.Context) ([]engine.Slot, error) {
			list := []engine.Slot{engine.ScheduledSlot(a.Keys)}
			switch n := asked.Add(1); {
			case well.Load():
				return append(list, engine.ScheduledSlot(b.Keys)), nil
			case n == 1:
				return list, refusal("CLUSTERDOWN Hash slot not served")
			}
			return nil, refusal("CLUSTERDOWN Hash slot not served")
		},
	})
	redistest.Wait(t, "it asks again", func() bool { return asked.Load() > 2 })
	a.due("x")
	b.due("x")
	redistest.Wait(t, "the job of the known set", func() bool { return rdb.XLen(t.Context(), "a").Val() == 1 })
	if log.count("cannot all be listed") != 1 || log.count("level=") != 1 {
		t.Errorf("logged\n%s", log.text.String())
	}
	well.Store(true)
	redistest.Wait(t, "the other's", func() bool { return rdb.XLen(t.Context(), "b").Val() == 1 })
	redistest.Wait(t, "the all-clear", func() bool { return log.count("are listed again") == 1 })
}

// TestPromoterStrangers: wake-ups for sets nobody knows, as those of another
// database of the same server, make it look for new sets once a second at most; and a new set is found.
func TestPromoterStrangers(t *testing.T) {
	t.Parallel()
	rdb := redistest.Connect(t, &redis.Options{Addr: redistest.Server(t).Addr()})
	w := newWorld(t, rdb, "orders")
	var asked atomic.Int64
	var known atomic.Bool
	run(t, &engine.Promoter{
		Client: rdb, Poll: time.Hour, Logger: slog.New(slog.DiscardHandler),
		Slots: func(context.Context) ([]engine.Slot, error) {
			asked.Add(1)
			if known.Load() {
				return []engine.Slot{engine.ScheduledSlot(w.Keys)}, nil
			}
			return nil, nil
		},
	})
	subscribed(t, rdb, 1)
	begin := time.Now()
	for i := range 300 {
		rdb.Publish(t.Context(), engine.WakeChannel, fmt.Sprintf("%d {other%d}:scheduled", 1000+i, i))
	}
	if n, most := asked.Load(), 4+int64(time.Since(begin)/time.Second); n > most {
		t.Errorf("it asked for the sets %d times, want at most %d", n, most)
	}
	known.Store(true)
	w.schedule("x", time.Millisecond)
	redistest.Wait(t, "the job of a new set", func() bool { return rdb.XLen(t.Context(), "orders").Val() == 1 })
}

// TestPromoterSilence: a wake-up channel that gives no sign of life is replaced, and polling ends with that.
func TestPromoterSilence(t *testing.T) {
	t.Parallel()
	direct := redistest.Connect(t, &redis.Options{Addr: redistest.Server(t).Addr()})
	w := newWorld(t, direct, "orders")
	proxy := redistest.NewProxy(t, direct.Options().Addr)
	rdb := redistest.Connect(t, &redis.Options{Addr: proxy.Addr(), ReadTimeout: 100 * time.Millisecond, MaxRetries: -1})
	p := &engine.Promoter{Client: rdb, Slots: slots(engine.ScheduledSlot(w.Keys)), Poll: 5 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
	p.SetSilence(50 * time.Millisecond)
	run(t, p)
	subscribed(t, direct, 1)
	quiet(t, direct, "it sleeps")
	proxy.Hang()
	w.due("x") // and its wake-up does not come through
	hung := time.Now()
	redistest.Wait(t, "it hears nothing, twice", func() bool { return time.Since(hung) > 400*time.Millisecond })
	if err := proxy.Forward(); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, "the job", func() bool { return direct.XLen(t.Context(), "orders").Val() == 1 })
	quiet(t, direct, "it sleeps again")
	w.schedule("y", time.Millisecond)
	redistest.Wait(t, "it is woken", func() bool { return direct.XLen(t.Context(), "orders").Val() == 2 })
}

// TestPromoterEmpty: a set that was empty is looked at by one cheap command, and what comes into it unannounced is found;
// so it is for a user who has no right to that command.
func TestPromoterEmpty(t *testing.T) {
	t.Parallel()
	for _, rights := range []string{"+@all", "+@all -exists"} {
		t.Run(rights, func(t *testing.T) {
			t.Parallel()
			server := redistest.Server(t)
			admin := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
			args := []any{"ACL", "SETUSER", "deaf", "on", ">secret", "~*", "resetchannels"}
			for _, right := range strings.Fields(rights) {
				args = append(args, right)
			}
			if err := admin.Do(t.Context(), args...).Err(); err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, admin, "orders")
			log := &lines{}
			promoter(t, w, redistest.Connect(t, &redis.Options{Addr: server.Addr(), Username: "deaf", Password: "secret"}), log, 10*time.Millisecond)
			calls := func(name string) int {
				_, after, _ := strings.Cut(admin.Info(t.Context(), "commandstats").Val(), "cmdstat_"+name+":")
				_, after, _ = strings.Cut(after, "calls=")
				text, _, _ := strings.Cut(after, ",")
				n, _ := strconv.Atoi(text)
				return n
			}
			looks, other := "exists", "zcard"
			if rights != "+@all" {
				looks, other = other, looks
			}
			redistest.Wait(t, "it has looked", func() bool { return calls(looks) > 10 })
			if n := calls(other); n > 4 {
				t.Errorf("%d times %s", n, other)
			}
			w.schedule("due", 0)
			redistest.Wait(t, "it came out", func() bool { return admin.XLen(t.Context(), w.Stream).Val() == 1 })
			if n := log.count("cannot be promoted"); n != 0 {
				t.Errorf("the log: %s", log.text.String())
			}
		})
	}
}
