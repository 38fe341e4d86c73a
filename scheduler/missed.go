package scheduler

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Missed says what happens to ticks that were missed: those due over a minute ago that nobody published, since no
// scheduler ran or Redis was away. What is due for less than a minute is late, and published whatever the policy, but that
// with MissedOnce the newest due tick stands for these too where older ones were missed.
type Missed struct {
	// Policy. Default: MissedOnce.
	Policy MissedPolicy
	// Within: what was due longer ago is skipped. At least a minute. Default: 24 h.
	Within time.Duration
	// Limit is how many missed ticks MissedAll makes up for, the newest. Default: 100.
	Limit int
}

// MissedPolicy is what is done about missed ticks.
type MissedPolicy string

// What Missed.Policy may be.
const (
	MissedOnce MissedPolicy = "once" // the newest due tick stands for all of them
	MissedSkip MissedPolicy = "skip" // nothing
	MissedAll  MissedPolicy = "all"  // each is published, oldest first
)

const (
	defaultWithin = 24 * time.Hour
	defaultLimit  = 100
	maxLimit      = 1000
	maxWithin     = 366 * 24 * time.Hour
	lateness      = time.Minute // what is due for longer is missed
	maxCounted    = 10_000
)

// withDefaults returns m with every zero field at its default.
func (m Missed) withDefaults() Missed {
	m.Policy = cmp.Or(m.Policy, MissedOnce)
	m.Within = cmp.Or(m.Within, defaultWithin)
	m.Limit = cmp.Or(m.Limit, defaultLimit)
	return m
}

func (m Missed) check(f *faults) {
	f.add(m.Policy != "" && m.Policy != MissedOnce && m.Policy != MissedSkip && m.Policy != MissedAll,
		"Missed.Policy", fmt.Sprintf("%q", m.Policy), "must be once, skip or all")
	f.add(m.Within != 0 && (m.Within < lateness || m.Within > maxWithin),
		"Missed.Within", short(m.Within), "must be between %s and %s", short(lateness), short(maxWithin))
	f.add(m.Limit < 0 || m.Limit > maxLimit, "Missed.Limit", strconv.Itoa(m.Limit), "must be between 1 and %d", maxLimit)
	f.add(m.Limit > 0 && m.Policy != MissedAll, "Missed.Limit", strconv.Itoa(m.Limit), "is for the policy all")
}

// owed says what is to be done now about the ticks after last, the newest that is recorded, or the time at which the
// schedule came to be: which of those that are due have to be published, oldest first, and how many have not (counted no
// further than maxCounted). through is the newest due tick, or last: these settle all up to there.
func (p *plan) owed(last, now time.Time) (ticks []time.Time, skipped int, through time.Time) {
	missed := now.Add(-lateness)
	first, ok := p.next(last)
	if !ok || p.fire(first).After(now) {
		return nil, 0, last
	}
	oldest := now.Add(-p.missed.Within)
	now = now.Add(1) // from here on: before now
	late := p.newest(int(lateness/time.Second)+2, last, missed, now)
	if !p.fire(first).Before(missed) {
		return late, 0, late[len(late)-1]
	}
	switch p.missed.Policy {
	case MissedSkip:
		ticks = late
	case MissedAll:
		ticks = append(p.newest(p.missed.Limit, last, oldest, missed), late...)
	default:
		ticks = p.newest(1, last, oldest, now)
	}
	due := 0
	for t, ok := first, true; ok && due < maxCounted && p.due(t, now); t, ok = p.next(t) {
		due++
	}
	skipped = max(due-len(ticks), 0)
	if len(ticks) > 0 {
		return ticks, skipped, ticks[len(ticks)-1]
	}
	if newest := p.newest(1, last, last, now); len(newest) > 0 {
		last = newest[0]
	}
	return nil, skipped, last
}

// due reports whether a tick is published before a time.
func (p *plan) due(tick, before time.Time) bool {
	return tick.Before(before) && (tick.Add(p.jitter).Before(before) || p.fire(tick).Before(before))
}

// newest are the last n ticks after last that are published at from or later, and before to, in order. It looks further
// and further back, so that what it costs follows from n and not from how long ago last is.
func (p *plan) newest(n int, last, from, to time.Time) []time.Time {
	oldest := from.Add(-p.jitter - 1)
	if oldest.Before(last) {
		oldest = last
	}
	for back := time.Minute; ; back *= 2 {
		start := oldest
		if back < maxBack && to.Add(-back).After(oldest) {
			start = to.Add(-back)
		}
		var found []time.Time
		for t, ok := p.next(start); ok && p.due(t, to); t, ok = p.next(t) {
			if p.jitter > 0 && p.fire(t).Before(from) {
				continue
			}
			if len(found) == 2*n {
				found = found[:copy(found, found[n:])]
			}
			found = append(found, t)
		}
		if len(found) >= n || start.Equal(oldest) {
			return found[max(len(found)-n, 0):]
		}
	}
}

// maxBack is about 142 years: twice as much is the longest duration.
const maxBack = math.MaxInt64 / 2
