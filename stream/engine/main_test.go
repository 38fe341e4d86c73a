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
	return w.run(engine.DeadCall(w.held(id), w.g, id, entry(id), "{}", engine.Lock{})).(string)
}

// deletedByHand deletes a job that its worker gave back, and returns the call that asks if its ID is free.
func (w *world) deletedByHand(id string) engine.Call {
	w.t.Helper()
	w.run(engine.ReleaseCall(w.held(id), w.g, id, entry(id)))
	c := engine.FreeCall(w.Keys, id, w.where(id), []string{"g"})
	w.rdb.Del(w.t.Context(), w.g.Redelivery)
	return c
}

// trimmed deletes a job from the stream, where it was published unless it is there, and returns the call that asks if its ID is free.
func (w *world) trimmed(id string) engine.Call {
	w.t.Helper()
	if w.where(id) == "" {
		w.run(engine.PublishCall(w.Keys, id, "n", 0, entry(id)))
	}
	w.rdb.XTrimMaxLen(w.t.Context(), w.Stream, 0)
	return engine.FreeCall(w.Keys, id, w.where(id), nil)
}

// missed writes down that the job was missed that long ago.
func (w *world) missed(id string, ago time.Duration) {
	w.t.Helper()
	w.rdb.Set(w.t.Context(), w.Job(id), fmt.Sprint("missed ", time.Now().Add(-ago).UnixMilli(), " ", w.where(id)), time.Hour)
}

// cancel is the call that cancels a job, by a caller who knows the group.
func (w *world) cancel(id string) engine.Call {
	return engine.CancelCall(w.Keys, id, "", false, "", time.Hour, "k", []string{"g"})
}

func (w *world) schedule(id string, delay time.Duration) {
	w.t.Helper()
	w.run(engine.ScheduleCall(w.Keys, id, "n", 0, delay, time.Time{}, entry(id)))
}

func (w *world) due(id string) {
	w.t.Helper()
	w.run(engine.ScheduleCall(w.Keys, id, "n", 0, 0, time.UnixMilli(1000), entry(id)))
}

// report says of a held job that it is half done, as the version of its first run with that number, and adds lines to its log.
func (w *world) report(h engine.Held, id string, version int64, lines ...string) engine.Call {
	r := engine.Report{
		Entry: h.Entry, ID: id, Age: 1000, Fence: 1 << 32, Run: "r1", Keep: time.Hour, Version: version,
		Said: engine.Said{Age: 1000, Fence: 1 << 32, Attempt: 1, At: 5, Fraction: 0.5, Note: "half of it"}, First: 1, Lines: lines,
	}
	return engine.ReportCall(h, w.g, r)
}

// reschedule moves a job whose opts are those of entry, to now when the delay is 0.
func (w *world) reschedule(slot engine.Slot, id string, delay time.Duration) engine.Call {
	o := engine.Opts{ID: id}
	return engine.RescheduleCall(slot, id, o.String(), o, delay, time.Time{})
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
		w.Stream, w.Config, w.IDs, w.Scheduled, w.ScheduledJobs, w.Job("x"), w.Unique("k"), w.Next, w.g.Report("x"), w.Once("x"), w.g.Marks, w.Ticks,
		w.g.Redelivery, w.g.Suspects, w.g.Retrying, w.g.RetryingJobs, w.g.Dead,
	} {
		text += fmt.Sprintf("%s %q\n", key, w.rdb.Dump(ctx, key).Val())
	}
	return text
}

func (w *world) where(id string) string {
	return w.rdb.HGet(w.t.Context(), w.IDs, id).Val()
}
