package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// cron is what a scheduler that does nothing else can do: schedules that tick together, and deferred jobs that are due together. When Redis
// has stored a job says the ID of its entry, to the millisecond.
type cron struct {
	h   *bench.Harness
	rdb *redis.Client
	due int // jobs within a second
}

// together is how many schedules tick each second.
const together = 100

func (c *cron) cases() []bench.Case {
	ticks := max(int(5*c.h.Config().Duration.Seconds()), 2) * together
	name, due := fmt.Sprintf("tick of %d schedules to its job in the stream", together), count(c.due)+" deferred jobs due within a second, the last one after the first"
	return []bench.Case{
		{
			Group: "cron", Name: name, Jobs: ticks,
			Contenders: []bench.Contender{{Name: bench.Penstock, Run: c.ticks}},
			Figures: []bench.Figure{
				{Name: name + ", p50", Unit: bench.Seconds, Of: percentile(50)},
				{Name: name + ", slowest", Unit: bench.Seconds, Of: percentile(100)},
				{Name: name + ", earliest", Unit: bench.Seconds, Of: percentile(0), Target: &bench.Target{AtLeast: true}},
			},
		},
		{
			Group: "cron", Name: due, Jobs: c.due, Most: c.due, Pairs: 3,
			Contenders: []bench.Contender{{Name: bench.Penstock, Run: c.burst}},
			Figures: []bench.Figure{
				{Name: due, Unit: bench.Seconds, Of: func(s bench.Sample) float64 { return s.Value }, Target: &bench.Target{Bound: 2}},
			},
		},
	}
}

// ticks waits for n ticks, each of which is one job.
func (c *cron) ticks(ctx context.Context, n int) (s bench.Sample, err error) {
	st, err := stream.New(c.rdb, c.h.Name(), stream.Config{Kind: stream.KindQueue})
	if err != nil {
		return s, err
	}
	schedules := make([]scheduler.Schedule, together)
	for i := range schedules {
		schedules[i] = scheduler.Schedule{Name: fmt.Sprint("tick-", i), Every: time.Second, Stream: st, Job: stream.Job{Type: "tick"}}
	}
	began := time.Now()
	entries, err := c.schedule(ctx, st, n, schedules...)
	if err != nil {
		return s, err
	}
	s.Took = time.Since(began)
	for _, e := range entries {
		opts, err := engine.ParseOpts(fmt.Sprint(e.Values["opts"]))
		if err != nil {
			return s, err
		}
		tick, err := time.Parse(time.RFC3339, opts.Header["penstock-tick"])
		if err != nil {
			return s, err
		}
		stored, err := storedAt(e.ID)
		if err != nil {
			return s, err
		}
		s.Latencies = append(s.Latencies, stored.Sub(tick))
	}
	return sorted(s), nil
}

// burst publishes n jobs that are due within one second, and looks when the last of them has been promoted.
func (c *cron) burst(ctx context.Context, n int) (s bench.Sample, err error) {
	st, err := stream.New(c.rdb, c.h.Name(), stream.Config{Kind: stream.KindQueue})
	if err != nil {
		return s, err
	}
	now, err := c.rdb.Time(ctx).Result()
	if err != nil {
		return s, err
	}
	first := now.Add(time.Duration(n) * 200 * time.Microsecond).Truncate(time.Second).Add(2 * time.Second)
	jobs := make([]stream.Job, n)
	for i := range jobs {
		jobs[i] = stream.Job{Type: "due", At: first.Add(time.Duration(i) * time.Second / time.Duration(n))}
	}
	for len(jobs) > 0 {
		some := jobs[:min(len(jobs), 1000)]
		if _, err := st.PublishAll(ctx, some); err != nil {
			return s, err
		}
		jobs = jobs[len(some):]
	}
	if now, err = c.rdb.Time(ctx).Result(); err != nil {
		return s, err
	}
	if now.After(first) {
		return s, errors.New("the first of the jobs was due before all were published")
	}
	entries, err := c.schedule(ctx, st, n)
	if err != nil {
		return s, err
	}
	last, err := storedAt(entries[len(entries)-1].ID)
	if err != nil {
		return s, err
	}
	if early, err := storedAt(entries[0].ID); err != nil || early.Before(first.Truncate(time.Millisecond)) {
		return s, errors.Join(err, fmt.Errorf("the first job, due at %s, came out at %s", first, early))
	}
	s.Took = last.Sub(first)
	s.Value = s.Took.Seconds()
	return s, nil
}

// schedule runs a scheduler with some schedules until there are n entries in the stream, and returns those. The stream goes.
func (c *cron) schedule(ctx context.Context, st *stream.Stream, n int, schedules ...scheduler.Schedule) (entries []redis.XMessage, err error) {
	if _, err := st.Create(ctx, stream.CreateOptions{}); err != nil {
		return nil, err
	}
	defer func() {
		keys, kerr := c.rdb.Keys(ctx, "{"+st.Name()+"}:*").Result()
		err = errors.Join(err, kerr, c.rdb.Unlink(ctx, append(keys, st.Name())...).Err(), c.rdb.SRem(ctx, engine.RegistryKey, st.Name()).Err())
	}()
	sc, err := scheduler.New(c.rdb, scheduler.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	if err := sc.Add(schedules...); err != nil {
		return nil, err
	}
	sctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- sc.Run(sctx) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-ended)
	}()
	for {
		have, err := c.rdb.XLen(ctx, st.Name()).Result()
		if err != nil {
			return nil, err
		}
		if have >= int64(n) {
			break
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return c.rdb.XRangeN(ctx, st.Name(), "-", "+", int64(n)).Result()
}

// storedAt is when an entry was stored, by Redis's clock.
func storedAt(id string) (time.Time, error) {
	ms, _, _ := strings.Cut(id, "-")
	n, err := strconv.ParseInt(ms, 10, 64)
	return time.UnixMilli(n), err
}

func sorted(s bench.Sample) bench.Sample {
	slices.Sort(s.Latencies)
	s.Jobs = len(s.Latencies)
	return s
}
