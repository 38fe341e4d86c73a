package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// TestEventsGroupIsMadeAgainWhereItWas: on an events stream what is done stays, so a group that somebody destroyed
// must not begin anew: it goes back to the oldest job that was not done. That one runs on where it runs.
func TestEventsGroupIsMadeAgainWhereItWas(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{Kind: stream.KindEvents})
	create(t, s)
	var book ledger
	hold := make(chan struct{})
	w := newWorker(t, leased(), s)
	consumer.Handle(w, ping, func(ctx context.Context, job *consumer.Job[int]) error {
		if book.add(fmt.Sprint(job.Data)) == 1 && job.Data == 10 {
			select {
			case <-hold:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	run(t, w)
	publish(t, s, many(15)...) // 10 is held
	redistest.Wait(t, "the others", func() bool { return w.Stats().Completed == 14 })
	entries, err := rdb.XRange(t.Context(), s.Name(), "-", "+").Result()
	if err != nil || len(entries) != 15 {
		t.Fatal(len(entries), err)
	}
	redistest.Wait(t, "a heartbeat that knows", func() bool {
		return rdb.HGet(t.Context(), "{"+s.Name()+"}:config", "position:"+group).Val() == entries[9].ID
	})
	before := w.Stats()
	if err := rdb.XGroupDestroy(t.Context(), s.Name(), group).Err(); err != nil {
		t.Fatal(err)
	}
	publish(t, s, ping.Job(15))
	redistest.Wait(t, "what is new", func() bool { return book.of("15") == 1 })
	consumer.Heartbeat(w)
	close(hold)
	idle(t, s)
	if runs := book.of("10"); runs != 1 || w.Stats().LeasesLost != before.LeasesLost {
		t.Errorf("the job that ran meanwhile ran %d times, and %d leases were lost; want it to run on", runs, w.Stats().LeasesLost-before.LeasesLost)
	}
	for i := range 10 {
		if runs := book.of(fmt.Sprint(i)); runs != 1 {
			t.Errorf("job %d ran %d times: it was done before the oldest that was not", i, runs)
		}
	}
	for i := 11; i < 15; i++ {
		if runs := book.of(fmt.Sprint(i)); runs > 2 {
			t.Errorf("job %d ran %d times, want at most twice", i, runs)
		}
	}
}

// TestGroupOfANewStreamBeginsAtItsBeginning: somebody put another stream in the old one's place, whose IDs are lower.
func TestGroupOfANewStreamBeginsAtItsBeginning(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{Kind: stream.KindEvents})
	create(t, s)
	var book ledger
	serve := func() *consumer.Worker {
		w := newWorker(t, leased(), s)
		consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error { book.add(fmt.Sprint(job.Data)); return nil })
		return w
	}
	w := serve()
	stop := run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the first, and its position", func() bool {
		return w.Stats().Completed == 1 && !slices.Contains([]string{"", "0-0"}, rdb.HGet(t.Context(), "{"+s.Name()+"}:config", "position:"+group).Val())
	})
	_ = stop()
	rdb.Del(t.Context(), s.Name())
	for i, id := range []string{"77-0", "77-18446744073709551615"} {
		if err := rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), ID: id, Values: []any{"type", "ping", "data", i + 2, "traceparent", "", "opts", ""}}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	run(t, serve())
	redistest.Wait(t, "what the new stream holds", func() bool { return book.of("2") == 1 && book.of("3") == 1 })
}

// TestConfigDeletedByHand: a stream's config is made again with what its workers know, and fences go on growing.
func TestConfigDeletedByHand(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{Kind: stream.KindEvents})
	create(t, s)
	config := "{" + s.Name() + "}:config"
	fences := make(chan int64, 10)
	w := newWorker(t, leased(), s)
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error { fences <- job.Fence; return nil })
	rdb.HSet(t.Context(), config, "epoch:"+group, 7)
	run(t, w)
	publish(t, s, ping.Job(1))
	first := <-fences
	rdb.Del(t.Context(), config)
	redistest.Wait(t, "the config", func() bool { return rdb.HGet(t.Context(), config, "kind").Val() == "events" })
	publish(t, s, ping.Job(2))
	if second := <-fences; second < first {
		t.Errorf("a fence fell from %d to %d", first, second)
	}
	redistest.Wait(t, "an epoch past the last", func() bool {
		e, _ := rdb.HGet(t.Context(), config, "epoch:"+group).Int64()
		return e > first>>32
	})
}

// TestBlindWithoutUnblock: a user that may ask for its connection's ID and not unblock it gets short reads, not slow stops.
func TestBlindWithoutUnblock(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	admin := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "worker", "on", "nopass", "~*", "&*", "+@all", "-client|unblock").Err(); err != nil {
		t.Fatal(err)
	}
	s := newStream(t, redistest.Connect(t, &redis.Options{Addr: server.Addr(), Username: "worker", Password: "any"}), stream.Config{})
	w := newWorker(t, quick(), s)
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { return nil })
	run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the job", func() bool { return w.Stats().Completed == 1 })
	reads := func() int {
		info, err := admin.Info(t.Context(), "commandstats").Result()
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(info, "cmdstat_xreadgroup:calls=")
		n, _ := strconv.Atoi(after[:max(strings.Index(after, ","), 0)])
		return n
	}
	start, before := time.Now(), reads()
	redistest.Wait(t, "five reads", func() bool { return reads() >= before+5 })
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("five reads took %s: they block as if somebody could end them", took)
	}
}

// TestSuspectsGroupIsMadeAgain: nobody blocks on the suspects, so it is the sweep that finds their stream gone.
func TestSuspectsGroupIsMadeAgain(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	create(t, s)
	w := newWorker(t, leased(), s)
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { return nil })
	w.HandleOther(func(context.Context, *consumer.Delivery) error { return nil })
	run(t, w)
	redistest.Wait(t, "the worker", func() bool { return w.Health().Ready })
	suspects := "{" + s.Name() + "}:g:" + group + ":suspects"
	rdb.Del(t.Context(), suspects)
	xadd(t, rdb, s, "suspect", "1", `{"cr":1}`)
	redistest.Wait(t, "the job", func() bool { return w.Stats().Completed == 1 })
	if err := rdb.XGroupDestroy(t.Context(), suspects, group).Err(); err != nil && !strings.Contains(err.Error(), "exist") {
		t.Fatal(err)
	}
	// one that a dead worker held, and that has crashed before
	if err := rdb.XGroupCreateConsumer(t.Context(), s.Name(), group, "dead").Err(); err != nil {
		t.Fatal(err)
	}
	err := rdb.Do(t.Context(), "EVAL", `local e = redis.call('XADD', KEYS[1], '*', 'type', 'suspect', 'data', '2', 'traceparent', '', 'opts', '{"cr":1}')
		redis.call('XREADGROUP', 'GROUP', ARGV[1], 'dead', 'COUNT', 1, 'STREAMS', KEYS[1], '>')
		return redis.call('XCLAIM', KEYS[1], ARGV[1], 'dead', 0, e, 'IDLE', 100000, 'JUSTID')`, 1, s.Name(), group).Err()
	if err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, "the dead worker's job", func() bool { return w.Stats().Completed == 2 })
	if h := w.Health(); !h.Ready || h.Problem != nil {
		t.Errorf("health = %+v, want good again", h)
	}
}

// TestConfigDeletedWhileFull: it can't be made again then, and leases that are lost are told all the same.
func TestConfigDeletedWhileFull(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker(t, leased(), s)
	cause := make(chan error, 1)
	consumer.Handle(w, ping, func(ctx context.Context, job *consumer.Job[int]) error {
		rdb.ConfigSet(ctx, "maxmemory", "1")
		rdb.Del(ctx, "{orders}:config")
		rdb.Do(ctx, "XCLAIM", s.Name(), group, "thief", 0, job.ID, "JUSTID")
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return nil
	})
	run(t, w)
	publish(t, s, ping.Job(1))
	if err := <-cause; !errors.Is(err, consumer.ErrLeaseLost) {
		t.Errorf("the run ended with %v, want %v", err, consumer.ErrLeaseLost)
	}
	rdb.ConfigSet(t.Context(), "maxmemory", "0")
	redistest.Wait(t, "the config", func() bool { return rdb.HGet(t.Context(), "{orders}:config", "kind").Val() == "queue" })
}
