package engine

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Stored is what became of a job with an ID.
type Stored struct {
	Duplicate bool
	Mine      bool // the job that stands is the one that a try of this same call stored
	Full      bool
	Where     string // of the job that stands
	Deferred  bool   // it is stored, and not yet due
	Due       int64  // of a stored deferred job, ms
	Entry     string // of any other
}

// PublishCall stores an immediate job that has an ID.
func PublishCall(k Keys, id, nonce string, maxLen int64, e Entry) Call {
	return Call{publishScript, []string{k.Stream, k.IDs, k.Job(id)}, []any{id, nonce, maxLen, e.Type, e.Data, e.Traceparent, e.Opts}}
}

// ScheduleCall stores a job for later: after delay, by Redis's clock, or at due.
func ScheduleCall(k Keys, id, nonce string, maxLen int64, delay time.Duration, due time.Time, e Entry) Call {
	delayMS, dueMS := "", ""
	if due.IsZero() {
		delayMS = strconv.FormatInt(ceilMS(delay), 10)
	} else {
		ms := due.UnixMilli() // not from UnixNano, which ends in 2262
		if due.Nanosecond()%int(time.Millisecond) != 0 {
			ms++
		}
		dueMS = strconv.FormatInt(ms, 10)
	}
	return Call{scheduleScript, []string{k.Scheduled, k.ScheduledJobs, k.IDs, k.Job(id), k.Stream},
		[]any{id, nonce, delayMS, dueMS, e.Body(), WakeChannel, maxLen}}
}

func ceilMS(d time.Duration) int64 {
	ms := d.Milliseconds()
	if d%time.Millisecond > 0 {
		ms++
	}
	return ms
}

// ReadStored decodes what PublishCall and ScheduleCall answer. A job that
// stands with our own nonce is no duplicate: a try whose reply was lost stored it.
func ReadStored(v any, nonce string) (Stored, error) {
	list, ok := v.([]any)
	if !ok || len(list) != 2 {
		return Stored{}, fmt.Errorf("unexpected answer %v", v)
	}
	code, _ := list[0].(int64)
	text, _ := list[1].(string)
	switch code {
	case 0:
		if IsEntryID(text) {
			return Stored{Entry: text}, nil
		}
		due, _ := strconv.ParseInt(text, 10, 64)
		return Stored{Deferred: true, Due: due}, nil
	case 1:
		if place, at, mark := SplitWhere(text); mark == nonce && nonce != "" {
			if place == "orders" {
				return Stored{Entry: at}, nil
			}
			if place != "scheduled" {
				return Stored{Duplicate: true, Mine: true, Where: text}, nil // it has moved on meanwhile
			}
			due, _ := strconv.ParseInt(at, 10, 64)
			return Stored{Deferred: true, Due: due}, nil
		}
		return Stored{Duplicate: true, Where: text}, nil
	default:
		return Stored{Full: true, Where: text}, nil
	}
}

// SplitWhere takes a value of the ids hash apart: the place, the entry or due time there, and the mark of who stored it.
func SplitWhere(where string) (place, at, mark string) {
	place, rest, _ := strings.Cut(where, " ")
	at, mark, _ = strings.Cut(rest, " ")
	return place, at, mark
}

// Promoted is what one run of Promote did.
type Promoted struct {
	Moved, Lost int64
	Next        int64 // due time of the first that is left, ms; 0 when none is
	Now         int64 // Redis's clock, ms
	More        bool  // the first that is left is due now
}

// Promote moves what is due from a sorted set to the stream it goes to, at
// most limit jobs or about 1 MiB of them at once.
// A slot is a set with its bodies, destination and index.
func Promote(ctx context.Context, rdb redis.UniversalClient, slot Slot, limit int) (Promoted, error) {
	v, err := promoteCall(slot, limit).Run(ctx, rdb)
	if err != nil {
		return Promoted{}, fmt.Errorf("promote %s: %w", slot.Set, err)
	}
	list, ok := v.([]any)
	if !ok || len(list) != 4 {
		return Promoted{}, fmt.Errorf("promote %s: unexpected answer %v", slot.Set, v)
	}
	var p Promoted
	p.Moved, _ = list[0].(int64)
	p.Lost, _ = list[1].(int64)
	next, _ := list[2].(string)
	now, _ := list[3].(string)
	p.Now, _ = strconv.ParseInt(now, 10, 64)
	if f, err := strconv.ParseFloat(next, 64); err == nil {
		p.Next = int64(min(max(f, 0), maxMillis)) // a score may be infinite
		p.More = f <= float64(p.Now)
	}
	return p, nil
}

func promoteCall(slot Slot, limit int) Call {
	return Call{promoteScript, []string{slot.Set, slot.Bodies, slot.Dest, slot.IDs}, []any{limit, slot.Place}}
}

// Slot is a sorted set of jobs that wait for their time, and where they go then.
type Slot struct {
	Set, Bodies, Dest, IDs string
	Place                  string // the destination's name in ids
}

// ScheduledSlot holds a stream's deferred jobs.
func ScheduledSlot(k Keys) Slot {
	return Slot{k.Scheduled, k.ScheduledJobs, k.Stream, k.IDs, "orders"}
}

// RetryingSlot holds a group's failed and snoozed jobs.
func RetryingSlot(g GroupKeys) Slot {
	return Slot{g.Retrying, g.RetryingJobs, g.Redelivery, g.IDs, "redelivery"}
}

// Opened is what Open found or made; Refusal says why it did neither.
type Opened struct {
	Kind    string
	Epoch   int64
	Refusal string // "", "kind", "foreign", "second", "format"
	Groups  string
	Entries int64
}

// Open makes group of the stream, and settles the stream's kind when it has
// none. With group "" it only settles the kind.
func Open(ctx context.Context, rdb redis.UniversalClient, k Keys, group, kind string, force bool) (Opened, error) {
	v, err := openCall(k, group, kind, force).Run(ctx, rdb)
	if err != nil {
		return Opened{}, err
	}
	list, _ := v.([]any)
	str := func(i int) string {
		if i >= len(list) {
			return ""
		}
		return fmt.Sprint(list[i])
	}
	if str(0) == "!" {
		entries, _ := strconv.ParseInt(str(4), 10, 64)
		return Opened{Refusal: str(1), Kind: str(2), Groups: str(3), Entries: entries}, nil
	}
	epoch, err := strconv.ParseInt(str(1), 10, 64)
	if err != nil {
		return Opened{}, fmt.Errorf("open %s: unexpected answer %v", k.Stream, v)
	}
	return Opened{Kind: str(0), Epoch: epoch}, nil
}

func openCall(k Keys, group, kind string, force bool) Call {
	g := k.Group(group, false)
	f := "0"
	if force {
		f = "1"
	}
	return Call{openScript, []string{k.Stream, k.Config, g.Redelivery, g.Suspects}, []any{group, kind, Format, f}}
}

// Held names one delivery: the stream it was read from, and whose it is.
type Held struct {
	Key, Group, Consumer, Entry string // Consumer '' skips the check of who owns it
	Delete                      bool   // the entry goes with its end (not on an events stream's own key)
}

func (h Held) del() string {
	if h.Delete {
		return "1"
	}
	return "0"
}

// SettleMax is how many entries one settle script takes: Lua unpacks at most 8,000 values.
const SettleMax = 4000

// SettleCall completes deliveries without an ID of one stream, at most SettleMax.
func SettleCall(h Held, entries []string) Call {
	args := make([]any, 0, len(entries)+2)
	args = append(args, h.Group, h.del())
	for _, e := range entries {
		args = append(args, e)
	}
	return Call{settleScript, []string{h.Key}, args}
}

// CompleteCall completes one delivery that has an ID.
func CompleteCall(h Held, ids, record, id, state string, keep time.Duration) Call {
	return Call{completeScript, []string{h.Key, ids, record}, []any{h.Group, h.Entry, h.del(), id, state, keep.Milliseconds()}}
}

// RetryCall parks a delivery for delay, by Redis's clock.
func RetryCall(h Held, g GroupKeys, id string, delay time.Duration, e Entry) Call {
	return Call{retryScript, []string{h.Key, g.Retrying, g.RetryingJobs, g.IDs},
		[]any{h.Group, h.Consumer, h.Entry, h.del(), id, ceilMS(delay), e.Body(), WakeChannel}}
}

// Taken reports whether RetryCall found another job with the same ID parked: IDs of
// entries that other programs add need not be unique, and one job must not overwrite the other.
func Taken(v any) bool { return v == int64(-2) }

// ReleaseCall hands a delivery back: any worker of the group may have it at once.
func ReleaseCall(h Held, g GroupKeys, id string, e Entry) Call {
	return h.move(g.Redelivery, "redelivery", g.IDs, id, e.Fields())
}

// SuspectCall sends a delivery to the group's suspects, which are run one at a time.
func SuspectCall(h Held, g GroupKeys, id string, e Entry) Call {
	return h.move(g.Suspects, "suspects", g.IDs, id, e.Fields())
}

// DeadCall sends a delivery to the dead letters, with info about its end.
func DeadCall(h Held, g GroupKeys, id string, e Entry, info string) Call {
	return h.move(g.Dead, "dead", g.IDs, id, append(e.Fields(), "info", info))
}

func (h Held) move(dest, place, ids, id string, fields []any) Call {
	return Call{moveScript, []string{h.Key, dest, ids}, append([]any{h.Group, h.Consumer, h.Entry, h.del(), id, place}, fields...)}
}

// RedriveCall sends a dead letter back to its group.
func RedriveCall(g GroupKeys, entry, id string, e Entry) Call {
	return Call{redriveScript, []string{g.Dead, g.Redelivery, g.IDs}, []any{entry, id, e.Type, e.Data, e.Traceparent, e.Opts}}
}

// PurgeCall deletes dead letters, given as pairs of entry and ID.
func PurgeCall(g GroupKeys, pairs []any) Call {
	return Call{purgeScript, []string{g.Dead, g.IDs}, pairs}
}

// LeaveCall removes a consumer from the streams where it holds nothing.
func LeaveCall(keys []string, group, consumer string) Call {
	return Call{leaveScript, keys, []any{group, consumer}}
}
