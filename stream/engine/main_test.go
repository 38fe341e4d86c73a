package engine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

func TestMain(m *testing.M) { redistest.Main(m) }

// world is a queue with a group "g", whose worker is "me".
type world struct {
	t   testing.TB
	rdb *redis.Client
	engine.Keys
	g engine.GroupKeys
}

func newWorld(t testing.TB, rdb *redis.Client, name string) *world {
	t.Helper()
	w := &world{t: t, rdb: rdb, Keys: engine.NewKeys(name)}
	w.g = w.Group("g", false)
	if o, err := engine.Open(t.Context(), rdb, w.Keys, "g", "queue", false); err != nil || o.Refusal != "" {
		t.Fatalf("open: %+v, %v", o, err)
	}
	return w
}

func (w *world) must(v any, err error) any {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) run(c engine.Call) any {
	w.t.Helper()
	return w.must(c.Run(w.t.Context(), w.rdb))
}

func entry(id string) engine.Entry {
	return engine.Entry{Type: "t", Data: "data of " + id, Opts: engine.Opts{ID: id}.String()}
}

// held publishes a job with an ID and reads it.
func (w *world) held(id string) engine.Held {
	w.t.Helper()
	w.run(engine.PublishCall(w.Keys, id, "n", 0, entry(id)))
	return w.read(w.Stream)
}

func (w *world) read(key string) engine.Held {
	w.t.Helper()
	res, err := w.rdb.XReadGroup(w.t.Context(), &redis.XReadGroupArgs{Group: "g", Consumer: "me", Streams: []string{key, ">"}, Count: 1, Block: -1}).Result()
	if err != nil {
		w.t.Fatalf("read %s: %v", key, err)
	}
	return engine.Held{Key: key, Group: "g", Consumer: "me", Entry: res[0].Messages[0].ID, Delete: true}
}

// dead makes a dead letter and returns its entry.
func (w *world) dead(id string) string {
	w.t.Helper()
	return w.run(engine.DeadCall(w.held(id), w.g, id, entry(id), "{}")).(string)
}

func (w *world) schedule(id string, delay time.Duration) {
	w.t.Helper()
	w.run(engine.ScheduleCall(w.Keys, id, "n", 0, delay, time.Time{}, entry(id)))
}

func (w *world) due(id string) {
	w.t.Helper()
	w.run(engine.ScheduleCall(w.Keys, id, "n", 0, 0, time.UnixMilli(1000), entry(id)))
}

// jobs counts the places where jobs are.
func (w *world) jobs() int64 {
	w.t.Helper()
	ctx, n := w.t.Context(), int64(0)
	for _, key := range []string{w.Stream, w.g.Redelivery, w.g.Suspects, w.g.Dead} {
		n += w.rdb.XLen(ctx, key).Val() // 0 when it is of another type
	}
	for _, key := range []string{w.Scheduled, w.g.Retrying} {
		n += w.rdb.ZCard(ctx, key).Val()
	}
	return n
}

// snapshot is all that is stored, as Redis would dump it.
func (w *world) snapshot() string {
	w.t.Helper()
	ctx := context.WithoutCancel(w.t.Context())
	text := ""
	for _, key := range []string{
		w.Stream, w.Config, w.IDs, w.Scheduled, w.ScheduledJobs, w.Job("x"),
		w.g.Redelivery, w.g.Suspects, w.g.Retrying, w.g.RetryingJobs, w.g.Dead,
	} {
		text += fmt.Sprintf("%s %q\n", key, w.rdb.Dump(ctx, key).Val())
	}
	return text
}

func (w *world) where(id string) string {
	return w.rdb.HGet(w.t.Context(), w.IDs, id).Val()
}
