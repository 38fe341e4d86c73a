package scheduler_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// TestStoreRemoveTakesNoTick: a schedule that is in a program as well is removed from Redis, as its log asks for. The program's goes on.
func TestStoreRemoveTakesNoTick(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	store := newStore(t, rdb)
	runWith(t, rdb, scheduler.Config{}, each("heart", s))
	for range 3 {
		n := len(fired(t, rdb, "orders", "heart"))
		waitTicks(t, rdb, "orders", "heart", n+1)
		if err := store.Put(t.Context(), each("heart", s)); err != nil {
			t.Fatal(err)
		}
		if err := store.Remove(t.Context(), "heart"); err != nil {
			t.Fatal(err)
		}
		gapless(t, waitTicks(t, rdb, "orders", "heart", n+3))
	}
}

// TestRecordThatIsLost: a leader whose record a failover has lost knows what it has fired, and fires what comes next.
func TestRecordThatIsLost(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	runWith(t, rdb, scheduler.Config{}, each("heart", s))
	for n := range 3 {
		waitTicks(t, rdb, "orders", "heart", n+1)
		rdb.Del(t.Context(), "{orders}:ticks")
	}
	gapless(t, waitTicks(t, rdb, "orders", "heart", 5))
}

// far is a Redis that is empty and five milliseconds away.
type far struct{}

func (far) DialHook(next redis.DialHook) redis.DialHook { return next }

func (far) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (far) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
		if cmd.Name() == "hget" {
			return redis.Nil
		}
		return nil
	}
}

// TestStoreListsMany: a thousand schedules are listed well within the time that a call has.
func TestStoreListsMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
		defer rdb.Close()
		rdb.AddHook(far{})
		s, err := stream.New(rdb, "orders", stream.Config{})
		if err != nil {
			t.Fatal(err)
		}
		sched, err := scheduler.New(rdb, scheduler.Config{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 1000 {
			if err := sched.Add(each(fmt.Sprintf("s%03d", i), s)); err != nil {
				t.Fatal(err)
			}
		}
		list, err := sched.Store().List(t.Context())
		if err != nil || len(list) != 1000 {
			t.Fatalf("%d schedules, %v", len(list), err)
		}
		for i, status := range list {
			if status.Err != nil || status.Schedule.Name != fmt.Sprintf("s%03d", i) {
				t.Fatalf("%d is %s: %v", i, status.Schedule.Name, status.Err)
			}
		}
	})
}

// TestStorePutRefusesWhatCannotBe: what no scheduler would take from Redis, or no stream from a scheduler, is not kept.
func TestStorePutRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	store := newStore(t, rdb)
	for name, data := range map[string][]byte{"text": bytes.Repeat([]byte("x"), 1<<20+1), "spec": bytes.Repeat([]byte{0xff}, 900_000)} {
		sc := each(name, s)
		sc.Job.Data = data
		err := store.Put(t.Context(), sc)
		status, _ := store.Show(t.Context(), name)
		fault, ok := errors.AsType[*scheduler.Fault](err)
		if !ok || !errors.Is(err, stream.ErrInvalid) || fault.Field != "Job.Data" {
			t.Errorf("%s: Put = %v, Show: %.200v", name, err, status.Err)
		}
	}
	if n := rdb.HLen(t.Context(), engine.SchedulesKey).Val(); n != 0 {
		t.Errorf("%d are kept", n)
	}
}

// TestStoreRemovesWhatCannotBeRead: what List shows can be removed; nothing else is done with it.
func TestStoreRemovesWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	store := newStore(t, rdb)
	for i, text := range []string{"garbage", "[]", "{}", `{"version":"x","spec":7}`, "null"} {
		rdb.HSet(t.Context(), engine.SchedulesKey, "bad", text)
		if list, err := store.List(t.Context()); err != nil || len(list) != 1 || list[0].Err == nil {
			t.Errorf("%s: List = %+v, %v", text, list, err)
		}
		if err := store.Pause(t.Context(), "bad"); i < 2 && (err == nil || errors.Is(err, stream.ErrNotFound)) {
			t.Errorf("%s: Pause = %v", text, err)
		}
		if err := store.Remove(t.Context(), "bad"); err != nil || rdb.HLen(t.Context(), engine.SchedulesKey).Val() != 0 {
			t.Errorf("%s: Remove = %v", text, err)
		}
	}
	rdb.HSet(t.Context(), engine.SchedulesKey, "bad", "garbage")
	if err := store.Put(t.Context(), each("bad", s)); err != nil {
		t.Error(err)
	}
}

// TestStoreRemovesWhatIsInTheProgramToo: of a schedule that is in two places, the one in Redis can be removed; the other not.
func TestStoreRemovesWhatIsInTheProgramToo(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	if err := newStore(t, rdb).Put(t.Context(), each("mine", s)); err != nil {
		t.Fatal(err)
	}
	sched, err := scheduler.New(rdb, scheduler.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := sched.Add(each("mine", s)); err != nil {
		t.Fatal(err)
	}
	if err := sched.Store().Remove(t.Context(), "mine"); err != nil || rdb.HLen(t.Context(), engine.SchedulesKey).Val() != 0 {
		t.Errorf("Remove = %v", err)
	}
	if err := sched.Store().Remove(t.Context(), "mine"); !errors.Is(err, stream.ErrInvalid) {
		t.Errorf("Remove of the program's = %v", err)
	}
}

// TestOnceTellsOfWrongSchedules: of one that is kept in Redis and cannot be in force Once tells, and fires the others.
func TestOnceTellsOfWrongSchedules(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	rdb.HSet(t.Context(), engine.SchedulesKey, "bad", `{"spec":{"name":"bad","stream":"s","cron":"61 * * * *","type":"t"}}`)
	sched, err := scheduler.New(rdb, scheduler.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := sched.Once(t.Context()); !errors.Is(err, stream.ErrInvalid) {
			t.Errorf("Once = %v", err)
		}
		if err := sched.Add(each(fmt.Sprint("good", time.Now().UnixNano()), s)); err != nil {
			t.Fatal(err)
		}
	}
	if n := rdb.HLen(t.Context(), "{orders}:ticks").Val(); n != 1 {
		t.Errorf("%d schedules were looked at, want the one that was there", n)
	}
}
