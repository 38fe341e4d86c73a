package engine_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// TestSentOnce: go-redis by default sends a command again when its reply is
// lost. None of ours: a worker would hear that a job it has just ended was not its own.
func TestSentOnce(t *testing.T) {
	t.Parallel()
	opt := redistest.Options(t)
	p := redistest.NewProxy(t, opt.Addr)
	opt.Addr = p.Addr()
	lossy := redistest.Connect(t, opt)
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	ctx := t.Context()
	release := func(id string) engine.Call { return engine.ReleaseCall(w.held(id), w.g, id, entry(id)) }
	w.run(release("warm")) // the script is known

	one, two, three := release("one"), release("two"), release("three")
	p.LoseReplies("EVALSHA", 1)
	if v, err := one.Run(ctx, lossy); engine.Classify(err) != engine.Lost {
		t.Errorf("Run: %v, %v, want a lost reply", v, err)
	}
	p.LoseReplies("EVALSHA", 1)
	for i, res := range engine.RunAll(ctx, lossy, []engine.Call{two, three}) {
		if engine.Classify(res.Err) != engine.Lost {
			t.Errorf("RunAll %d: %+v, want a lost reply", i, res)
		}
	}
	p.LoseReplies("XADD", 1)
	if v, err := engine.Do(ctx, lossy, "XADD", w.g.Redelivery, "*", "a", "b"); engine.Classify(err) != engine.Lost {
		t.Errorf("Do: %v, %v, want a lost reply", v, err)
	}
	if n := w.rdb.XLen(ctx, w.g.Redelivery).Val(); n != 5 || p.Lost() != 3 {
		t.Errorf("%d entries after %d lost replies, want each once", n, p.Lost())
	}
	if v := w.run(one); v != "" {
		t.Errorf("again by hand: %v, want late", v)
	}
}

// TestScriptForgotten: a server that lost its scripts, as in a restart, is sent their text, alone and in pipelines.
func TestScriptForgotten(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	w := newWorld(t, rdb, "orders")
	for round := range 3 {
		if err := rdb.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		w.schedule(fmt.Sprint("one-", round), time.Hour)
		if err := rdb.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		var calls []engine.Call
		for i := range 10 {
			id := fmt.Sprintf("%d-of-%d", round, i)
			calls = append(calls, engine.PublishCall(w.Keys, id, "n", 0, entry(id)))
		}
		for i, res := range engine.RunAll(t.Context(), rdb, calls) {
			if s, err := engine.ReadStored(res.Val, "n"); res.Err != nil || err != nil || s.Duplicate || s.Entry == "" || !strings.HasPrefix(w.where(fmt.Sprintf("%d-of-%d", round, i)), "orders "+s.Entry+" ") {
				t.Errorf("call %d: %+v, %v", i, res, err)
			}
		}
	}
	if n := w.jobs(); n != 33 {
		t.Errorf("%d jobs, want 33", n)
	}
}

func TestReadStored(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		v    any
		want engine.Stored
	}{
		"stored":         {[]any{int64(0), "5-0"}, engine.Stored{Entry: "5-0"}},
		"deferred":       {[]any{int64(0), "1000"}, engine.Stored{Deferred: true, Due: 1000}},
		"epoch":          {[]any{int64(0), "0"}, engine.Stored{Deferred: true}},
		"other's":        {[]any{int64(1), "orders 5-0 other"}, engine.Stored{Duplicate: true, Where: "orders 5-0 other"}},
		"ours":           {[]any{int64(1), "orders 5-0 mine"}, engine.Stored{Entry: "5-0"}},
		"ours, deferred": {[]any{int64(1), "scheduled 1000 mine"}, engine.Stored{Deferred: true, Due: 1000}},
		"gone":           {[]any{int64(3), "orders 5-0 other"}, engine.Stored{Duplicate: true, Gone: true, Where: "orders 5-0 other"}},
		"ours, gone":     {[]any{int64(3), "orders 5-0 mine"}, engine.Stored{Entry: "5-0"}},
		"moved on":       {[]any{int64(1), "redelivery 5-0"}, engine.Stored{Duplicate: true, Where: "redelivery 5-0"}},
		"finished":       {[]any{int64(1), "completed"}, engine.Stored{Duplicate: true, Where: "completed"}},
		"full":           {[]any{int64(2), "7"}, engine.Stored{Full: true, Where: "7"}},
	} {
		if got, err := engine.ReadStored(c.v, "mine"); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
	for _, v := range []any{nil, "x", []any{}, []any{int64(0)}} {
		if got, err := engine.ReadStored(v, "mine"); err == nil {
			t.Errorf("%v is read as %+v", v, got)
		}
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]engine.Class{
		"NOSCRIPT No matching script.": engine.NoScript, "NOGROUP No such key": engine.NoGroup, "UNBLOCKED the stream key no longer exists": engine.NoGroup,
		"OOM command not allowed when used memory > 'maxmemory'.": engine.Full, "LOADING Redis is loading": engine.Busy, "READONLY You can't write": engine.Busy,
		"MASTERDOWN Link": engine.Busy, "CLUSTERDOWN": engine.Busy, "TRYAGAIN Multiple": engine.Busy, "MOVED 1 a:1": engine.Busy, "ASK 1 a:1": engine.Busy,
		"BUSY Redis is busy": engine.Busy, "BUSYGROUP Consumer Group name already exists": engine.Refused, "NOREPLICAS Not enough": engine.Busy,
		"WRONGPASS invalid": engine.Denied, "NOAUTH Authentication required.": engine.Denied, "NOPERM this user": engine.Denied,
		"WRONGTYPE Operation": engine.Refused, "ERR unknown command": engine.Refused,
	} {
		if got := engine.Classify(fmt.Errorf("publish: %w", reply(text))); got != want {
			t.Errorf("%q is class %d, want %d", text, got, want)
		}
	}
	for err, want := range map[error]engine.Class{
		nil: engine.OK, redis.Nil: engine.OK, redis.ErrClosed: engine.Unreachable, redis.ErrPoolTimeout: engine.Unreachable,
		errors.New("EOF"): engine.Lost, engine.NotSent(errors.New("x")): engine.Unreachable,
	} {
		if got := engine.Classify(err); got != want {
			t.Errorf("%v is class %d, want %d", err, got, want)
		}
	}
}

// reply is an error as a server sends it.
type reply string

func (r reply) Error() string { return string(r) }
func (reply) RedisError()     {}
