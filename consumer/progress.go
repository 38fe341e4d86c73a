package consumer

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

// intake judges, heartbeat by heartbeat, whether a source's jobs are taken.
// Only its lease loop uses it.
type intake struct {
	unread [2]string // the entries that waited longest at the last heartbeat
	took   int64     // how many the reader had read by then
	waited int64     // and how often it had waited for room
	since  time.Time // since when nothing has changed though there was room; zero: it has
}

// stalled says for how long a job has been waiting that this worker, which had
// room all along, did not take; 0: it makes progress, or has no room. Such a job is one that
// nobody else in the group takes either, since it is the same one at each heartbeat.
func (p *intake) stalled(now time.Time, b engine.Beat, r *reader) time.Duration {
	took, waited := r.took.Load(), r.waited.Load()
	same := b.Unread != [2]string{} && b.Unread == p.unread && took == p.took && waited == p.waited && r.below.Load() < 0
	p.unread, p.took, p.waited = b.Unread, took, waited
	switch {
	case !same:
		p.since = now
		return 0
	case p.since.IsZero():
		p.since = now
	}
	return now.Sub(p.since)
}

// oldestUnread is when the job that waits longest was added to what it waits in.
func oldestUnread(b engine.Beat) (oldest time.Time) {
	for _, entry := range b.Unread {
		if at := engine.EntryTime(entry); entry != "" && (oldest.IsZero() || at.Before(oldest)) {
			oldest = at
		}
	}
	return oldest
}

// judgeIntake notes what waits, and whether this worker fails to take it.
func (w *Worker) judgeIntake(src *source, p *intake, b engine.Beat) {
	src.waiting.Store(b.Waiting)
	log := w.log.With("stream", src.stream.Name())
	stalled := p.stalled(time.Now(), b, src.reader)
	if stalled < w.cfg.Lease/2 || w.stopping.Load() {
		if stalled == 0 {
			src.stalled.over(log, "jobs are taken again")
		}
		return
	}
	jobs := "jobs wait"
	switch {
	case b.Waiting == 1:
		jobs = "1 job waits"
	case b.Waiting > 1:
		jobs = fmt.Sprintf("%d jobs wait", b.Waiting)
	}
	src.stalled.beganAt(log, slog.LevelError, "jobs wait and this worker takes none, though it has room", fmt.Errorf("%s in %s/%s, the oldest for %s, and this worker has taken none for %s though it has room",
		jobs, src.stream.Name(), w.group, b.Now.Sub(oldestUnread(b)).Round(time.Second), stalled.Round(time.Second)))
}
