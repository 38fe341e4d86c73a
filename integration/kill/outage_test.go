//go:build unix

package kill_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/integration/kill"
	"github.com/penstock-go/penstock/integration/kill/ledger"
	"github.com/penstock-go/penstock/stream"
)

// TestOutage: Redis stands still and is down for longer than a lease, while
// jobs run that go on for longer. Nobody takes them from those who run them: all of them run once.
func TestOutage(t *testing.T) {
	t.Parallel()
	penstock, handler := build(t)
	env, rules := environment(shortLease, time.Second)
	var slots []kill.Slot
	for i := range 6 { // the more there are, the likelier one looks for dead ones before all others are heard of again
		slots = append(slots, kill.WorkerSlot(fmt.Sprintf("main%d", i+1), "main", handler, "jobs"))
	}
	d := start(t, kill.Config{
		Penstock: penstock, Handler: handler, Env: env, Rules: rules, Slots: slots, Mix: kill.Mix{MaxMillis: 1},
		Streams: []kill.Stream{{Name: "jobs", Kind: stream.KindQueue, Groups: []string{"main"}}},
	})
	const past, jobs = shortLease * 12 / 10, 18
	actions := kill.Actions(shortLease)
	for _, name := range []string{"stall", "outage"} {
		for range jobs {
			d.Load.PublishNow(t.Context(), ledger.Work{Millis: int((past + 8*time.Second).Milliseconds())})
		}
		redistest.Wait(t, "all jobs run", func() bool { _, n := d.Ledger.Count(); return n == jobs })
		for _, a := range actions {
			if a.Name == name {
				if err := a.Do(t.Context(), d, kill.Fault{For: past, Action: name, Lane: kill.Redis}); err != nil {
					t.Fatal(err)
				}
			}
		}
		redistest.Wait(t, "all jobs have ended", func() bool { _, n := d.Ledger.Count(); return n == 0 })
	}
	balance(t, d, d.Drain(t.Context(), time.Minute), "TestOutage")
}
