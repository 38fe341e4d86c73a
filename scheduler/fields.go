package scheduler

import (
	"fmt"
	"slices"
	"strings"
)

// Fields is python-arq's form of a schedule: one value or several for each field. All that are given must match. One that
// is left empty is 0, or the first, when it is finer than the finest one given, and otherwise any: {Hour: {9}} is nine
// o'clock every day, {Minute: {0, 30}} every half hour, {Weekday: {"mon"}} the midnight at which mondays begin.
type Fields struct {
	Month   []int    `json:"month,omitempty"`   // 1 to 12
	Day     []int    `json:"day,omitempty"`     // of the month, 1 to 31
	Weekday []string `json:"weekday,omitempty"` // mon to sun: by name only, since arq counts from monday and cron from sunday
	Hour    []int    `json:"hour,omitempty"`    // 0 to 23
	Minute  []int    `json:"minute,omitempty"`  // 0 to 59
	Second  []int    `json:"second,omitempty"`  // 0 to 59
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// set reports whether any field is given.
func (f Fields) set() bool {
	return len(f.Month)+len(f.Day)+len(f.Weekday)+len(f.Hour)+len(f.Minute)+len(f.Second) > 0
}

// sets turns the fields into sets; fault is called with each fault.
func (f Fields) sets(fault func(field, value, hint string)) sets {
	var s sets
	week := uint64(1<<7 - 1)
	finest := 0 // 1 is months, 5 seconds
	for _, field := range []struct {
		name     string
		values   []int
		rank     int
		min, max int
		into     *uint64
	}{
		{"Month", f.Month, 1, 1, 12, &s.month},
		{"Day", f.Day, 2, 1, 31, &s.day},
		{"Hour", f.Hour, 3, 0, 23, &s.hour},
		{"Minute", f.Minute, 4, 0, 59, &s.minute},
		{"Second", f.Second, 5, 0, 59, &s.second},
	} {
		for _, v := range field.values {
			if v < field.min || v > field.max {
				fault("Fields."+field.name, fmt.Sprint(v), fmt.Sprintf("must be between %d and %d", field.min, field.max))
				continue
			}
			*field.into |= 1 << v
		}
		if len(field.values) > 0 {
			finest = field.rank
		}
	}
	if len(f.Weekday) > 0 {
		week = 0
		finest = max(finest, 2)
	}
	for _, name := range f.Weekday {
		i := slices.Index(weekdays, strings.ToLower(name))
		if i < 0 {
			fault("Fields.Weekday", fmt.Sprintf("%q", name), "must be one of mon, tue, wed, thu, fri, sat, sun")
			continue
		}
		week |= 1 << i
	}
	s.setWeek(week)
	open := func(into *uint64, given bool, rank int, all, first uint64) {
		switch {
		case given:
		case rank < finest || rank == finest && rank == 2: // a day of the month beside a weekday
			*into = all
		default:
			*into = first
		}
	}
	open(&s.month, len(f.Month) > 0, 1, allMonths, 1<<1)
	open(&s.day, len(f.Day) > 0, 2, allDays, 1<<1)
	open(&s.hour, len(f.Hour) > 0, 3, allHours, 1)
	open(&s.minute, len(f.Minute) > 0, 4, 1<<60-1, 1)
	open(&s.second, len(f.Second) > 0, 5, 1<<60-1, 1)
	return s
}
