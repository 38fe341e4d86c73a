package engine_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// promoter runs one over w's deferred jobs until the test ends, or stop is called.
func promoter(t *testing.T, w *world, rdb redis.UniversalClient, log *lines, poll time.Duration) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := &engine.Promoter{
		Client: rdb,
		Slots: func(context.Context) ([]engine.Slot, error) {
			return []engine.Slot{engine.ScheduledSlot(w.Keys), engine.RetryingSlot(w.g)}, nil
		},
		Known:  func(set string) bool { return strings.Contains(set, w.Stream) },
		Poll:   poll,
		Logger: slog.New(slog.NewTextHandler(log, nil)),
	}
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Error("the promoter did not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

// lines collects a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// subscribed waits until n promoters listen. It wants a server of the test's own.
func subscribed(t *testing.T, rdb *redis.Client, n int64) {
	t.Helper()
	redistest.Wait(t, "promoters listen", func() bool {
		return rdb.PubSubNumSub(t.Context(), engine.WakeChannel).Val()[engine.WakeChannel] == n
	})
}

// TestPromoter: due jobs come out in order, never early, soon after they are
// due, though the poll delay is an hour; an earlier job wakes the promoter up.
func TestPromoter(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	w := newWorld(t, rdb, "orders")
	ctx := t.Context()
	w.schedule("far", time.Hour)
	log := &lines{}
	promoter(t, w, rdb, log, time.Hour)
	subscribed(t, rdb, 1)

	delays := []time.Duration{300, 100, 200, 400}
	due := make(map[string]int64)
	for _, d := range delays {
		id := fmt.Sprint("in-", int(d))
		from := rdb.Time(ctx).Val().UnixMilli()
		w.schedule(id, d*time.Millisecond)
		to := rdb.Time(ctx).Val().UnixMilli() + 1 // it is rounded up
		if due[id] = int64(w.rdb.ZScore(ctx, w.Scheduled, id).Val()); due[id] < from+int64(d) || due[id] > to+int64(d) {
			t.Errorf("%s is due at %d, want %d to %d", id, due[id], from+int64(d), to+int64(d))
		}
	}
	w.run(engine.RetryCall(w.held("again"), w.g, "again", 150*time.Millisecond, entry("again")))
	due["again"] = int64(w.rdb.ZScore(ctx, w.g.Retrying, "again").Val())

	redistest.Wait(t, "all came out", func() bool {
		return rdb.XLen(ctx, w.Stream).Val() == 4 && rdb.XLen(ctx, w.g.Redelivery).Val() == 1
	})
	var order []string
	for _, key := range []string{w.Stream, w.g.Redelivery} {
		for _, m := range rdb.XRange(ctx, key, "-", "+").Val() {
			text, _ := m.Values["opts"].(string)
			o, err := engine.ParseOpts(text)
			if err != nil {
				t.Fatal(err)
			}
			order = append(order, o.ID)
			if late := engine.EntryTime(m.ID).UnixMilli() - due[o.ID]; late < 0 || late > 1000 {
				t.Errorf("%s came out %d ms after it was due", o.ID, late)
			}
		}
	}
	want := []string{"in-100", "in-200", "in-300", "in-400"}
	slices.SortStableFunc(want, func(a, b string) int { return cmp.Compare(due[a], due[b]) }) // as on a machine that was slow to publish them
	if want = append(want, "again"); !slices.Equal(order, want) {
		t.Errorf("they came out in the order %v, want %v", order, want)
	}
	if rdb.ZCard(ctx, w.Scheduled).Val() != 1 {
		t.Error("the job that is due in an hour came out")
	}
	if n := log.count("level="); n != 0 {
		t.Errorf("%d lines were logged", n)
	}
}

// TestPromoterSleeps: an idle promoter asks Redis for nothing.
func TestPromoterSleeps(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	w := newWorld(t, rdb, "orders")
	promoter(t, w, rdb, &lines{}, time.Millisecond)
	subscribed(t, rdb, 1)
	calls := func() string {
		for line := range strings.Lines(rdb.Info(t.Context(), "commandstats").Val()) {
			if strings.HasPrefix(line, "cmdstat_evalsha:") {
				return strings.Split(line, ",")[0]
			}
		}
		return ""
	}
	var last string
	var since time.Time
	redistest.Wait(t, "it sleeps for 200 polls", func() bool {
		if now := calls(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 200*time.Millisecond
	})
}

// TestPromoterOutage: while the wake-up channel is down it polls; when Redis is
// gone it says so once, and goes on when it is back.
func TestPromoterOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	admin := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	w := newWorld(t, admin, "orders")
	ctx := t.Context()

	// a user who may not subscribe: only polling is left
	if err := admin.Do(ctx, "ACL", "SETUSER", "deaf", "on", "nopass", "allkeys", "resetchannels", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	deaf := redistest.Connect(t, &redis.Options{Addr: server.Addr(), Username: "deaf", Password: "x"})
	stop := promoter(t, w, deaf, &lines{}, 5*time.Millisecond)
	w.schedule("polled", 20*time.Millisecond)
	redistest.Wait(t, "the job came out by polling", func() bool { return admin.XLen(ctx, w.Stream).Val() == 1 })
	stop()

	proxy := redistest.NewProxy(t, server.Addr())
	log := &lines{}
	var dials atomic.Int64
	promoter(t, w, redistest.Connect(t, &redis.Options{
		Addr: proxy.Addr(), DialerRetries: 1, MaxRetries: -1,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}), log, 5*time.Millisecond)
	subscribed(t, admin, 1)
	proxy.Refuse()
	redistest.Wait(t, "it noticed", func() bool { return log.count("level=WARN") > 0 })
	dials.Store(0)
	redistest.Wait(t, "it tried again and again", func() bool { return dials.Load() > 50 })
	if n := log.count("level=WARN"); n != 1 {
		t.Errorf("%d warnings of one outage", n)
	}
	w.schedule("meanwhile", 0)
	if err := proxy.Forward(); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, "the job came out after the outage", func() bool { return admin.XLen(ctx, w.Stream).Val() == 2 })
	redistest.Wait(t, "it said so", func() bool { return log.count("level=INFO") > 0 })
	if w, i := log.count("level=WARN"), log.count("level=INFO"); w != i {
		t.Errorf("%d warnings, %d all-clears: want one each time it went away", w, i)
	}
	subscribed(t, admin, 1)
	w.schedule("after", 10*time.Millisecond)
	redistest.Wait(t, "all is as before", func() bool { return admin.XLen(ctx, w.Stream).Val() == 3 })
}

// TestPromoteTogether: any number may promote at once, each job is moved once.
func TestPromoteTogether(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	const n = 500
	var calls []engine.Call
	for i := range n {
		id := fmt.Sprintf("j%03d", i)
		calls = append(calls, engine.ScheduleCall(w.Keys, id, "n", 0, 0, time.UnixMilli(int64(1000+i)), entry(id)))
	}
	for _, res := range engine.RunAll(t.Context(), rdb, calls) {
		w.must(res.Val, res.Err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	moved := int64(0)
	for range 8 {
		wg.Go(func() {
			for {
				p, err := engine.Promote(t.Context(), rdb, engine.ScheduledSlot(w.Keys), 7)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				moved += p.Moved
				over := moved > n
				mu.Unlock()
				if p.Moved == 0 || over {
					return
				}
			}
		})
	}
	wg.Wait()
	msgs := rdb.XRange(t.Context(), w.Stream, "-", "+").Val()
	if moved != n || len(msgs) != n {
		t.Fatalf("%d moved, %d in the stream, want %d", moved, len(msgs), n)
	}
	for i, m := range msgs {
		if want := fmt.Sprintf("data of j%03d", i); m.Values["data"] != want {
			t.Fatalf("entry %d is %v, want %s: the oldest first", i, m.Values["data"], want)
		}
	}
	if rdb.Exists(t.Context(), w.Scheduled, w.ScheduledJobs).Val() != 0 {
		t.Error("something is left behind")
	}
}

// TestPromoteLostBody: a job whose body somebody deleted is counted, and blocks nobody.
func TestPromoteLostBody(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	w.due("a")
	w.due("b")
	w.schedule("c", time.Hour)
	rdb.HDel(t.Context(), w.ScheduledJobs, "a")
	p, err := engine.Promote(t.Context(), rdb, engine.ScheduledSlot(w.Keys), 10)
	if err != nil || p.Moved != 1 || p.Lost != 1 || p.Next < p.Now+3590_000 || p.Next > p.Now+3600_010 {
		t.Errorf("promoted %+v, %v", p, err)
	}
	if w.where("a") != "" || !strings.HasPrefix(w.where("b"), "orders ") {
		t.Errorf("a is at %q, b at %q", w.where("a"), w.where("b"))
	}
}
