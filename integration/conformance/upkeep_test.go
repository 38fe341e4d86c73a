package conformance_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/integration/servers"
	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// past opens groups of a stream and adds n entries that were published half an hour ago.
func past(t *testing.T, s *stream.Stream, n int, groups ...string) (entries []string) {
	t.Helper()
	for _, g := range groups {
		if o, err := engine.Open(t.Context(), s.Client(), engine.NewKeys(s.Name()), g, string(s.Kind()), false); err != nil || o.Refusal != "" {
			t.Fatal(o, err)
		}
	}
	if err := s.Announce(t.Context()); err != nil {
		t.Fatal(err)
	}
	from := time.Now().Add(-30 * time.Minute).UnixMilli()
	pipe := s.Client().Pipeline()
	for i := range n {
		entries = append(entries, fmt.Sprint(from+int64(i), "-0"))
		pipe.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), ID: entries[i], Values: engine.Entry{Type: number.Name, Data: fmt.Sprint(i)}.Fields()})
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	return entries
}

// upkeep trims an events stream up to where all groups are done, removes consumers of dead workers that hold nothing, deletes
// dead letters that are old enough, and frees the IDs of jobs that are gone.
func upkeep(t *testing.T, w *world) {
	own := w.own(t, servers.Config{}) // what it does it does to all streams
	rdb, ctx := own.client(t), t.Context()
	log, orders := over(t, rdb, name(t), events), over(t, rdb, name(t), stream.Config{})
	entries := past(t, log, 300, "mail", "audit")
	for g, n := range map[string]int64{"mail": 250, "audit": 200} {
		args := &redis.XReadGroupArgs{Group: g, Consumer: "holds", Streams: []string{log.Name(), ">"}, Count: n, Block: -1}
		if err := rdb.XReadGroup(ctx, args).Err(); err != nil {
			t.Fatal(err)
		}
		ids := slices.Clone(entries[:n])
		if g == "audit" {
			ids = slices.Delete(ids, 150, 151)
		}
		rdb.XAck(ctx, log.Name(), g, ids...)
	}
	rdb.XGroupCreateConsumer(ctx, log.Name(), "audit", "dead")
	for _, c := range []string{"dead", "holds"} {
		row := fmt.Sprintf(`{"at":%d,"beat":1,"lease":1000,"gone":0,"run":[]}`, time.Now().Add(-time.Minute).UnixMilli())
		rdb.HSet(ctx, engine.NewKeys(log.Name()).Group("audit", true).Workers, "audit:"+c, row)
	}

	past(t, orders, 0, group)
	keys := engine.NewKeys(orders.Name())
	letters := keys.Group(group, false)
	for i, age := range []time.Duration{3 * time.Hour, time.Hour} {
		id := fmt.Sprint("letter-", i)
		o := engine.Opts{ID: id, Unique: id}
		values := append(engine.Entry{Type: number.Name, Data: "1", Opts: o.String()}.Fields(), "info", `{"reason":"failed"}`)
		entry, err := rdb.XAdd(ctx, &redis.XAddArgs{Stream: letters.Dead, ID: fmt.Sprint(time.Now().Add(-age).UnixMilli(), "-0"), Values: values}).Result()
		if err != nil {
			t.Fatal(err)
		}
		rdb.HSet(ctx, keys.IDs, id, "dead "+entry)
		rdb.Set(ctx, keys.Unique(id), id, 0)
	}
	for _, id := range []string{"later", "gone"} {
		publish(t, orders, stream.Job{Type: number.Name, Data: 1, ID: id, Delay: time.Hour})
	}
	rdb.ZRem(ctx, keys.Scheduled, "gone")
	rdb.HDel(ctx, keys.ScheduledJobs, "gone")

	s, err := scheduler.New(own.server.Client(t), scheduler.Config{KeepDead: 2 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	pass := func(want scheduler.Upkeep, left []string, consumers ...string) {
		t.Helper()
		if _, err := s.Once(ctx); err != nil {
			t.Fatal(err)
		}
		got := s.Upkeep()
		unserved := slices.ContainsFunc(got.Findings, func(f scheduler.Finding) bool {
			return f.Kind == scheduler.Unserved && f.Group == "audit" && f.Jobs == 1
		})
		if unserved != slices.Contains(consumers, "holds") {
			t.Errorf("findings %+v", got.Findings)
		}
		if got.Findings = nil; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("upkeep %+v, want %+v", got, want)
		}
		if all := rdb.XRange(ctx, log.Name(), "-", "+").Val(); len(all) != len(left) || all[0].ID != left[0] {
			t.Errorf("%d entries are left, want %d, and %s the first", len(all), len(left), left[0])
		}
		var names []string
		for _, c := range rdb.XInfoConsumers(ctx, log.Name(), "audit").Val() {
			names = append(names, c.Name)
		}
		if !slices.Equal(names, consumers) {
			t.Errorf("the consumers %v are left, want %v", names, consumers)
		}
	}
	pass(scheduler.Upkeep{Passes: 2, Trimmed: 150, Reaped: 1, Expired: 1, Freed: 1}, entries[150:], "holds")
	if ids := rdb.HKeys(ctx, keys.IDs).Val(); len(ids) != 2 || !slices.Contains(ids, "later") || !slices.Contains(ids, "letter-1") {
		t.Errorf("the IDs %v are taken, want later and letter-1", ids)
	}
	if rdb.Exists(ctx, keys.Unique("letter-0")).Val() != 0 || rdb.Exists(ctx, keys.Unique("letter-1")).Val() != 1 || rdb.XLen(ctx, letters.Dead).Val() != 1 {
		t.Error("the young letter and its lock were to stay, and the old one's to go")
	}
	rdb.XAck(ctx, log.Name(), "audit", entries[150])
	pass(scheduler.Upkeep{Passes: 4, Trimmed: 200, Reaped: 2, Expired: 1, Freed: 1}, entries[200:])

	worker := own.workerOf(t, "audit", quick(), log)
	var book ledger
	consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error { book.add(job.Data); return nil })
	run(t, worker)
	drained(t, log, "audit")
	if book.total() != 100 {
		t.Errorf("%d jobs ran, want the 100 that the group had not read", book.total())
	}
}
