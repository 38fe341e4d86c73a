package stream

import (
	"errors"
	"fmt"

	"github.com/penstock-go/penstock/stream/engine"
)

// What callers branch on, with errors.Is.
var (
	// ErrStreamFull: the stream holds Config.MaxLen jobs, or Redis has reached its memory limit. Nothing was stored.
	ErrStreamFull = errors.New("stream is full")
	// ErrTooLarge: the payload has more than Config.MaxPayload bytes. Nothing was stored.
	ErrTooLarge = errors.New("payload is too large")
	// ErrAmbiguous: the job may or may not be stored, since Redis's answer was lost. Publish again only with an ID.
	ErrAmbiguous = errors.New("the answer was lost: the job may or may not be stored")
	// ErrUnavailable: Redis could not be reached or cannot take writes now. Nothing was stored.
	ErrUnavailable = errors.New("redis is unavailable")
	// ErrNotFound: there is no such job, dead letter, group or stream.
	ErrNotFound = errors.New("not found")
	// ErrLocked: another job holds the unique key of a dead letter, which stays where it is.
	ErrLocked = errors.New("another job holds the unique key")
	// ErrKind: the stream's kind forbids it, or is not declared.
	ErrKind = errors.New("stream kind")
	// ErrNewerFormat: a newer version of Penstock has written this stream's configuration.
	ErrNewerFormat = errors.New("stream was made by a newer version")
	// ErrInvalid: a name, job or option breaks a rule that the message names.
	ErrInvalid = errors.New("invalid")
	// ErrState: the job is in a state in which that can't be done to it; the message says in which.
	ErrState = errors.New("not in this state")
	// ErrDenied: Redis refuses the credentials or a command of this user.
	ErrDenied = errors.New("redis denies access")
	// ErrUnsupportedClient: the client cannot be used, for the reason given.
	ErrUnsupportedClient = errors.New("unsupported redis client")
)

// ConfigError is one fault of a Config, of this package's or another's.
type ConfigError struct {
	Field string // of the struct
	Env   string // the variable that sets it, or ""
	Value string // as it was given
	Hint  string // what it must be
}

// Error names field, value and what is expected.
func (e *ConfigError) Error() string { return e.Field + " is " + e.Value + ": " + e.Hint }

// Unwrap makes it an ErrInvalid.
func (e *ConfigError) Unwrap() error { return ErrInvalid }

// wrap gives an error of Redis its meaning: doing is what was being done to what.
func wrap(doing string, err error) error {
	switch engine.Classify(err) {
	case engine.OK:
		return nil
	case engine.Busy, engine.Unreachable:
		return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
	case engine.Full:
		return fmt.Errorf("%s: %w: %w", doing, ErrStreamFull, err)
	case engine.Denied:
		return fmt.Errorf("%s: %w: %w", doing, ErrDenied, err)
	case engine.Lost:
		return fmt.Errorf("%s: %w: %w", doing, ErrAmbiguous, err)
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}

// wrapRead is wrap for what changes nothing: an answer that was lost is no ambiguity.
func wrapRead(doing string, err error) error {
	switch engine.Classify(err) {
	case engine.Lost:
		return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
	case engine.NoGroup:
		return fmt.Errorf("%s: %w: %w", doing, ErrNotFound, err)
	default:
		return wrap(doing, err)
	}
}
