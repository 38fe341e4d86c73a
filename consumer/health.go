package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Stats count what a worker has done since it began. Runs whose end could not
// be written, since the job had been ended elsewhere, are in none but Started;
// when Redis's answer to such an end was lost, it counts as it was meant, for nothing tells.
type Stats struct {
	Started    int64 `json:"started"`     // runs of handlers
	Completed  int64 `json:"completed"`   // jobs
	Retried    int64 `json:"retried"`     // runs that failed and whose job comes back
	Snoozed    int64 `json:"snoozed"`     // runs that put their job off
	Bounced    int64 `json:"bounced"`     // times a job was left to another worker, since none here handles it
	Dead       int64 `json:"dead"`        // jobs that became dead letters
	Cancelled  int64 `json:"cancelled"`   // jobs that were cancelled while this worker had them, or by a kill switch
	Paused     int64 `json:"paused"`      // times a kill switch put a job off
	HandedBack int64 `json:"handed_back"` // deliveries that went back and cost no try
	Panics     int64 `json:"panics"`      // runs that panicked; they are among Retried or Dead too
	Reclaimed  int64 `json:"reclaimed"`   // taken over from workers whose leases had run out, and sent back to the group
	LeasesLost int64 `json:"leases_lost"` // of this worker's own
	Lost       int64 `json:"lost"`        // entries that were deleted while a worker held them
	Stuck      int64 `json:"stuck"`       // handlers that ignored the end of their context for 10 s, and were reported
}

type counters struct {
	started, completed, retried, snoozed, bounced, dead, cancelled, paused, handedBack, panics, reclaimed, leasesLost, lost, stuck atomic.Int64

	refused atomic.Int64 // taken up, and not started
}

// Stats may be called at any time.
func (w *Worker) Stats() Stats {
	c := &w.counts
	return Stats{
		Started: c.started.Load(), Completed: c.completed.Load(), Retried: c.retried.Load(), Snoozed: c.snoozed.Load(),
		Bounced: c.bounced.Load(), Dead: c.dead.Load(), Cancelled: c.cancelled.Load(), Paused: c.paused.Load(), HandedBack: c.handedBack.Load(), Panics: c.panics.Load(),
		Reclaimed: c.reclaimed.Load(), LeasesLost: c.leasesLost.Load(), Lost: c.lost.Load(), Stuck: c.stuck.Load(),
	}
}

// Health of a worker: Live is for who may restart it, Ready for who waits for
// it or sends work its way, and Problem says to people what is wrong.
type Health struct {
	// Live is false when only a restart can help: a handler that was told to stop is stuck in every slot, or jobs wait
	// and the worker, connected and with room, has taken none for half a lease. It stays true while Redis is away.
	Live bool `json:"live"`
	// Ready is true when the worker is live, its streams are open and Redis answers.
	Ready bool `json:"ready"`
	// Problem is why it is not live or not ready, or what else somebody should look at; nil: all is well.
	Problem error `json:"-"`

	Running     int       `json:"running"`      // handlers at work
	Stuck       int       `json:"stuck"`        // of them, those that have ignored the end of their context for 10 s
	MaxJobs     int       `json:"max_jobs"`     // how many may be at work
	Queued      int       `json:"queued"`       // jobs read and not started
	Waiting     int64     `json:"waiting"`      // jobs that the group had not read at the last heartbeat, of all streams; -1: not known
	LastSettled time.Time `json:"last_settled"` // when the end of a job last reached Redis; zero: never
}

// Health may be called at any time.
func (w *Worker) Health() Health {
	h := Health{Live: true, Ready: w.opened.Load(), MaxJobs: w.cfg.MaxJobs, Queued: w.queued()}
	w.mu.Lock()
	readers := w.readers
	w.mu.Unlock()
	errs := []error{w.opening.cause(), w.writes.cause()}
	for _, r := range readers {
		errs = append(errs, r.reads.cause())
	}
	var stalls []error
	for _, src := range w.sources {
		errs = append(errs, src.trouble.cause(), src.leases.cause(), src.sweeps.cause())
		stalls = append(stalls, src.stalled.cause())
		if n := src.waiting.Load(); n < 0 || h.Waiting < 0 {
			h.Waiting = -1
		} else {
			h.Waiting += n
		}
	}
	away := errors.Join(errs...)
	stall := errors.Join(stalls...)
	if away != nil {
		stall = nil // that is why
	}
	running := w.Running()
	h.Running = len(running)
	slots, stuck := w.stuckJobs(running, &h)
	if h.Live = stall == nil && slots < w.cfg.MaxJobs; away != nil || !h.Live {
		h.Ready = false
	}
	h.Problem = errors.Join(away, stall, stuck, w.refused.cause())
	if ns := w.settled.Load(); ns > 0 {
		h.LastSettled = time.Unix(0, ns)
	}
	return h
}

// stuckJobs counts the jobs of stuck handlers, and returns how many slots they take and what to say of them.
func (w *Worker) stuckJobs(running []Running, h *Health) (slots int, err error) {
	types, oldest := make(map[string]int), time.Duration(0)
	for _, r := range running {
		if r.Overdue >= stuckFor {
			h.Stuck++
			types[r.Type]++
			oldest = max(oldest, time.Since(r.Started))
		}
	}
	if h.Stuck == 0 {
		return 0, nil
	}
	w.mu.Lock()
	all := w.slots
	w.mu.Unlock()
	for _, s := range all {
		s.mu.Lock()
		if s.stuck {
			slots++
		}
		s.mu.Unlock()
	}
	var parts []string
	for _, typ := range slices.Sorted(maps.Keys(types)) {
		parts = append(parts, fmt.Sprintf("%s %d", typ, types[typ]))
	}
	return slots, fmt.Errorf("%d of %d slots are stuck in handlers past their timeout: %s (the oldest runs for %s; stacks are in the log)",
		slots, w.cfg.MaxJobs, strings.Join(parts, ", "), oldest.Round(time.Second))
}

// Running is one job that a handler works on.
type Running struct {
	Stream, ID, Type string    // of the job
	Attempt          int       // number of this run, from 1
	Started          time.Time // when the handler was called
	Progress         float64   // from 0 to 1, as the handler reported it
	Note             string    // what the handler said with it
	// Overdue is for how long the handler has ignored the end of its context, as told to the second; 0: it does not.
	Overdue time.Duration
}

// Running lists what the handlers work on.
func (w *Worker) Running() []Running {
	w.mu.Lock()
	slots := w.slots
	w.mu.Unlock()
	var list []Running
	for _, s := range slots {
		s.mu.Lock()
		for _, t := range s.tasks {
			r := Running{Stream: t.Stream, ID: t.ID, Type: t.Type, Attempt: t.Attempt, Started: t.started}
			if !s.over.IsZero() {
				r.Overdue = time.Since(s.over)
			}
			if said := t.report.Load(); said != nil {
				if p := said.progress.Load(); p != nil {
					r.Progress, r.Note = p.fraction, p.note
				}
			}
			list = append(list, r)
		}
		s.mu.Unlock()
	}
	return list
}

// outage is a time in which something can't be done; its beginning and end are logged, once each.
type outage struct{ err atomic.Pointer[error] }

func (o *outage) began(log *slog.Logger, what string, err error) {
	o.beganAt(log, slog.LevelWarn, what, err)
}

func (o *outage) beganAt(log *slog.Logger, level slog.Level, what string, err error) {
	if o.err.Swap(&err) == nil {
		log.Log(context.Background(), level, what, "err", err)
	}
}

func (o *outage) over(log *slog.Logger, what string) {
	if o.err.Load() != nil && o.err.Swap(nil) != nil {
		log.Info(what)
	}
}

// cause of the outage; nil when there is none.
func (o *outage) cause() error {
	if err := o.err.Load(); err != nil {
		return *err
	}
	return nil
}
