package consumer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

// The causes with which a handler's context ends, for context.Cause and errors.Is.
var (
	// ErrTimeout: the run took longer than its timeout. It is a context.DeadlineExceeded too.
	ErrTimeout error = timeoutError{}
	// ErrStopping: the worker stops and the grace period is over. The job is handed back and costs no try.
	ErrStopping = errors.New("worker is stopping")
	// ErrCancelled: the job was cancelled, or a kill switch says so. It is not retried; only a success still counts.
	ErrCancelled = errors.New("job was cancelled")
	// ErrLeaseLost: the job is not this worker's any more; what the handler returns is dropped.
	ErrLeaseLost = errors.New("lease lost")
)

type timeoutError struct{}

func (timeoutError) Error() string   { return "job timed out" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Is(e error) bool { return e == context.DeadlineExceeded }

type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// Permanent says that no further try can help: the job is dead-lettered now.
// Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanentError{err}
}

type retryError struct {
	error
	after time.Duration
}

func (e retryError) Unwrap() error { return e.error }

// RetryAfter fails this try with err and says when the next one is due, in
// place of the backoff. It counts as a try. A nil err is a plain request to run again.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		err = errors.New("the handler asked to be run again")
	}
	return retryError{err, max(d, 0)}
}

type snoozeError struct{ after time.Duration }

func (e snoozeError) Error() string { return "snoozed for " + e.after.String() }

// Snooze puts the job off for d. It is no failure and counts no try.
func Snooze(d time.Duration) error { return snoozeError{max(d, 0)} }

// PanicError is what a panic of a handler becomes: a failed try.
type PanicError struct {
	Value any    // what the handler panicked with
	Stack []byte // of the handler's goroutine, as runtime/debug.Stack gives it
}

// Error shows the value the handler panicked with.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Unwrap returns the value when it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

var errGoexit = errors.New("the handler ended its goroutine (runtime.Goexit)")

// decodeError: the payload is not what the handler's type says. No try will help.
type decodeError struct {
	typ string
	err error
}

func (e *decodeError) Error() string {
	return "payload of " + e.typ + " cannot be decoded: " + e.err.Error()
}
func (e *decodeError) Unwrap() error { return e.err }

// StuckError is what Run returns when handlers ignored the end of their
// context. Their jobs are not handed back, since they may still run: their
// lease has to run out.
type StuckError struct {
	Jobs []string // "stream/ID (type)"
}

// Error lists the jobs.
func (e *StuckError) Error() string {
	return fmt.Sprintf("%d handlers did not return after the grace period: %s", len(e.Jobs), strings.Join(e.Jobs, ", "))
}

// action is how a delivery ends.
type action int

const (
	actComplete action = iota
	actRetry           // failed: parked until the backoff is over
	actSnooze
	actBounce // nobody here can handle it: parked, for others to try
	actPause  // a kill switch puts it off
	actRelease
	actDead
	actCancel
	actReclaim // taken over from a worker whose lease had run out
	actDrop    // not ours any more
)

// verdict is an action with what it needs.
type verdict struct {
	action action
	after  time.Duration // until a parked job is due
	reason string        // of a dead letter
	lifts  int64         // of a paused job: how many kill switches had been lifted by then
	err    error
}

// Why a job is dead.
const (
	reasonFailed      = "failed"
	reasonPermanent   = "permanent"
	reasonExpired     = "expired"
	reasonUnknown     = "unknown type"
	reasonNewer       = "newer format"
	reasonUndecodable = "undecodable"
	reasonCrashed     = "crashed"
)

// step is what a verdict counts in the job it moves.
func (v verdict) step() engine.Step {
	switch v.action {
	case actRetry:
		return engine.StepFail
	case actBounce:
		return engine.StepBounce
	case actPause:
		return engine.StepPause
	case actRelease:
		return engine.StepRelease
	case actReclaim:
		return engine.StepReclaim
	case actDead:
		if v.reason == reasonFailed || v.reason == reasonPermanent || v.reason == reasonUndecodable {
			return engine.StepFail
		}
	}
	return engine.StepPark
}

// judge decides what a handler's answer means. cause is why its context
// ended, nil when it did not. errs counts the runs that ended in an error before this one.
func judge(err, cause error, errs int, p policy) verdict {
	if errors.Is(cause, ErrLeaseLost) {
		return verdict{action: actDrop, err: err}
	}
	if err == nil {
		return verdict{action: actComplete}
	}
	var snooze snoozeError
	if errors.As(err, &snooze) {
		return verdict{action: actSnooze, after: snooze.after, err: err}
	}
	var permanent permanentError
	var undecodable *decodeError
	switch {
	case errors.As(err, &undecodable):
		return verdict{action: actDead, reason: reasonUndecodable, err: err}
	case errors.As(err, &permanent):
		return verdict{action: actDead, reason: reasonPermanent, err: err}
	case cause == ErrStopping: //nolint:errorlint // the very cause this worker gave, not one that wraps it
		return verdict{action: actRelease, err: err}
	}
	if errors.Is(cause, ErrTimeout) && !errors.Is(err, ErrTimeout) {
		err = fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	if errs+1 >= p.maxTries {
		return verdict{action: actDead, reason: reasonFailed, err: err}
	}
	var retry retryError
	if errors.As(err, &retry) {
		return verdict{action: actRetry, after: retry.after, err: err}
	}
	return verdict{action: actRetry, after: retryDelay(p.backoff, errs+1, rand.Float64()), err: err}
}

// text is what err says, even when saying it panics, as a typed nil can.
func text(err error) (s string) {
	defer func() {
		if v := recover(); v != nil {
			s = fmt.Sprintf("%T, whose Error method panics: %v", err, v)
		}
	}()
	return err.Error()
}

// retryDelay is the pause after the nth failure, counted from 1; random is in [0, 1).
func retryDelay(b Backoff, n int, random float64) time.Duration {
	d := float64(b.Delay) * math.Pow(b.Factor, float64(min(n-1, 1000)))
	d = min(d, float64(b.Max))
	if b.Jitter > 0 {
		d *= 1 + b.Jitter*(2*random-1)
	}
	if d >= float64(b.Max) { // float64 rounds a large Max up: converted, it would overflow
		return b.Max
	}
	return time.Duration(d)
}

// bouncePause grows with each time nobody here could handle the job.
func bouncePause(bounces int) time.Duration {
	return min(time.Second<<min(bounces, 6), time.Minute)
}

// policy is what holds for one run: the job's own settings, else its type's, else the worker's.
type policy struct {
	timeout  time.Duration // 0: no limit
	maxTries int
	backoff  Backoff
	keep     *keeping // shared: not to be changed
}

func (p policy) with(t TypeConfig) policy {
	if t.Timeout != 0 {
		p.timeout = max(t.Timeout, 0) // None
	}
	if t.MaxTries != 0 {
		p.maxTries = t.MaxTries
	}
	p.backoff = p.backoff.With(t.Backoff)
	p.keep = p.keep.with(t.KeepResult)
	return p
}

func (p policy) forJob(o *engine.Opts) policy {
	t := TypeConfig{MaxTries: o.MaxTries, Timeout: time.Duration(o.Timeout) * time.Millisecond, KeepResult: time.Duration(o.KeepResult) * time.Millisecond}
	if b := o.Backoff; b != nil {
		t.Backoff = Backoff{
			Delay:  time.Duration(b.Delay) * time.Millisecond,
			Factor: b.Factor,
			Max:    time.Duration(b.Max) * time.Millisecond,
			Jitter: b.Jitter,
		}
	}
	return p.with(t)
}
