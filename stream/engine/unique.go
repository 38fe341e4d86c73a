package engine

import (
	"strconv"
	"strings"
	"time"
)

// UntilStarted is Opts.Until of a job whose lock ends when its first run starts.
const UntilStarted = -1

// What UniqueCall does when another job holds the key.
const (
	ConflictKeep     = "keep"
	ConflictReplace  = "replace"  // the job that holds it takes the data and the due time, if it is scheduled
	ConflictCoalesce = "coalesce" // the data are kept behind the lock
)

// Lock is that of a job with a unique key, when the job ends.
type Lock struct {
	Key  string // unique key; "": there is none
	Seen int64  // version of the data behind it that the job's run has seen; 0: of none
}

// Locked is what UniqueCall needs to know besides the job.
type Locked struct {
	Key      string
	Until    int64  // as in Opts
	Conflict string // one of those above
}

// UniqueCall stores a job that has a unique key, at once, after delay, by Redis's clock, or at due. The opts have its ID.
func UniqueCall(k Keys, id, nonce string, maxLen int64, delay time.Duration, due time.Time, lock Locked, e Entry, o Opts) Call {
	delayMS, dueMS := "", ""
	if delay > 0 || !due.IsZero() {
		delayMS, dueMS = whenMS(delay, due)
	}
	// The job that holds the key may take these opts, but for its ID: the script puts that in.
	const hole = `"id":"?"`
	o.ID = "?"
	before, after, _ := strings.Cut(o.String(), hole)
	return Call{uniqueScript, []string{k.Stream, k.IDs, k.Job(id), k.Unique(lock.Key), k.Scheduled, k.ScheduledJobs, k.Next, k.Config, k.marks()},
		[]any{id, nonce, maxLen, delayMS, dueMS, lock.Key, max(lock.Until, 0), flag(lock.Until == 0), lock.Conflict, WakeChannel,
			e.Type, e.Data, e.Traceparent, before + `"id":`, after}}
}

// StartUntilCall ends the lock of a job that holds it until it starts, if the delivery is this consumer's still.
func StartUntilCall(h Held, g GroupKeys, id, key string) Call { return h.start(g, id, key, "end") }

// StartLatestCall reads the latest data behind the lock of a job, if the delivery is this consumer's still.
func StartLatestCall(h Held, g GroupKeys, id, key string) Call { return h.start(g, id, key, "read") }

func (h Held) start(g GroupKeys, id, key, what string) Call {
	return Call{startScript, []string{h.Key, g.IDs, g.Unique(key), g.Next, g.Stream}, []any{h.Group, h.Consumer, h.Entry, id, key, what}}
}

// Latest is what is kept behind a lock.
type Latest struct {
	Version int64 // 0: nothing
	Entry   Entry
}

// ReadStarted decodes what StartUntilCall and StartLatestCall answer.
func ReadStarted(v any) (ours bool, latest Latest) {
	text, _ := at(v, 1).(string)
	head, body, _ := strings.Cut(text, "\n")
	version, _, _ := strings.Cut(head, " ")
	if n, err := strconv.ParseInt(version, 10, 64); err == nil {
		if e, ok := ParseBody(body); ok {
			latest = Latest{n, e}
		}
	}
	return at(v, 0) == int64(1), latest
}

// RedriveCall sends a dead letter back to its group. With a unique key in its opts it takes the lock again.
func RedriveCall(g GroupKeys, entry, id string, e Entry, o Opts) Call {
	c := Call{redriveScript, []string{g.Dead, g.Redelivery, g.IDs}, []any{entry, id, e.Type, e.Data, e.Traceparent, e.Opts, max(o.Until, 0)}}
	if o.Unique != "" {
		c.Keys = append(c.Keys, g.Unique(o.Unique))
	}
	return c
}

// ReadRedriven decodes what RedriveCall answers: moved is false when somebody else was faster, or another job has taken the
// lock, and then says which, and where that is.
func ReadRedriven(v any) (moved bool, holder, where string) {
	if list, ok := v.([]any); ok {
		holder, _ = at(list, 0).(string)
		where, _ = at(list, 1).(string)
		return false, holder, where
	}
	return v != "", "", ""
}

// Letter is a dead letter to purge.
type Letter struct{ Entry, ID, Unique string }

// PurgeCall deletes dead letters.
func PurgeCall(g GroupKeys, letters []Letter) Call {
	keys, args := []string{g.Dead, g.IDs}, make([]any, 0, 3*len(letters))
	for _, l := range letters {
		lock := 0
		if l.Unique != "" {
			keys = append(keys, g.Unique(l.Unique))
			lock = len(keys)
		}
		args = append(args, l.Entry, l.ID, lock)
	}
	return Call{purgeScript, keys, args}
}
