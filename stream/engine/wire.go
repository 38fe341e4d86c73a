package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Format is the number of the wire format this build writes and understands.
const Format = 1

// Names of an entry's fields. All four are always written, in this order, so
// that Redis stores the names once per node.
const (
	FieldType        = "type"
	FieldData        = "data"
	FieldTraceparent = "traceparent"
	FieldOpts        = "opts"
)

// Entry is a job as it lies in a stream: four fields.
type Entry struct {
	Type, Data, Traceparent, Opts string
}

// Attempt is one run of a job that ended in an error.
type Attempt struct {
	Attempt int    `json:"a"`
	Worker  string `json:"w,omitempty"`
	Started int64  `json:"s,omitempty"` // ms since the epoch
	Took    int64  `json:"t,omitempty"` // ms
	Error   string `json:"e,omitempty"`
}

// Backoff is a job's own retry policy; what is zero is the worker's.
type Backoff struct {
	Delay  int64   `json:"d,omitempty"`
	Factor float64 `json:"f,omitempty"`
	Max    int64   `json:"m,omitempty"`
	Jitter float64 `json:"j,omitempty"`
}

// Opts is what travels with a job besides its data. Keys that this build does
// not know are kept, so that old and new versions can run side by side. Times
// are milliseconds since the epoch, durations milliseconds.
type Opts struct {
	Format     int               `json:"v,omitempty"`
	ID         string            `json:"id,omitempty"`
	Published  int64             `json:"pub,omitempty"`
	Due        int64             `json:"due,omitempty"`
	Expires    int64             `json:"exp,omitempty"`
	MaxTries   int               `json:"mt,omitempty"`
	Timeout    int64             `json:"to,omitempty"`
	KeepResult int64             `json:"kr,omitempty"`
	Backoff    *Backoff          `json:"bo,omitempty"`
	Header     map[string]string `json:"h,omitempty"`
	Tracestate string            `json:"ts,omitempty"`
	Unique     string            `json:"u,omitempty"`   // its unique key
	Until      int64             `json:"uu,omitempty"`  // how long it holds the lock: 0 until it is done, −1 until it starts, else for so long
	Coalesce   bool              `json:"uc,omitempty"`  // it reads the latest data behind the lock when it starts
	Errors     int               `json:"err,omitempty"` // runs that ended in an error
	Crashes    int               `json:"cr,omitempty"`  // leases that ran out
	Moves      int64             `json:"f,omitempty"`   // the job's part of its fence
	Bounces    int               `json:"b,omitempty"`   // times nobody here could handle it
	BouncedAt  int64             `json:"b0,omitempty"`  // the first of them
	Pauses     int               `json:"pz,omitempty"`  // times a kill switch has put it off since it ran last
	History    []Attempt         `json:"hist,omitempty"`
	Fields     [][2][]byte       `json:"ff,omitempty"` // a foreign entry's fields

	unknown map[string]json.RawMessage
}

var knownOpts = map[string]bool{
	"v": true, "id": true, "pub": true, "due": true, "exp": true, "mt": true, "to": true, "kr": true, "bo": true, "h": true, "ts": true,
	"u": true, "uu": true, "uc": true,
	"err": true, "cr": true, "f": true, "b": true, "b0": true, "pz": true, "hist": true, "ff": true,
}

// ParseOpts decodes the opts field; the empty string is the zero Opts.
func ParseOpts(s string) (Opts, error) {
	if s == "" {
		return Opts{}, nil
	}
	return parseOpts(s)
}

func parseOpts(s string) (Opts, error) {
	var o Opts
	var all map[string]json.RawMessage
	if err := json.Unmarshal([]byte(s), &all); err != nil {
		return Opts{}, fmt.Errorf("opts: %w", err)
	}
	var format int
	if json.Unmarshal(all["v"], &format) == nil && format > Format {
		return parseNewer(all, format), nil
	}
	var unknown map[string]json.RawMessage
	folded := false
	for k, v := range all {
		if knownOpts[k] {
			continue
		}
		if unknown == nil {
			unknown = make(map[string]json.RawMessage)
		}
		unknown[k] = v
		for known := range knownOpts {
			folded = folded || strings.EqualFold(k, known)
		}
	}
	text := []byte(s)
	if folded { // encoding/json would take "ID" for "id", and let one overwrite the other
		maps.DeleteFunc(all, func(k string, _ json.RawMessage) bool { return !knownOpts[k] })
		text, _ = json.Marshal(all) // came out of a decoder
	}
	if err := json.Unmarshal(text, &o); err != nil {
		return Opts{}, fmt.Errorf("opts: %w", err)
	}
	o.unknown = unknown
	if err := o.check(); err != nil {
		return Opts{}, err
	}
	return o, nil
}

// parseNewer takes from opts of a newer format only what it needs to park the
// job for a worker that knows the format: known keys may mean something else there. All the rest is kept.
func parseNewer(all map[string]json.RawMessage, format int) Opts {
	o := Opts{unknown: all}
	for key, field := range map[string]any{"id": &o.ID, "f": &o.Moves, "b": &o.Bounces, "b0": &o.BouncedAt} {
		_ = json.Unmarshal(all[key], field) // what can't be read is taken for absent
		delete(all, key)
	}
	if o.check() != nil {
		o.ID, o.Moves, o.Bounces, o.BouncedAt = "", 0, 0, 0
	}
	o.Format = format
	delete(all, "v")
	return o
}

// check reports what no publisher of ours writes, and arithmetic would not survive.
func (o Opts) check() error {
	counters := []int64{int64(o.Errors), int64(o.Crashes), int64(o.Bounces), int64(o.Pauses), int64(o.MaxTries), o.Moves}
	if slices.Min(counters) < 0 || slices.Max(counters) > math.MaxInt32 {
		return errors.New("opts: a counter is out of range")
	}
	if b := o.Backoff; b != nil && (b.Delay < 0 || b.Max < 0 || max(b.Delay, b.Max) > maxDuration || b.Factor < 0 || b.Jitter > 1) {
		return errors.New("opts: a setting of the backoff is out of range")
	}
	if max(o.Timeout, o.KeepResult, o.Until) > maxDuration || o.Until < UntilStarted {
		return errors.New("opts: a duration is out of range")
	}
	if min(o.Due, o.Expires, o.Published, o.BouncedAt) < 0 || max(o.Due, o.Expires, o.Published, o.BouncedAt) > maxMillis {
		return errors.New("opts: a time is out of range")
	}
	if len(o.Unique) > MaxKeyLen {
		return fmt.Errorf("opts: u has %d bytes, at most %d are allowed", len(o.Unique), MaxKeyLen)
	}
	if len(o.ID) > MaxIDLen {
		return fmt.Errorf("opts: id has %d bytes, at most %d are allowed", len(o.ID), MaxIDLen)
	}
	return nil
}

// maxMillis is the year 9999: beyond it a float64 score and time.Time lose their meaning.
const maxMillis = 253402300799000

// maxDuration in ms: beyond it a time.Duration overflows.
const maxDuration = int64(math.MaxInt64 / time.Millisecond)

// String encodes the opts; the zero Opts is the empty string.
func (o Opts) String() string {
	b, err := json.Marshal(o)
	if err != nil {
		panic("penstock: opts cannot be encoded: " + err.Error()) // plain data and RawMessages that came out of a decoder
	}
	if len(o.unknown) > 0 {
		all := make(map[string]json.RawMessage)
		if err := json.Unmarshal(b, &all); err != nil {
			panic("penstock: opts cannot be decoded: " + err.Error())
		}
		maps.Copy(all, o.unknown)
		if b, err = json.Marshal(all); err != nil {
			panic("penstock: opts cannot be encoded: " + err.Error())
		}
	}
	if string(b) == "{}" {
		return ""
	}
	return string(b)
}

// Body packs an entry into one string, as it lies in a hash while the job is
// scheduled or retrying: the four lengths, a newline, the four fields. Scripts unpack it.
func (e Entry) Body() string {
	b := make([]byte, 0, len(e.Type)+len(e.Data)+len(e.Traceparent)+len(e.Opts)+48)
	for i, s := range [4]string{e.Type, e.Data, e.Traceparent, e.Opts} {
		if i > 0 {
			b = append(b, ' ')
		}
		b = strconv.AppendInt(b, int64(len(s)), 10)
	}
	b = append(b, '\n')
	b = append(b, e.Type...)
	b = append(b, e.Data...)
	b = append(b, e.Traceparent...)
	return string(append(b, e.Opts...))
}

// ParseBody is the reverse of Body; what is none of ours it does not take.
func ParseBody(body string) (Entry, bool) {
	head, rest, ok := strings.Cut(body, "\n")
	var parts [4]string
	lengths := strings.Split(head, " ")
	if !ok || len(lengths) != len(parts) {
		return Entry{}, false
	}
	for i, text := range lengths {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || n > uint64(len(rest)) {
			return Entry{}, false
		}
		parts[i], rest = rest[:n], rest[n:]
	}
	return Entry{parts[0], parts[1], parts[2], parts[3]}, rest == ""
}

// Fields returns the entry as XADD's field-value list.
func (e Entry) Fields() []any {
	return []any{FieldType, e.Type, FieldData, e.Data, FieldTraceparent, e.Traceparent, FieldOpts, e.Opts}
}

// ParseEntry reads what a stream gave. An entry that does not have exactly our
// four fields is foreign: its type, data and traceparent are used when there,
// and all its fields travel in the opts.
func ParseEntry(values []string) (Entry, Opts, error) {
	if len(values) == 8 && values[0] == FieldType && values[2] == FieldData && values[4] == FieldTraceparent && values[6] == FieldOpts {
		e := Entry{values[1], values[3], values[5], values[7]}
		o, err := ParseOpts(e.Opts)
		return e, o, err
	}
	var e Entry
	var o Opts
	for i := 0; i+1 < len(values); i += 2 {
		switch values[i] {
		case FieldType:
			e.Type = values[i+1]
		case FieldData:
			e.Data = values[i+1]
		case FieldTraceparent:
			e.Traceparent = values[i+1]
		}
		o.Fields = append(o.Fields, [2][]byte{[]byte(values[i]), []byte(values[i+1])})
	}
	return e, o, nil
}

// EntryTime is the time in an entry's ID: when Redis stored it.
func EntryTime(id string) time.Time {
	for i := range len(id) {
		if id[i] == '-' {
			ms, err := strconv.ParseInt(id[:i], 10, 64)
			if err != nil || ms > maxMillis {
				return time.Time{}
			}
			return time.UnixMilli(ms)
		}
	}
	return time.Time{}
}

// DeadInfo is what a dead letter says of its job's end, as JSON in its fifth field.
type DeadInfo struct {
	ID       string `json:"id,omitempty"`
	Reason   string `json:"reason"`
	Error    string `json:"error"`
	Stack    string `json:"stack,omitempty"`
	Worker   string `json:"worker,omitempty"`
	MaxTries int    `json:"max_tries,omitempty"`
}
