package stream_test

import (
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

func TestMain(m *testing.M) { redistest.Main(m) }

// open returns a stream of this test's own, through a client with go-redis's defaults.
func open(t testing.TB, cfg stream.Config) (*stream.Stream, *redis.Client) {
	t.Helper()
	rdb := redistest.Client(t)
	return over(t, rdb, redistest.Name(t), cfg), rdb
}

func over(t testing.TB, rdb redis.UniversalClient, name string, cfg stream.Config) *stream.Stream {
	t.Helper()
	s, err := stream.New(rdb, name, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// group makes a group of s, as its first worker does, and returns its keys.
func group(t testing.TB, s *stream.Stream, name string) engine.GroupKeys {
	t.Helper()
	keys := engine.NewKeys(s.Name())
	opened, err := engine.Open(t.Context(), s.Client(), keys, name, string(s.Kind()), false)
	if err != nil || opened.Refusal != "" {
		t.Fatalf("open group %s: %+v, %v", name, opened, err)
	}
	return keys.Group(name, opened.Kind == string(stream.KindEvents))
}

// delivery is a job as a worker holds it.
type delivery struct {
	engine.Held
	id    string
	entry engine.Entry
	opts  engine.Opts
}

// read takes at most n jobs of key, as the worker "me".
func read(t testing.TB, s *stream.Stream, key, group string, n int64) []delivery {
	t.Helper()
	v, err := engine.DoAt(t.Context(), s.Client(), 7, "XREADGROUP", "GROUP", group, "me", "COUNT", n, "STREAMS", key, ">")
	if err == redis.Nil { //nolint:errorlint // go-redis returns it bare
		return nil
	}
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	var out []delivery
	for _, item := range entriesOf(v) {
		pair := item.([]any)
		var values []string
		for _, f := range pair[1].([]any) {
			values = append(values, f.(string))
		}
		e, o, err := engine.ParseEntry(values)
		if err != nil {
			t.Fatalf("parse %v: %v", values, err)
		}
		d := delivery{Held: engine.Held{Key: key, Group: group, Consumer: "me", Entry: pair[0].(string), Delete: true}, id: o.ID, entry: e, opts: o}
		if d.id == "" {
			d.id = d.Entry
		}
		out = append(out, d)
	}
	return out
}

// entriesOf takes apart the answer to XREADGROUP of one stream, which is a map under RESP3.
func entriesOf(v any) []any {
	switch v := v.(type) {
	case map[any]any:
		for _, entries := range v {
			return entries.([]any)
		}
	case []any:
		return v[0].([]any)[1].([]any)
	}
	return nil
}

// call runs a script that must succeed, and returns its answer.
func call(t testing.TB, s *stream.Stream, c engine.Call) any {
	t.Helper()
	v, err := c.Run(t.Context(), s.Client())
	if err != nil {
		t.Fatalf("%v: %v", c.Keys, err)
	}
	return v
}

// kill sends a delivery to the dead letters.
func kill(t testing.TB, s *stream.Stream, g engine.GroupKeys, d delivery, info string) {
	t.Helper()
	d.opts.ID = d.id
	d.entry.Opts = d.opts.String()
	if v := call(t, s, engine.DeadCall(d.Held, g, d.id, d.entry, info, engine.Lock{})); v == "" {
		t.Fatalf("job %s was not ours to bury", d.id)
	}
}

// publish stores jobs that must be stored.
func publish(t testing.TB, s *stream.Stream, jobs ...stream.Job) []stream.Receipt {
	t.Helper()
	receipts, err := s.PublishAll(t.Context(), jobs)
	if err != nil {
		t.Fatal(err)
	}
	return receipts
}

func length(t testing.TB, rdb *redis.Client, key string) int64 {
	t.Helper()
	n, err := rdb.XLen(t.Context(), key).Result()
	if err != nil {
		t.Fatal(err)
	}
	return n
}
