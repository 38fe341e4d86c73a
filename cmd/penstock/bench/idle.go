package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// idleLonger: what an idle worker or scheduler does, it does seldom.
const idleLonger = 30

func (h *Harness) idleCases() []Case {
	one := func(name string, run func(context.Context, []*stream.Stream) (func() error, error), bound float64) Case {
		return Case{
			Group: "idle", Name: name, Jobs: 1, Pairs: 1,
			Contenders: []Contender{{Penstock, func(ctx context.Context, _ int) (Sample, error) { return h.idle(ctx, run) }}},
			Figures:    []Figure{{Name: name, Unit: CommandsPerSecond, Of: func(s Sample) float64 { return s.Value }, Target: &Target{Bound: bound}}},
		}
	}
	of := ""
	if h.cfg.Streams > 1 {
		of = " per stream"
	}
	return []Case{
		one("idle worker"+of, func(ctx context.Context, streams []*stream.Stream) (func() error, error) {
			return h.work(ctx, func([]byte) {}, streams...)
		}, 1),
		one("idle scheduler"+of, func(ctx context.Context, streams []*stream.Stream) (func() error, error) {
			promote, err := h.scheduler(streams...)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithCancel(ctx)
			ended := make(chan error, 1)
			go func() { ended <- promote(ctx) }()
			return func() error { cancel(); return <-ended }, nil
		}, 0.2),
	}
}

// idle counts the commands that Redis executes for what run starts, those of its scripts included.
func (h *Harness) idle(ctx context.Context, run func(context.Context, []*stream.Stream) (func() error, error)) (s Sample, err error) {
	period := idleLonger * h.cfg.Duration
	if !h.cfg.Own {
		_, others, err := h.executed(ctx, min(period/10, 3*time.Second))
		if err != nil {
			return s, err
		}
		if others >= 0.5 {
			return s, &Left{fmt.Sprintf("INFO commandstats counts for everybody, and others send %.0f commands per second here", others)}
		}
	}
	var streams []*stream.Stream
	var names []string
	defer func() { err = errors.Join(err, h.drop(ctx, names...)) }()
	for range h.cfg.Streams {
		st, err := h.newStream(ctx)
		if err != nil {
			return s, err
		}
		streams, names = append(streams, st), append(names, st.Name())
		// a scheduler also looks after the retries of groups
		if _, err := engine.Open(ctx, h.rdb, engine.NewKeys(st.Name()), group, string(stream.KindQueue), false); err != nil {
			return s, err
		}
	}
	stop, err := run(ctx, streams)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := pause(ctx, min(period/10, time.Second)); err != nil { // its start is over
		return s, err
	}
	commands, total, err := h.executed(ctx, period)
	if err != nil {
		return s, err
	}
	s = Sample{Jobs: 1, Took: period, Value: total / float64(h.cfg.Streams), Commands: commands}
	return s, nil
}

// executed says how many commands per second the servers execute in a time, by name and in all, without those that ask.
func (h *Harness) executed(ctx context.Context, period time.Duration) (commands map[string]float64, total float64, err error) {
	before, err := h.commandStats(ctx)
	if err != nil {
		return nil, 0, err
	}
	begun := time.Now()
	if err := pause(ctx, period); err != nil {
		return nil, 0, err
	}
	after, err := h.commandStats(ctx)
	if err != nil {
		return nil, 0, err
	}
	took := time.Since(begun).Seconds()
	commands = make(map[string]float64)
	for name, calls := range after {
		if n := calls - before[name]; n > 0 && name != "info" {
			commands[name] = n / took
			total += n / took
		}
	}
	return commands, total, nil
}

// commandStats returns how often each command was called, on all masters together.
func (h *Harness) commandStats(ctx context.Context) (map[string]float64, error) {
	calls := make(map[string]float64)
	err := h.masters(ctx, func(ctx context.Context, node redis.Cmdable) error {
		info, err := node.Info(ctx, "commandstats").Result()
		for line := range strings.Lines(info) {
			name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
			if number, _, ok2 := strings.Cut(rest, ","); ok && ok2 {
				n, _ := strconv.ParseFloat(number, 64) // Redis writes numbers
				calls[name] += n
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("INFO commandstats: %w", err)
	}
	return calls, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
