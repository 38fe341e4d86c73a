package engine

import (
	"fmt"
	"strconv"
	"time"
)

// Lanes is how many streams a group reads: the stream itself, its redelivery and its suspects, in this order.
const Lanes = 3

// LaneKeys are the streams that a group reads, in the order in which the scripts of leases name them.
func (k Keys) LaneKeys(g GroupKeys) [Lanes]string {
	return [Lanes]string{k.Stream, g.Redelivery, g.Suspects}
}

// Beat is what a worker learns when it renews its leases.
type Beat struct {
	Now      time.Time // Redis's clock
	Epoch    int64
	Suspects int64           // entries in the group's suspects stream
	Lost     [Lanes][]string // held, and owned by somebody else or nobody
	Deleted  [Lanes][]string // held and owned, and deleted from their stream
}

// BeatCall renews the leases of the entries that consumer holds.
func BeatCall(k Keys, g GroupKeys, group, consumer string, held [Lanes][]string) Call {
	args := []any{group, consumer, len(held[0]), len(held[1]), len(held[2])}
	for _, entries := range held {
		for _, e := range entries {
			args = append(args, e)
		}
	}
	lanes := k.LaneKeys(g)
	return Call{beatScript, []string{lanes[0], lanes[1], lanes[2], k.Config}, args}
}

// ReadBeat decodes what BeatCall answers.
func ReadBeat(v any) (Beat, error) {
	list, ok := v.([]any)
	if !ok || len(list) != 5 {
		return Beat{}, fmt.Errorf("unexpected answer %v", v)
	}
	b := Beat{Now: millisOf(list[0]), Epoch: number(list[1]), Suspects: number(list[2])}
	for lane := range Lanes {
		b.Lost[lane] = texts(at(list[3], lane))
		b.Deleted[lane] = texts(at(list[4], lane))
	}
	return b, nil
}

// What a sweep found.
const (
	SweepLate  = "late"  // it came too late to be trusted: Redis or this worker has stood still
	SweepShut  = "shut"  // another worker swept just now
	SweepQuiet = "quiet" // no lease can run out within the next third of one
	SweepWatch = "watch" // some have, or soon may
)

// Reclaimed is an entry whose owner's lease had run out; it is the caller's now.
type Reclaimed struct {
	Entry, Owner string
	Values       []string
}

// Sweep is what SweepCall answers.
type Sweep struct {
	State   string
	Now     time.Time
	Taken   [Lanes][]Reclaimed
	Deleted int64 // entries that had been deleted while pending: dead letters say so
}

// gateShut is how long a group is not swept again: once a second over all its workers.
const gateShut = 900 * time.Millisecond

// SweepCall takes over at most limit entries of the group whose lease has run out, unless Redis's clock is past notAfter.
func SweepCall(k Keys, g GroupKeys, group, consumer string, lease time.Duration, notAfter time.Time, limit int) Call {
	lanes := k.LaneKeys(g)
	return Call{sweepScript, []string{lanes[0], lanes[1], lanes[2], g.Dead, g.Gate},
		[]any{group, consumer, lease.Milliseconds(), notAfter.UnixMilli(), limit, gateShut.Milliseconds()}}
}

// ReadSweep decodes what SweepCall answers.
func ReadSweep(v any) (Sweep, error) {
	list, ok := v.([]any)
	if !ok || len(list) != 4 {
		return Sweep{}, fmt.Errorf("unexpected answer %v", v)
	}
	s := Sweep{Now: millisOf(list[1]), Deleted: number(list[3])}
	s.State, _ = list[0].(string)
	for lane := range Lanes {
		entries, _ := at(list[2], lane).([]any)
		for _, e := range entries {
			entry, _ := at(e, 0).(string)
			owner, _ := at(e, 1).(string)
			s.Taken[lane] = append(s.Taken[lane], Reclaimed{entry, owner, texts(at(e, 2))})
		}
	}
	return s, nil
}

func at(v any, i int) any {
	list, _ := v.([]any)
	if i >= len(list) {
		return nil
	}
	return list[i]
}

func texts(v any) []string {
	list, _ := v.([]any)
	out := make([]string, 0, len(list))
	for _, item := range list {
		s, _ := item.(string)
		out = append(out, s)
	}
	return out
}

func number(v any) int64 {
	switch n := v.(type) {
	case int64:
		return n
	case string:
		i, _ := strconv.ParseInt(n, 10, 64)
		return i
	}
	return 0
}

func millisOf(v any) time.Time { return time.UnixMilli(number(v)) }
