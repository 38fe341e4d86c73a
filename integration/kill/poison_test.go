//go:build unix

package kill_test

import (
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/integration/kill"
	"github.com/penstock-go/penstock/integration/kill/ledger"
	"github.com/penstock-go/penstock/stream"
)

// TestPoison: a job that kills its worker each time has nine neighbours in the
// same worker. It dies after three crashes, and they complete.
func TestPoison(t *testing.T) {
	t.Parallel()
	penstock, handler := build(t)
	env, rules := environment(shortLease, time.Second)
	d := start(t, kill.Config{
		Penstock: penstock, Handler: handler, Env: env, Rules: rules, Mix: kill.Mix{MaxMillis: 1},
		Slots:   []kill.Slot{kill.WorkerSlot("main1", "main", handler, "jobs")},
		Streams: []kill.Stream{{Name: "jobs", Kind: stream.KindQueue, Groups: []string{"main"}}},
	})
	const neighbours = 9
	for range neighbours {
		d.Load.PublishNow(t.Context(), ledger.Work{Millis: 2000})
	}
	running := func(n int) func() bool {
		return func() bool { _, now := d.Ledger.Count(); return now == n }
	}
	redistest.Wait(t, "all neighbours run", running(neighbours))
	poison := d.Load.PublishNow(t.Context(), ledger.Work{Poison: true, Millis: 60_000})
	books := balance(t, d, d.Drain(t.Context(), 3*time.Minute), "TestPoison")

	crashed := make(map[int]int)
	for _, letter := range books.Final.Groups[0].Dead {
		if letter.N != poison || letter.Reason != "crashed" || letter.Crashes != rules.MaxCrashes {
			t.Errorf("dead letter %+v, only job %d should have died, as crashed", letter, poison)
		}
		crashed[letter.N]++
	}
	if crashed[poison] != 1 {
		t.Errorf("job %d is not dead\n%s", poison, books.History(poison))
	}
	runs := make(map[int]int)
	for _, r := range books.Records {
		if r.What == ledger.Started {
			runs[r.N]++
		}
	}
	if runs[poison] != rules.MaxCrashes {
		t.Errorf("the poison job ran %d times, want %d\n%s", runs[poison], rules.MaxCrashes, books.History(poison))
	}
	for n, ran := range runs {
		if n != poison && ran > rules.MaxCrashes { // it went down with it twice at most, and then ran alone
			t.Errorf("its neighbour %d ran %d times\n%s", n, ran, books.History(n))
		}
	}
}
