package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// orphaned is a stream whose jobs are in nobody's list, or will be when a test has meddled with it.
type orphaned struct {
	t   *testing.T
	rdb *redis.Client
	*stream.Stream
}

func newOrphaned(t *testing.T, kind stream.Kind) *orphaned {
	t.Helper()
	o := &orphaned{t, redistest.Client(t), nil}
	o.Stream = newStream(t, o.rdb, stream.Config{Kind: kind})
	return o
}

// made makes the group.
func (o *orphaned) made() {
	o.t.Helper()
	create(o.t, o.Stream)
	killed(o.t, o.rdb, o.Stream)
}

func (o *orphaned) add(key, typ, opts string) string {
	o.t.Helper()
	entry, err := o.rdb.XAdd(o.t.Context(), &redis.XAddArgs{Stream: key, Values: []any{"type", typ, "data", "7", "traceparent", "", "opts", opts}}).Result()
	if err != nil {
		o.t.Fatal(err)
	}
	return entry
}

// die has a consumer read all that waits, and never be heard of again.
func (o *orphaned) die(name, key string) {
	o.t.Helper()
	err := o.rdb.XReadGroup(o.t.Context(), &redis.XReadGroupArgs{Group: group, Consumer: name, Streams: []string{key, ">"}, Count: 10_000, Block: -1}).Err()
	if err != nil && !errors.Is(err, redis.Nil) {
		o.t.Fatal(err)
	}
}

// orphan adds jobs to the stream that a consumer reads and that is deleted, before anybody else can read them.
func (o *orphaned) orphan(typ string, ids ...string) {
	o.t.Helper()
	if _, err := o.rdb.TxPipelined(o.t.Context(), func(pipe redis.Pipeliner) error {
		for _, id := range ids {
			pipe.XAdd(o.t.Context(), &redis.XAddArgs{Stream: o.Name(), Values: []any{"type", typ, "data", "7", "traceparent", "", "opts", fmt.Sprintf(`{"id":%q}`, id)}})
		}
		pipe.XReadGroup(o.t.Context(), &redis.XReadGroupArgs{Group: group, Consumer: "killed", Streams: []string{o.Name(), ">"}, Count: int64(len(ids)), Block: -1})
		pipe.XGroupDelConsumer(o.t.Context(), o.Name(), group, "killed")
		return nil
	}); err != nil {
		o.t.Fatal(err)
	}
}

func (o *orphaned) lanes() []string {
	return []string{o.Name(), key(o.Stream, "redelivery"), key(o.Stream, "suspects")}
}

// pendingWith counts what a consumer has pending.
func (o *orphaned) pendingWith(name string) (n int) {
	for _, key := range o.lanes() {
		n += len(o.rdb.XPendingExt(o.t.Context(), &redis.XPendingExtArgs{Stream: key, Group: group, Start: "-", End: "+", Count: 10_000, Consumer: name}).Val())
	}
	return n
}

// TestOrphansRun: jobs that somebody took off the list of a dead worker run, wherever they lay, and nothing is held
// against them: no try, no crash. Those that were suspects run one at a time as before.
func TestOrphansRun(t *testing.T) {
	t.Parallel()
	for name, meddle := range map[string]func(o *orphaned, key string){
		"consumer deleted": func(o *orphaned, key string) {
			o.die("killed", key)
			o.rdb.XGroupDelConsumer(o.t.Context(), key, group, "killed")
		},
		"acknowledged by hand": func(o *orphaned, key string) {
			o.die("killed", key)
			for _, e := range o.rdb.XRange(o.t.Context(), key, "-", "+").Val() {
				o.rdb.XAck(o.t.Context(), key, group, e.ID)
			}
		},
		"skipped": func(o *orphaned, key string) { o.rdb.XGroupSetID(o.t.Context(), key, group, "$") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrphaned(t, stream.KindQueue)
			o.made()
			const each = 3
			crashes := make(map[string]int) // what a job brings along
			for i, key := range o.lanes() {
				for n := range each {
					id := fmt.Sprintf("job-%d-%d", i, n)
					crashes[id] = []int{0, 1, 2}[i]
					o.add(key, "ping", fmt.Sprintf(`{"id":%q,"err":1,"cr":%d}`, id, crashes[id]))
				}
				meddle(o, key)
			}
			if n := o.pendingWith(""); n != 0 {
				t.Fatalf("%d jobs are pending: this proves nothing", n)
			}
			w := newWorker(t, leased(), o.Stream)
			var book ledger
			var mu sync.Mutex
			running, most := 0, 0
			consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
				book.add(job.ID)
				n := consumer.Crashes(job.Delivery)
				if job.Attempt != 2 || n != crashes[job.ID] {
					t.Errorf("%s: attempt %d, %d crashes; want 2 and %d", job.ID, job.Attempt, n, crashes[job.ID])
				}
				if n < 2 {
					return nil
				}
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				consumer.Heartbeat(w) // as long as it takes others to start
				mu.Lock()
				running--
				mu.Unlock()
				return nil
			})
			run(t, w)
			redistest.Wait(t, "all jobs", func() bool { return w.Stats().Completed == 3*each })
			idle(t, o.Stream)
			for id := range crashes {
				if n := book.of(id); n != 1 {
					t.Errorf("%s ran %d times, want once", id, n)
				}
			}
			if got := w.Stats(); most != 1 || got.Reclaimed != 0 || got.HandedBack != 3*each || got.Dead+got.Retried+got.LeasesLost+got.Lost != 0 {
				t.Errorf("%d suspects at a time, want 1; stats = %+v, want all handed back, and none counted as crashed", most, got)
			}
			redistest.Wait(t, "the consumer that stood for nobody to be removed", func() bool {
				for _, key := range o.lanes() {
					if slices.ContainsFunc(o.rdb.XInfoConsumers(t.Context(), key, group).Val(), func(c redis.XInfoConsumer) bool { return c.Name == engine.Nobody }) {
						return false
					}
				}
				return true
			})
		})
	}
}

// TestOrphansBehindARunningJob: a whole backlog in nobody's list runs while the job before it goes on, which does not run again.
func TestOrphansBehindARunningJob(t *testing.T) {
	t.Parallel()
	o := newOrphaned(t, stream.KindQueue)
	o.made()
	w := newWorker(t, leased(), o.Stream)
	var book ledger
	release := make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
		book.add(d.ID)
		if d.Type == "long" {
			<-release
		}
		return nil
	})
	long := o.add(o.Name(), "long", "")
	run(t, w)
	redistest.Wait(t, "the job to run", func() bool { return book.of(long) == 1 })
	const total = 1200
	jobs := make([]string, total)
	for i := range jobs {
		jobs[i] = fmt.Sprintf("job-%d", i)
	}
	o.orphan("ping", jobs...)
	redistest.Wait(t, "all orphans", func() bool { return w.Stats().Completed == total })
	free()
	redistest.Wait(t, "the job before them", func() bool { return w.Stats().Completed == total+1 })
	idle(t, o.Stream)
	for _, id := range append(jobs, long) {
		if n := book.of(id); n != 1 {
			t.Errorf("%s ran %d times, want once", id, n)
		}
	}
	if got := w.Stats(); got.Reclaimed+got.LeasesLost+got.Lost != 0 {
		t.Errorf("stats = %+v, want no lease lost", got)
	}
}

// TestDeletedConsumerLives: jobs of a living worker whose consumer somebody deletes stay its own, even when another
// worker finds them in nobody's list first.
func TestDeletedConsumerLives(t *testing.T) {
	t.Parallel()
	o := newOrphaned(t, stream.KindQueue)
	o.made()
	release := make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	var book ledger
	start := func() *consumer.Worker {
		w := newWorker(t, leased(), o.Stream)
		w.HandleOther(func(ctx context.Context, d *consumer.Delivery) error {
			book.add(d.ID)
			if d.Type == "long" {
				select {
				case <-release:
				case <-ctx.Done():
					t.Errorf("the run of %s was ended: %v", d.ID, context.Cause(ctx))
				}
			}
			return nil
		})
		run(t, w)
		return w
	}
	owner := start()
	long := []string{"plain", "back", "suspect"}
	for i, key := range o.lanes() {
		o.add(key, "long", fmt.Sprintf(`{"id":%q,"cr":%d}`, long[i], i))
	}
	redistest.Wait(t, "the jobs to run", func() bool { return len(owner.Running()) == len(long) })
	other := start()

	keys := engine.NewKeys(o.Name())
	for lane, key := range o.lanes() {
		for found := int64(0); found == 0; { // until no heartbeat of its owner comes in between
			o.rdb.XGroupDelConsumer(t.Context(), key, group, owner.Name())
			v, err := engine.MendCall(keys, keys.Group(group, false), group, lane, "", 10).Run(t.Context(), o.rdb)
			if err == nil {
				found, _, err = engine.ReadMend(v)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	o.orphan("ping", "orphan")
	// It is found after them: when it has gone back, a lease has passed for all.
	redistest.Wait(t, "an orphan to run", func() bool { return owner.Stats().Completed+other.Stats().Completed == 1 })
	if n := o.pendingWith(owner.Name()); n != len(long) {
		t.Errorf("%d jobs are in the list of the worker that runs %d", n, len(long))
	}
	free()
	redistest.Wait(t, "all jobs", func() bool { return owner.Stats().Completed+other.Stats().Completed == int64(1+len(long)) })
	idle(t, o.Stream)
	for _, id := range long {
		if n := book.of(id); n != 1 {
			t.Errorf("%s ran %d times, want once", id, n)
		}
	}
	if n := owner.Stats().LeasesLost + other.Stats().LeasesLost; n != 0 {
		t.Errorf("%d leases were lost, want none", n)
	}
}

// TestHistoryStaysHistory: a stream that was another program's, which acknowledged what it had done and left it
// there, becomes a queue: what was done by then never runs, and what a deleted consumer held later does.
func TestHistoryStaysHistory(t *testing.T) {
	t.Parallel()
	o := newOrphaned(t, stream.KindQueue)
	ctx := t.Context()
	var entries []string
	for range 12 {
		entries = append(entries, o.rdb.XAdd(ctx, &redis.XAddArgs{Stream: o.Name(), Values: []string{"n", "1"}}).Val())
	}
	o.rdb.XGroupCreate(ctx, o.Name(), group, "0")
	o.rdb.XReadGroup(ctx, &redis.XReadGroupArgs{Group: group, Consumer: "foreign", Streams: []string{o.Name(), ">"}, Count: 10, Block: -1})
	o.rdb.XAck(ctx, o.Name(), group, entries[:8]...)
	want := slices.Clone(entries[8:]) // two that nobody has read, and two whose consumer is not heard of any more

	var book ledger
	start := func() (*consumer.Worker, func() error) {
		w := newWorker(t, leased(), o.Stream)
		w.HandleOther(func(_ context.Context, d *consumer.Delivery) error { book.add(d.ID); return nil })
		return w, run(t, w)
	}
	w, stop := start()
	redistest.Wait(t, "what was not done", func() bool { return w.Stats().Completed == 4 })
	_ = stop()
	for range 3 {
		want = append(want, o.rdb.XAdd(ctx, &redis.XAddArgs{Stream: o.Name(), Values: []string{"n", "2"}}).Val())
	}
	o.die("killed", o.Name())
	o.rdb.XGroupDelConsumer(ctx, o.Name(), group, "killed")
	w, _ = start()
	redistest.Wait(t, "what a deleted consumer held", func() bool { return w.Stats().Completed == 3 })
	for _, id := range want {
		if n := book.of(id); n != 1 {
			t.Errorf("%s ran %d times, want once", id, n)
		}
	}
	if n := book.total(); n != len(want) {
		t.Errorf("%d runs, want %d: %d of what was done ran again", n, len(want), n-len(want))
	}
	if left := o.rdb.XLen(ctx, o.Name()).Val(); left != 8 {
		t.Errorf("%d entries are left, want the 8 that were done before", left)
	}
}
