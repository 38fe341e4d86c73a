package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/engine"
	"github.com/penstock-go/penstock/telemetry"
)

// Receipt is what Publish knows of a job afterwards.
type Receipt struct {
	// ID of the job.
	ID string `json:"id"`
	// Duplicate: no job was stored; the one with this ID stands, in State.
	Duplicate bool `json:"duplicate"`
	// Updated: the job that stands by its unique key has taken this one's data (Replace), or it or one more after it will see
	// them (Coalesce).
	Updated bool `json:"updated,omitempty"`
	// State the job is in.
	State State `json:"state"`
	// Due time of a deferred job, by Redis's clock.
	Due time.Time `json:"due,omitzero"`
	// Err of this job. PublishAll only.
	Err error `json:"-"`
}

// A pipeline takes so many jobs at most, and no more once it has so many bytes.
const (
	pipelineLen   = 1000
	pipelineBytes = 4 << 20
)

// lengthStale is how old the stream's length may be when MaxLen is checked.
const lengthStale = 100 * time.Millisecond

// Publish stores one job. When it returns an ID, the job will end completed or
// dead. A plain immediate job is one XADD; one with an ID, a unique key or a delay is one
// script. Concurrent calls share pipelines when there are many.
//
// Errors: ErrInvalid, ErrTooLarge, ErrStreamFull, ErrUnavailable, ErrDenied
// (nothing was stored), and ErrAmbiguous (it may have been; only for jobs
// without an ID, or when ctx ended before it was settled).
func (s *Stream) Publish(ctx context.Context, job Job) (Receipt, error) {
	traceparent, tracestate := telemetry.Inject(ctx)
	p, err := s.prepare(job, traceparent, tracestate)
	if err != nil {
		return Receipt{}, fmt.Errorf("publish to %s: %w", s.name, err)
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	if !p.plain() {
		return s.publishOne(ctx, p)
	}
	if _, err := s.room(ctx, 1); err != nil {
		return Receipt{}, err
	}
	a := s.single.publish(ctx, s, p)
	if a.err != nil {
		return Receipt{}, wrap("publish to "+s.name, a.err)
	}
	return Receipt{ID: a.id, State: Waiting}, nil
}

// xadd is a plain publish that go-redis must not send twice.
type xadd struct{ *redis.StringCmd }

// NoRetry tells go-redis to leave retries to us.
func (xadd) NoRetry() bool { return true }

func (s *Stream) xadd(ctx context.Context, e engine.Entry) xadd {
	return xadd{redis.NewStringCmd(ctx, "XADD", s.name, "*",
		engine.FieldType, e.Type, engine.FieldData, e.Data, engine.FieldTraceparent, e.Traceparent, engine.FieldOpts, e.Opts)}
}

func (s *Stream) call(p prepared) engine.Call {
	if p.unique != nil {
		return engine.UniqueCall(s.keys, p.id, p.nonce, s.cfg.MaxLen, p.delay, p.at, p.unique.lock, p.entry, p.unique.opts)
	}
	if p.deferred() {
		return engine.ScheduleCall(s.keys, p.id, p.nonce, s.cfg.MaxLen, p.delay, p.at, p.entry)
	}
	return engine.PublishCall(s.keys, p.id, p.nonce, s.cfg.MaxLen, p.entry)
}

// publishOne stores a job that has an ID. Its script can be repeated, so a lost
// reply is tried again until ctx ends.
func (s *Stream) publishOne(ctx context.Context, p prepared) (Receipt, error) {
	if p.deferred() {
		if err := s.Announce(ctx); err != nil {
			return Receipt{}, fmt.Errorf("publish to %s: %w", s.name, err)
		}
	}
	sent, looked := false, false
	for try := 0; ; try++ {
		a := s.scripted.publish(ctx, s, p)
		v, err := a.v, a.err
		if err == nil && !looked {
			if looked = true; s.free(ctx, []prepared{p}, []any{v})[0] {
				continue
			}
		}
		if err == nil {
			return s.receipt(ctx, p, v)
		}
		class := engine.Classify(err)
		sent = sent || class == engine.Lost
		if again := class == engine.Lost || class == engine.Busy || sent; !again || !pause(ctx, try) {
			err = wrap("publish to "+s.name, err)
			if sent && !errors.Is(err, ErrAmbiguous) {
				err = fmt.Errorf("%w: %w", ErrAmbiguous, err)
			}
			return Receipt{}, err
		}
	}
}

// pause waits before another try, and reports whether there is time for one.
func pause(ctx context.Context, try int) bool {
	d := min(10*time.Millisecond<<min(try, 5), 300*time.Millisecond)
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (s *Stream) receipt(ctx context.Context, p prepared, v any) (Receipt, error) {
	stored, err := engine.ReadStored(v, p.nonce)
	switch {
	case err != nil:
		return Receipt{}, fmt.Errorf("publish to %s: %w", s.name, err)
	case stored.Full:
		return Receipt{}, fmt.Errorf("publish to %s: %w: it holds %s jobs, at most %d are allowed (MaxLen)", s.name, ErrStreamFull, stored.Where, s.cfg.MaxLen)
	case stored.Kind != "":
		return Receipt{}, s.refuseKind()
	case stored.Holder != "":
		if place, _, _ := engine.SplitWhere(stored.Where); place == "orders" && stored.Updated && p.unique.lock.Conflict == engine.ConflictReplace {
			return Receipt{ID: stored.Holder, Duplicate: true, Updated: true, State: Waiting}, nil // since just now
		}
		state, due, err := s.stateOf(ctx, stored.Holder, stored.Where)
		if err != nil {
			return Receipt{}, err
		}
		if stored.Where == "" { // it holds the key for a time, and is nowhere: only completing does not free that
			state = Completed
		}
		return Receipt{ID: stored.Holder, Duplicate: true, Updated: stored.Updated, State: state, Due: due}, nil
	case stored.Duplicate:
		state, due, err := s.stateOf(ctx, p.id, stored.Where)
		if err != nil {
			return Receipt{}, err
		}
		// an ID of our own making is nobody else's: a try whose answer was lost stored the job, which has moved on
		return Receipt{ID: p.id, Duplicate: p.chosen && !stored.Mine, State: state, Due: due}, nil
	case stored.Deferred:
		return Receipt{ID: p.id, State: Scheduled, Due: time.UnixMilli(stored.Due)}, nil
	default:
		if s.cfg.MaxLen > 0 {
			s.mu.Lock()
			s.length++
			s.mu.Unlock()
		}
		return Receipt{ID: p.id, State: Waiting}, nil
	}
}

// PublishAll stores many jobs, in pipelines of 1,000 or 4 MiB, and returns one Receipt a
// job, in order. When some were not stored the error says how many, and each
// Receipt's Err why; what has an ID can simply be published again. When the
// stream has room for some, the first of those without an ID or a delay are stored.
func (s *Stream) PublishAll(ctx context.Context, jobs []Job) ([]Receipt, error) {
	receipts := make([]Receipt, len(jobs))
	traceparent, tracestate := telemetry.Inject(ctx)
	ready := make([]prepared, len(jobs))
	deferred := false
	for i, job := range jobs {
		ready[i], receipts[i].Err = s.prepare(job, traceparent, tracestate)
		deferred = deferred || ready[i].deferred()
	}
	var registry error
	if deferred {
		dctx, cancel := s.deadline(ctx)
		registry = s.Announce(dctx)
		cancel()
	}
	var todo []int
	size := 0
	flush := func() {
		s.publishSome(ctx, ready, todo, receipts)
		todo, size = todo[:0], 0
	}
	for i := range jobs {
		if receipts[i].Err == nil && registry != nil && ready[i].deferred() {
			receipts[i].Err = registry
		}
		if receipts[i].Err != nil {
			continue
		}
		todo, size = append(todo, i), size+weight(ready[i].entry)
		if len(todo) == pipelineLen || size >= pipelineBytes {
			flush()
		}
	}
	flush()
	failed, first := 0, error(nil)
	for i := range receipts {
		if receipts[i].Err != nil {
			failed++
			if first == nil {
				first = fmt.Errorf("job %d: %w", i, receipts[i].Err)
			}
		}
	}
	if failed > 0 {
		return receipts, fmt.Errorf("publish to %s: %d of %d jobs were not stored for certain: %w", s.name, failed, len(jobs), first)
	}
	return receipts, nil
}

// publishSome sends one pipeline. Each part of it gets a deadline of its own.
func (s *Stream) publishSome(ctx context.Context, ready []prepared, todo []int, receipts []Receipt) {
	if len(todo) == 0 {
		return
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	var plain []int
	var calls []engine.Call
	var called []int
	for _, i := range todo {
		if ready[i].plain() {
			plain = append(plain, i)
		} else {
			calls, called = append(calls, s.call(ready[i])), append(called, i)
		}
	}
	if len(plain) > 0 {
		fit, err := s.room(ctx, len(plain))
		for _, i := range plain[fit:] {
			receipts[i].Err = err
		}
		if plain = plain[:fit]; fit > 0 {
			entries := make([]engine.Entry, fit)
			for n, i := range plain {
				entries[n] = ready[i].entry
			}
			ids, errs := s.send(ctx, entries)
			for n, i := range plain {
				receipts[i] = Receipt{ID: ids[n], State: Waiting}
				if errs[n] != nil {
					receipts[i].Err = wrap("publish to "+s.name, errs[n])
				}
			}
		}
	}
	for n, res := range s.callAll(ctx, ready, calls, called) {
		i := called[n]
		if class := engine.Classify(res.Err); class == engine.Lost || class == engine.Busy {
			receipts[i], receipts[i].Err = s.publishOne(ctx, ready[i]) // has an ID: safe to repeat
			if class == engine.Lost && receipts[i].Err != nil && !errors.Is(receipts[i].Err, ErrAmbiguous) {
				receipts[i].Err = fmt.Errorf("%w: %w", ErrAmbiguous, receipts[i].Err)
			}
		} else if res.Err != nil {
			receipts[i].Err = wrap("publish to "+s.name, res.Err)
		} else {
			receipts[i], receipts[i].Err = s.receipt(ctx, ready[i], res.Val)
		}
	}
}

// weight is what an entry takes of a pipeline's bytes.
func weight(e engine.Entry) int { return len(e.Data) + len(e.Opts) }

// send adds plain entries in one pipeline, each once.
func (s *Stream) send(ctx context.Context, entries []engine.Entry) ([]string, []error) {
	ids, errs := make([]string, len(entries)), make([]error, len(entries))
	if ctx.Err() != nil {
		for i := range errs {
			errs[i] = engine.NotSent(context.Cause(ctx))
		}
		return ids, errs
	}
	cmds := make([]xadd, len(entries))
	if len(entries) == 1 {
		cmds[0] = s.xadd(ctx, entries[0])
		_ = s.rdb.Process(ctx, cmds[0]) // the command carries its error
	} else {
		pipe := s.rdb.Pipeline()
		for i, e := range entries {
			cmds[i] = s.xadd(ctx, e)
			_ = pipe.Process(ctx, cmds[i])
		}
		_ = engine.Exec(ctx, pipe) // each command carries its own error
	}
	for i, cmd := range cmds {
		id, err := cmd.Result()
		ids[i], errs[i] = id, engine.Answered(err, id != "")
	}
	return ids, errs
}

// room says how many of n more jobs a stream with MaxLen has room for; when not for all, the error says why.
func (s *Stream) room(ctx context.Context, n int) (int, error) {
	if s.cfg.MaxLen == 0 {
		return n, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if read := s.lengthAt; time.Since(read) >= lengthStale {
		s.mu.Unlock()
		length, err := s.rdb.XLen(ctx, s.name).Result()
		s.mu.Lock()
		if err != nil {
			return 0, wrapRead("read the length of "+s.name, err)
		}
		if s.lengthAt.Equal(read) { // else another caller was faster, and counts already
			s.length, s.lengthAt = length, time.Now()
		}
	}
	fit := int(min(max(s.cfg.MaxLen-s.length, 0), int64(n)))
	s.length += int64(fit)
	if fit < n {
		return fit, fmt.Errorf("publish to %s: %w: it holds %d jobs, at most %d are allowed (MaxLen)", s.name, ErrStreamFull, s.length, s.cfg.MaxLen)
	}
	return fit, nil
}
