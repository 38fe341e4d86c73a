package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// Store keeps schedules in Redis, where they are made and changed while schedulers run. These hear of a change at once; when
// that is lost, within 15 s, or a minute where no schedule was kept before. Its methods may be called concurrently.
//
// Errors are stream.ErrNotFound (there is no such schedule), stream.ErrInvalid (a fault of the schedule, or it is not kept in
// Redis), stream.ErrUnavailable, and others of Redis.
type Store struct {
	rdb     redis.UniversalClient
	sources *sources
}

// changes is how often a change is tried that others are faster than.
const changes = 20

const listedAtOnce = 16 // what is asked for each is three answers to wait for, one after the other

const storeTimeout = 3 * time.Second // of a call whose context has no deadline

// kept is a schedule as Redis keeps it. What this build does not know of it stays.
type kept struct {
	Spec    json.RawMessage `json:"spec"`
	Since   int64           `json:"since"` // ms, by Redis's clock: nothing that it would have done before is made up for
	Paused  bool            `json:"paused,omitempty"`
	Version int64           `json:"version"`

	name string
}

func parseKept(name, text string) (kept, error) {
	k := kept{name: name}
	if err := json.Unmarshal([]byte(text), &k); err != nil {
		return k, fmt.Errorf("schedule %s, as Redis has it: %w", name, err)
	}
	return k, nil
}

// entry is the schedule that it is, which must be valid.
func (k kept) entry(open Opener) (*entry, error) {
	spec, err := ParseSpec(k.Spec)
	if err != nil {
		return nil, err
	}
	if spec.Name != k.name {
		return nil, &Fault{Schedule: k.name, Field: "name", Value: strconv.Quote(spec.Name), Hint: "must be the one that it is kept under"}
	}
	sc, err := spec.Schedule(open)
	if err != nil {
		return nil, err
	}
	return newEntry(sc, inRedis, time.UnixMilli(k.Since))
}

func specText(s Spec) string {
	b, err := json.Marshal(s)
	if err != nil {
		return ""
	}
	return string(b)
}

// Put keeps a schedule, new or in place of the one of that name. It is in force from now on: ticks before are not made up for.
// A schedule that was paused stays so.
func (s *Store) Put(ctx context.Context, sc Schedule) error {
	if err := sc.Validate(); err != nil {
		return err
	}
	spec, err := SpecOf(sc)
	if err != nil {
		return err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("schedule %s: %w", sc.Name, err)
	}
	if len(text) > maxFile { // nobody would read it
		return &Fault{Schedule: sc.Name, Field: "Job.Data", Hint: fmt.Sprintf("the schedule has %d bytes as text, at most %d are kept", len(text), maxFile)}
	}
	if own := s.sources.own(sc.Name); own != nil {
		return twice(sc.Name, own.origin, inRedis)
	}
	return s.change(ctx, sc.Name, func(_ string, fields map[string]json.RawMessage, now int64) error {
		if string(fields["spec"]) != string(text) {
			fields["since"] = jsonNumber(now)
		}
		fields["spec"] = text
		return nil
	})
}

// Pause stops a schedule until Resume.
func (s *Store) Pause(ctx context.Context, name string) error {
	return s.changeKept(ctx, name, func(fields map[string]json.RawMessage, _ int64) {
		fields["paused"] = json.RawMessage("true")
	})
}

// Resume lets a paused schedule go on. Ticks that it had meanwhile are not made up for.
func (s *Store) Resume(ctx context.Context, name string) error {
	return s.changeKept(ctx, name, func(fields map[string]json.RawMessage, now int64) {
		if string(fields["paused"]) == "true" {
			fields["since"] = jsonNumber(now)
		}
		delete(fields, "paused")
	})
}

// Remove deletes a schedule. Jobs that it has published stay, and so does what is on record of its last tick: a scheduler that
// has not heard of it yet would publish that again, and a program or file may have a schedule of that name too. One that is
// made anew begins when it is made.
func (s *Store) Remove(ctx context.Context, name string) error {
	return s.change(ctx, name, func(old string, fields map[string]json.RawMessage, _ int64) error {
		if own := s.sources.own(name); old == "" && own != nil {
			return elsewhere(name, own)
		}
		if old == "" {
			return missing(name)
		}
		clear(fields)
		return nil
	})
}

func jsonNumber(n int64) json.RawMessage { return json.RawMessage(strconv.FormatInt(n, 10)) }

// changeKept is change for a schedule that has to be there, and can be read.
func (s *Store) changeKept(ctx context.Context, name string, edit func(map[string]json.RawMessage, int64)) error {
	if own := s.sources.own(name); own != nil {
		return elsewhere(name, own)
	}
	return s.change(ctx, name, func(old string, fields map[string]json.RawMessage, now int64) error {
		if old == "" {
			return missing(name)
		}
		edit(fields, now)
		_, err := parseKept(name, old)
		return err
	})
}

func elsewhere(name string, own *entry) error {
	return &Fault{Schedule: name, Hint: "is in " + own.origin + ", not in Redis: change it there"}
}

func missing(name string) error { return fmt.Errorf("schedule %s: %w", name, stream.ErrNotFound) }

// change edits a schedule as Redis keeps it: no fields, none; nor is it there when none are left. Others may change it at the same time.
func (s *Store) change(ctx context.Context, name string, edit func(old string, fields map[string]json.RawMessage, now int64) error) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	doing := "change schedule " + name
	for range changes {
		old, err := s.rdb.HGet(ctx, engine.SchedulesKey, name).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return unavailable(doing, err)
		}
		now, err := s.rdb.Time(ctx).Result()
		if err != nil {
			return unavailable(doing, err)
		}
		fields := make(map[string]json.RawMessage)
		if old != "" {
			_ = json.Unmarshal([]byte(old), &fields) // what cannot be read is overwritten
		}
		if fields == nil { // it was null
			fields = make(map[string]json.RawMessage)
		}
		var version int64
		_ = json.Unmarshal(fields["version"], &version)
		if err := edit(old, fields, now.UnixMilli()); err != nil {
			return err
		}
		text := ""
		if len(fields) > 0 {
			fields["version"] = jsonNumber(version + 1)
			b, err := json.Marshal(fields)
			if err != nil {
				return fmt.Errorf("%s: %w", doing, err)
			}
			text = string(b)
		}
		v, err := s.replace(ctx, engine.ReplaceCall(engine.SchedulesKey, name, old, text))
		if err != nil {
			return unavailable(doing, err)
		}
		if engine.Replaced(v) {
			return nil
		}
	}
	return fmt.Errorf("%s: others change it all the time", doing)
}

// replace runs the script again after a lost answer, until ctx ends: it can be repeated.
func (s *Store) replace(ctx context.Context, c engine.Call) (any, error) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 300*time.Millisecond) {
		v, err := c.Run(ctx, s.rdb)
		if class := engine.Classify(err); class != engine.Lost && class != engine.Busy {
			return v, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait/2 + rand.N(wait)):
		}
	}
}

// limit gives ctx a deadline when it has none.
func limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, storeTimeout)
}

func unavailable(doing string, err error) error {
	switch engine.Classify(err) {
	case engine.Busy, engine.Unreachable, engine.Lost:
		return fmt.Errorf("%s: %w: %w", doing, stream.ErrUnavailable, err)
	case engine.Denied:
		return fmt.Errorf("%s: %w: %w", doing, stream.ErrDenied, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// RunNow publishes the schedule's job at once, whether it is paused or not, and returns the job's ID. Its ticks are as before;
// for OverlapSkip the job is the schedule's last one. published is false when another job has its unique key: the ID is that one's.
func (s *Store) RunNow(ctx context.Context, name string) (id string, published bool, err error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	e := s.sources.own(name)
	if e == nil {
		text, err := s.rdb.HGet(ctx, engine.SchedulesKey, name).Result()
		if errors.Is(err, redis.Nil) {
			return "", false, missing(name)
		}
		if err != nil {
			return "", false, unavailable("read schedule "+name, err)
		}
		k, err := parseKept(name, text)
		if err != nil {
			return "", false, err
		}
		if e, err = k.entry(s.sources.open); err != nil {
			return "", false, err
		}
	}
	now, err := s.rdb.Time(ctx).Result()
	if err != nil {
		return "", false, unavailable("run schedule "+name, err)
	}
	id = fmt.Sprintf("cron:%s:now:%s-%06x", name, now.UTC().Format("20060102T150405"), rand.N(1<<24))
	t := engine.Tick{Schedule: name, Since: e.since}
	ticked, err := e.Stream.Tick(ctx, e.job(id, now.Truncate(time.Second), now), t)
	if err == nil && ticked.What == engine.TickNew { // that is all that happened
		ticked, err = e.Stream.Tick(ctx, e.job(id, now.Truncate(time.Second), now), t)
	}
	return ticked.Last.Job, ticked.What == engine.TickPublished, err
}

// Status is a schedule with what is known of its ticks.
type Status struct {
	// Schedule, as it is in force, or would be; only its Name where Err says why it cannot be read.
	Schedule Schedule `json:"-"`
	// Origin is where it is from: Redis, a file, or the program.
	Origin string `json:"origin"`
	// Paused, by Store.Pause.
	Paused bool `json:"paused,omitempty"`
	// Last tick on record; zero: none yet. Outcome is what became of it: new (there was none since the schedule was made),
	// published, stands (another job stood for it), or skipped.
	Last    time.Time `json:"last,omitzero"`
	Outcome string    `json:"outcome,omitempty"`
	// Next tick; zero: none, or it is paused.
	Next time.Time `json:"next,omitzero"`
	// Job is the ID of the last job, and State the state that it is in; "": it has left no record.
	Job   string       `json:"job,omitempty"`
	State stream.State `json:"state,omitempty"`
	// Err is why it is not in force, or why its ticks could not be read.
	Err error `json:"-"`
}

// List returns all schedules by name: those kept in Redis, and the ones of this scheduler's program and file.
func (s *Store) List(ctx context.Context) ([]Status, error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	texts, err := s.rdb.HGetAll(ctx, engine.SchedulesKey).Result()
	if err != nil {
		return nil, unavailable("list schedules", err)
	}
	now, err := s.rdb.Time(ctx).Result()
	if err != nil {
		return nil, unavailable("list schedules", err)
	}
	read := make(map[string]func() Status)
	for name, text := range texts {
		read[name] = func() Status { return s.kept(ctx, name, text, now) }
	}
	for name, e := range s.sources.owned() {
		status := Status{Schedule: e.Schedule, Origin: e.origin}
		if _, both := texts[name]; both {
			status.Err = twice(name, e.origin, inRedis)
		}
		read[name] = func() Status { return s.ticks(ctx, e, status, now) }
	}
	list := make([]Status, len(read))
	free := make(chan struct{}, listedAtOnce)
	var wg sync.WaitGroup
	for i, name := range slices.Sorted(maps.Keys(read)) {
		free <- struct{}{}
		wg.Go(func() {
			list[i] = read[name]()
			<-free
		})
	}
	wg.Wait()
	return list, nil
}

func (s *Store) kept(ctx context.Context, name, text string, now time.Time) Status {
	status := Status{Schedule: Schedule{Name: name}, Origin: inRedis}
	k, err := parseKept(name, text)
	status.Paused = k.Paused
	var e *entry
	if err == nil {
		e, err = k.entry(s.sources.open)
	}
	if err != nil {
		status.Err = err
		return status
	}
	status.Schedule = e.Schedule
	return s.ticks(ctx, e, status, now)
}

// ticks reads what is on record.
func (s *Store) ticks(ctx context.Context, e *entry, status Status, now time.Time) Status {
	if next, ok := e.plan.next(now); ok && !status.Paused {
		status.Next = next
	}
	value, err := e.Stream.Client().HGet(ctx, engine.NewKeys(e.Stream.Name()).Ticks, e.Name).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		status.Err = unavailable("read the ticks of schedule "+e.Name, err)
		return status
	}
	last, ok := engine.ReadLastTick(value)
	if !ok {
		return status
	}
	status.Outcome, status.Job = last.Outcome, last.Job
	if last.Outcome != engine.TickNew {
		status.Last = last.At
	}
	if last.Job != "" {
		info, err := e.Stream.Get(ctx, last.Job)
		switch {
		case err == nil:
			status.State = info.State
		case !errors.Is(err, stream.ErrNotFound):
			status.Err = err
		}
	}
	return status
}

// Show is List for one schedule.
func (s *Store) Show(ctx context.Context, name string) (Status, error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	now, err := s.rdb.Time(ctx).Result()
	if err != nil {
		return Status{}, unavailable("read schedule "+name, err)
	}
	if e := s.sources.own(name); e != nil {
		return s.ticks(ctx, e, Status{Schedule: e.Schedule, Origin: e.origin}, now), nil
	}
	text, err := s.rdb.HGet(ctx, engine.SchedulesKey, name).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return Status{}, missing(name)
	case err != nil:
		return Status{}, unavailable("read schedule "+name, err)
	}
	return s.kept(ctx, name, text, now), nil
}
