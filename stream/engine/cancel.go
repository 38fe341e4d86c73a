package engine

import (
	"fmt"
	"strings"
	"time"
)

// MarksMax is how many jobs of a group may be marked at a time to end as cancelled, and marksLook how many of these are looked at
// in one call to find those that have ended.
const (
	MarksMax  = 10_000
	marksLook = 1_000
)

// cancelHint begins what is said on the wake-up channel of a job that was marked: "cancel <marks key> <job ID>".
const cancelHint = "cancel "

// Cancelled is what CancelCall answers.
type Cancelled struct {
	Again  bool     // the kind, the groups, the ID or the unique key are others, and nothing was done
	ID     string   // then: the ID that the job of this entry has; "" if it is not that
	Lock   string   // or its unique key
	Kind   string   // or the kind as it is
	Groups []string // and these
	Full   bool     // too many jobs are marked, and nothing was done
	None   bool     // the only group is none that there is, and nothing was done
	State  string   // of the whole job: "" when it has one in each group, or there is none
	In     []string // in each group
}

// CancelCall cancels a job in all groups, which must be all that the stream has or has had; on an events stream, when only
// is not "", in that one alone. Keep is how long its record is kept, if the job does not say. Lock is the job's unique key, as
// far as that is known; the answer corrects it. The entry is where ids does not know of the job; "": where its ID says.
func CancelCall(k Keys, id, entry string, events bool, only string, keep time.Duration, lock string, groups []string) Call {
	keys := make([]string, 0, 8+8*len(groups))
	keys = append(keys, k.Stream, k.Config, k.IDs, k.Scheduled, k.ScheduledJobs, k.Job(id), k.Unique(lock), k.Next)
	kind := "queue"
	if entry == "" && IsEntryID(id) {
		entry = id
	}
	if events {
		kind = "events"
	}
	args := make([]any, 0, 9+len(groups))
	args = append(args, id, entry, kind, only, ceilMS(keep), k.Ended, WakeChannel, MarksMax, lock)
	for _, group := range groups {
		g := k.Group(group, events)
		keys = append(keys, g.Redelivery, g.Suspects, g.Retrying, g.RetryingJobs, g.Dead, g.IDs, g.Job(id), g.Marks)
		args = append(args, group)
	}
	return Call{cancelScript, keys, args}
}

// ReadCancelled decodes what CancelCall answers.
func ReadCancelled(v any) (Cancelled, error) {
	list := texts(v)
	switch {
	case len(list) > 0 && list[0] == "full":
		return Cancelled{Full: true}, nil
	case len(list) > 0 && list[0] == "none":
		return Cancelled{None: true}, nil
	case len(list) < 2:
		return Cancelled{}, fmt.Errorf("unexpected answer %v", v)
	case list[0] == "id":
		return Cancelled{Again: true, ID: list[1]}, nil
	case list[0] == "lock":
		return Cancelled{Again: true, Lock: list[1]}, nil
	case list[0] == "groups":
		return Cancelled{Again: true, Kind: list[1], Groups: list[2:]}, nil
	}
	return Cancelled{State: list[1], In: list[2:]}, nil
}

// MarksCall asks which jobs of a group are to end as cancelled; goes says whether entries of the stream go as they end.
func MarksCall(k Keys, g GroupKeys, group string, goes bool) Call {
	return Call{marksScript, []string{g.Marks, k.Stream, k.IDs, k.Scheduled, g.Redelivery, g.Suspects, g.IDs},
		[]any{group, flag(goes), marksLook, MarksMax}}
}

// ReadMarks decodes what MarksCall answers.
func ReadMarks(v any) (ids []string, ok bool) {
	_, ok = v.([]any)
	return texts(v), ok
}

// CancelHint takes apart what was said on the wake-up channel: which set of marks has a new one, and of which job.
func CancelHint(text string) (marks, id string, ok bool) {
	rest, ok := strings.CutPrefix(text, cancelHint)
	if !ok {
		return "", "", false
	}
	marks, id, ok = strings.Cut(rest, " ")
	return marks, id, ok
}
