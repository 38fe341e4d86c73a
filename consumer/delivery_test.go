package consumer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

func TestNewerFormatBounces(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error {
		t.Error("a job of a newer format ran")
		return nil
	})
	run(t, w)
	rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []any{"type", "ping", "data", "1", "traceparent", "", "opts", `{"v":99,"zz":[1,2]}`}})
	redistest.Wait(t, "the job to bounce", func() bool { return w.Stats().Bounced > 0 })
	bodies := rdb.HVals(t.Context(), "{"+s.Name()+"}:g:"+group+":retrying:jobs").Val()
	if len(bodies) != 1 || !strings.Contains(bodies[0], `"zz":[1,2]`) || !strings.Contains(bodies[0], `"v":99`) {
		t.Errorf("parked as %q, want what this build does not know kept", bodies)
	}
}

func TestBrokenOptsAreKeptAsTheyAre(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { return nil })
	run(t, w)
	for _, opts := range []string{`{`, `{"err":-5}`, `[]`, `{"f":1e99}`, `"x"`} {
		rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []any{"type", "ping", "data", "1", "traceparent", "", "opts", opts}})
	}
	for _, letter := range deadLetters(t, s, 5) {
		if letter.Reason != "undecodable" || !strings.Contains(letter.Error, "opts") {
			t.Errorf("dead letter = %+v, want undecodable opts", letter)
		}
	}
	idle(t, s)
}

func TestForeignEntries(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	got := make(chan consumer.Delivery, 8)
	w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
		if d.Attempt == 1 {
			return errors.New("once more") // its fields have to survive the detour
		}
		got <- *d
		return nil
	})
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
		got <- *job.Delivery
		return nil
	})
	run(t, w)
	redistest.Wait(t, "the group", func() bool { return w.Health().Ready })
	rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []any{"sku", "A-1", "raw", "\x00\xff", "sku", "again"}})
	d := <-got
	if d.Type != "" || d.Fields["raw"] != "\x00\xff" || d.Fields["sku"] != "again" || d.Attempt != 2 {
		t.Errorf("delivery = %+v, want all fields", d)
	}
	rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []any{"type", "ping", "data", "42"}})
	if d := <-got; d.Type != "ping" || string(d.Payload) != "42" {
		t.Errorf("delivery = %+v, want the type's own handler", d)
	}
	idle(t, s)
}

func TestMiddlewareOrder(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	w := newWorker(t, quick(), s)
	var calls []string
	mark := func(name string) consumer.Middleware {
		return func(next consumer.Handler) consumer.Handler {
			return func(ctx context.Context, d *consumer.Delivery) error {
				calls = append(calls, name)
				defer func() { calls = append(calls, "/"+name) }()
				return next(ctx, d)
			}
		}
	}
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { calls = append(calls, "h"); return nil })
	w.Use(mark("a"), mark("b"))
	stop := run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the job", func() bool { return w.Stats().Completed == 1 })
	_ = stop()
	if got := strings.Join(calls, " "); got != "a b h /b /a" {
		t.Errorf("calls = %s, want a outermost", got)
	}
}

func TestHandleResultIsAccepted(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	w := newWorker(t, quick(), s)
	consumer.HandleResult(w, ping, func(_ context.Context, job *consumer.Job[int]) (string, error) {
		if job.Attempt == 1 {
			return "", errors.New("no")
		}
		return "yes", nil
	})
	run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the job", func() bool { return w.Stats().Completed == 1 && w.Stats().Retried == 1 })
}

func TestProgressIsSeen(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	w := newWorker(t, quick(), s)
	release := make(chan struct{})
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
		job.Progress(0.5, "half way")
		<-release
		return nil
	})
	run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the progress", func() bool {
		r := w.Running()
		return len(r) == 1 && r[0].Progress == 0.5 && r[0].Note == "half way" && r[0].Type == "ping"
	})
	close(release)
}

func TestRawPayloads(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	w := newWorker(t, quick(), s)
	got := make(chan string, 2)
	consumer.Handle(w, stream.Type[[]byte]{Name: "bytes"}, func(_ context.Context, job *consumer.Job[[]byte]) error { got <- string(job.Data); return nil })
	consumer.Handle(w, stream.Type[json.RawMessage]{Name: "raw"}, func(_ context.Context, job *consumer.Job[json.RawMessage]) error { got <- string(job.Data); return nil })
	run(t, w)
	publish(t, s, stream.Job{Type: "bytes", Data: []byte("\x00\x01")})
	if g := <-got; g != "\x00\x01" {
		t.Errorf("got %q", g)
	}
	publish(t, s, stream.Job{Type: "raw", Data: json.RawMessage(`{"a":1}`)})
	if g := <-got; g != `{"a":1}` {
		t.Errorf("got %q", g)
	}
}

// xadd adds an entry as another program would.
func xadd(t *testing.T, rdb *redis.Client, s *stream.Stream, typ, data, opts string) {
	t.Helper()
	err := rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []any{"type", typ, "data", data, "traceparent", "", "opts", opts}}).Err()
	if err != nil {
		t.Fatal(err)
	}
}

// TestJobsThatShareAnID: entries of other programs may carry the same ID, and none may overwrite another.
func TestJobsThatShareAnID(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	var book ledger
	w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
		book.add(string(d.Payload))
		return errors.New("never")
	})
	const n = 10
	for i := range n {
		xadd(t, rdb, s, "any", fmt.Sprintf("p%d", i), `{"id":"same","mt":2}`)
	}
	run(t, w)
	deadLetters(t, s, n)
	idle(t, s)
	for i := range n {
		if runs := book.of(fmt.Sprintf("p%d", i)); runs != 2 {
			t.Errorf("job %d ran %d times, want 2", i, runs)
		}
	}
}

// TestNoIDLeft: a job's own ID is taken by one that is parked, and its entry's ID is the same. It waits, and does not
// keep Redis busy by asking.
func TestNoIDLeft(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker(t, quick(), s)
	var book ledger
	w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
		if data := string(d.Payload); book.add(data) == 1 && data == "second" {
			return errors.New("not yet")
		}
		return nil
	})
	const id = "7-7"
	keys := engine.NewKeys(s.Name()).Group(group, false)
	far := float64(time.Now().Add(time.Hour).UnixMilli())
	first := engine.Entry{Data: "first", Opts: engine.Opts{ID: id}.String()}
	pipe := rdb.Pipeline()
	pipe.ZAdd(t.Context(), keys.Retrying, redis.Z{Score: far, Member: id})
	pipe.HSet(t.Context(), keys.RetryingJobs, id, first.Body())
	pipe.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), ID: id, Values: engine.Entry{Data: "second"}.Fields()})
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	run(t, w)
	redistest.Wait(t, "the second to run", func() bool { return book.of("second") == 1 })
	calls := func() (n int) {
		for line := range strings.Lines(rdb.Info(t.Context(), "commandstats").Val()) {
			if rest, ok := strings.CutPrefix(line, "cmdstat_evalsha:calls="); ok {
				_, _ = fmt.Sscanf(rest, "%d", &n)
			}
		}
		return n
	}
	before, since := calls(), time.Now()
	redistest.Wait(t, "a second", func() bool { return time.Since(since) > time.Second })
	if n := calls() - before; n > 20 {
		t.Errorf("%d scripts in a second while there is nothing to do", n)
	}
	if err := rdb.ZAdd(t.Context(), keys.Retrying, redis.Z{Score: 1, Member: id}).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := engine.Promote(t.Context(), rdb, engine.RetryingSlot(keys), 10); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, "both to end", func() bool { return book.of("first") == 1 && book.of("second") == 2 && w.Stats().Completed == 2 })
}

// TestForgedCounters: counters at their limit neither overflow nor make the job unreadable.
func TestForgedCounters(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	var runs atomic.Int32
	w.HandleOther(func(context.Context, *consumer.Delivery) error { runs.Add(1); return consumer.Snooze(0) })
	xadd(t, rdb, s, "any", "", fmt.Sprintf(`{"f":%d,"b":%d}`, math.MaxInt32, math.MaxInt32))
	run(t, w)
	redistest.Wait(t, "three runs", func() bool { return runs.Load() >= 3 })
}

// TestSnoozedPastItsExpiry: a job that has started is not "not started" when it comes back.
func TestSnoozedPastItsExpiry(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	w := newWorker(t, quick(), s)
	var runs atomic.Int32
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error {
		if runs.Add(1) == 1 {
			return consumer.Snooze(300 * time.Millisecond)
		}
		return nil
	})
	run(t, w)
	job := ping.Job(1)
	job.ExpiresAt = time.Now().Add(250 * time.Millisecond)
	publish(t, s, job)
	redistest.Wait(t, "the job to complete", func() bool { return w.Stats().Completed == 1 })
	if w.Stats().Dead != 0 {
		t.Error("the job is dead")
	}
}

// TestNewerFormatWithOtherTypes: a newer format may give a known key another type, and bounces all the same.
func TestNewerFormatWithOtherTypes(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	run(t, w)
	xadd(t, rdb, s, "any", "1", `{"v":2,"to":"5m","err":{"n":1},"id":"x1"}`)
	redistest.Wait(t, "the job to bounce", func() bool { return w.Stats().Bounced > 0 })
	bodies := rdb.HGetAll(t.Context(), "{"+s.Name()+"}:g:"+group+":retrying:jobs").Val()
	body := bodies["x1"]
	for _, want := range []string{`"v":2`, `"to":"5m"`, `"err":{"n":1}`, `"b":1`} {
		if !strings.Contains(body, want) {
			t.Errorf("parked as %q, want %s in it", body, want)
		}
	}
}

type explosive struct{ N int }

func (e *explosive) UnmarshalJSON(b []byte) error {
	if string(b) == "13" {
		panic("unlucky")
	}
	_, err := fmt.Sscan(string(b), &e.N)
	return err
}

// TestDecoderThatPanics: one payload that its decoder chokes on is dead at once, and its neighbours in the batch are not.
func TestDecoderThatPanics(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	consumer.HandleBatch(w, stream.Type[explosive]{Name: "e"}, 100, func(context.Context, []*consumer.Job[explosive]) []error { return nil })
	for i := range 10 {
		xadd(t, rdb, s, "e", fmt.Sprint(4+i), "")
	}
	run(t, w)
	letter := deadLetters(t, s, 1)[0]
	redistest.Wait(t, "the others", func() bool { return w.Stats().Completed >= 9 })
	idle(t, s)
	if letter.Reason != "undecodable" || string(letter.Payload) != "13" || w.Stats().Completed != 9 {
		t.Errorf("dead letter %+v, stats %+v", letter, w.Stats())
	}
}

// TestUnreadableEntryHandedBack leaves no trace in ids.
func TestUnreadableEntryHandedBack(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	k, g := engine.NewKeys(s.Name()), engine.NewKeys(s.Name()).Group(group, false)
	w := newWorker(t, quick(), s)
	stop := run(t, w)
	redistest.Wait(t, "the group", func() bool { return w.Health().Ready })
	_ = stop()
	xadd(t, rdb, s, "any", "1", "{")
	entry := rdb.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: group, Consumer: "me", Streams: []string{k.Stream, ">"}}).Val()[0].Messages[0].ID
	held := engine.Held{Key: k.Stream, Group: group, Consumer: "me", Entry: entry, Delete: true}
	if _, err := engine.ReleaseCall(held, g, "", engine.Entry{Type: "any", Data: "1", Opts: "{"}).Run(t.Context(), rdb); err != nil {
		t.Fatal(err)
	}
	if n := rdb.HLen(t.Context(), k.IDs).Val(); n != 0 {
		t.Errorf("%d fields in ids, want none", n)
	}
}
