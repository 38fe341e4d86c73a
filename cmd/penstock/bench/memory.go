package bench

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
)

const memoryJobs = 100_000

func (h *Harness) memoryCases() []Case {
	const name = "memory of a waiting job"
	return []Case{{
		Group: "memory", Name: name, Jobs: min(memoryJobs, h.most(mostPerSec)), Pairs: 1, bytes: h.jobBytes(),
		Contenders: []Contender{{Penstock, h.memory}},
		Yardstick:  &Contender{"bare entry", h.memoryRaw},
		Figures:    []Figure{{Name: name, Unit: Bytes, Of: func(s Sample) float64 { return s.Value }, Target: &Target{Ratio: true, Bound: 1.1}}},
	}, h.recordCase()}
}

// memory is what all keys of a stream take, for each of the jobs that wait there.
func (h *Harness) memory(ctx context.Context, n int) (s Sample, err error) {
	st, err := h.newStream(ctx)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, h.drop(ctx, st.Name())) }()
	jobs := make([]stream.Job, sliceLen)
	for i := range jobs {
		jobs[i] = stream.Job{Type: typeName, Data: h.data}
	}
	for left := n; left > 0; left -= sliceLen {
		if _, err := st.PublishAll(ctx, jobs[:min(left, sliceLen)]); err != nil {
			return s, err
		}
	}
	return h.usage(ctx, n, ownKeys(st.Name())...)
}

func (h *Harness) memoryRaw(ctx context.Context, n int) (s Sample, err error) {
	name := h.Name()
	defer func() { err = errors.Join(err, h.drop(ctx, name)) }()
	if err := h.Fill(ctx, name, n); err != nil {
		return s, err
	}
	return h.usage(ctx, n, name)
}

func (h *Harness) usage(ctx context.Context, n int, keys ...string) (Sample, error) {
	total := int64(0)
	for _, key := range keys {
		bytes, err := h.rdb.MemoryUsage(ctx, key, 0).Result() // 0: look at all of it
		if err != nil && !errors.Is(err, redis.Nil) {         // nil: there is no such key
			return Sample{}, fmt.Errorf("MEMORY USAGE: %w", err)
		}
		total += bytes
	}
	return Sample{Jobs: n, Value: float64(total) / float64(n)}, nil
}
