package consumer

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"time"
)

// Stats count what a worker has done since it began. Runs whose end could not
// be written, since the job had been ended elsewhere, are in none but Started.
type Stats struct {
	Started    int64 `json:"started"`     // runs of handlers
	Completed  int64 `json:"completed"`   // jobs
	Retried    int64 `json:"retried"`     // runs that failed and whose job comes back
	Snoozed    int64 `json:"snoozed"`     // runs that put their job off
	Bounced    int64 `json:"bounced"`     // times a job was left to another worker, since none here handles it
	Dead       int64 `json:"dead"`        // jobs that became dead letters
	HandedBack int64 `json:"handed_back"` // deliveries that went back and cost no try
	Panics     int64 `json:"panics"`      // runs that panicked; they are among Retried or Dead too
	Reclaimed  int64 `json:"reclaimed"`   // taken over from workers whose leases had run out, and sent back to the group
	LeasesLost int64 `json:"leases_lost"` // of this worker's own
	Lost       int64 `json:"lost"`        // entries that were deleted while a worker held them
}

type counters struct {
	started, completed, retried, snoozed, bounced, dead, handedBack, panics, reclaimed, leasesLost, lost atomic.Int64

	refused atomic.Int64 // taken up, and not started
}

// Stats may be called at any time.
func (w *Worker) Stats() Stats {
	c := &w.counts
	return Stats{
		Started: c.started.Load(), Completed: c.completed.Load(), Retried: c.retried.Load(), Snoozed: c.snoozed.Load(),
		Bounced: c.bounced.Load(), Dead: c.dead.Load(), HandedBack: c.handedBack.Load(), Panics: c.panics.Load(),
		Reclaimed: c.reclaimed.Load(), LeasesLost: c.leasesLost.Load(), Lost: c.lost.Load(),
	}
}

// Health of a worker.
type Health struct {
	Ready       bool      // its streams are open and Redis answers
	Redis       error     // why not, when Redis is the reason
	Running     int       // handlers at work
	MaxJobs     int       // of so many
	Queued      int       // jobs read and not started
	LastSettled time.Time // when the end of a job last reached Redis; zero: never
}

// Health may be called at any time.
func (w *Worker) Health() Health {
	h := Health{Ready: w.opened.Load(), MaxJobs: w.cfg.MaxJobs, Queued: w.queued(), Running: len(w.Running())}
	w.mu.Lock()
	readers := w.readers
	w.mu.Unlock()
	errs := []error{w.opening.cause(), w.writes.cause()}
	for _, r := range readers {
		errs = append(errs, r.reads.cause())
	}
	for _, src := range w.sources {
		errs = append(errs, src.trouble.cause(), src.leases.cause())
	}
	if err := errors.Join(errs...); err != nil {
		h.Ready, h.Redis = false, err
	}
	if ns := w.settled.Load(); ns > 0 {
		h.LastSettled = time.Unix(0, ns)
	}
	return h
}

// Running is one job that a handler works on.
type Running struct {
	Stream, ID, Type string    // of the job
	Attempt          int       // number of this run, from 1
	Started          time.Time // when the handler was called
	Progress         float64   // from 0 to 1, as the handler reported it
	Note             string    // what the handler said with it
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
			if p := t.progress.Load(); p != nil {
				r.Progress, r.Note = p.fraction, p.note
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
	if o.err.Swap(&err) == nil {
		log.Warn(what, "err", err)
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
