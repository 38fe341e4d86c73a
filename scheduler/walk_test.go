package scheduler_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/netresearch/go-cron"
	"pgregory.net/rapid"

	"github.com/penstock-go/penstock/scheduler"
)

// zones with a change of their clock each, at which most of the walks start.
var zones = []struct {
	name    string
	changes []string
}{
	{"UTC", []string{"2026-02-28T00:00:00Z", "2028-02-29T00:00:00Z", "1999-12-31T23:00:00Z"}},
	{"Europe/Berlin", []string{"2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z", "2045-03-26T01:00:00Z", "1945-05-24T00:00:00Z", "2040-12-31T12:00:00Z"}},
	{"America/New_York", []string{"2026-03-08T07:00:00Z", "2026-11-01T06:00:00Z", "2044-12-31T12:00:00Z"}},
	{"Australia/Lord_Howe", []string{"2026-04-04T15:00:00Z", "2026-10-03T15:30:00Z", "2040-04-07T15:00:00Z", "2040-12-31T12:00:00Z"}},
	{"America/Sao_Paulo", []string{"2018-11-04T03:00:00Z", "2018-02-18T02:00:00Z"}}, // at midnight
	{"Pacific/Apia", []string{"2011-12-30T10:00:00Z"}},                              // a day is skipped
	{"Pacific/Kwajalein", []string{"1969-09-30T13:00:00Z", "1993-08-21T12:00:00Z"}}, // a day happens twice; one is skipped
	{"Africa/Casablanca", []string{"2026-02-15T02:00:00Z", "2026-03-22T02:00:00Z"}},
	{"Asia/Kathmandu", []string{"1985-12-31T18:30:00Z"}}, // a quarter of an hour is skipped
	{"Europe/Dublin", []string{"2026-03-29T01:00:00Z"}},  // the winter is what is daylight saving
}

// cronField is a random field of a cron expression, and what it stands for.
type cronField struct {
	text   string
	values map[int]bool
}

func (f cronField) star() bool { return f.text[0] == '*' }

func drawField(t *rapid.T, label string, low, high int, dense bool) cronField {
	f := cronField{values: make(map[int]bool)}
	add := func(from, to, step int) {
		for v := from; v <= to; v += step {
			f.values[v] = true
		}
	}
	kind := rapid.IntRange(0, 5).Draw(t, label)
	if dense && kind > 1 {
		kind = 0
	}
	switch kind {
	case 0:
		f.text = "*"
		add(low, high, 1)
	case 1:
		step := rapid.IntRange(1, (high-low+1)/2).Draw(t, label+" step")
		f.text = fmt.Sprintf("*/%d", step)
		add(low, high, step)
	default:
		var parts []string
		for range rapid.IntRange(1, 3).Draw(t, label+" parts") {
			from := rapid.IntRange(low, high).Draw(t, label+" from")
			to := rapid.IntRange(from, high).Draw(t, label+" to")
			switch {
			case kind < 4 || from == to:
				parts = append(parts, fmt.Sprint(from))
				add(from, from, 1)
			case kind == 4 || to-from < 2:
				parts = append(parts, fmt.Sprintf("%d-%d", from, to))
				add(from, to, 1)
			default:
				step := rapid.IntRange(1, to-from).Draw(t, label+" step")
				parts = append(parts, fmt.Sprintf("%d-%d/%d", from, to, step))
				add(from, to, step)
			}
		}
		f.text = strings.Join(parts, ",")
	}
	return f
}

// expression is a random one, with a schedule for it.
type expression struct {
	second, minute, hour, day, month, weekday cronField
	zone                                      *time.Location
	start                                     time.Time // where a walk starts
}

func (e expression) text() string {
	return strings.Join([]string{e.second.text, e.minute.text, e.hour.text, e.day.text, e.month.text, e.weekday.text}, " ")
}

func (e expression) either() bool { return !e.day.star() && !e.weekday.star() }

// on reports whether a clock, given as a time in UTC, shows a time of the expression.
func (e expression) on(clock time.Time) bool {
	day, weekday := e.day.values[clock.Day()], e.weekday.values[int(clock.Weekday())]
	both := day && weekday
	if e.either() {
		both = day || weekday
	}
	return both && e.second.values[clock.Second()] && e.minute.values[clock.Minute()] && e.hour.values[clock.Hour()] && e.month.values[int(clock.Month())]
}

func drawExpression(t *rapid.T, dense bool) expression {
	zone := rapid.SampledFrom(zones).Draw(t, "zone")
	location, err := time.LoadLocation(zone.name)
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse(time.RFC3339, rapid.SampledFrom(zone.changes).Draw(t, "change"))
	if err != nil {
		t.Fatal(err)
	}
	e := expression{
		second:  cronField{text: "0", values: map[int]bool{0: true}},
		minute:  drawField(t, "minute", 0, 59, dense),
		hour:    drawField(t, "hour", 0, 23, false),
		day:     drawField(t, "day", 1, 31, dense),
		month:   drawField(t, "month", 1, 12, true),
		weekday: drawField(t, "weekday", 0, 6, dense),
		zone:    location,
		start:   at,
	}
	return e
}

// walk goes through an interval step by step with a clock on the wall in view, and calls each tick. It knows nothing of
// zones but what the clock shows after each step.
func (e expression) walk(from, to time.Time, step time.Duration, tick func(time.Time)) {
	show := func(at time.Time) time.Time {
		y, m, d := at.In(e.zone).Date()
		h, mi, s := at.In(e.zone).Clock()
		return time.Date(y, m, d, h, mi, s, 0, time.UTC)
	}
	// what was on the clock in the days before: it is moved at quarters of an hour
	highest := time.Time{}
	for at := from.Add(-72 * time.Hour).Truncate(15 * time.Minute); !at.After(from); at = at.Add(15 * time.Minute) {
		for near := at.Add(-step); !near.After(at); near = near.Add(step) {
			if clock := show(near); clock.After(highest) {
				highest = clock
			}
		}
	}
	if clock := show(from); clock.After(highest) {
		highest = clock
	}
	for at := from.Add(step); !at.After(to); at = at.Add(step) {
		clock := show(at)
		hit := false
		if len(e.hour.values) == 24 {
			hit = e.on(clock)
		} else {
			for highest.Before(clock) { // one step, but where the clock jumps
				highest = highest.Add(step)
				hit = hit || e.on(highest)
			}
		}
		if hit {
			tick(at)
		}
	}
}

func compareWalk(t *rapid.T, e expression, from time.Time, length, step time.Duration) {
	to := from.Add(length)
	var want []time.Time
	e.walk(from, to, step, func(at time.Time) { want = append(want, at) })
	var got []time.Time
	for tick := range (scheduler.Schedule{Cron: e.text(), Zone: e.zone.String()}).Ticks(from) {
		if tick.After(to) {
			break
		}
		got = append(got, tick)
	}
	if !slices.EqualFunc(got, want, time.Time.Equal) {
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || !got[i].Equal(want[i]) {
				t.Fatalf("%q in %s from %s: tick %d of %d differs, of %d: got %v, want %v", e.text(), e.zone, from.In(e.zone), i, len(got), len(want),
					got[min(i, len(got)):min(i+3, len(got))], want[min(i, len(want)):min(i+3, len(want))])
			}
		}
	}
}

// TestTicksWalked compares days of ticks, around changes of the clock, with a walk minute by minute.
func TestTicksWalked(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := drawExpression(t, rapid.Bool().Draw(t, "dense"))
		from := e.start.Add(time.Duration(rapid.IntRange(-50*60, 50*60).Draw(t, "minutes from the change")) * time.Minute)
		compareWalk(t, e, from, time.Duration(rapid.IntRange(1, 72).Draw(t, "hours"))*time.Hour, time.Minute)
	})
}

// TestTicksWalkedBySeconds is the same second by second, and has fields for them.
func TestTicksWalkedBySeconds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := drawExpression(t, true)
		e.second = drawField(t, "second", 0, 59, false)
		from := e.start.Add(time.Duration(rapid.IntRange(-5000, 5000).Draw(t, "seconds from the change")) * time.Second)
		compareWalk(t, e, from, 90*time.Minute, time.Second)
	})
}

// TestTicksAsTheLibraryHasThem compares with the parser's own Next in UTC, where there is nothing to disagree about.
func TestTicksAsTheLibraryHasThem(t *testing.T) {
	t.Parallel()
	const fields = cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow
	rapid.Check(t, func(t *rapid.T) {
		e := expression{
			second:  drawField(t, "second", 0, 59, false),
			minute:  drawField(t, "minute", 0, 59, false),
			hour:    drawField(t, "hour", 0, 23, false),
			day:     drawField(t, "day", 1, 31, false),
			month:   drawField(t, "month", 1, 12, false),
			weekday: drawField(t, "weekday", 0, 6, false),
		}
		options := fields
		if e.either() {
			options |= cron.DowOrDom
		}
		theirs, err := cron.MustNewParser(options).WithMaxSearchYears(50).Parse("TZ=UTC " + e.text())
		if err != nil {
			t.Fatal(err)
		}
		ours := scheduler.Schedule{Cron: e.text()}
		after := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "after"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC()
		if want := theirs.Next(after); want.IsZero() {
			if got := ticks(ours, after, 1); len(got) > 0 {
				t.Fatalf("%q after %s: %q, want none", e.text(), after, got)
			}
			return
		}
		n := 0
		for got := range ours.Ticks(after) {
			if after = theirs.Next(after); !got.Equal(after) {
				t.Fatalf("%q: tick %d is %s, the library has %s", e.text(), n, got, after)
			}
			if n++; n == 20 {
				break
			}
		}
		if n == 0 {
			t.Fatalf("%q has no ticks after %s", e.text(), after)
		}
	})
}

// TestTicksFromAnywhere: ticks are the same wherever one begins to look.
func TestTicksFromAnywhere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := drawExpression(t, true)
		s := scheduler.Schedule{Cron: e.text(), Zone: e.zone.String()}
		from := e.start.Add(-26 * time.Hour)
		var all []time.Time
		for tick := range s.Ticks(from) {
			if tick.After(from.Add(52*time.Hour)) || len(all) == 500 {
				break
			}
			all = append(all, tick)
		}
		for range 20 {
			at := from.Add(time.Duration(rapid.Int64Range(0, int64(52*time.Hour)).Draw(t, "at")))
			i, _ := slices.BinarySearchFunc(all, at, time.Time.Compare)
			if i < len(all) && all[i].Equal(at) {
				i++
			}
			if i == len(all) {
				continue
			}
			for tick := range s.Ticks(at) {
				if !tick.Equal(all[i]) {
					t.Fatalf("%q in %s: the first after %s is %s, want %s", e.text(), e.zone, at.In(e.zone), tick, all[i])
				}
				break
			}
		}
	})
}
