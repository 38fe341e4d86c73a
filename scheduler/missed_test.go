package scheduler

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
)

func mustPlan(t interface {
	Helper()
	Fatal(args ...any)
}, s Schedule,
) *plan {
	t.Helper()
	p, err := s.plan()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func at(clock string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", "2026-03-0"+clock)
	if err != nil {
		panic(err)
	}
	return t
}

func TestOwed(t *testing.T) {
	t.Parallel()
	hourly := Schedule{Name: "h", Cron: "@hourly"}
	secondly := Schedule{Name: "s", Every: time.Second}
	with := func(s Schedule, m Missed) Schedule { s.Missed = m; return s }
	for _, test := range []struct {
		name      string
		s         Schedule
		last, now string
		ticks     []string
		skipped   int
		through   string
	}{
		{"nothing is due", hourly, "1 09:00:00", "1 09:59:59", nil, 0, "1 09:00:00"},
		{"due now", hourly, "1 09:00:00", "1 10:00:00", []string{"1 10:00:00"}, 0, "1 10:00:00"},
		{"the clock has stepped back", hourly, "1 09:00:00", "1 07:30:00", nil, 0, "1 09:00:00"},
		{"late by a minute", with(hourly, Missed{Policy: MissedSkip}), "1 09:00:00", "1 10:01:00", []string{"1 10:00:00"}, 0, "1 10:00:00"},
		{"skip", with(hourly, Missed{Policy: MissedSkip}), "1 09:00:00", "1 10:01:01", nil, 1, "1 10:00:00"},
		{"skip, but not what is due", with(hourly, Missed{Policy: MissedSkip}), "1 09:00:00", "1 13:00:30", []string{"1 13:00:00"}, 3, "1 13:00:00"},
		{"once", hourly, "1 09:00:00", "1 13:30:00", []string{"1 13:00:00"}, 3, "1 13:00:00"},
		{"once, and the newest is due", hourly, "1 09:00:00", "1 13:00:00", []string{"1 13:00:00"}, 3, "1 13:00:00"},
		{"once, within a day", with(hourly, Missed{}), "1 09:00:00", "4 13:30:00", []string{"4 13:00:00"}, 75, "4 13:00:00"},
		{"once, all too old", Schedule{Name: "d", Cron: "0 3 * * *", Missed: Missed{Within: time.Hour}}, "1 09:00:00", "4 13:30:00", nil, 3, "4 03:00:00"},
		{"all", with(hourly, Missed{Policy: MissedAll}), "1 09:00:00", "1 12:00:30", []string{"1 10:00:00", "1 11:00:00", "1 12:00:00"}, 0, "1 12:00:00"},
		{"all, the newest", with(hourly, Missed{Policy: MissedAll, Limit: 2}), "1 09:00:00", "1 13:30:00", []string{"1 12:00:00", "1 13:00:00"}, 2, "1 13:00:00"},
		{"all, the limit does not count what is due", with(hourly, Missed{Policy: MissedAll, Limit: 1}), "1 09:00:00", "1 13:00:00", []string{"1 12:00:00", "1 13:00:00"}, 2, "1 13:00:00"},
		{"all, within", with(hourly, Missed{Policy: MissedAll, Within: 90 * time.Minute}), "1 09:00:00", "1 13:30:00", []string{"1 12:00:00", "1 13:00:00"}, 2, "1 13:00:00"},
		{"all, within, and nothing is", Schedule{Name: "d", Cron: "0 3 * * *", Missed: Missed{Policy: MissedAll, Within: time.Hour}}, "1 09:00:00", "4 13:30:00", nil, 3, "4 03:00:00"},
		{"all, after a burst", Schedule{Name: "b", Cron: "*/2 9 * * *", Missed: Missed{Policy: MissedAll, Limit: 14}}, "1 09:00:00", "1 20:00:00", []string{
			"1 09:32:00", "1 09:34:00", "1 09:36:00", "1 09:38:00", "1 09:40:00", "1 09:42:00", "1 09:44:00", "1 09:46:00", "1 09:48:00", "1 09:50:00",
			"1 09:52:00", "1 09:54:00", "1 09:56:00", "1 09:58:00",
		}, 15, "1 09:58:00"},
		{"a hiccup loses no second, whatever the policy", with(secondly, Missed{Policy: MissedSkip}), "1 09:00:00", "1 09:00:03", []string{"1 09:00:01", "1 09:00:02", "1 09:00:03"}, 0, "1 09:00:03"},
		{"once, after an hour of seconds", secondly, "1 09:00:00", "1 10:00:00", []string{"1 10:00:00"}, 3599, "1 10:00:00"},
		{"counted no further", secondly, "1 09:00:00", "4 09:00:00", []string{"4 09:00:00"}, maxCounted - 1, "4 09:00:00"},
		{"after the end", Schedule{Name: "e", Cron: "@hourly", End: at("1 11:30:00")}, "1 09:00:00", "1 20:00:00", []string{"1 11:00:00"}, 1, "1 11:00:00"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ticks, skipped, through := mustPlan(t, test.s).owed(at(test.last), at(test.now))
			var want []time.Time
			for _, tick := range test.ticks {
				want = append(want, at(tick))
			}
			if !slices.EqualFunc(ticks, want, time.Time.Equal) || skipped != test.skipped || !through.Equal(at(test.through)) {
				t.Errorf("owed = %v, %d, %s\nwant %v, %d, %s", ticks, skipped, through, want, test.skipped, test.through)
			}
		})
	}
}

// TestOwedAgainstTheWholeList compares with the rules, applied to the list of all that is due.
func TestOwedAgainstTheWholeList(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := Schedule{
			Name:   rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "name"),
			Cron:   rapid.SampledFrom([]string{"*/7 * * * *", "@hourly", "*/20 * 9,10 * * *", "0 */5 * * *", "30 2 * * *", "@weekly", "*/30 * * * * *"}).Draw(t, "cron"),
			Zone:   rapid.SampledFrom([]string{"UTC", "Europe/Berlin"}).Draw(t, "zone"),
			Jitter: time.Duration(rapid.SampledFrom([]int64{0, 1, 30, 600, 7200}).Draw(t, "jitter")) * time.Second,
			Missed: Missed{
				Policy: rapid.SampledFrom([]MissedPolicy{"", MissedOnce, MissedSkip, MissedAll}).Draw(t, "policy"),
				Within: time.Duration(rapid.SampledFrom([]int{0, 1, 90, 6000}).Draw(t, "within")) * time.Minute,
			},
		}
		if s.Missed.Policy == MissedAll {
			s.Missed.Limit = rapid.IntRange(0, 50).Draw(t, "limit")
		}
		p := mustPlan(t, s)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "times"), 0)) // rapid itself prefers small numbers
		last := at("1 00:00:00").Add(time.Duration(random.Int64N(int64(60 * 24 * time.Hour))))
		span := rapid.SampledFrom([]time.Duration{time.Minute, 2 * time.Hour, 40 * time.Hour}).Draw(t, "span")
		now := last.Add(time.Duration(random.Int64N(int64(span))) - time.Second)

		var due, late, missed, within []time.Time
		for tick, ok := p.next(last); ok && !p.fire(tick).After(now); tick, ok = p.next(tick) {
			due = append(due, tick)
			if !p.fire(tick).Before(now.Add(-time.Minute)) {
				late = append(late, tick)
				continue
			}
			missed = append(missed, tick)
			if !p.fire(tick).Before(now.Add(-p.missed.Within)) {
				within = append(within, tick)
			}
		}
		want, through := late, last
		if len(due) > 0 {
			through = due[len(due)-1]
		}
		if len(missed) > 0 {
			switch p.missed.Policy {
			case MissedAll:
				want = slices.Concat(within[max(0, len(within)-p.missed.Limit):], late)
			case MissedOnce:
				want = slices.Concat(within, late)
				want = want[max(0, len(want)-1):]
			}
		}
		ticks, skipped, reached := p.owed(last, now)
		if !slices.EqualFunc(ticks, want, time.Time.Equal) || skipped != min(len(due), maxCounted)-len(want) || !reached.Equal(through) {
			t.Fatalf("owed = %v, %d, %s\nwant %v, %d, %s", ticks, skipped, reached, want, len(due)-len(want), through)
		}
	})
}

func TestOwedStaysCheapAfterYears(t *testing.T) {
	t.Parallel()
	still := redistest.Standstill(t)
	for _, m := range []Missed{{}, {Policy: MissedSkip}, {Policy: MissedAll, Within: maxWithin, Limit: maxLimit}} {
		p := mustPlan(t, Schedule{Name: "s", Cron: "* * * * * *", Zone: "Europe/Berlin", Missed: m})
		start := time.Now()
		ticks, skipped, _ := p.owed(at("1 00:00:00").AddDate(-20, 0, 0), at("1 00:00:00"))
		if took := time.Since(start); took > time.Second+still() {
			t.Errorf("%s: %d ticks and %d skipped took %s", m, len(ticks), skipped, took)
		}
	}
}
