package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Record is what is left of a job that has ended, in one string: "<state> <mark>", where the mark is the publisher's; a line
// of JSON; and what the handler returned, as it is. The lines behind the first may be missing.
type Record struct {
	State, Mark string
	Note        Note
	Result      []byte // nil: the handler returned nothing, or it was not kept
}

// Note is the second line of a record. Times are milliseconds since the epoch by Redis's clock, durations milliseconds.
// What the opts of a job have, too, is called as there.
type Note struct {
	Type      string    `json:"t,omitempty"`
	Published int64     `json:"pub,omitempty"`
	Due       int64     `json:"due,omitempty"` // when it is not Published
	Started   int64     `json:"s,omitempty"`
	Took      int64     `json:"took,omitempty"`
	Worker    string    `json:"w,omitempty"`
	Attempt   int       `json:"a,omitempty"`
	MaxTries  int       `json:"mt,omitempty"`
	Crashes   int       `json:"cr,omitempty"`
	Error     string    `json:"e,omitempty"`
	Trace     string    `json:"tp,omitempty"` // traceparent
	History   []Attempt `json:"hist,omitempty"`
	Finished  int64     `json:"fin,omitempty"` // when that is not Started and Took
}

// noteBytes is room for a common record but its result.
const noteBytes = 224

// Record writes a whole record without a mark: the state, the note as a line of JSON, and result, if it is not nil.
func (n *Note) Record(state string, result []byte) []byte {
	b := make([]byte, 0, noteBytes+len(result))
	b = append(append(b, state...), " \n{"...)
	text := func(key, s string) {
		if s != "" {
			b = appendText(appendKey(b, key), s)
		}
	}
	whole := func(key string, i int64) {
		if i != 0 {
			b = strconv.AppendInt(appendKey(b, key), i, 10)
		}
	}
	text("t", n.Type)
	whole("pub", n.Published)
	whole("due", n.Due)
	whole("s", n.Started)
	whole("took", n.Took)
	text("w", n.Worker)
	whole("a", int64(n.Attempt))
	whole("mt", int64(n.MaxTries))
	whole("cr", int64(n.Crashes))
	text("e", n.Error)
	text("tp", n.Trace)
	whole("fin", n.Finished)
	if len(n.History) > 0 {
		list, err := json.Marshal(n.History)
		if err != nil {
			panic("penstock: a history cannot be encoded: " + err.Error()) // plain data
		}
		b = append(appendKey(b, "hist"), list...)
	}
	b = append(b, '}')
	if result != nil {
		b = append(append(b, '\n'), result...)
	}
	return b
}

// appendKey begins a member of a JSON object.
func appendKey(b []byte, key string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, key...)
	return append(b, '"', ':')
}

// appendText writes a JSON string; what needs no escapes without going through encoding/json.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			quoted, _ := json.Marshal(s) // strings have no error
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

var errNoRecord = errors.New("it is not the record of a job that has ended")

// ParseRecord takes a record apart. What says only that a job was missed is none.
func ParseRecord(s string) (Record, error) {
	first, rest, more := strings.Cut(s, "\n")
	state, mark, _ := strings.Cut(first, " ")
	if state == "" || state == "missed" {
		return Record{}, errNoRecord
	}
	r := Record{State: state, Mark: mark}
	if !more {
		return r, nil
	}
	note, result, kept := strings.Cut(rest, "\n")
	if kept {
		r.Result = []byte(result)
	}
	if err := json.Unmarshal([]byte(note), &r.Note); err != nil {
		return r, fmt.Errorf("the record of a job: %w", err)
	}
	return r, nil
}

// CompleteMax is how many jobs one complete script ends: they keep Redis busy for longer than those that leave nothing.
const CompleteMax = 500

// End is one job that CompleteCall ends.
type End struct {
	Entry   string
	ID      string        // of the job
	Indexed bool          // ids may know it
	Keep    time.Duration // of its record; 0: it leaves none
	Record  []byte        // as Note.Record writes it; empty: only the state, and the mark
	Lock    Lock          // that ends with it
}

// CompleteCall ends deliveries of one stream that have an ID or leave a record, at most CompleteMax.
func CompleteCall(h Held, g GroupKeys, state string, ends ...End) Call {
	keys := make([]string, 0, 3+len(ends))
	keys = append(keys, h.Key, g.IDs, g.Marks)
	args := make([]any, 0, 6+4*len(ends))
	locks := 0
	for i := range ends {
		if ends[i].Lock.Key != "" {
			locks++
		}
	}
	args = append(args, h.Group, h.del(), h.place(), state, g.Ended, locks)
	for i := range ends {
		e := &ends[i]
		keys = append(keys, g.Job(e.ID))
		id, record := &e.ID, e.Record // a string in an any is an allocation
		switch {
		case !e.Indexed && len(record) == 0:
			id, record = &noText, []byte(state)
		case !e.Indexed:
			id = &noText
		case len(record) > 0:
			record = record[len(state)+1:] // what comes behind the mark, which the script knows
		}
		args = append(args, &e.Entry, id, ceilMS(max(e.Keep, 0)), record)
	}
	if locks > 0 {
		keys = append(keys, g.Next, g.Stream)
		for i := range ends {
			if lock := ends[i].Lock; lock.Key != "" {
				keys, args = append(keys, g.Unique(lock.Key)), append(args, i+1, lock.Key, lock.Seen)
			}
		}
	}
	return Call{completeScript, keys, args}
}

var noText string

// ReadCompleted decodes what CompleteCall answers: the entries that were not ours to end any more, and why records could not be written.
func ReadCompleted(v any) (late, refused []string, ok bool) {
	list, _ := v.([]any)
	if len(list) != 2 {
		return nil, nil, false
	}
	names, ok1 := list[0].([]any)
	_, ok2 := list[1].([]any)
	return texts(names), texts(list[1]), ok1 && ok2
}
