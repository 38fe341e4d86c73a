package scheduler_test

import (
	"slices"
	"testing"
	"time"

	"github.com/penstock-go/penstock/scheduler"
)

const ticksLayout = "2006-01-02 15:04:05 -0700"

// ticks are the first n of a schedule, as the clock of its zone shows them.
func ticks(s scheduler.Schedule, after time.Time, n int) []string {
	var list []string
	for tick := range s.Ticks(after) {
		if list = append(list, tick.Format(ticksLayout)); len(list) == n {
			break
		}
	}
	return list
}

func parseTime(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse(ticksLayout, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestTicks(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		s     scheduler.Schedule
		after string
		want  []string
	}{
		{
			"strictly after", scheduler.Schedule{Cron: "0 3 * * *"}, "2026-03-01 03:00:00 +0000",
			[]string{"2026-03-02 03:00:00 +0000", "2026-03-03 03:00:00 +0000"},
		},
		{
			"a leap day", scheduler.Schedule{Cron: "0 0 29 2 *"}, "2026-03-01 03:00:00 +0000",
			[]string{"2028-02-29 00:00:00 +0000", "2032-02-29 00:00:00 +0000"},
		},
		{
			"a leap day across a century without one", scheduler.Schedule{Cron: "0 0 29 2 *"}, "2096-02-29 00:00:00 +0000",
			[]string{"2104-02-29 00:00:00 +0000"},
		},
		{
			"a leap day on a monday", scheduler.Schedule{Fields: scheduler.Fields{Month: []int{2}, Day: []int{29}, Weekday: []string{"mon"}}},
			"2072-03-01 00:00:00 +0000", []string{"2112-02-29 00:00:00 +0000", "2140-02-29 00:00:00 +0000"},
		},
		{
			"the last of long months", scheduler.Schedule{Cron: "0 12 31 * *"}, "2026-01-31 12:00:00 +0000",
			[]string{"2026-03-31 12:00:00 +0000", "2026-05-31 12:00:00 +0000", "2026-07-31 12:00:00 +0000", "2026-08-31 12:00:00 +0000"},
		},
		{
			"either day", scheduler.Schedule{Cron: "0 0 13 * fri"}, "2026-02-01 00:00:00 +0000",
			[]string{"2026-02-06 00:00:00 +0000", "2026-02-13 00:00:00 +0000", "2026-02-20 00:00:00 +0000"},
		},
		{
			"both days, since one begins with a star", scheduler.Schedule{Cron: "0 0 */2 * mon"}, "2026-03-01 00:00:00 +0000",
			[]string{"2026-03-09 00:00:00 +0000", "2026-03-23 00:00:00 +0000", "2026-04-13 00:00:00 +0000"},
		},
		{
			"seven is sunday", scheduler.Schedule{Cron: "0 0 * * 7"}, "2026-03-01 00:00:00 +0000", []string{"2026-03-08 00:00:00 +0000"},
		},
		{
			"around the end of the week", scheduler.Schedule{Cron: "0 0 * * sat-mon"}, "2026-03-01 00:00:00 +0000",
			[]string{"2026-03-02 00:00:00 +0000", "2026-03-07 00:00:00 +0000", "2026-03-08 00:00:00 +0000"},
		},
		{
			"seconds", scheduler.Schedule{Cron: "*/20 59 23 31 dec *"}, "2026-12-31 23:59:10 +0000",
			[]string{"2026-12-31 23:59:20 +0000", "2026-12-31 23:59:40 +0000", "2027-12-31 23:59:00 +0000"},
		},
		{
			"a nickname", scheduler.Schedule{Cron: "@monthly"}, "2026-01-31 23:59:10 +0000", []string{"2026-02-01 00:00:00 +0000"},
		},
		{
			"every, aligned to the epoch", scheduler.Schedule{Every: 7 * time.Second}, "1970-01-01 00:00:06 +0000",
			[]string{"1970-01-01 00:00:07 +0000", "1970-01-01 00:00:14 +0000"},
		},
		{
			"every, before the epoch", scheduler.Schedule{Every: 7 * time.Second}, "1969-12-31 23:59:53 +0000",
			[]string{"1970-01-01 00:00:00 +0000"},
		},
		{
			"start and end belong to it",
			scheduler.Schedule{Every: time.Hour, Start: time.Date(2026, 1, 1, 2, 0, 0, 0, time.UTC), End: time.Date(2026, 1, 1, 4, 0, 0, 0, time.UTC)},
			"2025-12-31 00:00:00 +0000", []string{"2026-01-01 02:00:00 +0000", "2026-01-01 03:00:00 +0000", "2026-01-01 04:00:00 +0000"},
		},
		{
			"an hour alone is once a day", scheduler.Schedule{Fields: scheduler.Fields{Hour: []int{9}}}, "2026-03-01 09:00:00 +0000",
			[]string{"2026-03-02 09:00:00 +0000", "2026-03-03 09:00:00 +0000"},
		},
		{
			"minutes of every hour", scheduler.Schedule{Fields: scheduler.Fields{Minute: []int{30, 0}}}, "2026-03-01 09:00:00 +0000",
			[]string{"2026-03-01 09:30:00 +0000", "2026-03-01 10:00:00 +0000"},
		},
		{
			"a weekday alone", scheduler.Schedule{Fields: scheduler.Fields{Weekday: []string{"mon", "Fri"}}}, "2026-03-01 09:00:00 +0000",
			[]string{"2026-03-02 00:00:00 +0000", "2026-03-06 00:00:00 +0000"},
		},
		{
			"a month alone", scheduler.Schedule{Fields: scheduler.Fields{Month: []int{5}}}, "2026-03-01 09:00:00 +0000",
			[]string{"2026-05-01 00:00:00 +0000", "2027-05-01 00:00:00 +0000"},
		},
		{
			"weekday and hour, of one month", scheduler.Schedule{Fields: scheduler.Fields{Month: []int{5}, Weekday: []string{"sun"}, Hour: []int{3}}},
			"2026-05-30 00:00:00 +0000", []string{"2026-05-31 03:00:00 +0000", "2027-05-02 03:00:00 +0000"},
		},
		{
			"a second of every minute", scheduler.Schedule{Fields: scheduler.Fields{Second: []int{15}}}, "2026-03-01 09:00:15 +0000",
			[]string{"2026-03-01 09:01:15 +0000"},
		},
		{
			"Berlin, spring: a skipped time fires at the jump", scheduler.Schedule{Cron: "30 2 * * *", Zone: "Europe/Berlin"}, "2026-03-28 00:00:00 +0100",
			[]string{"2026-03-28 02:30:00 +0100", "2026-03-29 03:00:00 +0200", "2026-03-30 02:30:00 +0200"},
		},
		{
			"Berlin, spring: what comes to the instant of the jump is one tick", scheduler.Schedule{Cron: "0,20,40 2-3 * * *", Zone: "Europe/Berlin"},
			"2026-03-29 00:00:00 +0100", []string{"2026-03-29 03:00:00 +0200", "2026-03-29 03:20:00 +0200", "2026-03-29 03:40:00 +0200", "2026-03-30 02:00:00 +0200"},
		},
		{
			"Berlin, autumn: a time that happens twice fires the first time", scheduler.Schedule{Cron: "30 2 * * *", Zone: "Europe/Berlin"}, "2026-10-24 12:00:00 +0200",
			[]string{"2026-10-25 02:30:00 +0200", "2026-10-26 02:30:00 +0100"},
		},
		{
			"Berlin, autumn: asked between the two", scheduler.Schedule{Cron: "30 2,3 * * *", Zone: "Europe/Berlin"}, "2026-10-25 02:10:00 +0100",
			[]string{"2026-10-25 03:30:00 +0100", "2026-10-26 02:30:00 +0100"},
		},
		{
			"Berlin, autumn: every second hour", scheduler.Schedule{Cron: "0 */2 * * *", Zone: "Europe/Berlin"}, "2026-10-25 00:00:00 +0200",
			[]string{"2026-10-25 02:00:00 +0200", "2026-10-25 04:00:00 +0100"},
		},
		{
			"Berlin, spring: every hour goes on", scheduler.Schedule{Cron: "30 * * * *", Zone: "Europe/Berlin"}, "2026-03-29 00:30:00 +0100",
			[]string{"2026-03-29 01:30:00 +0100", "2026-03-29 03:30:00 +0200"},
		},
		{
			"Berlin, autumn: every hour goes on", scheduler.Schedule{Cron: "30 * * * *", Zone: "Europe/Berlin"}, "2026-10-25 01:30:00 +0200",
			[]string{"2026-10-25 02:30:00 +0200", "2026-10-25 02:30:00 +0100", "2026-10-25 03:30:00 +0100"},
		},
		{
			"New York, spring", scheduler.Schedule{Cron: "15 2 8 3 *", Zone: "America/New_York"}, "2026-01-01 00:00:00 +0000",
			[]string{"2026-03-08 03:00:00 -0400", "2027-03-08 02:15:00 -0500"},
		},
		{
			"New York, autumn", scheduler.Schedule{Cron: "0 1 * * *", Zone: "America/New_York"}, "2026-11-01 00:00:00 -0400",
			[]string{"2026-11-01 01:00:00 -0400", "2026-11-02 01:00:00 -0500"},
		},
		{
			"New York, autumn: the midnight after is one", scheduler.Schedule{Cron: "@daily", Zone: "America/New_York"}, "2026-11-01 00:00:00 -0400",
			[]string{"2026-11-02 00:00:00 -0500"},
		},
		{
			"Lord Howe, spring: half an hour is skipped", scheduler.Schedule{Cron: "15,45 2 * * *", Zone: "Australia/Lord_Howe"}, "2026-10-04 00:00:00 +1030",
			[]string{"2026-10-04 02:30:00 +1100", "2026-10-04 02:45:00 +1100", "2026-10-05 02:15:00 +1100"},
		},
		{
			"Lord Howe, autumn: half an hour happens twice", scheduler.Schedule{Cron: "15,45 1 * * *", Zone: "Australia/Lord_Howe"}, "2026-04-05 00:00:00 +1100",
			[]string{"2026-04-05 01:15:00 +1100", "2026-04-05 01:45:00 +1100", "2026-04-06 01:15:00 +1030"},
		},
		{
			"Lord Howe, autumn: every hour", scheduler.Schedule{Cron: "45 * * * *", Zone: "Australia/Lord_Howe"}, "2026-04-05 01:00:00 +1100",
			[]string{"2026-04-05 01:45:00 +1100", "2026-04-05 01:45:00 +1030", "2026-04-05 02:45:00 +1030"},
		},
		{
			"Apia: a day is skipped", scheduler.Schedule{Cron: "0 9 * * *", Zone: "Pacific/Apia"}, "2011-12-29 00:00:00 -1000",
			[]string{"2011-12-29 09:00:00 -1000", "2011-12-31 00:00:00 +1400", "2011-12-31 09:00:00 +1400"},
		},
		{
			"Apia: every hour", scheduler.Schedule{Cron: "@hourly", Zone: "Pacific/Apia"}, "2011-12-29 22:00:00 -1000",
			[]string{"2011-12-29 23:00:00 -1000", "2011-12-31 00:00:00 +1400"},
		},
		{
			"Kwajalein: a day happens twice", scheduler.Schedule{Cron: "0 9 * * *", Zone: "Pacific/Kwajalein"}, "1969-09-29 12:00:00 +1100",
			[]string{"1969-09-30 09:00:00 +1100", "1969-10-01 09:00:00 -1200"},
		},
		{
			"Sao Paulo: midnight is skipped", scheduler.Schedule{Cron: "@daily", Zone: "America/Sao_Paulo"}, "2018-11-03 00:00:00 -0300",
			[]string{"2018-11-04 01:00:00 -0200", "2018-11-05 00:00:00 -0200"},
		},
		{
			"Sao Paulo: the last hour of a day happens twice, and the next day is far away",
			scheduler.Schedule{Cron: "30 * 17 * *", Zone: "America/Sao_Paulo"}, "2018-02-17 23:00:00 -0200",
			[]string{"2018-02-17 23:30:00 -0200", "2018-02-17 23:30:00 -0300", "2018-03-17 00:30:00 -0300"},
		},
		{
			"the last day of a leap year, which the zone's table does not reach", scheduler.Schedule{Cron: "30 23 31 12 *", Zone: "Europe/Berlin"},
			"2039-12-31 23:30:00 +0100", []string{"2040-12-31 23:30:00 +0100", "2041-12-31 23:30:00 +0100"},
		},
		{
			"the same, every hour", scheduler.Schedule{Cron: "30 * 31 12 *", Zone: "Australia/Lord_Howe"},
			"2040-12-31 22:30:00 +1100", []string{"2040-12-31 23:30:00 +1100", "2041-12-31 00:30:00 +1100"},
		},
		{
			"every hour of a day far away", scheduler.Schedule{Cron: "0 * 29 2 *", Zone: "Europe/Berlin"}, "2026-10-25 02:30:00 +0200",
			[]string{"2028-02-29 00:00:00 +0100", "2028-02-29 01:00:00 +0100"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := ticks(test.s, parseTime(t, test.after), len(test.want)); !slices.Equal(got, test.want) {
				t.Errorf("%+v after %s:\n got %q\nwant %q", test.s, test.after, got, test.want)
			}
		})
	}
}

func TestTicksEnd(t *testing.T) {
	t.Parallel()
	end := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, s := range map[string]scheduler.Schedule{
		"with End":          {Every: time.Hour, End: end},
		"at End":            {Every: time.Hour, End: end.Add(time.Nanosecond)},
		"when it is faulty": {Cron: "0 0 30 2 *"},
	} {
		if got := ticks(s, end, 3); len(got) > 0 {
			t.Errorf("%s: %q, want none", name, got)
		}
	}
	n := 0
	for range (scheduler.Schedule{Cron: "@yearly"}).Ticks(time.Date(9990, 1, 1, 0, 0, 0, 0, time.UTC)) {
		n++
	}
	if n != 8 {
		t.Errorf("%d years after 9990 have ticks, want 8", n)
	}
}
