//go:build unix

package kill_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/penstock-go/penstock/integration/kill"
	"github.com/penstock-go/penstock/integration/kill/ledger"
	"github.com/penstock-go/penstock/stream"
)

// TestRollingRestart: all workers are restarted one after the other under load,
// twice. That costs no job a try, none runs twice, and none waits for a lease.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	penstock, handler := build(t)
	const lease, grace = 30 * time.Second, 10 * time.Second // longer than any job here
	env, rules := environment(lease, grace)
	rules.MaxWait = lease / 2
	slots := []kill.Slot{
		kill.WorkerSlot("main1", "main", handler, "jobs"),
		kill.WorkerSlot("main2", "main", handler, "jobs"),
		kill.WorkerSlot("main3", "main", handler, "jobs"),
		kill.SchedulerSlot("scheduler"),
	}
	d := start(t, kill.Config{
		Penstock: penstock, Handler: handler, Env: env, Rules: rules, Seed: freshSeed(), Slots: slots, Rate: 25,
		Streams: []kill.Stream{{Name: "jobs", Kind: stream.KindQueue, Groups: []string{"main"}}},
		Mix:     kill.Mix{ID: 3, Delay: 5, MaxMillis: 1500, MaxDelay: 2 * time.Second},
	})
	load, endLoad := context.WithCancel(t.Context())
	defer endLoad()
	var wg sync.WaitGroup
	wg.Go(func() { d.Load.Run(load, time.Minute) })
	for range 2 {
		for _, s := range slots {
			if err := d.Roll(t.Context(), s.Name); err != nil {
				t.Errorf("%s: %v", s.Name, err)
			}
		}
	}
	endLoad()
	wg.Wait()
	books := balance(t, d, d.Drain(t.Context(), 2*time.Minute), "TestRollingRestart")

	workers := make(map[string]bool)
	runs := make(map[int]int)
	for _, r := range books.Records {
		switch r.What {
		case ledger.Started:
			if workers[r.Worker] = true; r.Attempt != 1 {
				t.Errorf("job %d: attempt %d\n%s", r.N, r.Attempt, books.History(r.N))
			}
			if runs[r.N]++; runs[r.N] == 2 {
				t.Errorf("job %d ran twice\n%s", r.N, books.History(r.N))
			}
		case ledger.Ended, ledger.Gone:
			if r.Result != ledger.OK {
				t.Errorf("job %d: %s %s\n%s", r.N, r.What, r.Result, books.History(r.N))
			}
		}
	}
	if len(runs) < 20 || len(workers) < 6 {
		t.Errorf("only %d jobs ran, on %d workers: that proves little", len(runs), len(workers))
	}
	if n := len(books.Final.Groups[0].Dead); n > 0 {
		t.Errorf("%d dead letters", n)
	}
}
