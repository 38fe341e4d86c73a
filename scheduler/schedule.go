package scheduler

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/go-multierror"

	"github.com/penstock-go/penstock/stream"
)

// Schedule publishes a job at each of its ticks. A tick is a nominal time, a whole second: Cron, Every or Fields says
// which. Exactly one of the three is given.
//
// # Times of day and daylight saving
//
// The times of Cron and Fields are those of a clock on a wall in Zone. What happens when it is moved depends on the hours:
//
//   - A schedule that names some of the 24 hours fires at the first instant at which the clock shows that time or a later
//     one. So a time that is skipped fires once, at the instant of the jump, and so does one on a day that is skipped; a
//     time that happens twice fires the first time only. Times that come to the same instant are one tick.
//   - A schedule of every hour fires whenever the clock shows one of its times: in an hour that happens twice it fires
//     twice, in one that is skipped not at all. It neither stops nor doubles: the hours that pass are all there is.
//
// In Europe/Berlin, where 02:00 becomes 03:00 in spring and 03:00 becomes 02:00 in autumn, "30 2 * * *" fires at 03:00 on
// the one day and at the first 02:30 on the other; "30 * * * *" fires once an hour on both.
type Schedule struct {
	// Name tells it from all others. It goes into job IDs, keys and headers: at most MaxScheduleName bytes, without ':', '{',
	// '}' or spaces. Required.
	Name string
	// Cron has five fields (minute, hour, day of month, month, day of week) or six (seconds first), or is one of @yearly,
	// @annually, @monthly, @weekly, @daily, @midnight and @hourly. Fields are numbers, names (jan-dec, sun-sat), lists,
	// ranges and steps; 7 is sunday too. When neither of the two fields for days begins with '*', either may match.
	Cron string
	// Every fires at each multiple since the Unix epoch, so that replicas agree: whole seconds, at least one.
	Every time.Duration
	// Fields is python-arq's form.
	Fields Fields
	// Zone is the name of a time zone, as in Europe/Berlin. Not with Every. Default: UTC.
	Zone string
	// Jitter spreads ticks: each is published up to so much later, but before the next tick. How much later follows from
	// Name and tick, and so is the same everywhere. Default: none.
	Jitter time.Duration
	// Start is the time before which no tick lies. Default: there is none.
	Start time.Time
	// End is the time after which no tick lies. Default: there is none.
	End time.Time
	// Overlap says what happens at a tick while the job of an earlier one is unfinished. Default: OverlapAllow.
	Overlap Overlap
	// Missed says what happens to ticks at which no scheduler ran. Default: {MissedOnce, within 24 h}.
	Missed Missed
	// Stream the job is published to. Required.
	Stream *stream.Stream
	// Job is published at each tick, with an ID that is made of Name and tick: ID, At and ExpiresAt can't be given.
	Job stream.Job
	// ExpiresIn: a job that has not started so long after its tick was published is dead-lettered as expired. Default: never.
	ExpiresIn time.Duration
}

// MaxScheduleName is the longest name of a schedule, in bytes.
const MaxScheduleName = 64

// Bounds of a schedule.
const (
	minEvery   = time.Second
	maxJitter  = 24 * time.Hour
	maxExpires = 100 * 366 * 24 * time.Hour
)

// Overlap says what happens at a tick while the job of an earlier tick is unfinished.
type Overlap string

// What Schedule.Overlap may be.
const (
	OverlapAllow Overlap = "allow" // the job is published all the same
	OverlapSkip  Overlap = "skip"  // the tick passes without a job
)

// Validate reports every fault at once: a *multierror.Error of *Fault, or nil.
func (s Schedule) Validate() error {
	f := faults{schedule: s.Name}
	if err := checkName(s.Name); err != nil {
		f.add(true, "Name", quoted(s.Name), "%s", err)
	}
	s.compile(&f)
	f.add(s.Overlap != "" && s.Overlap != OverlapAllow && s.Overlap != OverlapSkip, "Overlap", quoted(string(s.Overlap)), "must be allow or skip")
	f.add(s.Stream == nil, "Stream", "", "is missing")
	s.checkJob(&f)
	return f.list.ErrorOrNil()
}

// checkJob asks for the faults of each option on its own, since a job reports only its first one.
func (s Schedule) checkJob(f *faults) {
	j := s.Job
	f.add(j.ID != "", "Job.ID", quoted(j.ID), "is made of the schedule's name and the tick")
	f.add(!j.At.IsZero(), "Job.At", j.At.Format(time.RFC3339), "follows from the tick")
	f.add(!j.ExpiresAt.IsZero(), "Job.ExpiresAt", j.ExpiresAt.Format(time.RFC3339), "use ExpiresIn: it counts from each tick")
	f.add(s.ExpiresIn < 0, "ExpiresIn", short(s.ExpiresIn), "must be positive")
	f.add(s.ExpiresIn > maxExpires, "ExpiresIn", short(s.ExpiresIn), "must be at most %s", short(maxExpires))
	f.add(s.ExpiresIn > 0 && j.Delay >= s.ExpiresIn, "ExpiresIn", short(s.ExpiresIn), "must be more than the job's delay, %s", short(j.Delay))
	for _, part := range []struct {
		field string
		job   stream.Job
	}{
		{"Job.Type", stream.Job{Type: j.Type}},
		{"Job.Delay", stream.Job{Type: "t", Delay: j.Delay}},
		{"Job.MaxTries", stream.Job{Type: "t", MaxTries: j.MaxTries}},
		{"Job.Timeout", stream.Job{Type: "t", Timeout: j.Timeout}},
		{"Job.Backoff", stream.Job{Type: "t", Backoff: j.Backoff}},
		{"Job.KeepResult", stream.Job{Type: "t", KeepResult: j.KeepResult}},
		{"Job.Unique", stream.Job{Type: "t", Unique: j.Unique, Delay: max(j.Delay, 0)}},
		{"Job.Header", stream.Job{Type: "t", Header: j.Header}},
	} {
		if err := part.job.Validate(); err != nil {
			hint := strings.TrimPrefix(err.Error(), stream.ErrInvalid.Error()+" job: ")
			f.add(true, part.field, "", "%s", strings.TrimPrefix(hint, strings.TrimPrefix(part.field, "Job.")+" "))
		}
	}
	if s.Stream != nil && s.Stream.Kind() == stream.KindEvents && j.Unique != (stream.Unique{}) && j.Unique.For == 0 && j.Unique.Until != stream.UntilStarted {
		f.add(true, "Job.Unique", "", "on an events stream a job is done once for each group: Until must be %q, or For given", stream.UntilStarted)
	}
	switch data, err := payload(s); {
	case err != nil:
		f.add(true, "Job.Data", "", "cannot be encoded: %s", err)
	case s.Stream != nil && len(data) > s.Stream.MaxPayload():
		f.add(true, "Job.Data", "", "has %d bytes, at most %d are allowed (MaxPayload)", len(data), s.Stream.MaxPayload())
	}
}

// payload is the data of the schedule's job as they go on the wire.
func payload(s Schedule) ([]byte, error) {
	switch d := s.Job.Data.(type) {
	case nil:
		return nil, nil
	case []byte:
		return d, nil
	case json.RawMessage:
		return d, nil
	default:
		codec := stream.JSON
		if s.Stream != nil {
			codec = s.Stream.Codec()
		}
		return codec.Marshal(d)
	}
}

// plan is the part of the schedule that says when; the error has every fault of that part.
func (s Schedule) plan() (*plan, error) {
	f := faults{schedule: s.Name}
	p := s.compile(&f)
	return p, f.list.ErrorOrNil()
}

// compile makes the plan and reports its faults.
func (s Schedule) compile(f *faults) *plan {
	p := &plan{name: s.Name, zone: time.UTC, jitter: s.Jitter, start: s.Start, end: lastTick, missed: s.Missed.withDefaults()}
	before := f.list.Len()
	given := 0
	for _, form := range []bool{s.Cron != "", s.Every != 0, s.Fields.set()} {
		if form {
			given++
		}
	}
	f.add(given == 0, "Cron", "", "is missing: give Cron, Every or Fields")
	f.add(given > 1, "Cron", "", "give only one of Cron, Every and Fields")
	if s.Cron != "" {
		var err error
		if p.sets, err = parseCron(s.Cron); err != nil {
			f.add(true, "Cron", quoted(s.Cron), "%s", err)
		}
	}
	if s.Every != 0 {
		f.add(s.Every < minEvery || s.Every%time.Second != 0, "Every", short(s.Every), "must be whole seconds, at least one")
		f.add(s.Zone != "", "Zone", quoted(s.Zone), "has no meaning with Every, which counts from the Unix epoch")
		p.every = int64(s.Every / time.Second)
	}
	if s.Fields.set() {
		p.sets = s.Fields.sets(func(field, value, hint string) { f.add(true, field, value, "%s", hint) })
	}
	if s.Zone != "" && s.Every == 0 {
		zone, err := time.LoadLocation(s.Zone)
		if err != nil || s.Zone == "Local" {
			f.add(true, "Zone", quoted(s.Zone), "must be the name of a time zone, as in Europe/Berlin")
		} else {
			p.zone = zone
		}
	}
	f.add(s.Jitter < 0 || s.Jitter > maxJitter, "Jitter", short(s.Jitter), "must be positive, at most %s", short(maxJitter))
	if !s.End.IsZero() {
		f.add(s.End.Before(s.Start), "End", s.End.Format(time.RFC3339), "lies before Start")
		if s.End.Before(p.end) {
			p.end = s.End
		}
	}
	s.Missed.check(f)
	if f.list.Len() > before {
		return nil
	}
	if _, ok := p.next(time.Time{}); !ok {
		if _, ok := p.sets.nextDay(0); p.every == 0 && !ok {
			field := "Cron"
			if s.Cron == "" {
				field = "Fields.Day"
			}
			f.add(true, field, quoted(s.Cron), "there is no such day in any year")
			return nil
		}
		f.add(true, "End", s.End.Format(time.RFC3339), "no tick lies between Start and End")
		return nil
	}
	return p
}

func quoted(s string) string {
	if s == "" {
		return ""
	}
	return strconv.Quote(s)
}

// short writes a duration without its zeros: 5m, not 5m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Ticks are the nominal times after a given one, in order; none when the schedule is not valid. They end after End, when
// it is given, and else in the year 9998.
func (s Schedule) Ticks(after time.Time) iter.Seq[time.Time] {
	return func(yield func(time.Time) bool) {
		p, err := s.plan()
		if err != nil {
			return
		}
		for t, ok := p.next(after); ok && yield(t); t, ok = p.next(t) {
		}
	}
}

// Fault is one thing that is wrong with a schedule.
type Fault struct {
	Schedule string // its name, or which of the file it is
	Line     int    // in the file, or 0
	Field    string // of the struct; in a file, its key
	Value    string // as it was given, or ""
	Hint     string // what it must be
}

// Error names line, schedule, field and value, and says what is expected.
func (f *Fault) Error() string {
	var b strings.Builder
	if f.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", f.Line)
	}
	if f.Schedule != "" {
		fmt.Fprintf(&b, "schedule %s: ", f.Schedule)
	}
	if f.Field != "" {
		b.WriteString(f.Field)
		if f.Value != "" {
			fmt.Fprintf(&b, " is %s", f.Value)
		}
		b.WriteString(": ")
	}
	b.WriteString(f.Hint)
	return b.String()
}

// Unwrap makes it a stream.ErrInvalid.
func (f *Fault) Unwrap() error { return stream.ErrInvalid }

// faults of one schedule.
type faults struct {
	schedule string
	list     multierror.Error
}

func (f *faults) add(bad bool, field, value, hint string, args ...any) {
	if bad {
		f.list.Errors = append(f.list.Errors, &Fault{Schedule: f.schedule, Field: field, Value: value, Hint: fmt.Sprintf(hint, args...)})
	}
}

// checkName says what is wrong with the name of a schedule, or nil.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("is missing")
	case len(name) > MaxScheduleName:
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(name), MaxScheduleName)
	case !utf8.ValidString(name):
		return errors.New("must be valid UTF-8")
	}
	for _, r := range name {
		if r == ':' || r == '{' || r == '}' || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return errors.New("must not contain ':', braces, spaces or unprintable characters")
		}
	}
	return nil
}
