package stream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

// Info is what is known of a job. What is not known is zero. Times are Redis's clock's, as near as its worker knows it.
type Info struct {
	ID       string `json:"id"`
	Type     string `json:"type,omitempty"`
	State    State  `json:"state"`
	Attempt  int    `json:"attempt"`             // the number of its run; of a dead letter, of those that ended in an error
	MaxTries int    `json:"max_tries,omitempty"` // as published, or once it has ended as it was in force
	Crashes  int    `json:"crashes,omitempty"`   // leases that ran out
	// Paused is how often a kill switch has put it off since it last ran. It is Retrying then until it is due again, or the
	// switch is lifted: see Stream.Switches.
	Paused int `json:"paused,omitempty"`
	// Published is when it was stored. Due is when it was to run, or is to run next.
	Published time.Time `json:"published,omitzero"`
	Due       time.Time `json:"due,omitzero"`
	// Started is when its run began. While it runs, its worker says so with every heartbeat, each third of a lease, of the
	// hundred that have run longest.
	Started time.Time `json:"started,omitzero"`
	// Finished is when it ended.
	Finished time.Time `json:"finished,omitzero"`
	Worker   string    `json:"worker,omitempty"` // that has it, or had it last
	Reason   string    `json:"reason,omitempty"` // why it is dead, as DeadLetter.Reason
	Err      string    `json:"error,omitempty"`  // of its last run that failed, unless it has completed
	TraceID  string    `json:"trace_id,omitempty"`
	History  []Attempt `json:"history,omitempty"` // the latest 20 runs that failed, and crashes, oldest first
	// Progress is what its handler said last with Delivery.Progress, half a second ago at most: while it runs, in this run;
	// else in any.
	Progress Progress `json:"progress,omitzero"`
	// Result is what its handler returned, as it is kept; nil when it returned nothing, or that is not kept.
	Result []byte `json:"result,omitempty"`
	// Groups of an events stream, where a job is in a state for each: that of the Info itself is the one farthest from its
	// end, and its Result the only one there is.
	Groups map[string]Info `json:"groups,omitempty"`
}

// Ended reports whether the job is completed, cancelled or dead. A dead one may be redriven.
func (i Info) Ended() bool { return i.State == Completed || i.State == Cancelled || i.State == Dead }

// Get looks a job up by its ID, wherever it is: scheduled, waiting, active,
// retrying, among the dead letters, or finished and on record. The answer is of one moment, and
// never takes a scan. Jobs that were added by plain XADD are found by the ID of
// their entry; one that carries an ID of its own in opts, under which nothing is known of it, has that ID in the Info.
//
// ErrNotFound: there is no such job, or it has finished and left no record. A record is kept of jobs that return
// something, and of others as the worker's KeepStatus says, for KeepResult.
func (s *Stream) Get(ctx context.Context, id string) (Info, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	found := s.getAll(ctx, []string{id})[0]
	return found.info, found.err
}

// looked is what came of looking for one job.
type looked struct {
	info Info
	err  error
}

// getAll looks for jobs in one pipeline, or a second one when groups were made since the last.
func (s *Stream) getAll(ctx context.Context, ids []string) []looked {
	answers := make([]looked, len(ids))
	todo := make([]int, len(ids))
	for i := range ids {
		todo[i] = i
	}
	for try := 0; len(todo) > 0; try++ {
		s.mu.Lock()
		groups := s.groups
		s.mu.Unlock()
		calls := make([]engine.Call, len(todo))
		for n, i := range todo {
			calls[n] = engine.GetCall(s.keys, ids[i], groups)
		}
		var again []int
		var missed []string
		for n, res := range engine.RunAll(ctx, s.rdb, calls) {
			i := todo[n]
			found, err := engine.Found{}, res.Err
			if err == nil {
				found, err = engine.ReadFound(res.Val)
			}
			switch {
			case err != nil:
				answers[i].err = wrapRead("look up a job of "+s.name, err)
			case found.Missed != nil && try < 5:
				again, missed = append(again, i), found.Missed
			case found.Missed != nil:
				answers[i].err = fmt.Errorf("look up a job of %s: %w: its groups change all the time", s.name, ErrUnavailable)
			default:
				answers[i].info, answers[i].err = s.infoOf(ids[i], found)
			}
		}
		if missed != nil {
			slices.Sort(missed)
			s.mu.Lock()
			s.groups = missed
			s.mu.Unlock()
		}
		todo = again
	}
	return answers
}

func (s *Stream) infoOf(id string, f engine.Found) (Info, error) {
	find := infoOfQueue
	if f.Events {
		find = infoOfEvents
	}
	info, ok := find(id, f)
	if !ok {
		return Info{}, s.noJob(id)
	}
	return info, nil
}

func (s *Stream) noJob(id string) error {
	return fmt.Errorf("no job %s in %s: %w: it may have finished, as jobs that return nothing leave a record only "+
		"where PENSTOCK_KEEP_STATUS is all, and any record only for PENSTOCK_KEEP_RESULT", id, s.name, ErrNotFound)
}

// infoOfQueue finds where the job is: what lives comes before what is on record.
func infoOfQueue(id string, f engine.Found) (Info, bool) {
	info := Info{ID: id}
	for _, g := range f.Groups {
		g.Progress = f.Progress
		if info.in(g, f.Job) {
			return info, true
		}
	}
	switch {
	case f.Due > 0 || f.Scheduled.There:
		info.scheduled(f)
	case f.Job.There:
		info.waiting(f.Job)
	default:
		if !info.recorded(f.Record) {
			return info, false
		}
		info.said(f.Progress, -1)
	}
	return info, true
}

func infoOfEvents(id string, f engine.Found) (Info, bool) {
	info := Info{ID: id}
	switch {
	case f.Due > 0 || f.Scheduled.There:
		info.scheduled(f)
		return info, true
	case f.Job.There:
		info.waiting(f.Job)
	}
	best, results := -1, 0
	entry := f.Job.Entry
	for _, g := range f.Groups {
		one := Info{ID: info.ID}
		switch {
		case g.Owner == "" && g.Place == "orders" && f.Job.There && (g.Position == "" || engine.EntryLess(g.Position, entry)):
			one.waiting(f.Job)
		case one.in(g, f.Job):
		case one.recorded(g.Record):
			one.said(g.Progress, -1)
		case g.Place == "orders" && f.Job.There: // passed, and not pending: it is done
			one.waiting(f.Job)
			one.State = Completed
		default:
			continue
		}
		if info.Groups == nil {
			info.Groups = make(map[string]Info, len(f.Groups))
		}
		info.Groups[g.Group] = one
		if one.Result != nil {
			results++
		}
		if rank := slices.Index(fromEnd, one.State); rank > best {
			best = rank
			groups := info.Groups
			info = one
			info.Groups, info.Result = groups, nil
		}
	}
	if results == 1 {
		for _, one := range info.Groups {
			if one.Result != nil {
				info.Result = one.Result
			}
		}
	}
	if info.State == "" { // it was cancelled before it was due
		info.recorded(f.Record)
	}
	return info, info.State != ""
}

// in reports whether the job lives in this group, and says how; inStream is what lies in the stream itself.
func (i *Info) in(g engine.FoundIn, inStream engine.FoundJob) bool {
	switch {
	case g.Due > 0:
		i.fill(g.Job)
		i.State, i.Due = Retrying, time.UnixMilli(g.Due)
		i.said(g.Progress, -1)
	case g.Owner != "":
		if g.Place == "orders" {
			g.Job = inStream
		}
		moves := i.fill(g.Job)
		i.State, i.Worker = Active, g.Owner
		i.said(g.Progress, moves)
		if g.Owner == engine.Nobody {
			i.State, i.Worker = Waiting, "" // until a sweep sends it back
		}
		i.Started = startOf(i.ID, g.Row)
	case g.Place == "dead" && g.Job.There:
		i.dead(g.Job)
		i.said(g.Progress, -1)
	case (g.Place == "redelivery" || g.Place == "suspects") && g.Job.There:
		i.waiting(g.Job)
		i.said(g.Progress, -1)
	default:
		return false
	}
	return true
}

func (i *Info) scheduled(f engine.Found) {
	i.fill(f.Scheduled)
	i.State = Scheduled
	if f.Due > 0 {
		i.Due = time.UnixMilli(f.Due)
	}
}

func (i *Info) waiting(j engine.FoundJob) {
	i.fill(j)
	i.State = Waiting
}

// fill takes what the job itself says, and returns its part of the fence. Opts that can't be read say nothing.
func (i *Info) fill(j engine.FoundJob) (moves int64) {
	if !j.There {
		return 0
	}
	opts, err := engine.ParseOpts(j.Opts)
	if err != nil {
		opts = engine.Opts{}
	}
	i.ID, i.Type, i.TraceID = cmp.Or(opts.ID, i.ID), j.Type, traceID(j.Traceparent)
	i.Attempt, i.MaxTries, i.Crashes, i.Paused = opts.Errors+1, opts.MaxTries, opts.Crashes, opts.Pauses
	i.history(opts.History)
	switch {
	case opts.Published > 0:
		i.Published = time.UnixMilli(opts.Published)
	case engine.IsEntryID(i.ID):
		i.Published = engine.EntryTime(i.ID)
	case j.Entry != "":
		i.Published = engine.EntryTime(j.Entry)
	}
	if i.Due = i.Published; opts.Due > 0 {
		i.Due = time.UnixMilli(opts.Due)
	}
	return opts.Moves
}

func (i *Info) history(list []engine.Attempt) {
	i.History = attempts(list)
	if n := len(i.History); n > 0 {
		last := i.History[n-1]
		i.Err, i.Worker = last.Error, last.Worker
	}
}

func attempts(list []engine.Attempt) []Attempt {
	var history []Attempt
	for _, a := range list {
		history = append(history, Attempt{a.Attempt, a.Worker, moment(a.Started), time.Duration(a.Took) * time.Millisecond, a.Error})
	}
	return history
}

func (i *Info) dead(j engine.FoundJob) {
	i.fill(j)
	i.deadLetter(parseDead(rawEntry{j.Entry, []string{
		engine.FieldType, j.Type, engine.FieldData, "", engine.FieldTraceparent, j.Traceparent, engine.FieldOpts, j.Opts, "info", j.Info}}))
}

func (i *Info) deadLetter(l DeadLetter) {
	i.Type, i.TraceID, i.Published, i.Crashes, i.History = l.Type, traceID(l.Traceparent), l.Published, l.Crashes, l.History
	i.State, i.Reason, i.Err, i.Worker, i.Finished = Dead, l.Reason, l.Error, l.Worker, l.Died
	i.Attempt, i.MaxTries = l.Attempt, cmp.Or(l.MaxTries, i.MaxTries)
	if n := len(i.History); n > 0 && l.Attempt > 0 && i.History[n-1].Attempt == l.Attempt {
		i.Started = i.History[n-1].Started
	}
}

// recorded reports whether there is a record, and reads it.
func (i *Info) recorded(text string) bool {
	if text == "" {
		return false
	}
	r, err := engine.ParseRecord(text)
	if r.State == "" {
		return false
	}
	i.State = State(r.State)
	if n := r.Note; err == nil {
		i.Type, i.TraceID = n.Type, traceID(n.Trace)
		i.Attempt, i.MaxTries, i.Crashes = n.Attempt, n.MaxTries, n.Crashes
		i.history(n.History)
		i.Err, i.Worker = n.Error, cmp.Or(n.Worker, i.Worker)
		i.Published, i.Due, i.Started = moment(n.Published), moment(cmp.Or(n.Due, n.Published)), moment(n.Started)
		if i.Finished = moment(n.Finished); n.Started > 0 {
			i.Finished = moment(n.Started + n.Took)
		}
	}
	i.Result = r.Result
	return true
}

func moment(ms int64) time.Time {
	if ms <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// traceID is that of a W3C traceparent, or "".
func traceID(traceparent string) string {
	parts := strings.Split(traceparent, "-")
	if len(parts) < 4 || len(parts[1]) != 32 {
		return ""
	}
	return parts[1]
}

// startOf is when a worker says in its row that a job began to run.
func startOf(id, row string) time.Time {
	var said struct {
		Run [][2]json.RawMessage `json:"run"`
	}
	if row == "" || json.Unmarshal([]byte(row), &said) != nil {
		return time.Time{}
	}
	for _, run := range said.Run {
		var name string
		var ms int64
		if json.Unmarshal(run[0], &name) == nil && name == id && json.Unmarshal(run[1], &ms) == nil {
			return moment(ms)
		}
	}
	return time.Time{}
}

// JobError is how a job ended that did not complete.
type JobError struct{ Info Info }

// Error says how the job ended, and why.
func (e *JobError) Error() string {
	switch i := e.Info; {
	case i.State == Cancelled:
		return "job " + i.ID + " was cancelled"
	case i.Err == "":
		return "job " + i.ID + " is dead: " + i.Reason
	case i.Reason == "" || i.Reason == "failed":
		return "job " + i.ID + " is dead: " + i.Err
	default:
		return "job " + i.ID + " is dead: " + i.Reason + ": " + i.Err
	}
}

// ErrNoResult says that the job has completed and no result of it is kept: its handler returns none, or KeepResult is None.
var ErrNoResult = errors.New("the job has completed, and no result of it is kept")
