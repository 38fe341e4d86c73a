package engine

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Stored is what became of a job with an ID or a unique key.
type Stored struct {
	Duplicate bool
	Mine      bool // the job that stands is the one that a try of this same call stored
	Gone      bool // that job's entry is not in the stream, where it ought to be
	Full      bool
	Where     string // of the job that stands
	Holder    string // its ID, when it stands by its unique key
	Updated   bool   // it has taken this job's data
	Kind      string // which forbids the job's kind of uniqueness
	Deferred  bool   // it is stored, and not yet due
	Due       int64  // of a stored deferred job, ms
	Entry     string // of any other
}

// PublishCall stores an immediate job that has an ID.
func PublishCall(k Keys, id, nonce string, maxLen int64, e Entry) Call {
	return Call{publishScript, []string{k.Stream, k.IDs, k.Job(id), k.marks()}, []any{id, nonce, maxLen, e.Type, e.Data, e.Traceparent, e.Opts}}
}

// ScheduleCall stores a job for later: after delay, by Redis's clock, or at due.
func ScheduleCall(k Keys, id, nonce string, maxLen int64, delay time.Duration, due time.Time, e Entry) Call {
	delayMS, dueMS := whenMS(delay, due)
	return Call{scheduleScript, []string{k.Scheduled, k.ScheduledJobs, k.IDs, k.Job(id), k.Stream, k.marks()},
		[]any{id, nonce, delayMS, dueMS, e.Body(), WakeChannel, maxLen}}
}

// whenMS is a delay or a due time as scripts take them: one of the two is empty.
func whenMS(delay time.Duration, due time.Time) (delayMS, dueMS string) {
	if due.IsZero() {
		return strconv.FormatInt(ceilMS(delay), 10), ""
	}
	ms := due.UnixMilli() // not from UnixNano, which ends in 2262
	if due.Nanosecond()%int(time.Millisecond) != 0 {
		ms++
	}
	return "", strconv.FormatInt(ms, 10)
}

func ceilMS(d time.Duration) int64 {
	ms := d.Milliseconds()
	if d%time.Millisecond > 0 {
		ms++
	}
	return ms
}

// ReadStored decodes what PublishCall, ScheduleCall and UniqueCall answer. A job that
// stands with our own nonce is no duplicate: a try whose reply was lost stored it.
func ReadStored(v any, nonce string) (Stored, error) {
	list, ok := v.([]any)
	if !ok || len(list) < 2 {
		return Stored{}, fmt.Errorf("unexpected answer %v", v)
	}
	code, _ := list[0].(int64)
	text, _ := list[1].(string)
	if len(list) > 2 {
		s := Stored{Duplicate: true, Gone: code == 3 || code == 7, Updated: code == 5 || code == 7, Where: text}
		s.Holder, _ = list[2].(string)
		return s, nil
	}
	switch code {
	case 0:
		if IsEntryID(text) {
			return Stored{Entry: text}, nil
		}
		due, _ := strconv.ParseInt(text, 10, 64)
		return Stored{Deferred: true, Due: due}, nil
	case 1, 3:
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
		return Stored{Duplicate: true, Gone: code == 3, Where: text}, nil
	case 4:
		return Stored{Kind: text}, nil
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

// Freeable reports whether it is worth while to ask FreeCall if the job that stands is gone, and whether it takes the
// groups for that. Where the job lies in the stream itself, PublishCall and ScheduleCall have seen whether it is there.
func (s Stored) Freeable() (can, groups bool) {
	if s.Updated && !s.Gone {
		return false, false
	}
	switch place, at, _ := SplitWhere(s.Where); place {
	case "orders":
		return s.Gone, false
	case "scheduled":
		return true, false
	case "retrying":
		return true, true
	case "redelivery", "suspects", "dead":
		return IsEntryID(at), true
	}
	return false, false
}

// FreeCall frees the ID of a job that was deleted by hand, if nothing is where the ids hash says. It needs all groups
// that the stream has, or has had.
func FreeCall(k Keys, id, where string, groups []string) Call {
	keys := []string{k.IDs, k.Stream, k.Config, k.Group("", false).Workers, k.Job(id)}
	args := []any{id, where}
	place, _, _ := SplitWhere(where)
	switch place {
	case "orders":
		return Call{freeScript, append(keys, k.Stream), args}
	case "scheduled":
		return Call{freeScript, append(keys, k.Scheduled, k.ScheduledJobs), args}
	}
	for _, group := range groups {
		args = append(args, group)
		switch g := k.Group(group, false); place {
		case "retrying":
			keys = append(keys, g.Retrying, g.RetryingJobs)
		case "redelivery":
			keys = append(keys, g.Redelivery)
		case "suspects":
			keys = append(keys, g.Suspects)
		case "dead":
			keys = append(keys, g.Dead)
		}
	}
	return Call{freeScript, keys, args}
}

// Freed reports whether it is worth while to store a job after FreeCall: it has freed its ID, or the index has changed.
func Freed(v any) bool { return v == int64(1) || v == int64(-1) }

// Promoted is what one run of Promote did.
type Promoted struct {
	Moved, Lost int64
	Next        int64  // due time of the first that is left, ms; 0 when none is
	Now         int64  // Redis's clock, ms
	micros      int64  // the same in µs
	More        bool   // the first that is left is due now
	Back        int64  // jobs that somebody had taken out of the set, and that are in it again
	Cursor      string // where PromoteFrom goes on looking for more of them; "0": there is no need
}

// Promote moves what is due from a sorted set to the stream it goes to, at
// most limit jobs or about 1 MiB of them at once.
// A slot is a set with its bodies, destination and index.
func Promote(ctx context.Context, rdb redis.UniversalClient, slot Slot, limit int) (Promoted, error) {
	return PromoteFrom(ctx, rdb, slot, limit, "0")
}

// PromoteFrom is Promote that goes on looking for jobs that are no longer in the set where an earlier run left off.
func PromoteFrom(ctx context.Context, rdb redis.UniversalClient, slot Slot, limit int, cursor string) (Promoted, error) {
	v, err := promoteCall(slot, limit, cursor).Run(ctx, rdb)
	if err != nil {
		return Promoted{}, fmt.Errorf("promote %s: %w", slot.Set, err)
	}
	list, ok := v.([]any)
	if !ok || len(list) != 6 {
		return Promoted{}, fmt.Errorf("promote %s: unexpected answer %v", slot.Set, v)
	}
	var p Promoted
	p.Moved, _ = list[0].(int64)
	p.Lost, _ = list[1].(int64)
	next, _ := list[2].(string)
	now, _ := list[3].(string)
	p.Back, _ = list[4].(int64)
	p.Cursor, _ = list[5].(string)
	p.micros, _ = strconv.ParseInt(now, 10, 64)
	p.Now = p.micros / 1000
	if f, err := strconv.ParseFloat(next, 64); err == nil {
		p.Next = score(next)
		p.More = f <= float64(p.Now)
	}
	return p, nil
}

// score is one of a sorted set as a time in ms; it may be infinite.
func score(v any) int64 {
	s, _ := v.(string)
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f != f {
		return 0
	}
	return int64(min(max(f, 0), maxMillis))
}

func promoteCall(slot Slot, limit int, cursor string) Call {
	return Call{promoteScript, []string{slot.Set, slot.Bodies, slot.Dest, slot.IDs}, []any{limit, slot.Place, slot.Name, cursor}}
}

// Slot is a sorted set of jobs that wait for their time, and where they go then.
type Slot struct {
	Set, Bodies, Dest, IDs string
	Place                  string // the destination's name in ids
	Name                   string // the set's
}

// ScheduledSlot holds a stream's deferred jobs.
func ScheduledSlot(k Keys) Slot {
	return Slot{k.Scheduled, k.ScheduledJobs, k.Stream, k.IDs, "orders", "scheduled"}
}

// RetryingSlot holds a group's failed and snoozed jobs.
func RetryingSlot(g GroupKeys) Slot {
	return Slot{g.Retrying, g.RetryingJobs, g.Redelivery, g.IDs, "redelivery", "retrying"}
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
	return open(ctx, rdb, openCall(k, group, kind, force, 0))
}

// Reopen is Open for a worker that knows the group's last epoch: what was
// deleted by hand is made again, and the epoch never falls.
func Reopen(ctx context.Context, rdb redis.UniversalClient, k Keys, group, kind string, epoch int64) (Opened, error) {
	return open(ctx, rdb, openCall(k, group, kind, false, epoch))
}

func open(ctx context.Context, rdb redis.UniversalClient, call Call) (Opened, error) {
	v, err := call.Run(ctx, rdb)
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
		return Opened{}, fmt.Errorf("open %s: unexpected answer %v", call.Keys[0], v)
	}
	return Opened{Kind: str(0), Epoch: epoch}, nil
}

func openCall(k Keys, group, kind string, force bool, epoch int64) Call {
	g := k.Group(group, false)
	f := "0"
	if force {
		f = "1"
	}
	return Call{openScript, []string{k.Stream, k.Config, g.Redelivery, g.Suspects}, []any{group, kind, Format, f, epoch}}
}

// Held names one delivery: the stream it was read from, and whose it is.
type Held struct {
	Key, Group, Consumer, Entry string // Consumer '' skips the check of who owns it
	Delete                      bool   // the entry goes with its end (not on an events stream's own key)
}

func (h Held) del() string { return flag(h.Delete) }

// flag is how scripts are told yes and no.
func flag(yes bool) string {
	if yes {
		return "1"
	}
	return "0"
}

// place is the name in ids of the stream the entry was read from: streams may give out the same entry ID.
func (h Held) place() string {
	for _, own := range []string{"redelivery", "suspects"} {
		if strings.Contains(h.Key, "}") && strings.HasSuffix(h.Key, ":g:"+h.Group+":"+own) {
			return own
		}
	}
	return "orders"
}

// SettleMax is how many entries one settle script takes: Lua unpacks at most 8,000 values.
const SettleMax = 4000

// SettleCall completes deliveries without an ID of one stream, at most SettleMax.
func SettleCall(h Held, entries []string) Call {
	args := make([]any, 0, len(entries)+2)
	args = append(args, h.Group, h.del())
	for i := range entries {
		args = append(args, &entries[i]) // a string in an any is an allocation
	}
	return Call{settleScript, []string{h.Key}, args}
}

// RetryCall parks a delivery for delay, by Redis's clock.
func RetryCall(h Held, g GroupKeys, id string, delay time.Duration, e Entry) Call {
	return h.retry(g, id, delay, e, false)
}

// PauseCall is RetryCall for a job that a kill switch puts off: ResumeCall makes it due before its time.
func PauseCall(h Held, g GroupKeys, id string, delay time.Duration, e Entry) Call {
	return h.retry(g, id, delay, e, true)
}

func (h Held) retry(g GroupKeys, id string, delay time.Duration, e Entry, pause bool) Call {
	return Call{retryScript, []string{h.Key, g.Retrying, g.RetryingJobs, g.IDs, g.Marks, g.Paused},
		[]any{h.Group, h.Consumer, h.Entry, h.del(), id, ceilMS(delay), e.Body(), WakeChannel, flag(pause)}}
}

// Taken reports whether RetryCall found another job with the same ID parked: IDs of
// entries that other programs add need not be unique, and one job must not overwrite the other.
func Taken(v any) bool { return v == int64(-2) }

// Marked reports whether RetryCall, ReleaseCall, SuspectCall or DeadCall found that the job is to end as cancelled: it
// has not moved, and is still the caller's to end so.
func Marked(v any) bool { return v == int64(-3) || v == "cancelled" }

// ReleaseCall hands a delivery back: any worker of the group may have it at once.
func ReleaseCall(h Held, g GroupKeys, id string, e Entry) Call {
	return h.move(g, g.Redelivery, "redelivery", id, "", Lock{}, e.Fields())
}

// SuspectCall sends a delivery to the group's suspects, which are run one at a time.
func SuspectCall(h Held, g GroupKeys, id string, e Entry) Call {
	return h.move(g, g.Suspects, "suspects", id, "", Lock{}, e.Fields())
}

// DeadCall sends a delivery to the dead letters, with info about its end, and ends its lock.
func DeadCall(h Held, g GroupKeys, id string, e Entry, info string, lock Lock) Call {
	c := h.move(g, g.Dead, "dead", id, g.Ended, lock, append(e.Fields(), "info", info))
	if lock.Key != "" {
		c.Keys = append(c.Keys, g.Unique(lock.Key), g.Next, g.Stream)
	}
	return c
}

func (h Held) move(g GroupKeys, dest, place, id, ended string, lock Lock, fields []any) Call {
	return Call{moveScript, []string{h.Key, dest, g.IDs, g.Marks}, append([]any{h.Group, h.Consumer, h.Entry, h.del(), id, place, ended, lock.Key, lock.Seen}, fields...)}
}

// LeaveCall removes a consumer from the streams where it holds nothing; unless
// heard is zero, only one that was not heard of since then, by Redis's clock.
func LeaveCall(k Keys, g GroupKeys, group, consumer string, heard time.Time) Call {
	since := ""
	if !heard.IsZero() {
		since = strconv.FormatInt(heard.UnixMilli(), 10)
	}
	return Call{leaveScript, []string{g.Workers, g.Redelivery, g.Suspects, k.Stream}, []any{group, consumer, since}}
}
