package stream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// complete ends a delivery with a result.
func complete(t testing.TB, s *stream.Stream, g engine.GroupKeys, result string, ds ...delivery) {
	t.Helper()
	var ends []engine.End
	for _, d := range ds {
		ends = append(ends, d.end(&engine.Note{Type: "t", Started: 1}, []byte(result)))
	}
	if late, _, ok := engine.ReadCompleted(call(t, s, engine.CompleteCall(ds[0].Held, g, "completed", ends...))); !ok || len(late) > 0 {
		t.Fatalf("late: %v", late)
	}
}

// listeners is how many connections follow the ends of jobs of s.
func listeners(t testing.TB, rdb *redis.Client, s *stream.Stream) int64 {
	t.Helper()
	channel := engine.NewKeys(s.Name()).Ended
	n, err := rdb.PubSubNumSub(t.Context(), channel).Result()
	if err != nil {
		t.Fatal(err)
	}
	return n[channel]
}

func listening(t testing.TB, rdb *redis.Client, s *stream.Stream, want int64) {
	t.Helper()
	redistest.Wait(t, fmt.Sprintf("%d listeners", want), func() bool { return listeners(t, rdb, s) == want })
}

// waiting starts to wait for the results of jobs, and returns a function that gives them.
func waiting(ctx context.Context, s *stream.Stream, ids ...string) (results func() ([]string, []error)) {
	texts, errs := make([]string, len(ids)), make([]error, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() { texts[i], errs[i] = stream.Result[string](ctx, s, id) })
	}
	return func() ([]string, []error) { wg.Wait(); return texts, errs }
}

func TestResult(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	jobs := []stream.Job{{Type: "t", ID: "before"}, {Type: "t", ID: "during"}, {Type: "t"}, {Type: "t", ID: "bad"}, {Type: "t", ID: "bare"}}
	var ds []delivery
	for _, job := range jobs {
		publish(t, s, job)
		ds = append(ds, read(t, s, s.Name(), "g", 1)...)
	}
	complete(t, s, g, `"one"`, ds[0])
	if r, err := stream.Result[string](t.Context(), s, "before"); r != "one" || err != nil {
		t.Errorf("a result from before: %q, %v", r, err)
	}
	if r, err := stream.Result[[]byte](t.Context(), s, "before"); string(r) != `"one"` || err != nil {
		t.Errorf("its bytes: %q, %v", r, err)
	}
	if r, err := stream.Result[int](t.Context(), s, "before"); err == nil {
		t.Errorf("a string as an int: %d", r)
	}
	results := waiting(t.Context(), s, "during", ds[2].id, "bad")
	listening(t, rdb, s, 1)
	complete(t, s, g, `"two"`, ds[1], ds[2])
	kill(t, s, g, ds[3], `{"reason":"failed","error":"broken"}`)
	texts, errs := results()
	var failed *stream.JobError
	if texts[0] != "two" || texts[1] != "two" || !errors.As(errs[2], &failed) || failed.Info.Err != "broken" || !strings.Contains(errs[2].Error(), "broken") {
		t.Errorf("during: %q, %v", texts, errs)
	}
	listening(t, rdb, s, 0)
	call(t, s, engine.CompleteCall(ds[4].Held, g, "completed", ds[4].end(nil, nil)))
	if _, err := stream.Result[string](t.Context(), s, "bare"); !errors.Is(err, stream.ErrNoResult) {
		t.Errorf("without a result: %v", err)
	}
	if _, err := s.Wait(t.Context(), "none"); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("no such job: %v", err)
	}
}

// TestWaitForNothing: a job that leaves no record ends the wait all the same.
func TestWaitForNothing(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	group(t, s, "g")
	id := publish(t, s, stream.Job{Type: "t"})[0].ID
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	results := waiting(ctx, s, id)
	listening(t, rdb, s, 1)
	d := read(t, s, s.Name(), "g", 1)[0]
	call(t, s, engine.SettleCall(d.Held, []string{d.Entry}))
	if _, errs := results(); !errors.Is(errs[0], stream.ErrNotFound) {
		t.Errorf("%v, want ErrNotFound", errs[0])
	}
}

// TestWaitByEntry: an entry that carries an ID of its own is waited for by its entry's; its end is announced by its own.
func TestWaitByEntry(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	entry := rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []string{"type", "o", "data", "", "traceparent", "", "opts", `{"id":"mine"}`}}).Val()
	results := waiting(t.Context(), s, entry)
	listening(t, rdb, s, 1)
	complete(t, s, g, `"r"`, read(t, s, s.Name(), "g", 1)[0])
	if texts, errs := results(); texts[0] != "r" {
		t.Errorf("%q, %v", texts, errs)
	}
}

// TestWaitManyOnOne: a thousand callers share one connection, which is gone after them.
func TestWaitManyOnOne(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	var ids []string
	for range 500 {
		id := publish(t, s, stream.Job{Type: "t"})[0].ID
		ids = append(ids, id, id)
	}
	results := waiting(t.Context(), s, ids...)
	listening(t, rdb, s, 1)
	ds := read(t, s, s.Name(), "g", 500)
	if n := listeners(t, rdb, s); n != 1 {
		t.Errorf("%d connections listen", n)
	}
	complete(t, s, g, `"r"`, ds...)
	texts, errs := results()
	for i := range ids {
		if texts[i] != "r" {
			t.Fatalf("%s: %q, %v", ids[i], texts[i], errs[i])
		}
	}
	listening(t, rdb, s, 0)
}

// TestWaitGivesUp with its context, and leaves the others waiting.
func TestWaitGivesUp(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	id := publish(t, s, stream.Job{Type: "t"})[0].ID
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	given := waiting(ctx, s, id, id)
	stays := waiting(t.Context(), s, id)
	listening(t, rdb, s, 1)
	cancel(cause)
	if _, errs := given(); !errors.Is(errs[0], cause) || !errors.Is(errs[1], cause) {
		t.Errorf("%v, want the cause of the context's end", errs)
	}
	complete(t, s, g, `"r"`, read(t, s, s.Name(), "g", 1)[0])
	if texts, errs := stays(); texts[0] != "r" {
		t.Errorf("the other: %q, %v", texts, errs)
	}
	if _, err := s.Wait(ctx, id); err == nil {
		t.Log("a result that is there is returned, or not, when the context has ended: both are right")
	}
}

// TestWaitWithoutAnnouncement: who may not listen, or loses what was said, still finds out.
func TestWaitWithoutAnnouncement(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	admin := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "deaf", "on", ">secret", "~*", "+@all", "resetchannels").Err(); err != nil {
		t.Fatal(err)
	}
	deaf := redistest.Connect(t, &redis.Options{Addr: server.Addr(), Username: "deaf", Password: "secret"})
	for name, rdb := range map[string]*redis.Client{"deaf": deaf, "cut off": admin} {
		t.Run(name, func(t *testing.T) {
			s := over(t, rdb, "orders-"+strings.ReplaceAll(name, " ", "-"), stream.Config{})
			worker := over(t, deaf, s.Name(), stream.Config{}) // whose announcements are refused, too
			g := group(t, s, "g")
			id := publish(t, s, stream.Job{Type: "t"})[0].ID
			results := waiting(t.Context(), s, id)
			if name != "deaf" {
				listening(t, admin, s, 1)
				admin.ClientKillByFilter(t.Context(), "TYPE", "pubsub")
			}
			complete(t, worker, g, `"r"`, read(t, worker, s.Name(), "g", 1)[0])
			if texts, errs := results(); texts[0] != "r" {
				t.Errorf("%q, %v", texts, errs)
			}
		})
	}
}

// TestWaitThroughAnOutage: Redis goes away and comes back, and the wait goes on.
func TestWaitThroughAnOutage(t *testing.T) {
	t.Parallel()
	direct := redistest.Client(t)
	opt := redistest.Options(t)
	proxy := redistest.NewProxy(t, opt.Addr)
	opt.Addr = proxy.Addr()
	s := over(t, redistest.Connect(t, opt), redistest.Name(t), stream.Config{PublishTimeout: 200 * time.Millisecond})
	near := over(t, direct, s.Name(), stream.Config{})
	g := group(t, near, "g")
	id := publish(t, near, stream.Job{Type: "t"})[0].ID
	results := waiting(t.Context(), s, id)
	ctx, cancel := context.WithCancel(t.Context())
	gone := waiting(ctx, s, id)
	listening(t, direct, s, 1)
	proxy.Refuse()
	proxy.Cut()
	complete(t, near, g, `"r"`, read(t, near, s.Name(), "g", 1)[0])
	cancel()
	if _, errs := gone(); !errors.Is(errs[0], context.Canceled) {
		t.Errorf("cancelled while redis is away: %v", errs[0])
	}
	if err := proxy.Forward(); err != nil {
		t.Fatal(err)
	}
	if texts, errs := results(); texts[0] != "r" {
		t.Errorf("%q, %v", texts, errs)
	}
}

// TestWaitOnEvents: it has ended when it has in every group.
func TestWaitOnEvents(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{Kind: stream.KindEvents})
	a, b := group(t, s, "a"), group(t, s, "b")
	id := publish(t, s, stream.Job{Type: "t"})[0].ID
	results := waiting(t.Context(), s, id)
	listening(t, rdb, s, 1)
	da, db := read(t, s, s.Name(), "a", 1)[0], read(t, s, s.Name(), "b", 1)[0]
	da.Delete, db.Delete = false, false
	complete(t, s, a, `"r"`, da)
	if info := get(t, s, id, stream.Active); info.Ended() {
		t.Fatalf("%+v", info)
	}
	call(t, s, engine.SettleCall(db.Held, []string{db.Entry}))
	_ = b
	if texts, errs := results(); texts[0] != "r" {
		t.Errorf("%q, %v", texts, errs)
	}
}

// scriptless notes which jobs scripts have asked for. Once it is shut it lets none through, and counts the records that are read.
type scriptless struct {
	shut  atomic.Bool
	asked sync.Map
	gets  atomic.Int64
}

func (h *scriptless) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (h *scriptless) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (h *scriptless) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !strings.HasPrefix(cmds[0].Name(), "eval") {
			if h.shut.Load() {
				h.gets.Add(int64(len(cmds)))
			}
			return next(ctx, cmds)
		}
		err := io.EOF
		if !h.shut.Load() {
			err = next(ctx, cmds)
		}
		for _, cmd := range cmds {
			if err != nil {
				cmd.SetErr(err)
				continue
			}
			for _, arg := range cmd.Args() {
				h.asked.Store(fmt.Sprint(arg), true)
			}
		}
		return err
	}
}

// TestWaitReadsTheRecord: what has ended is told with its end where few end at once and are small, and else read by one GET,
// for who waited first and for who joined them.
func TestWaitReadsTheRecord(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		jobs, size int
		gets       bool
	}{
		"told":         {jobs: 8, size: 1},
		"told at 4096": {jobs: 2, size: 2000},
		"many":         {jobs: 9, size: 1, gets: true},
		"large":        {jobs: 2, size: 2050, gets: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			near, direct := open(t, stream.Config{})
			g := group(t, near, "g")
			rdb := redistest.Connect(t, redistest.Options(t))
			hook := &scriptless{}
			rdb.AddHook(hook)
			s := over(t, rdb, near.Name(), stream.Config{})
			var ids []string
			for range c.jobs {
				ids = append(ids, publish(t, near, stream.Job{Type: "t"})[0].ID)
			}
			ds := read(t, near, s.Name(), "g", int64(c.jobs))
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			first := waiting(ctx, s, ids[0])
			listening(t, direct, s, 1)
			second := waiting(ctx, s, ids[1])
			redistest.Wait(t, "the second waits too", func() bool { _, ok := hook.asked.Load(ids[1]); return ok })
			hook.shut.Store(true)
			result := strings.Repeat("r", c.size)
			complete(t, near, g, strconv.Quote(result), ds...)
			for _, results := range []func() ([]string, []error){first, second} {
				if texts, errs := results(); texts[0] != result {
					t.Errorf("%q, %v", texts, errs)
				}
			}
			if n := hook.gets.Load(); n > 0 != c.gets {
				t.Errorf("%d records were read", n)
			}
		})
	}
}

// TestWaitHearsNonsense: what is said on the channel and makes no sense is nothing but a reason to look.
func TestWaitHearsNonsense(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	id := publish(t, s, stream.Job{Type: "t"})[0].ID
	d := read(t, s, s.Name(), "g", 1)[0]
	results := waiting(t.Context(), s, id)
	listening(t, rdb, s, 1)
	channel := engine.NewKeys(s.Name()).Ended
	for _, tail := range []string{"", "\n", "\n\n", "\n\nx\ncompleted ", "\n\n99\ncompleted ", "\n\n-1\ncompleted ", "\n\n99999999999999999999\ncompleted ", "\n\n0\n", "\n\n6\nmissed", "\n\n4\n \n{}", "\n\n1"} {
		rdb.Publish(t.Context(), channel, id+tail)
		rdb.Publish(t.Context(), channel, "another"+tail)
		rdb.Publish(t.Context(), channel, "another\n"+id+tail)
	}
	complete(t, s, g, `"r"`, d)
	if texts, errs := results(); texts[0] != "r" {
		t.Errorf("%q, %v", texts, errs)
	}
}
