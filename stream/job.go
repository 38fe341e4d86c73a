package stream

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"time"
	"unicode/utf8"

	"github.com/penstock-go/penstock/stream/engine"
)

// None says "no limit" or "nothing kept" where a duration's zero value means
// the default. It is the one negative duration with a meaning; "off" in the environment.
const None time.Duration = -1

// State is where a job is in its life.
type State string

// The states of a job.
const (
	Scheduled State = "scheduled" // deferred, not yet due
	Waiting   State = "waiting"   // in the stream, no worker has it
	Active    State = "active"    // a worker has it
	Retrying  State = "retrying"  // failed or snoozed, waits for its next run
	Dead      State = "dead"      // among the dead letters
	Completed State = "completed"
	Cancelled State = "cancelled"
)

// Type ties a job's name to its payload, once, for publisher and handler. Only
// the name goes on the wire.
type Type[T any] struct{ Name string }

// Job returns a job of this type with the given payload and every option at its default.
func (t Type[T]) Job(data T) Job { return Job{Type: t.Name, Data: data} }

// Job is what a user publishes. The zero value of each option is its default.
type Job struct {
	// Type names the handler. Required.
	Type string
	// Data goes through the stream's Codec; []byte and json.RawMessage go as they are. nil is an empty payload.
	Data any
	// ID makes the job one of its kind: while a job with this ID lives, publishing again stores nothing.
	// At most 128 bytes, no spaces, not of the form digits-digits. Default: Redis gives one.
	ID string
	// Delay before the job becomes due, by Redis's clock. Give Delay or At. Default: at once.
	Delay time.Duration
	// At is the time at which the job becomes due.
	At time.Time
	// ExpiresAt: when the job has not started by then it is dead-lettered as expired. Default: never.
	ExpiresAt time.Time
	// MaxTries is how many runs may end in an error, at most 2³¹−1. Default: the worker's.
	MaxTries int
	// Timeout of one run; None: no limit. Default: the worker's.
	Timeout time.Duration
	// Backoff between tries; a field left zero is the worker's. Default: the worker's.
	Backoff Backoff
	// KeepResult is how long the record of the finished job is kept, with what its handler returned, if anything; None: not
	// at all. Default: the worker's.
	KeepResult time.Duration
	// Unique makes it the only job with its key. Default: it is not.
	Unique Unique
	// Header travels with the job. At most 64 entries and 16 KiB in all.
	Header map[string]string
}

// Backoff is the pause before a job that failed runs again: Delay after the
// first failure, Factor times as much after each further one, Max at most,
// and each spread by Jitter so that failures of one moment do not return in one.
type Backoff struct {
	// Delay before the second run. Default: 10 s.
	Delay time.Duration `env:"PENSTOCK_RETRY_DELAY"`
	// Factor by which the delay grows; 1 keeps it fixed. Default: 2.
	Factor float64 `env:"PENSTOCK_RETRY_FACTOR" zero:"write 1 for a fixed delay"`
	// Max is the longest delay. Default: 1 h.
	Max time.Duration `env:"PENSTOCK_RETRY_MAX"`
	// Jitter is the part of the delay by which it is randomly longer or shorter, at most 1; negative ("off" in the environment): none. Default: 0.1.
	Jitter float64 `env:"PENSTOCK_RETRY_JITTER" off:"true" zero:"write \"off\" for no jitter"`
}

// With returns b with the fields of over that are not zero.
func (b Backoff) With(over Backoff) Backoff {
	if over.Delay != 0 {
		b.Delay = over.Delay
	}
	if over.Factor != 0 {
		b.Factor = over.Factor
	}
	if over.Max != 0 {
		b.Max = over.Max
	}
	if over.Jitter != 0 {
		b.Jitter = over.Jitter
	}
	return b
}

// check says what is wrong with the backoff's fields, or "".
func (b Backoff) check() string {
	switch {
	case b.Delay < 0:
		return "Delay is negative: " + b.Delay.String()
	case b.Factor != 0 && !(b.Factor >= 1 && b.Factor <= 100):
		return fmt.Sprintf("Factor must be between 1 and 100: %g", b.Factor)
	case b.Max < 0:
		return "Max is negative: " + b.Max.String()
	case !(b.Jitter <= 1):
		return fmt.Sprintf("Jitter must be at most 1: %g", b.Jitter)
	}
	return ""
}

func (b Backoff) wire() *engine.Backoff {
	if b == (Backoff{}) {
		return nil
	}
	return &engine.Backoff{Delay: millis(b.Delay), Factor: b.Factor, Max: millis(b.Max), Jitter: max(b.Jitter, -1)}
}

const (
	maxHeaders     = 64
	maxHeaderBytes = 16 << 10
	maxTypeLen     = 256
)

// Codec turns payloads into bytes and back. Both methods are called concurrently.
type Codec interface {
	Marshal(v any) ([]byte, error)
	Unmarshal(data []byte, v any) error
}

type jsonCodec struct{}

func (jsonCodec) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// JSON is the default codec: encoding/json.
var JSON Codec = jsonCodec{}

// prepared is a job ready for the wire.
type prepared struct {
	entry  engine.Entry
	id     string
	nonce  string
	delay  time.Duration
	at     time.Time
	chosen bool    // the ID is the caller's
	unique *unique // nil: it has no unique key
}

// unique is what takes a unique key to the wire.
type unique struct {
	lock engine.Locked
	opts engine.Opts // of the job
}

func (p prepared) plain() bool { return p.id == "" }

func (p prepared) deferred() bool { return p.delay > 0 || !p.at.IsZero() }

// invalid reports a fault of one field of a job.
func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%w job: %s %s", ErrInvalid, field, fmt.Sprintf(format, args...))
}

func (s *Stream) prepare(job Job, traceparent, tracestate string) (prepared, error) {
	if err := job.check(); err != nil {
		return prepared{}, err
	}
	var data string
	switch d := job.Data.(type) {
	case nil:
	case []byte:
		data = string(d)
	case json.RawMessage:
		data = string(d)
	default:
		b, err := s.cfg.Codec.Marshal(job.Data)
		if err != nil {
			return prepared{}, fmt.Errorf("%w job: Data cannot be encoded: %w", ErrInvalid, err)
		}
		data = string(b)
	}
	if len(data) > s.cfg.MaxPayload {
		return prepared{}, fmt.Errorf("%w: %d bytes, at most %d are allowed (MaxPayload)", ErrTooLarge, len(data), s.cfg.MaxPayload)
	}
	p := prepared{
		entry:  engine.Entry{Type: job.Type, Data: data, Traceparent: traceparent},
		id:     job.ID,
		delay:  max(job.Delay, 0),
		at:     job.At,
		chosen: job.ID != "",
	}
	if p.id == "" && !p.deferred() && !job.Unique.set() && job.bare() && tracestate == "" {
		return p, nil
	}
	if (p.deferred() || job.Unique.set()) && p.id == "" {
		p.id = newID()
	}
	opts := engine.Opts{
		ID:         p.id,
		MaxTries:   job.MaxTries,
		Timeout:    millis(job.Timeout),
		KeepResult: millis(job.KeepResult),
		Backoff:    job.Backoff.wire(),
		Header:     maps.Clone(job.Header),
		Tracestate: tracestate,
	}
	if !job.ExpiresAt.IsZero() {
		opts.Expires = job.ExpiresAt.UnixMilli()
	}
	if p.id != "" {
		p.nonce = newNonce()
		opts.Published = time.Now().UnixMilli()
	}
	if p.deferred() {
		opts.Due = p.at.UnixMilli()
		if p.at.IsZero() {
			opts.Due = time.Now().Add(p.delay).UnixMilli() // for people to read: Redis's clock decides
		}
	}
	if job.Unique.set() {
		if s.cfg.Kind == KindEvents && job.Unique.For == 0 && job.Unique.Until != UntilStarted {
			return prepared{}, s.refuseKind()
		}
		lock := job.Unique.locked(job.Type, data)
		opts.Unique, opts.Until, opts.Coalesce = lock.Key, lock.Until, job.Unique.OnConflict == Coalesce
		p.unique = &unique{lock, opts}
	}
	p.entry.Opts = opts.String()
	return p, nil
}

// millis keeps None and never rounds a positive duration down to zero.
func millis(d time.Duration) int64 {
	switch {
	case d < 0:
		return -1
	case d == 0:
		return 0
	default:
		return max(d.Milliseconds(), 1)
	}
}

func (j Job) bare() bool {
	return j.ExpiresAt.IsZero() && j.MaxTries == 0 && j.Timeout == 0 && j.KeepResult == 0 && j.Backoff == (Backoff{}) && len(j.Header) == 0
}

var lastTime = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// Validate reports the first fault of a job, as ErrInvalid, or nil. Publish does the same, and looks at the stream's limits too.
func (j Job) Validate() error { return j.check() }

func (j Job) check() error {
	switch {
	case j.Type == "":
		return invalid("Type", "is empty")
	case len(j.Type) > maxTypeLen:
		return invalid("Type", "has %d bytes, at most %d are allowed", len(j.Type), maxTypeLen)
	case j.Delay < 0:
		return invalid("Delay", "is negative: %s", j.Delay)
	case j.Delay > 0 && !j.At.IsZero():
		return invalid("Delay", "and At are both set: give one")
	case !j.At.IsZero() && (j.At.After(lastTime) || j.At.Unix() < 0):
		return invalid("At", "is out of range: %s", j.At)
	case !j.ExpiresAt.IsZero() && (j.ExpiresAt.After(lastTime) || j.ExpiresAt.Unix() < 0):
		return invalid("ExpiresAt", "is out of range: %s", j.ExpiresAt)
	case j.Delay > 0 && j.Delay > time.Until(lastTime):
		return invalid("Delay", "is out of range: %s", j.Delay)
	case j.MaxTries < 0:
		return invalid("MaxTries", "is negative: %d", j.MaxTries)
	case j.MaxTries > math.MaxInt32: // no worker would take it
		return invalid("MaxTries", "is %d, at most %d are allowed", j.MaxTries, math.MaxInt32)
	case j.Timeout < 0 && j.Timeout != None:
		return invalid("Timeout", "is negative: %s (None is no limit)", j.Timeout)
	case j.KeepResult < 0 && j.KeepResult != None:
		return invalid("KeepResult", "is negative: %s (None keeps nothing)", j.KeepResult)
	case len(j.Header) > maxHeaders:
		return invalid("Header", "has %d entries, at most %d are allowed", len(j.Header), maxHeaders)
	}
	if fault := j.Backoff.check(); fault != "" {
		return invalid("Backoff", "%s", fault)
	}
	if err := j.Unique.check(j.Delay > 0 || !j.At.IsZero()); err != nil {
		return err
	}
	if j.ID != "" {
		if err := engine.CheckID(j.ID); err != nil {
			return fmt.Errorf("%w job: %w", ErrInvalid, err)
		}
	}
	size := 0
	for k, v := range j.Header {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return invalid("Header", "%q is not valid UTF-8 (the payload may be any bytes)", k)
		}
		size += len(k) + len(v)
	}
	if size > maxHeaderBytes {
		return invalid("Header", "has %d bytes, at most %d are allowed", size, maxHeaderBytes)
	}
	return nil
}
