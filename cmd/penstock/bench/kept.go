package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

const (
	keptFor     = time.Hour // by default, and longer than any sample takes
	keptResult  = "a short result"
	recordBytes = 500 // of a record and its key, at most
	awaitJobs   = 500
	awaiters    = 8
	worksFor    = 5 * time.Millisecond // longer than it takes to begin to wait
)

// keptCases are drains that leave something behind for every job.
func (h *Harness) keptCases() []Case {
	const results, statuses = "drain, results kept", "drain, every status kept"
	kept := func(returns bool) func(ctx context.Context, n int) (Sample, error) {
		return func(ctx context.Context, n int) (Sample, error) {
			cfg := consumer.Config{MaxJobs: 100, KeepResult: keptFor, KeepStatus: consumer.KeepAll}
			return h.drainWith(ctx, n, cfg, returns)
		}
	}
	most := func() int { return max(min(h.most(mostPerSec), int(mostMemory/(h.jobBytes()+recordBytes))), leastJobs) }
	return []Case{{
		Group: "drain", Name: results, Most: most(), bytes: h.jobBytes() + recordBytes,
		Contenders: []Contender{{Penstock, kept(true)}},
		Yardstick:  &Contender{"raw loop with SET", func(ctx context.Context, n int) (Sample, error) { return h.drainRawWith(ctx, n, keptResult) }},
		Figures:    []Figure{{Name: results, Unit: JobsPerSecond, Of: perSecond, Target: &Target{Ratio: true, AtLeast: true, Bound: 0.8}}},
	}, {
		Group: "drain", Name: statuses, Most: most(), bytes: h.jobBytes() + recordBytes,
		Contenders: []Contender{{Penstock, kept(false)}},
		Yardstick:  &Contender{"raw loop", h.drainRaw},
		Figures:    []Figure{{Name: statuses, Unit: JobsPerSecond, Of: perSecond}},
	}}
}

// dropRecords removes what finished jobs have left behind.
func (h *Harness) dropRecords(ctx context.Context, names ...string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanFor)
	defer cancel()
	return h.masters(ctx, func(ctx context.Context, node redis.Cmdable) error {
		for cursor := uint64(0); ; {
			keys, next, err := node.Scan(ctx, cursor, h.recordsOf("*"), scanCount).Result()
			if err != nil {
				return fmt.Errorf("remove records: %w", err)
			}
			for _, name := range names {
				pipe := node.Pipeline()
				for _, key := range keys {
					if strings.HasPrefix(key, engine.NewKeys(name).Job("")) {
						pipe.Del(ctx, key)
					}
				}
				if pipe.Len() == 0 {
					continue
				}
				if _, err := pipe.Exec(ctx); err != nil {
					return fmt.Errorf("remove records: %w", err)
				}
			}
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	})
}

// recordsOf is a pattern for the records of streams.
func (h *Harness) recordsOf(names string) string {
	return "{" + h.prefix + "-" + names + "}:job:*"
}

// awaitCase is how long after a job was completed those who wait have its result.
func (h *Harness) awaitCase() Case {
	const name = "result to who waits"
	return Case{
		Group: "latency", Name: name, Jobs: max(h.fit(int(awaitJobs*h.cfg.Duration.Seconds())), 1), bytes: h.jobBytes() + recordBytes,
		Contenders: []Contender{{Penstock, h.await}},
		Figures: []Figure{
			{Name: name + ", p50", Unit: Seconds, Of: percentile(50), Target: &Target{Bound: 0.0005}},
			{Name: name + ", p99", Unit: Seconds, Of: percentile(99)},
			{Name: "handler's return to who waits, p50", Unit: Seconds, Of: func(s Sample) float64 { return s.Value }},
		},
	}
}

func (h *Harness) await(ctx context.Context, n int) (s Sample, err error) {
	st, err := h.newStream(ctx)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, h.dropRecords(ctx, st.Name()), h.drop(ctx, st.Name())) }()
	ended := &ends{at: make(map[string]time.Time)}
	rdb, err := ended.client(h.rdb)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, rdb.Close()) }()
	theirs, err := stream.New(rdb, st.Name(), stream.Config{})
	if err != nil {
		return s, err
	}
	w, err := consumer.New(group, consumer.Config{MaxJobs: 2 * awaiters}, theirs)
	if err != nil {
		return s, err
	}
	base := time.Now()
	consumer.HandleResult(w, jobType, func(context.Context, *consumer.Job[[]byte]) ([]byte, error) {
		time.Sleep(worksFor)
		return strconv.AppendInt(nil, int64(time.Since(base)), 10), nil
	})
	wctx, stop := context.WithCancel(ctx)
	stopped := make(chan error, 1)
	go func() { stopped <- w.Run(wctx) }()
	leave := sync.OnceValue(func() error { stop(); return <-stopped })
	defer func() { err = errors.Join(err, leave()) }()
	if err := Until(ctx, "the worker is ready", func() bool { return w.Health().Ready }); err != nil {
		return s, err
	}
	clock, err := h.readClock(ctx, st.Name())
	if err != nil {
		return s, err
	}
	took, whole := make([]time.Duration, n), make([]time.Duration, n)
	ids, got := make([]string, n), make([]time.Time, n)
	var next atomic.Int64
	begun := time.Now()
	err = InParallel(ctx, awaiters, func(ctx context.Context, _ int) error {
		for {
			i := int(next.Add(1)) - 1
			if i >= n {
				return nil
			}
			r, err := st.Publish(ctx, stream.Job{Type: typeName, Data: h.data})
			if err != nil {
				return err
			}
			result, err := stream.Result[[]byte](ctx, st, r.ID)
			if err != nil {
				return err
			}
			at, err := strconv.ParseInt(string(result), 10, 64)
			if err != nil {
				return fmt.Errorf("a result that is none of ours: %w", err)
			}
			got[i], ids[i] = clock.now(), r.ID
			whole[i] = time.Since(base) - time.Duration(at)
		}
	})
	s = Sample{Jobs: n, Took: time.Since(begun)}
	if err = errors.Join(err, leave()); err != nil {
		return s, err
	}
	for i, id := range ids {
		at, ok := ended.of(id)
		if !ok {
			return s, fmt.Errorf("it is not known when job %s was completed", id)
		}
		took[i] = got[i].Sub(at)
	}
	s.Latencies, s.Value = sorted(took), percentile(50)(Sample{Latencies: sorted(whole)})
	return s, nil
}

// recordCase is the memory that a finished job's record takes, with its key and all that Redis has around it.
func (h *Harness) recordCase() Case {
	const name = "memory of a record"
	return Case{
		Group: "memory", Name: name, Jobs: min(memoryJobs, h.most(mostPerSec)), Pairs: 1, bytes: h.jobBytes() + recordBytes,
		Contenders: []Contender{{Penstock, h.recordMemory}},
		Figures:    []Figure{{Name: name, Unit: Bytes, Of: func(s Sample) float64 { return s.Value }}},
	}
}

func (h *Harness) recordMemory(ctx context.Context, n int) (s Sample, err error) {
	if !h.cfg.Own {
		return s, &Left{"it takes a Redis that nobody else uses"}
	}
	before, err := h.usedMemory(ctx)
	if err != nil {
		return s, err
	}
	_, err = h.drainThen(ctx, n, consumer.Config{MaxJobs: 100, KeepStatus: consumer.KeepAll}, false, func() error {
		after, err := h.usedMemory(ctx)
		s = Sample{Jobs: n, Value: float64(after-before) / float64(n)}
		return err
	})
	return s, err
}

// usedMemory is that of all nodes.
func (h *Harness) usedMemory(ctx context.Context) (total int64, err error) {
	err = h.masters(ctx, func(ctx context.Context, node redis.Cmdable) error {
		info, err := node.Info(ctx, "memory").Result()
		if err != nil {
			return fmt.Errorf("INFO memory: %w", err)
		}
		_, rest, _ := strings.Cut(info, "used_memory:")
		text, _, _ := strings.Cut(rest, "\r")
		bytes, err := strconv.ParseInt(text, 10, 64)
		total += bytes
		return err
	})
	return total, err
}
