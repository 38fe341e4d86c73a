package scheduler

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// What one pass over one stream may do. What is left is done soon, in another.
const (
	trimChunk   = 10_000 // entries in one script: some 0.2 ms
	trimChunks  = 200
	staleCount  = 200 // fields of ids in one script: some 0.4 ms
	staleSteps  = 250
	expireBatch = 50 // dead letters read at once: each may have a payload of a megabyte
	expireMost  = 1000
	reapMost    = 200 // consumers of one group
	freeBatch   = 50
)

const (
	upkeepTick    = 10 * time.Second // between two looks at which streams there are
	upkeepTimeout = time.Minute      // of one pass over one stream
	upkeepAgain   = time.Second      // after a pass that left something to do
	upkeepSooner  = 10               // a stream that had something to do is looked at that many times as often
	upkeepPause   = 30 * time.Second // after a pass that failed, at least

	// trimLeast is how old an entry is at least that is trimmed: its ID is taken as long as it is there, and publishers repeat
	// themselves. On a queue a record does the same.
	trimLeast = time.Minute
	// idLeast is how old the ID of a trimmed entry is at least that is forgotten: by its mark a call that tries again knows its own job.
	idLeast = time.Hour
)

// Upkeep is what a scheduler has done to keep streams tidy, and what it saw that a person should look at.
type Upkeep struct {
	Passes  int64 `json:"passes"`  // over one stream each
	Trimmed int64 `json:"trimmed"` // entries of events streams that all groups were done with
	Reaped  int64 `json:"reaped"`  // consumers of dead workers
	Expired int64 `json:"expired"` // dead letters older than KeepDead
	Freed   int64 `json:"freed"`   // IDs of jobs that are gone
	// Findings are of the streams that this scheduler looked after last, by stream and group.
	Findings []Finding `json:"findings"`
}

// upkeepState is what a Scheduler's passes have done so far.
type upkeepState struct {
	mu    sync.Mutex
	done  Upkeep
	found map[string][]Finding // of each stream
}

// Upkeep is what this scheduler has done so far. It may be called at any time.
func (s *Scheduler) Upkeep() Upkeep {
	s.upkeep.mu.Lock()
	defer s.upkeep.mu.Unlock()
	u := s.upkeep.done
	u.Findings = []Finding{}
	for _, name := range slices.Sorted(maps.Keys(s.upkeep.found)) {
		u.Findings = append(u.Findings, s.upkeep.found[name]...)
	}
	return u
}

// keeper does upkeep. It is used by one goroutine.
type keeper struct {
	*Scheduler
	who     string
	quiet   bool // what is found is not logged
	streams map[string]*tended
}

// tended is what a keeper knows of a stream.
type tended struct {
	name    string
	keys    engine.Keys
	next    time.Time
	groups  []string             // as last found
	cursors map[string]string    // where the look through each hash of IDs goes on
	reaped  map[string]time.Time // when the consumers of each group were looked at
	failed  bool                 // that was logged
}

func (s *Scheduler) newKeeper() *keeper {
	return &keeper{Scheduler: s, who: rand.Text(), streams: make(map[string]*tended)}
}

// startUpkeep does upkeep until ctx ends, and returns what waits for that.
func (s *Scheduler) startUpkeep(ctx context.Context) (wait func()) {
	if s.cfg.Upkeep == stream.None {
		return func() {}
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.newKeeper().run(ctx) })
	return wg.Wait
}

// upkeepOnce does one pass over every stream that is known, whoever else does upkeep.
func (s *Scheduler) upkeepOnce(ctx context.Context) error {
	if s.cfg.Upkeep == stream.None {
		return nil
	}
	k := s.newKeeper()
	k.quiet = true
	k.list(0)
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(k.streams)) {
		if ctx.Err() != nil {
			return errors.Join(append(errs, ctx.Err())...)
		}
		if _, err := k.pass(ctx, k.streams[name], true); err != nil {
			errs = append(errs, fmt.Errorf("upkeep of %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (k *keeper) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		k.list(k.cfg.Upkeep / upkeepSooner)
		wake := time.Now().Add(min(upkeepTick, k.cfg.Upkeep))
		for _, name := range slices.Sorted(maps.Keys(k.streams)) {
			st := k.streams[name]
			if now := time.Now(); !now.Before(st.next) {
				wait, err := k.pass(ctx, st, false)
				if ctx.Err() != nil {
					return
				}
				k.say(st, err)
				if err != nil {
					wait = min(max(upkeepPause, k.cfg.Upkeep/upkeepSooner), k.cfg.Upkeep)
				}
				st.next = now.Add(jitter(wait))
			}
			if st.next.Before(wake) {
				wake = st.next
			}
		}
		timer.Reset(max(time.Until(wake), 0))
	}
}

// jitter keeps a fleet from acting in step.
func jitter(d time.Duration) time.Duration { return d - d/10 + mathrand.N(d/5+1) }

// list takes the streams that the promoter found; a new one is first looked at within spread.
func (k *keeper) list(spread time.Duration) {
	k.mu.Lock()
	known := k.known
	k.mu.Unlock()
	for name := range known {
		if k.streams[name] == nil {
			k.streams[name] = &tended{name: name, keys: engine.NewKeys(name), next: time.Now().Add(mathrand.N(spread + 1)), cursors: make(map[string]string), reaped: make(map[string]time.Time)}
		}
	}
	for name := range k.streams {
		if _, ok := known[name]; !ok && known != nil {
			delete(k.streams, name)
			k.forget(name)
		}
	}
}

// forget drops the findings of a stream that somebody else looks after now.
func (k *keeper) forget(name string) {
	k.upkeep.mu.Lock()
	delete(k.upkeep.found, name)
	k.upkeep.mu.Unlock()
}

// say logs that upkeep of a stream fails, once, and that it is well again. Redis being away is the promoter's to tell.
func (k *keeper) say(st *tended, err error) {
	switch class := engine.Classify(err); {
	case err == nil && st.failed:
		k.cfg.Logger.Info("upkeep of a stream works again", "stream", st.name)
		st.failed = false
	case err == nil || st.failed:
	case class == engine.Refused || class == engine.Denied:
		k.cfg.Logger.Warn("upkeep of a stream fails, trying again", "stream", st.name, "err", err)
		st.failed = true
	default:
		k.cfg.Logger.Debug("upkeep of a stream fails, trying again", "stream", st.name, "err", err)
	}
}

// pass looks after one stream, unless another scheduler does, and says when to do that again.
func (k *keeper) pass(ctx context.Context, st *tended, force bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, upkeepTimeout)
	defer cancel()
	v, err := k.survey(ctx, st, k.who, force)
	if err != nil {
		return 0, err
	}
	if v.Shut > 0 {
		k.forget(st.name)
		return min(v.Shut, k.cfg.Upkeep), nil
	}
	k.count(func(u *Upkeep) { u.Passes++ })
	busy, more := false, false
	var errs []error
	for _, step := range []func(context.Context, *tended, engine.Survey) (int64, bool, error){k.reap, k.trim, k.expire, k.free} {
		n, left, err := step(ctx, st, v)
		busy, more = busy || n > 0, more || left
		errs = append(errs, err)
		if err != nil && (ctx.Err() != nil || engine.Everywhere(k.rdb, err)) {
			break
		}
	}
	k.found(st, v)
	switch {
	case more:
		return min(upkeepAgain, k.cfg.Upkeep), errors.Join(errs...)
	case busy:
		return k.cfg.Upkeep / upkeepSooner, errors.Join(errs...)
	}
	return k.cfg.Upkeep, errors.Join(errs...)
}

// survey asks how a stream stands, a second time when its groups are not those it had.
func (k *keeper) survey(ctx context.Context, st *tended, who string, force bool) (engine.Survey, error) {
	hold := k.cfg.Upkeep + k.cfg.Upkeep/2 // a scheduler that died is missed by then
	for try := 0; ; try++ {
		v, err := engine.SurveyCall(st.keys, who, hold, force, st.groups).Run(ctx, k.rdb)
		if err != nil {
			return engine.Survey{}, fmt.Errorf("look at the stream: %w", err)
		}
		survey, err := engine.ReadSurvey(v)
		if err != nil || survey.Unknown == nil {
			return survey, err
		}
		if try == 3 {
			return engine.Survey{}, errors.New("the groups of the stream change all the time")
		}
		st.groups = survey.Unknown
	}
}

func (k *keeper) count(add func(*Upkeep)) {
	k.upkeep.mu.Lock()
	add(&k.upkeep.done)
	k.upkeep.mu.Unlock()
}

// trim deletes what all groups of an events stream are done with.
func (k *keeper) trim(ctx context.Context, st *tended, v engine.Survey) (n int64, more bool, err error) {
	if v.Kind != string(stream.KindEvents) || v.First == "" || len(v.Groups) == 0 || v.Now.Sub(engine.EntryTime(v.First)) < trimLeast {
		return 0, false, nil
	}
	for range trimChunks {
		res, err := engine.TrimCall(st.keys, trimChunk, trimLeast).Run(ctx, k.rdb)
		if err != nil {
			return n, false, fmt.Errorf("trim the stream: %w", err)
		}
		deleted, _ := res.(int64)
		n += deleted
		k.count(func(u *Upkeep) { u.Trimmed += deleted })
		if deleted == 0 {
			return n, false, nil
		}
	}
	return n, true, nil
}

// free looks through the IDs of jobs for those that are gone.
func (k *keeper) free(ctx context.Context, st *tended, v engine.Survey) (n int64, more bool, err error) {
	if v.IDs > 0 {
		n, more, err = k.freeIn(ctx, st, "", func(cursor string) engine.Call {
			return engine.StaleCall(st.keys, cursor, staleCount, idLeast, st.groups)
		}, func(s engine.StaleID) engine.Call { return engine.FreeCall(st.keys, s.ID, s.Where, st.groups) })
	}
	if v.Kind != string(stream.KindEvents) {
		return n, more, err
	}
	for _, g := range v.Groups {
		if !g.Ours || err != nil {
			continue
		}
		freed, left, failed := k.freeIn(ctx, st, g.Name, func(cursor string) engine.Call {
			return engine.StaleGroupCall(st.keys, g.Name, cursor, staleCount)
		}, func(s engine.StaleID) engine.Call {
			return engine.FreeGroupCall(st.keys, g.Name, s.ID, s.Where, st.groups)
		})
		n, more, err = n+freed, more || left, failed
	}
	return n, more, err
}

// freeIn goes on through one hash of IDs, as far as one pass may.
func (k *keeper) freeIn(ctx context.Context, st *tended, hash string, look func(cursor string) engine.Call, free func(engine.StaleID) engine.Call) (n int64, more bool, err error) {
	cursor := st.cursors[hash]
	if cursor == "" {
		cursor = "0"
	}
	for range staleSteps {
		res, err := look(cursor).Run(ctx, k.rdb)
		if err != nil {
			return n, false, fmt.Errorf("look for IDs of jobs that are gone: %w", err)
		}
		s, err := engine.ReadStale(res)
		if err != nil {
			return n, false, err
		}
		freed := s.Deleted
		for batch := range slices.Chunk(s.Suspect, freeBatch) {
			calls := make([]engine.Call, len(batch))
			for i, id := range batch {
				calls[i] = free(id)
			}
			for _, res := range engine.RunAll(ctx, k.rdb, calls) {
				if res.Err != nil {
					return n, false, fmt.Errorf("free the ID of a job that is gone: %w", res.Err)
				}
				if res.Val == int64(1) {
					freed++
				}
			}
		}
		n += freed
		k.count(func(u *Upkeep) { u.Freed += freed })
		cursor = s.Cursor
		st.cursors[hash] = cursor
		if cursor == "0" {
			return n, false, nil
		}
	}
	return n, n > 0, nil
}
