//go:build unix

package kill_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/penstock-go/penstock/integration/kill"
	"github.com/penstock-go/penstock/integration/kill/ledger"
	"github.com/penstock-go/penstock/stream"
)

// The shortest lease that a worker takes.
const shortLease = 10 * time.Second

// TestKill strikes a fleet under load for as long as -for says, by the plan that -seed makes.
func TestKill(t *testing.T) {
	t.Parallel()
	penstock, handler := build(t)
	seed := *seedFlag
	if seed == 0 {
		seed = freshSeed()
	}
	again := fmt.Sprintf("to repeat it: go test ./kill -run='^TestKill$' -v -timeout=0 -for=%s -seed=%d -rate=%d\nor, with logs that are kept: make kill FOR=%[1]s SEED=%[2]d RATE=%[3]d",
		*forFlag, seed, *rateFlag)
	t.Log(again)
	env, rules := environment(shortLease, time.Second)
	slots := []kill.Slot{
		kill.WorkerSlot("main1", "main", handler, "jobs", "events"),
		kill.WorkerSlot("main2", "main", handler, "jobs", "events"),
		kill.WorkerSlot("main3", "main", handler, "jobs", "events"),
		kill.WorkerSlot("mail1", "mail", handler, "events"),
		kill.WorkerSlot("mail2", "mail", handler, "events"),
		kill.SchedulerSlot("scheduler"),
	}
	for i := range 2 {
		slots[i].Spared = true // two of one group: neither may take from the other what an outage has let run out
	}
	actions := kill.Actions(shortLease)
	plan := kill.NewPlan(seed, *forFlag, kill.Lanes(slots), actions)
	if testing.Verbose() && *forFlag <= 5*time.Minute {
		t.Logf("the plan:\n%s", plan)
	}
	d := start(t, kill.Config{
		Penstock: penstock, Handler: handler, Env: env, Rules: rules, Seed: seed, Slots: slots, Rate: *rateFlag,
		Streams: []kill.Stream{
			{Name: "jobs", Kind: stream.KindQueue, Groups: []string{"main"}},
			{Name: "events", Kind: stream.KindEvents, Groups: []string{"main", "mail"}},
		},
		Mix: kill.Mix{Events: 4, ID: 3, Delay: 6, Flaky: 10, Doomed: 40, Permanent: 60, Long: 60, Stubborn: 80, MaxMillis: 400, MaxDelay: 4 * time.Second},
	})
	if err := d.Run(t.Context(), plan, actions); err != nil {
		t.Fatalf("%v\n%s", err, again)
	}
	t.Log("no more faults and no more jobs; waiting for those there are to end")
	books := balance(t, d, d.Drain(t.Context(), 3*time.Minute), again)
	if n := starts(books); n < int(forFlag.Seconds()) {
		t.Errorf("only %d runs: that proves little\n%s", n, again)
	}
}

func starts(b kill.Books) int {
	n := 0
	for _, r := range b.Records {
		if r.What == ledger.Started {
			n++
		}
	}
	return n
}
