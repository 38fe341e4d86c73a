package consumer

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
)

const readOnce = 256 // entries of one read

// answerOf is a read's answer as it comes over the wire in RESP3.
func answerOf(key string, entries int, data string) []byte {
	var b bytes.Buffer
	bulk := func(s string) { fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(s), s) }
	b.WriteString("%1\r\n")
	bulk(key)
	fmt.Fprintf(&b, "*%d\r\n", entries)
	for i := range entries {
		b.WriteString("*2\r\n")
		bulk(fmt.Sprintf("1795581297244-%d", i))
		b.WriteString("*8\r\n")
		for _, s := range []string{"type", "ping", "data", data, "traceparent", "", "opts", ""} {
			bulk(s)
		}
	}
	return b.Bytes()
}

// jobPath is all that a worker does for each job of a read, but for what go-redis does: no connection is used.
func jobPath(tb testing.TB, handle func(context.Context, *Job[[]byte]) error) (oneRead func()) {
	f := &fakeRedis{answer: func(redis.Cmder) (any, error) { return []any{}, nil }}
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	tb.Cleanup(func() { _ = rdb.Close() })
	rdb.AddHook(f)
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		tb.Fatal(err)
	}
	w, err := New("billing", Config{Logger: slog.New(slog.DiscardHandler)}, s)
	if err != nil {
		tb.Fatal(err)
	}
	Handle(w, stream.Type[[]byte]{Name: "ping"}, handle)
	readyToRun(w)
	answer := answerOf("orders", readOnce, strings.Repeat("x", 97))
	l, slot, settle := w.sources[0].lanes[1], w.slots[0], &settler{w: w}
	var reply replyReader
	return func() {
		read, err := reply.read(answer)
		if err != nil {
			tb.Fatal(err)
		}
		asked := mono()
		tasks := w.handOut(l, read[l.key], asked)
		l.hold(tasks)
		w.load.Add(sum(tasks))
		w.queue(tasks)
		for range tasks {
			t, _ := w.ready.pop(slot.wait)
			w.runOne(slot, t)
		}
		settle.gather()
		if !settle.flush() {
			tb.Fatal("not settled")
		}
		reply.drop()
	}
}

// BenchmarkJob is one job's share of that.
func BenchmarkJob(b *testing.B) {
	oneRead := jobPath(b, func(context.Context, *Job[[]byte]) error { return nil })
	b.ReportAllocs()
	for n := 0; n < b.N; n += readOnce {
		oneRead()
	}
}
