package stream

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

// Unique makes a job the only one with its key: while another holds it, publishing stores no second job, and the Receipt
// says which one stands. The zero value is no uniqueness.
//
// The key is a lock that belongs to the job. It ends in one step with the job, however that ends, and a job that is sent
// back from the dead letters takes it again or stays there. Retries, snoozes, hand-backs and crashes keep it.
type Unique struct {
	// Key is the key, among all jobs of the stream. At most 256 bytes, no spaces. Give Key or ByData. Default: none.
	Key string
	// ByData makes a key of the type and the encoded data: the same again is not stored.
	ByData bool
	// Until says when the key is free for another. Default: UntilDone.
	Until Until
	// For holds the key for so long from publishing on, though the job completes earlier; a job that is dead-lettered or
	// cancelled frees it at once. Give Until or For. Default: as Until says.
	For time.Duration
	// OnConflict says what becomes of a job whose key another one holds. Default: KeepFirst.
	OnConflict OnConflict
}

// Until says when the key of a job is free for another.
type Until string

// What Unique.Until may be.
const (
	// UntilDone: when the job has completed, was cancelled, or is among the dead letters. Not for events streams, where a job is
	// done once for each group: ErrKind.
	UntilDone Until = "done"
	// UntilStarted: when its first run starts, or when it ends without one.
	UntilStarted Until = "started"
)

// OnConflict says what becomes of a job whose key another one holds.
type OnConflict string

// What Unique.OnConflict may be.
const (
	// KeepFirst: nothing is stored.
	KeepFirst OnConflict = "keep"
	// Replace: where the other is scheduled, it takes this job's type, data, options and due time, and keeps its ID. Otherwise
	// nothing is stored.
	Replace OnConflict = "replace"
	// Coalesce: the other sees this job's data when it starts; if it has started, one more job is stored for them when it ends.
	// However many are published meanwhile, it is one, and it has the data of the last. Needs UntilDone on both, and takes no
	// Delay or At. Where the other holds its key for a time, nothing is stored.
	Coalesce OnConflict = "coalesce"
)

func (u Unique) set() bool { return u != Unique{} }

// check reports the first fault of the fields, of a job that is deferred or not.
func (u Unique) check(deferred bool) error {
	switch {
	case !u.set():
		return nil
	case u.Key == "" && !u.ByData:
		return invalid("Unique.Key", "is empty: give Key or ByData")
	case u.Key != "" && u.ByData:
		return invalid("Unique.Key", "and ByData are both set: give one")
	case u.Until != "" && u.Until != UntilDone && u.Until != UntilStarted:
		return invalid("Unique.Until", "is %q: it must be %q or %q", u.Until, UntilDone, UntilStarted)
	case u.For < 0:
		return invalid("Unique.For", "is negative: %s", u.For)
	case u.For > time.Until(lastTime):
		return invalid("Unique.For", "is out of range: %s", u.For)
	case u.For > 0 && u.Until != "":
		return invalid("Unique.For", "and Until are both set: give one")
	case u.OnConflict != "" && u.OnConflict != KeepFirst && u.OnConflict != Replace && u.OnConflict != Coalesce:
		return invalid("Unique.OnConflict", "is %q: it must be %q, %q or %q", u.OnConflict, KeepFirst, Replace, Coalesce)
	case u.OnConflict == Coalesce && (u.For > 0 || u.Until == UntilStarted):
		return invalid("Unique.OnConflict", "is %q, which needs a key that is held until the job is done", Coalesce)
	case u.OnConflict == Coalesce && deferred:
		return invalid("Unique.OnConflict", "is %q, which takes no Delay or At: the one more runs when the first is done", Coalesce)
	}
	if u.Key != "" {
		if err := engine.CheckKey(u.Key); err != nil {
			return fmt.Errorf("%w job: Unique.Key %w", ErrInvalid, err)
		}
	}
	return nil
}

// locked is what the script needs to know of it, for a job of this type and data.
func (u Unique) locked(typ, data string) engine.Locked {
	l := engine.Locked{Key: u.Key, Until: millis(u.For), Conflict: string(u.OnConflict)}
	if u.ByData {
		h := sha256.New()
		fmt.Fprintf(h, "%d %s", len(typ), typ)
		h.Write([]byte(data))
		l.Key = "data:" + hex.EncodeToString(h.Sum(nil)[:16])
	}
	if u.Until == UntilStarted {
		l.Until = engine.UntilStarted
	}
	if l.Conflict == "" {
		l.Conflict = engine.ConflictKeep
	}
	return l
}

// refuseKind reports a kind of uniqueness that an events stream cannot have.
func (s *Stream) refuseKind() error {
	return fmt.Errorf("publish to %s: %w: Unique.Until is %q, but on an events stream a job is done once for each group: "+
		"use %q or For", s.name, ErrKind, UntilDone, UntilStarted)
}
