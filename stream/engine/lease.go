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
	Lost     [Lanes][]string // held, and owned by somebody else
	Deleted  [Lanes][]string // held and owned, and deleted from their stream
	Unowned  [Lanes][]string // held, and owned by nobody: acknowledged, or somebody took them off the list
	Missing  [Lanes][]string // the same, and not in their stream any more
	Mended   int64           // held, and owned by nobody until this call
	Waiting  int64           // entries that the group has not read; -1: Redis can't tell
	Unread   [2]string       // the first of them in the stream and in redelivery; "": there is none
	Last     int64           // number of the last heartbeat of this worker that Redis knows of; -1: of none
	Took     bool            // it took this one's: a full Redis does not
	Pending  int64           // entries that are pending with anybody; of a stream that is empty they are not counted
	Marks    int64           // jobs that are to end as cancelled
	Switches string          // the version of the kill switches; "": there are none
	Orphans  [Lanes]bool     // entries lie in nobody's list, whoever held them, for Mend to look for
}

// Nobody is the name under which entries are pending that were in nobody's list. No worker is called so.
const Nobody = "penstock:nobody"

// BeatCall renews the leases of the entries that consumer holds; number counts its heartbeats, from 1, and goes
// says whether entries of the stream go as they end. Gone is how many jobs it has whose entries are not there any more, and running what it runs, or the most of that
// that is worth telling.
func BeatCall(k Keys, g GroupKeys, group, consumer string, lease time.Duration, number int64, goes bool, held [Lanes][]string, gone int, running ...Running) Call {
	args := []any{group, consumer, lease.Milliseconds(), number, flag(goes), len(held[0]), len(held[1]), len(held[2]), Nobody, gone, runningText(running)}
	for _, entries := range held {
		for _, e := range entries {
			args = append(args, e)
		}
	}
	lanes := k.LaneKeys(g)
	return Call{beatScript, []string{lanes[0], lanes[1], lanes[2], k.Config, g.Lease, g.Workers, g.Marks, k.Switches}, args}
}

// Running is a job that a worker runs, and since when: ms by Redis's clock.
type Running struct {
	ID    string
	Since int64
}

func runningText(running []Running) string {
	b := []byte{'['}
	for i, r := range running {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendText(append(b, '['), r.ID), ',')
		b = append(strconv.AppendInt(b, r.Since, 10), ']')
	}
	return string(append(b, ']'))
}

// ReadBeat decodes what BeatCall answers.
func ReadBeat(v any) (Beat, error) {
	list, ok := v.([]any)
	if !ok || len(list) != 16 {
		return Beat{}, fmt.Errorf("unexpected answer %v", v)
	}
	b := Beat{Now: millisOf(list[0]), Epoch: number(list[1]), Suspects: number(list[2]), Waiting: number(list[5]), Last: number(list[7]), Took: number(list[8]) == 1, Mended: number(list[11]), Pending: number(list[13]), Marks: number(list[14])}
	b.Switches, _ = list[15].(string)
	copy(b.Unread[:], texts(list[6]))
	for lane := range Lanes {
		b.Lost[lane] = texts(at(list[3], lane))
		b.Deleted[lane] = texts(at(list[4], lane))
		b.Unowned[lane] = texts(at(list[9], lane))
		b.Missing[lane] = texts(at(list[10], lane))
		b.Orphans[lane] = number(at(list[12], lane)) == 1
	}
	return b, nil
}

// What a sweep found.
const (
	SweepLate  = "late"  // it can't be trusted: Redis or this worker has stood still, or Redis's data are older than they were
	SweepShut  = "shut"  // another worker looked just now
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
	Deleted int64         // entries that had been deleted while pending: dead letters say so
	Wait    time.Duration // until it is worth while to look again
}

// gateShut is how long a group is not swept again while a lease may run out: once a second over all its workers.
const gateShut = 900 * time.Millisecond

// SweepCall takes over at most limit entries of the group whose lease has run out, unless Redis's clock is past
// notAfter, or it does not know beat, the number of the caller's last heartbeat that it took (0: it took none).
func SweepCall(k Keys, g GroupKeys, group, consumer string, lease time.Duration, beat int64, notAfter time.Time, limit int) Call {
	lanes := k.LaneKeys(g)
	return Call{sweepScript, []string{lanes[0], lanes[1], lanes[2], g.Dead, g.Gate, g.Lease, g.Workers},
		[]any{group, consumer, lease.Milliseconds(), notAfter.UnixMilli(), limit, gateShut.Milliseconds(), beat}}
}

// ReadSweep decodes what SweepCall answers.
func ReadSweep(v any) (Sweep, error) {
	list, ok := v.([]any)
	if !ok || len(list) != 5 {
		return Sweep{}, fmt.Errorf("unexpected answer %v", v)
	}
	s := Sweep{Now: millisOf(list[1]), Deleted: number(list[3]), Wait: time.Duration(number(list[4])) * time.Millisecond}
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

// MendCall looks at no more than limit entries of a lane, from the one behind after on ("": from the beginning), and
// makes those that are in nobody's list pending under the name of Nobody.
func MendCall(k Keys, g GroupKeys, group string, lane int, after string, limit int) Call {
	return Call{mendScript, []string{k.LaneKeys(g)[lane], k.Config}, []any{group, Nobody, flag(lane == 0), after, limit}}
}

// ReadMend decodes what MendCall answers: how many entries were in nobody's list, and from which one to go on; "" when nothing is left.
func ReadMend(v any) (orphans int64, after string, err error) {
	list, ok := v.([]any)
	if !ok || len(list) != 2 {
		return 0, "", fmt.Errorf("unexpected answer %v", v)
	}
	after, _ = list[1].(string)
	return number(list[0]), after, nil
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
