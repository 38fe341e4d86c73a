package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/penstock-go/penstock/stream"
)

const (
	sliceLen = 1000
	idBytes  = 120 // of an ID that is taken
)

func (h *Harness) publishCases() []Case {
	targets := map[int]float64{1: 0.95, 8: 0.9, 64: 1.7}
	var cases []Case
	for _, callers := range h.cfg.Callers {
		name := fmt.Sprintf("publish, %d callers", callers)
		if callers == 1 {
			name = "publish, 1 caller"
		}
		f := Figure{Name: name, Unit: JobsPerSecond, Of: perSecond}
		if bound, ok := targets[callers]; ok {
			f.Target = &Target{Ratio: true, AtLeast: true, Bound: bound}
		}
		cases = append(cases, Case{
			Group: "publish", Name: name, Most: h.most(min(mostPerSec, float64(callers)*mostPerCall)), bytes: h.jobBytes(),
			Contenders: []Contender{{Penstock, h.publisher(callers, 1, func(s *stream.Stream, data []byte) func(context.Context, int) error {
				job := stream.Job{Type: typeName, Data: data}
				return func(ctx context.Context, _ int) error {
					_, err := s.Publish(ctx, job)
					return err
				}
			})}},
			Yardstick: &Contender{"XADD", h.publisher(callers, 1, func(s *stream.Stream, data []byte) func(context.Context, int) error {
				return func(ctx context.Context, _ int) error { return h.rdb.XAdd(ctx, rawEntry(s.Name(), data)).Err() }
			})},
			Figures: []Figure{f},
		})
	}
	if len(h.cfg.Callers) > 0 {
		cases = append(cases, h.publishIDCase(slices.Max(h.cfg.Callers)))
	}
	name := "publish, slices of 1,000"
	return append(cases, Case{
		Group: "publish", Name: name, Most: h.most(mostPerSec), bytes: h.jobBytes(),
		Contenders: []Contender{{Penstock, h.publisher(1, sliceLen, func(s *stream.Stream, data []byte) func(context.Context, int) error {
			jobs := make([]stream.Job, sliceLen)
			for i := range jobs {
				jobs[i] = stream.Job{Type: typeName, Data: data}
			}
			return func(ctx context.Context, n int) error {
				_, err := s.PublishAll(ctx, jobs[:n])
				return err
			}
		})}},
		Yardstick: &Contender{"pipeline of XADD", h.publisher(1, sliceLen, func(s *stream.Stream, data []byte) func(context.Context, int) error {
			return func(ctx context.Context, n int) error {
				pipe := h.rdb.Pipeline()
				for range n {
					pipe.XAdd(ctx, rawEntry(s.Name(), data))
				}
				_, err := pipe.Exec(ctx)
				return err
			}
		})},
		Figures: []Figure{{Name: name, Unit: JobsPerSecond, Of: perSecond, Target: &Target{Ratio: true, AtLeast: true, Bound: 0.85}}},
	})
}

// publishIDCase is of jobs that have an ID, each looked for in Redis as it is stored.
func (h *Harness) publishIDCase(callers int) Case {
	name := fmt.Sprintf("publish with an ID, %d callers", callers)
	return Case{
		Group: "publish", Name: name, Most: h.most(min(mostPerSec, float64(callers)*mostPerCall)), bytes: h.jobBytes() + idBytes,
		Contenders: []Contender{{Penstock, h.publisher(callers, 1, func(s *stream.Stream, data []byte) func(context.Context, int) error {
			var last atomic.Int64
			return func(ctx context.Context, _ int) error {
				r, err := s.Publish(ctx, stream.Job{Type: typeName, Data: data, ID: "id-" + strconv.FormatInt(last.Add(1), 10)})
				if err == nil && r.Duplicate {
					err = fmt.Errorf("%s is taken", r.ID)
				}
				return err
			}
		})}},
		Yardstick: &Contender{"XADD", h.publisher(callers, 1, func(s *stream.Stream, data []byte) func(context.Context, int) error {
			return func(ctx context.Context, _ int) error { return h.rdb.XAdd(ctx, rawEntry(s.Name(), data)).Err() }
		})},
		Figures: []Figure{{Name: name, Unit: JobsPerSecond, Of: perSecond}},
	}
}

// publisher publishes n jobs by several callers, each so many at a time. way returns how to publish some.
func (h *Harness) publisher(callers, atOnce int, way func(*stream.Stream, []byte) func(context.Context, int) error) func(context.Context, int) (Sample, error) {
	return func(ctx context.Context, n int) (s Sample, err error) {
		st, err := stream.New(h.rdb, h.Name(), stream.Config{PublishTimeout: askFor})
		if err != nil {
			return s, err
		}
		defer func() { err = errors.Join(err, h.drop(ctx, st.Name())) }()
		publish := way(st, h.data)
		var done atomic.Int64
		s, err = h.Timed(ctx, n, done.Load, func(ctx context.Context) error {
			return InParallel(ctx, callers, func(ctx context.Context, caller int) error {
				for left := share(n, callers, caller); left > 0; left -= atOnce {
					now := min(atOnce, left)
					if err := publish(ctx, now); err != nil {
						return err
					}
					done.Add(int64(now))
				}
				return nil
			})
		})
		if err != nil {
			return s, err
		}
		return s, h.holds(ctx, st.Name(), n)
	}
}
