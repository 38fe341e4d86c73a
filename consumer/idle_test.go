package consumer

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/engine"
)

// TestSweepsOfAnIdleGroup: while nothing is pending no lease can run out, and one look a lease is enough. What is pending at one
// heartbeat is looked after as ever from then on.
func TestSweepsOfAnIdleGroup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const lease = 30 * time.Second
		var pending, orphans, sweeps atomic.Int64
		f := &fakeRedis{answer: func(cmd redis.Cmder) (any, error) {
			now := time.Now().UnixMilli()
			none := []any{[]any{}, []any{}, []any{}}
			if isBeat(cmd) {
				return []any{now, "1", int64(0), none, none, int64(0), []any{"", ""}, int64(-1), int64(0), none, none, int64(0), []any{orphans.Load(), int64(0), int64(0)}, pending.Load(), int64(0), ""}, nil
			}
			if cmd.Name() != "evalsha" {
				return nil, serverError("ERR this is no script")
			}
			sweeps.Add(1)
			return []any{engine.SweepQuiet, now, none, int64(0), (lease / 3).Milliseconds()}, nil
		}}
		w := fakeWorker(t, f, Config{Lease: lease})
		ended := make(chan struct{})
		go func() { w.keepLeases(w.sources[0]); close(ended) }()
		time.Sleep(2 * lease)
		within := func(leases int) int64 {
			before := sweeps.Load()
			time.Sleep(time.Duration(leases) * lease)
			return sweeps.Load() - before
		}
		if n := within(20); n < 15 || n > 21 {
			t.Errorf("%d sweeps in 20 leases with nothing pending, want one a lease", n)
		}
		pending.Store(1)
		if n := within(1); n < 2 {
			t.Errorf("%d sweeps in the lease in which something is pending, want one a third", n)
		}
		if n := within(20); n < 55 {
			t.Errorf("%d sweeps in 20 leases with something pending, want one a third", n)
		}
		pending.Store(0)
		orphans.Store(1) // what is in nobody's list is looked for along with sweeps
		time.Sleep(lease)
		if n := within(20); n < 55 {
			t.Errorf("%d sweeps in 20 leases with something in nobody's list, want one a third", n)
		}
		close(w.gone)
		<-ended
	})
}
