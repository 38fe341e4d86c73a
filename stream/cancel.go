package stream

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

// keepCancelled is how long the record of a job is kept that was cancelled before it ran, unless the job has a KeepResult of
// its own: what KeepResult of a worker is by default.
const keepCancelled = time.Hour

// Cancel ends a job without success, and returns the state that it is in now:
//
//   - Cancelled: it was waiting, scheduled or retrying, and is gone; or it had been cancelled before.
//   - Active: its worker, which learns of it within milliseconds, or with its next heartbeat when that message is lost,
//     ends the context of its handler with the cause consumer.ErrCancelled. When the handler returns, the job is cancelled, whatever
//     error that is: it is not retried, nor dead-lettered. One that succeeds all the same is completed, as what
//     it did is done. When its worker has died, it is cancelled once its lease is over. [Stream.Wait] tells how it ended.
//   - Completed, Dead: it had ended before, and stays as it is.
//
// A job that is cancelled leaves a record, like one that fails: for an hour, or the job's own KeepResult, where it had
// not been taken by a worker, and for as long as the worker's settings say where it had.
//
// On an events stream a job is cancelled in every group, and the state is the one that is farthest from its end;
// [Group.Cancel] does that for one group. An entry that a group has not yet read stays, since it is not that
// group's alone: the state is Waiting, and the job is cancelled, without having run, when the group comes to it.
//
// ErrNotFound: there is no such job, or it has finished and left no record; see [Stream.Get]. After ErrAmbiguous
// or ErrUnavailable it may be called again. A Redis at its maxmemory takes no mark, so what runs then can't be
// cancelled; what waits can, and a kill switch can be set.
func (s *Stream) Cancel(ctx context.Context, id string) (State, error) { return s.cancel(ctx, id, "") }

// Cancel is [Stream.Cancel] for this group alone, where a stream has several. A scheduled job of an events
// stream, which is every group's, stays Scheduled, and this group will not run it.
func (g *Group) Cancel(ctx context.Context, id string) (State, error) {
	if err := engine.CheckGroup(g.name); err != nil {
		return "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return g.s.cancel(ctx, id, g.name)
}

func (s *Stream) cancel(ctx context.Context, id, only string) (State, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	doing := fmt.Sprintf("cancel job %s of %s", id, s.name)
	s.mu.Lock()
	groups, events := s.groups, s.events
	s.mu.Unlock()
	entry, lock := "", ""
	for range 5 {
		v, err := engine.CancelCall(s.keys, id, entry, events, only, keepCancelled, lock, groups).Run(ctx, s.rdb)
		if err != nil {
			return "", wrap(doing, err)
		}
		done, err := engine.ReadCancelled(v)
		switch {
		case err != nil:
			return "", fmt.Errorf("%s: %w", doing, err)
		case done.Full:
			return "", fmt.Errorf("%s: %w: %d jobs of a group are to be cancelled, and have not ended", doing, ErrUnavailable, engine.MarksMax)
		case done.None:
			return "", fmt.Errorf("%s: group %s: %w", doing, only, ErrNotFound)
		case done.ID != "":
			id, entry = done.ID, id
			continue
		case done.Lock != "":
			lock = done.Lock
			continue
		case done.Again && done.Kind == "" && len(done.Groups) > 0:
			return "", fmt.Errorf("%s: %w: it has groups and no kind: say with penstock stream create whether it is a queue or an events stream", doing, ErrKind)
		case done.Again:
			groups, events = done.Groups, Kind(done.Kind) == KindEvents
			slices.Sort(groups)
			s.mu.Lock()
			s.groups, s.events = groups, events
			s.mu.Unlock()
			continue
		}
		state := State(done.State)
		for _, in := range done.In {
			if in := State(in); slices.Index(fromEnd, in) > slices.Index(fromEnd, state) {
				state = in
			}
		}
		if state == "" {
			return "", s.noJob(id)
		}
		return state, nil
	}
	return "", fmt.Errorf("%s: %w: its groups, or its unique key, change all the time", doing, ErrUnavailable)
}

// fromEnd is how far a job is from its end: the last is the farthest.
var fromEnd = []State{"", Completed, Cancelled, Dead, Retrying, Scheduled, Waiting, Active}
