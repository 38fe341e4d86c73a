package scheduler

import (
	"maps"
	"sync"
	"time"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// Headers of a schedule's jobs.
const (
	headerSchedule = "penstock-schedule"
	headerTick     = "penstock-tick"
)

// never is later than any tick: asked about it, Redis only says what is on record.
var never = time.UnixMilli(253402300799000).UTC()

// entry is a schedule that is in force.
type entry struct {
	Schedule
	plan   *plan
	since  time.Time // when it was made; zero: not known
	origin string    // for people
	text   string    // as Redis keeps it
	turn   chan struct{}

	mu    sync.Mutex
	known bool
	last  time.Time // tick on record
	said  bool      // it was logged that its ticks fail
}

func newEntry(s Schedule, origin string, since time.Time) (*entry, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	p, err := s.plan()
	if err != nil {
		return nil, err
	}
	return &entry{Schedule: s, plan: p, since: since, origin: origin, turn: make(chan struct{}, 1)}, nil
}

// due is the first tick that has to be published now, and how many before it have not. It is never when what is on record
// has to be asked for.
func (e *entry) due(now time.Time) (tick time.Time, skipped int, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.known {
		return never, 0, true
	}
	ticks, skipped, through := e.plan.owed(e.last, now)
	if len(ticks) == 0 {
		e.last = through
		return time.Time{}, skipped, false
	}
	return ticks[0], skipped, true
}

// recorded takes in what is on record.
func (e *entry) recorded(last time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.known || last.After(e.last) {
		e.last = last
	}
	e.known = true
}

// forget has what is on record asked for again.
func (e *entry) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.known = false
}

// fails notes whether its ticks fail, and reports whether that is news.
func (e *entry) fails(yes bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	news := e.said != yes
	e.said = yes
	return news
}

// job is what is published at a tick.
func (e *entry) job(id string, tick, now time.Time) stream.Job {
	job := e.Job
	job.ID = id
	job.Header = maps.Clone(job.Header)
	if job.Header == nil {
		job.Header = make(map[string]string, 2)
	}
	job.Header[headerSchedule], job.Header[headerTick] = e.Name, tickText(tick)
	if e.ExpiresIn > 0 {
		job.ExpiresAt = now.Add(e.ExpiresIn)
	}
	return job
}

// tick is one as Redis is asked for it.
func (e *entry) tick(at time.Time) engine.Tick {
	fire := at
	if at.Before(never) {
		fire = e.plan.fire(at)
	}
	since := e.since
	e.mu.Lock()
	if e.known && e.last.After(since) { // Redis may have lost what is on record
		since = e.last
	}
	e.mu.Unlock()
	return engine.Tick{Schedule: e.Name, At: at, Fire: fire, Since: since, Skip: e.Overlap == OverlapSkip}
}

func tickText(tick time.Time) string { return tick.UTC().Format(time.RFC3339) }

// tickID is the ID of the job of one tick.
func tickID(schedule string, tick time.Time) string { return "cron:" + schedule + ":" + tickText(tick) }

// fires are the times at which a schedule is published, for gocron.
type fires struct{ *plan }

// IsValid is for gocron: it was checked before.
func (fires) IsValid(string, *time.Location, time.Time) error { return nil }

// Next is the first such time after another. gocron must not be told that there is none, which it would look for for ever.
func (f fires) Next(after time.Time) time.Time {
	from := after
	if f.jitter > 0 { // the last tick before after may fire behind it
		for back := time.Second; ; back *= 2 {
			start := after.Add(-min(back, f.jitter))
			if t, ok := f.next(start); ok && !t.After(after) || back >= f.jitter {
				from = start
				break
			}
		}
	}
	for tick, ok := f.next(from); ok; tick, ok = f.next(tick) {
		if fire := f.fire(tick); fire.After(after) {
			return fire.UTC()
		}
	}
	return never
}
