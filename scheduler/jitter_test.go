package scheduler

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestFireIsTheSameEverywhere: replicas of different versions must agree, so these values never change.
func TestFireIsTheSameEverywhere(t *testing.T) {
	t.Parallel()
	tick := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	for want, s := range map[time.Duration]Schedule{
		0:                          {Name: "report", Cron: "@hourly"},
		130_077 * time.Millisecond: {Name: "report", Cron: "@hourly", Jitter: 5 * time.Minute},
		30_846 * time.Millisecond:  {Name: "cleanup", Cron: "@hourly", Jitter: 5 * time.Minute},
		430_077 * time.Millisecond: {Name: "report", Every: time.Hour, Jitter: 24 * time.Hour}, // less than an hour
	} {
		if got := mustPlan(t, s).fire(tick).Sub(tick); got != want {
			t.Errorf("%s with %s is published %s after its tick, want %s", s.Name, s.Jitter, got, want)
		}
	}
}

func TestFireKeepsTicksInOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := Schedule{
			Name:   rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "name"),
			Cron:   rapid.SampledFrom([]string{"*/7 * * * *", "0,1,58 * * * *", "0,30 2-3 * * *", "* * * * * *"}).Draw(t, "cron"),
			Zone:   rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "Australia/Lord_Howe"}).Draw(t, "zone"),
			Jitter: time.Duration(rapid.Int64Range(1, int64(maxJitter)).Draw(t, "jitter")),
		}
		p := mustPlan(t, s)
		tick, _ := p.next(time.Unix(rapid.Int64Range(1.7e9, 1.9e9).Draw(t, "from"), 0))
		for range 100 {
			next, _ := p.next(tick)
			if fire := p.fire(tick); fire.Before(tick) || !fire.Before(tick.Add(p.jitter)) && p.jitter >= time.Millisecond || !fire.Before(next) || fire != p.fire(tick) {
				t.Fatalf("%+v: the tick %s is published at %s, the next tick is %s", s, tick, fire, next)
			}
			tick = next
		}
	})
}

func TestFireSpreads(t *testing.T) {
	t.Parallel()
	tick := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	var tenths [10]int
	for i := range 10_000 {
		p := mustPlan(t, Schedule{Name: fmt.Sprint("tenant-", i), Cron: "@hourly", Jitter: 10 * time.Second})
		tenths[p.fire(tick).Sub(tick)/time.Second]++
	}
	for i, n := range tenths {
		if n < 800 || n > 1200 {
			t.Errorf("%d of 10,000 schedules are published in second %d, want about a tenth", n, i)
		}
	}
}
