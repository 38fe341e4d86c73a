package scheduler_test

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
)

// TestManyDueInOneSecond: they come out in the order in which they are due, and none before. How long Redis took for
// so many is logged.
func TestManyDueInOneSecond(t *testing.T) {
	t.Parallel()
	n, parts := 50_000, 50
	if redistest.Race {
		n = 5000
	}
	rdb, s := newStream(t)
	begin := rdb.Time(t.Context()).Val().Add(12 * time.Second).Truncate(time.Second)
	due := make([]time.Time, n)
	order := rand.Perm(n)
	for i := range parts {
		some := order[i*n/parts : (i+1)*n/parts]
		jobs := make([]stream.Job, 0, len(some))
		for _, k := range some {
			jobs = append(jobs, stream.Job{Type: "t", Data: k, At: begin.Add(time.Duration(k) * time.Second / time.Duration(n))})
		}
		for j, r := range publish(t, s, jobs...) {
			due[some[j]] = r.Due
		}
	}
	run(t, rdb, scheduler.Config{})
	redistest.Wait(t, "all to be promoted", func() bool { return rdb.XLen(t.Context(), "orders").Val() == int64(n) })
	early, disorder, last := 0, 0, time.Time{}
	data, at := waiting(t, rdb, "orders", n)
	for i := range data {
		k, err := strconv.Atoi(data[i])
		if err != nil {
			t.Fatal(err)
		}
		if due[k].Before(last) {
			disorder++
		}
		if last = due[k]; at[i].Before(last) {
			early++
		}
	}
	if early+disorder > 0 {
		t.Errorf("%d came early, and %d after one that was due later", early, disorder)
	}
	t.Logf("the last of %d that were due within a second came out %s after the first was due", n, at[n-1].Sub(begin))
}
