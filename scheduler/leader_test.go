package scheduler_test

import (
	"context"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream/engine"
)

// TestTwoLeaders: schedulers that do not share a lease, as two that both believe they lead, fire each tick once between them.
func TestTwoLeaders(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // as if the jobs were done, and their records gone: their IDs keep no second one away
		for ctx.Err() == nil {
			rdb.Del(ctx, "{orders}:ids")
		}
	}()
	one, _ := runWith(t, rdb, scheduler.Config{}, each("heart", s), each("one", s))
	two, _ := runWith(t, rdb, scheduler.Config{}, each("heart", s), each("two", s))
	waitTicks(t, rdb, "orders", "one", 2)
	waitTicks(t, rdb, "orders", "two", 2)
	gapless(t, waitTicks(t, rdb, "orders", "heart", 5))
	if n := len(rdb.Keys(t.Context(), engine.LeaderPrefix+"*").Val()); n != 2 {
		t.Errorf("%d leases, want two: this proves nothing", n)
	}
	if one.Fired() < 2 || two.Fired() < 2 {
		t.Errorf("the two have published %d and %d ticks", one.Fired(), two.Fired())
	}
}

// TestTakesOverFromTheDead: a lease that nobody renews runs out within 5 s, and what was due meanwhile comes out.
func TestTakesOverFromTheDead(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	_, stop := runWith(t, rdb, scheduler.Config{}, each("heart", s))
	waitTicks(t, rdb, "orders", "heart", 1)
	lease := rdb.Keys(t.Context(), engine.LeaderPrefix+"*").Val()[0]
	ttl := rdb.PTTL(t.Context(), lease).Val()
	stop()
	still := redistest.Standstill(t)
	rdb.Set(t.Context(), lease, "a dead one's", 3500*time.Millisecond)
	dead, n := rdb.Time(t.Context()).Val(), len(fired(t, rdb, "orders", "heart"))
	runWith(t, rdb, scheduler.Config{}, each("heart", s))
	got := waitTicks(t, rdb, "orders", "heart", n+4)
	gapless(t, got)
	if d := got[n].stored.Sub(dead); d > 5*time.Second+still() || d < 2*time.Second || ttl > 3500*time.Millisecond {
		t.Errorf("the first tick after %s; a lease lives for %s", d, ttl)
	}
}

// TestLosesTheLease: a leader that another has taken the lease from stops firing, and takes it back when it is free.
func TestLosesTheLease(t *testing.T) {
	t.Parallel()
	rdb, s := newStream(t)
	log := new(logBook)
	sched, _ := runWith(t, rdb, scheduler.Config{Logger: log.logger()}, each("heart", s))
	waitTicks(t, rdb, "orders", "heart", 1)
	lease := rdb.Keys(t.Context(), engine.LeaderPrefix+"*").Val()[0]
	rdb.Set(t.Context(), lease, "another's", 7*time.Second)
	redistest.Wait(t, "the loss to be seen", func() bool { return log.count("lost the lease") == 1 })
	before := sched.Fired()
	redistest.Wait(t, "the lease to be free", func() bool { return rdb.Get(t.Context(), lease).Val() != "another's" })
	if n := sched.Fired() - before; n > 1 {
		t.Errorf("%d ticks while another led", n)
	}
	gapless(t, waitTicks(t, rdb, "orders", "heart", int(before)+4))
}
