package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

// When says when a job is to run; the zero When is now. Give At or Delay.
type When struct {
	At    time.Time
	Delay time.Duration // from now, by Redis's clock
}

func (w When) check() error {
	switch {
	case w.Delay != 0 && !w.At.IsZero():
		return fmt.Errorf("%w: both At and Delay are given", ErrInvalid)
	case w.Delay < 0:
		return fmt.Errorf("%w: Delay is negative: %s", ErrInvalid, w.Delay)
	case w.Delay > time.Until(lastTime), !w.At.IsZero() && (w.At.After(lastTime) || w.At.Before(time.UnixMilli(0))):
		return fmt.Errorf("%w: the time is not between 1970 and 9999", ErrInvalid)
	}
	return nil
}

func (w When) now() bool { return w == When{} }

// Move gives a job that is scheduled or retrying another time to run at, sooner or later, and returns it. Nothing else of
// the job changes. It runs no earlier than that by Redis's clock. What is due now goes to the stream at once, though no
// scheduler may run.
//
// A job that is retrying is so in one group; that may be "" when the stream has one. ErrNotFound: there is no such job, see [Stream.Get].
// ErrState: it is in another state. ErrInvalid: it would expire before it runs.
func (s *Stream) Move(ctx context.Context, group, id string, when When) (due time.Time, err error) {
	if err := when.check(); err != nil {
		return time.Time{}, fmt.Errorf("move job %s of %s: %w", id, s.name, err)
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	for try := 0; ; try++ {
		due, err = s.moveOnce(ctx, group, id, when)
		switch class := engine.Classify(err); {
		case err == nil:
			return due, nil
		case errors.Is(err, errChanged), class == engine.Busy:
			if pause(ctx, try) {
				continue
			}
			return time.Time{}, fmt.Errorf("move job %s of %s: %w: %w", id, s.name, ErrUnavailable, err)
		case errors.Is(err, ErrNotFound), errors.Is(err, ErrInvalid), errors.Is(err, ErrState):
			return time.Time{}, err
		default:
			return time.Time{}, wrap("move job "+id+" of "+s.name, err)
		}
	}
}

// errChanged: what was read of a job is not so any more.
var errChanged = errors.New("the job changes all the time")

func (s *Stream) moveOnce(ctx context.Context, group, id string, when When) (time.Time, error) {
	slot := engine.ScheduledSlot(s.keys)
	body, err := s.rdb.HGet(ctx, slot.Bodies, id).Result()
	if engine.Classify(err) != engine.OK {
		return time.Time{}, err
	}
	if body == "" {
		l := &listing{s: s, group: group}
		if err := l.open(ctx); err != nil {
			return time.Time{}, err
		}
		if l.group != "" {
			slot = engine.RetryingSlot(l.keys)
			if body, err = s.rdb.HGet(ctx, slot.Bodies, id).Result(); engine.Classify(err) != engine.OK {
				return time.Time{}, err
			}
		}
	}
	if body == "" {
		return time.Time{}, s.notParked(ctx, id, "only a job that is scheduled or retrying can be moved")
	}
	e, ok := engine.ParseBody(body)
	if !ok {
		return time.Time{}, fmt.Errorf("%w: job %s of %s is not stored as Penstock stores jobs", ErrInvalid, id, s.name)
	}
	o, err := engine.ParseOpts(e.Opts)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: job %s of %s: %w", ErrInvalid, id, s.name, err)
	}
	if at := when.about(); o.Expires > 0 && at.UnixMilli() >= o.Expires {
		return time.Time{}, fmt.Errorf("%w: job %s of %s expires before that, at %s", ErrInvalid, id, s.name, time.UnixMilli(o.Expires).UTC().Format(time.RFC3339))
	}
	v, err := engine.RescheduleCall(slot, id, e.Opts, o, when.Delay, when.At).Run(ctx, s.rdb)
	if err != nil {
		return time.Time{}, err
	}
	moved, err := engine.ReadRescheduled(v)
	switch {
	case err != nil:
		return time.Time{}, err
	case moved.Gone || moved.Changed:
		return time.Time{}, errChanged
	}
	if due := time.UnixMilli(moved.Due); when.now() || !due.After(time.Now()) {
		_, err := engine.Promote(ctx, s.rdb, slot, promoteNow)
		if err != nil {
			s.cfg.Logger.Debug("a job that is due now is left to schedulers and workers", "stream", s.name, "job", id, "err", err)
		}
	}
	return time.UnixMilli(moved.Due), nil
}

// promoteNow is how many jobs are brought into the stream with one that is moved to now: those that were due before it.
const promoteNow = 100

// about is when that is, by our clock.
func (w When) about() time.Time {
	if w.At.IsZero() {
		return time.Now().Add(w.Delay)
	}
	return w.At
}

// notParked says why a job is not where it ought to be.
func (s *Stream) notParked(ctx context.Context, id, rule string) error {
	info, err := s.Get(ctx, id)
	switch {
	case err != nil:
		return err
	case info.State == Scheduled || info.State == Retrying:
		return errChanged // or it is retrying in another group
	}
	return fmt.Errorf("job %s of %s is %s: %w: %s", id, s.name, info.State, ErrState, rule)
}

// Retry runs a job again now: a dead letter is redriven, a job that waits for its next try is moved to now. It returns the
// state in which the job was.
//
// The group may be "" when the stream has one. ErrNotFound: there is no such job, see [Stream.Get]. ErrState: it is in another one; a job that is
// scheduled has not failed, and [Stream.Move] moves it.
func (s *Stream) Retry(ctx context.Context, group, id string) (State, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	for try := 0; ; try++ {
		was, err := s.retryOnce(ctx, group, id)
		if err == nil || !errors.Is(err, errChanged) {
			return was, err
		}
		if !pause(ctx, try) {
			return "", fmt.Errorf("retry job %s of %s: %w: %w", id, s.name, ErrUnavailable, err)
		}
	}
}

func (s *Stream) retryOnce(ctx context.Context, group, id string) (State, error) {
	info, err := s.Get(ctx, id)
	if err != nil {
		return "", err
	}
	if info.State == Scheduled {
		return "", fmt.Errorf("job %s of %s is scheduled: %w: it has not failed; move it to now", id, s.name, ErrState)
	}
	l := &listing{s: s, group: group}
	if err := l.open(ctx); err != nil {
		return "", err
	}
	if info.Groups != nil {
		info = info.Groups[l.group]
	}
	switch info.State {
	case Dead:
		done, err := s.Group(l.group).Redrive(ctx, DeadFilter{IDs: []string{info.ID}}, RedriveOptions{})
		if err == nil && done.Moved == 0 {
			err = errChanged // somebody else was faster
		}
		return Dead, err
	case Retrying:
		_, err := s.moveOnce(ctx, l.group, info.ID, When{})
		if err != nil && !errors.Is(err, errChanged) && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrState) && !errors.Is(err, ErrNotFound) {
			err = wrap("retry job "+id+" of "+s.name, err)
		}
		return Retrying, err
	case "":
		return "", fmt.Errorf("job %s of %s is in no state for group %s: %w", id, s.name, l.group, ErrState)
	}
	return "", fmt.Errorf("job %s of %s is %s: %w: only one that is dead or retrying can be retried", id, s.name, info.State, ErrState)
}
