package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

func (h *Harness) drainCases() []Case {
	targets := map[int]float64{100: 0.85, 10: 0.6}
	var cases []Case
	for _, maxJobs := range h.cfg.MaxJobs {
		name := fmt.Sprintf("drain, MaxJobs %d", maxJobs)
		f := Figure{Name: name, Unit: JobsPerSecond, Of: perSecond}
		if bound, ok := targets[maxJobs]; ok {
			f.Target = &Target{Ratio: true, AtLeast: true, Bound: bound}
		}
		cases = append(cases, Case{
			Group: "drain", Name: name, Most: h.most(mostPerSec), bytes: h.jobBytes(),
			Contenders: []Contender{{Penstock, func(ctx context.Context, n int) (Sample, error) { return h.drain(ctx, n, maxJobs) }}},
			Yardstick:  &Contender{"raw loop", h.drainRaw},
			Figures:    []Figure{f},
		})
	}
	return append(cases, h.keptCases()...)
}

// Penstock is the name of the contender that this module is.
const Penstock = "penstock"

// drain lets one worker do n jobs that wait, with a handler that does nothing: from the start of the first to when Redis
// knows that the last is done. (With the start of the worker, the speed would depend on how long a sample is.)
func (h *Harness) drain(ctx context.Context, n, maxJobs int) (s Sample, err error) {
	return h.drainWith(ctx, n, consumer.Config{MaxJobs: maxJobs}, false)
}

// drainWith is drain with other settings, and a handler that returns something.
func (h *Harness) drainWith(ctx context.Context, n int, cfg consumer.Config, returns bool) (Sample, error) {
	return h.drainThen(ctx, n, cfg, returns, func() error { return nil })
}

// drainThen calls then after the last job, before all is removed.
func (h *Harness) drainThen(ctx context.Context, n int, cfg consumer.Config, returns bool, then func() error) (s Sample, err error) {
	var streams []*stream.Stream
	var names []string
	defer func() {
		if returns || cfg.KeepStatus == consumer.KeepAll {
			err = errors.Join(err, h.dropRecords(ctx, names...))
		}
		err = errors.Join(err, h.drop(ctx, names...))
	}()
	for i := range h.cfg.Streams {
		st, err := h.newStream(ctx)
		if err != nil {
			return s, err
		}
		streams, names = append(streams, st), append(names, st.Name())
		if err := h.Fill(ctx, st.Name(), share(n, h.cfg.Streams, i)); err != nil {
			return s, err
		}
	}
	w, err := consumer.New(group, cfg, streams...)
	if err != nil {
		return s, err
	}
	begun, first := time.Now(), atomic.Int64{}
	started := func() {
		if first.Load() == 0 {
			first.CompareAndSwap(0, int64(time.Since(begun)))
		}
	}
	if returns {
		result := []byte(keptResult)
		consumer.HandleResult(w, jobType, func(context.Context, *consumer.Job[[]byte]) ([]byte, error) { started(); return result, nil })
	} else {
		consumer.Handle(w, jobType, func(context.Context, *consumer.Job[[]byte]) error { started(); return nil })
	}
	s, err = h.Timed(ctx, n, func() int64 { return w.Stats().Completed }, w.Run)
	s.StartsAt(time.Duration(first.Load()))
	if stats := w.Stats(); err == nil && (stats.Completed != int64(n) || stats.Started != int64(n)) {
		err = fmt.Errorf("%d handlers ran and %d jobs completed, of %d", stats.Started, stats.Completed, n)
	}
	if err == nil {
		err = then()
	}
	return s, err
}

const (
	rawReaders = 2
	rawCount   = 200
)

// drainRaw is the raw loop: what Redis and go-redis allow.
func (h *Harness) drainRaw(ctx context.Context, n int) (s Sample, err error) {
	return h.drainRawWith(ctx, n, "")
}

// drainRawWith keeps a result for each job.
func (h *Harness) drainRawWith(ctx context.Context, n int, result string) (s Sample, err error) {
	var names []string
	defer func() {
		if result != "" {
			err = errors.Join(err, h.dropRecords(ctx, names...))
		}
		err = errors.Join(err, h.drop(ctx, names...))
	}()
	for i := range h.cfg.Streams {
		name := h.Name()
		names = append(names, name)
		if err := h.Fill(ctx, name, share(n, h.cfg.Streams, i)); err != nil {
			return s, err
		}
		if err := h.rdb.XGroupCreateMkStream(ctx, name, group, "0").Err(); err != nil {
			return s, err
		}
	}
	var done atomic.Int64
	return h.Timed(ctx, n, done.Load, func(ctx context.Context) error {
		return InParallel(ctx, rawReaders, func(ctx context.Context, reader int) error {
			for i := range names {
				name := names[(i+reader)%len(names)]
				if err := h.drainRawStream(ctx, name, fmt.Sprint("reader-", reader), result, &done); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func (h *Harness) drainRawStream(ctx context.Context, name, reader, result string, done *atomic.Int64) error {
	keys := engine.NewKeys(name)
	ids := make([]string, 0, rawCount)
	for {
		answer, err := h.rdb.XReadGroup(ctx, &redis.XReadGroupArgs{Group: group, Consumer: reader, Streams: []string{name, ">"}, Count: rawCount, Block: -1}).Result()
		if errors.Is(err, redis.Nil) {
			return nil
		}
		if err != nil {
			return err
		}
		ids = ids[:0]
		for _, m := range answer[0].Messages {
			ids = append(ids, m.ID)
		}
		pipe := h.rdb.Pipeline()
		acked, deleted := pipe.XAck(ctx, name, group, ids...), pipe.XDel(ctx, name, ids...)
		if result != "" {
			for _, id := range ids {
				pipe.Set(ctx, keys.Job(id), result, keptFor)
			}
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
		if acked.Val() != int64(len(ids)) || deleted.Val() != int64(len(ids)) {
			return fmt.Errorf("of %d entries %d were acknowledged and %d deleted", len(ids), acked.Val(), deleted.Val())
		}
		done.Add(int64(len(ids)))
	}
}

const (
	fillers   = 4
	fillCount = 200
	fillBytes = 4 << 20
)

// Fill adds n entries as a plain publish does.
func (h *Harness) Fill(ctx context.Context, name string, n int) error {
	batch := max(min(fillCount, fillBytes/h.cfg.Payload), 1)
	err := InParallel(ctx, fillers, func(ctx context.Context, filler int) error {
		for left := share(n, fillers, filler); left > 0; left -= batch {
			pipe := h.rdb.Pipeline()
			for range min(batch, left) {
				pipe.XAdd(ctx, rawEntry(name, h.data))
			}
			if _, err := pipe.Exec(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("publish %d jobs to drain: %w", n, err)
	}
	// go-redis sends a pipeline again whose answer was lost
	return h.holds(ctx, name, n)
}

// holds checks that a stream has n entries.
func (h *Harness) holds(ctx context.Context, name string, n int) error {
	length, err := h.rdb.XLen(ctx, name).Result()
	if err == nil && length != int64(n) {
		err = fmt.Errorf("%d jobs are in the stream in place of %d", length, n)
	}
	return err
}

// rawEntry is what a plain publish stores.
func rawEntry(name string, data []byte) *redis.XAddArgs {
	return &redis.XAddArgs{Stream: name, Values: []any{"type", typeName, "data", data, "traceparent", "", "opts", ""}}
}

// share is the part of n that the i-th of several has to do.
func share(n, of, i int) int {
	part := n / of
	if i < n%of {
		part++
	}
	return part
}

// InParallel calls f with 0 to n-1 at once. The first error ends the contexts of the others.
func InParallel(ctx context.Context, n int, f func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := f(ctx, i); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
