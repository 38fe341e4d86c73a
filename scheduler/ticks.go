package scheduler

import (
	"math"
	"math/bits"
	"time"
)

// plan is the part of a valid schedule that says when, ready to compute with.
type plan struct {
	name       string
	every      int64 // in seconds, or 0
	sets       sets  // when every is 0
	zone       *time.Location
	jitter     time.Duration
	start, end time.Time // start may be zero
	missed     Missed
}

// sets are the values of each field, as bits.
type sets struct {
	second, minute, hour uint64
	day, month           uint64
	week                 [7]uint64 // days of a month that lie on a weekday of the set, by the weekday of its first
	either               bool      // a day needs to be in day or in week, not in both
}

const (
	allHours   = 1<<24 - 1
	allDays    = 1<<32 - 2
	allMonths  = 1<<13 - 2
	daySeconds = 86400
)

// Ticks lie between these.
var (
	firstTick = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	lastTick  = time.Date(9998, 12, 31, 23, 59, 59, 0, time.UTC)
)

// setWeek sets the weekdays, given as bits from sunday on.
func (s *sets) setWeek(weekdays uint64) {
	for first := range 7 {
		s.week[first] = 0
		for day := 1; day <= 31; day++ {
			if weekdays>>((first+day-1)%7)&1 != 0 {
				s.week[first] |= 1 << day
			}
		}
	}
}

// next is the first tick after a time; there is none after End, or after the year 9998.
func (p *plan) next(after time.Time) (time.Time, bool) {
	if before := p.start.Add(-1); after.Before(before) { // a tick may be at Start
		after = before
	}
	if after.Before(firstTick) {
		after = firstTick
	}
	if !after.Before(p.end) {
		return time.Time{}, false
	}
	var at int64
	ok := true
	switch sec := after.Unix(); { // rounded down
	case p.every > 0:
		at = (floor(sec, p.every) + 1) * p.every
	case p.sets.hour == allHours:
		at, ok = p.shown(sec)
	default:
		at, ok = p.reached(sec)
	}
	tick := time.Unix(at, 0).In(p.zone)
	if !ok || tick.After(p.end) {
		return time.Time{}, false
	}
	return tick, true
}

// Below, a clock is what a clock in the zone shows, as seconds since 1970-01-01 00:00 on it. Zones are less than a day off
// UTC, so two clocks are less than two days apart.

// period is a time in which the zone's clock is not moved.
type period struct {
	from, to int64 // from inclusive, to not
	offset   int64 // clock − UTC
}

func (p *plan) period(sec int64) period {
	t := time.Unix(sec, 0).In(p.zone)
	from, to := t.ZoneBounds()
	_, offset := t.Zone()
	r := period{math.MinInt64, math.MaxInt64, int64(offset)}
	if !from.IsZero() {
		r.from = from.Unix()
	}
	if !to.IsZero() {
		r.to = to.Unix()
	}
	// Go 1.26 makes periods past a zone's table end with the 365th day of a year, before the last day of a leap year.
	year := t.UTC().Year()
	if r.to <= sec {
		r.to = time.Date(year+1, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	}
	if r.from > sec {
		r.from = time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	}
	return r
}

// reached is the first instant after sec at which the clock for the first time reaches a time of the sets.
func (p *plan) reached(sec int64) (int64, bool) {
	now := p.period(sec)
	highest := sec + now.offset // that the clock has shown
	for from := now.from; from > sec-2*daySeconds; {
		before := p.period(from - 1)
		highest = max(highest, from-1+before.offset)
		from = before.from
	}
	clock, ok := p.sets.after(highest)
	if !ok {
		return 0, false
	}
	for r := p.period(clock - daySeconds); ; r = p.period(r.to) {
		if at := clock - r.offset; at < r.to {
			return max(at, r.from), true // from: the clock jumped over it
		}
	}
}

// shown is the first instant after sec at which the clock shows a time of the sets.
func (p *plan) shown(sec int64) (int64, bool) {
	r := p.period(sec)
	for clock, near := sec+r.offset, sec+3*daySeconds; ; {
		next, ok := p.sets.after(clock)
		if !ok {
			return 0, false
		}
		if at := next - r.offset; at < r.to {
			return at, true
		}
		// Changes of the clock before next need no look, except those that may show again what was before clock.
		at := r.to
		if far := next - daySeconds; at > near && far > at {
			at, near = far, far+3*daySeconds
		}
		r = p.period(at)
		clock = at + r.offset - 1
	}
}

// after is the first clock of the sets after one.
func (s *sets) after(clock int64) (int64, bool) {
	clock++
	today := floor(clock, daySeconds)
	day, ok := s.nextDay(today)
	if !ok {
		return 0, false
	}
	if day == today {
		if sec, ok := s.nextTime(int(clock - day*daySeconds)); ok {
			return day*daySeconds + int64(sec), true
		}
		if day, ok = s.nextDay(today + 1); !ok {
			return 0, false
		}
	}
	sec, ok := s.nextTime(0)
	return day*daySeconds + int64(sec), ok
}

// nextTime is the first time of a day, in seconds, at or after one.
func (s *sets) nextTime(sec int) (int, bool) {
	h, m := sec/3600, sec/60%60
	if s.hour>>h&1 != 0 {
		if s.minute>>m&1 != 0 {
			if second, ok := nextBit(s.second, sec%60); ok {
				return h*3600 + m*60 + second, true
			}
		}
		if m, ok := nextBit(s.minute, m+1); ok {
			return h*3600 + m*60 + bits.TrailingZeros64(s.second), true
		}
	}
	h, ok := nextBit(s.hour, h+1)
	return h*3600 + bits.TrailingZeros64(s.minute)*60 + bits.TrailingZeros64(s.second), ok
}

// nextDay is the first day at or after one, in days since 1970-01-01. The calendar repeats itself every 400 years: what
// is not found in so many is nowhere.
func (s *sets) nextDay(from int64) (int64, bool) {
	y, month, day := time.Unix(from*daySeconds, 0).UTC().Date()
	m := int(month)
	for last := y + 401; y <= last; {
		next, ok := nextBit(s.month, m)
		if !ok {
			y, m, day = y+1, 1, 1
			continue
		}
		if next != m {
			m, day = next, 1
		}
		first := floor(time.Date(y, time.Month(m), 1, 0, 0, 0, 0, time.UTC).Unix(), daySeconds)
		inWeek := s.week[weekday(first)]
		days := s.day & inWeek
		if s.either {
			days = s.day | inWeek
		}
		if d, ok := nextBit(days, day); ok && d <= daysIn(y, m) {
			return first + int64(d) - 1, true
		}
		m, day = m+1, 1
	}
	return 0, false
}

// nextBit is the lowest bit of a set from one on.
func nextBit(set uint64, from int) (int, bool) {
	set = set >> from << from
	return bits.TrailingZeros64(set), set != 0
}

// weekday of a day since 1970-01-01, a thursday; sunday is 0.
func weekday(day int64) int { return int(day + 4 - 7*floor(day+4, 7)) }

func daysIn(year, month int) int {
	switch {
	case month != 2:
		return 30 + (month+month/8)%2
	case year%4 == 0 && (year%100 != 0 || year%400 == 0):
		return 29
	default:
		return 28
	}
}

// floor is a/b, rounded down.
func floor(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
