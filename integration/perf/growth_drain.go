package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/metrics"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

const rawLoop = "XREADGROUP COUNT 200, XACK and XDEL by two readers"

// manyJobs are drained where something else than the backlog grows.
const manyJobs = 100_000

var backlogAxis = axis{
	name: "backlog", what: "draining all of it, MaxJobs 100", raw: rawLoop, unit: of("job"), heap: true,
	sizes: []int{10_000, 100_000, 1_000_000, 10_000_000},
	build: func(_ context.Context, _ *growth, h *bench.Harness, size int) (bench.Case, func(context.Context) error, error) {
		c, err := drainCase(h, size)
		if err != nil {
			return c, nil, err
		}
		c.Contenders[0].Run = watchHeap(c.Contenders[0].Run)
		c.Yardstick = &bench.Contender{Name: c.Yardstick.Name, Run: watchHeap(c.Yardstick.Run)}
		return c, nothing, nil
	},
}

var payloadAxis = axis{
	name: "payload", what: "draining jobs of that size, MaxJobs 100", raw: rawLoop, unit: of("byte"),
	sizes:  []int{10, 100, 1_000, 10_000, 100_000, 1 << 20},
	config: func(cfg *bench.Config, size int) { cfg.Payload = size },
	build: func(_ context.Context, g *growth, h *bench.Harness, size int) (bench.Case, func(context.Context) error, error) {
		const most = 256 << 20 // bytes
		c, err := drainCase(h, max(min(g.jobs(), most/size), 10))
		return c, nothing, err
	},
}

var streamsAxis = axis{
	name: "streams", what: "draining the same number of jobs from that many streams by one worker, MaxJobs 100", unit: of("stream"),
	raw:    "XREADGROUP over all of them, XACK and XDEL for each, by two readers",
	sizes:  []int{1, 10, 100, 1_000},
	config: func(cfg *bench.Config, size int) { cfg.Streams = size },
	build: func(_ context.Context, g *growth, h *bench.Harness, size int) (bench.Case, func(context.Context) error, error) {
		c, err := drainCase(h, max(g.jobs(), size))
		c.Yardstick = &bench.Contender{Name: "raw loop over all", Run: func(ctx context.Context, n int) (bench.Sample, error) {
			return g.rawStreams(ctx, h, n, size)
		}}
		return c, nothing, err
	},
}

// jobs to drain where something else grows.
func (g *growth) jobs() int { return min(manyJobs, g.max) }

// drainCase is package bench's own, of n jobs.
func drainCase(h *bench.Harness, n int) (bench.Case, error) {
	cases, err := h.Cases("drain")
	if err != nil {
		return bench.Case{}, err
	}
	c := cases[0]
	c.Jobs = n
	return c, nil
}

// watchHeap also says how large the heap of this process was at most, beyond what it was before.
func watchHeap(do run) run {
	return func(ctx context.Context, n int) (bench.Sample, error) {
		runtime.GC()
		before := liveHeap()
		stop, peak := make(chan struct{}), make(chan uint64)
		go func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for most := before; ; {
				select {
				case <-tick.C:
					most = max(most, liveHeap())
				case <-stop:
					peak <- most
					return
				}
			}
		}()
		s, err := do(ctx, n)
		close(stop)
		s.Value = float64(<-peak - before)
		return s, err
	}
}

func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

const rawCount = 200

// rawStreams is the raw loop where each command reads from all streams.
func (g *growth) rawStreams(ctx context.Context, h *bench.Harness, n, streams int) (s bench.Sample, err error) {
	names := make([]string, streams)
	for i := range names {
		names[i] = h.Name()
	}
	defer func() { err = errors.Join(err, g.rdb.Del(context.WithoutCancel(ctx), names...).Err()) }()
	from := append([]string{}, names...)
	for i, name := range names {
		if err := h.Fill(ctx, name, share(n, streams, i)); err != nil {
			return s, err
		}
		if err := g.rdb.XGroupCreate(ctx, name, groupName, "0").Err(); err != nil {
			return s, err
		}
		from = append(from, ">")
	}
	each := max(rawCount/streams, 1)
	var done atomic.Int64
	return h.Timed(ctx, n, done.Load, func(ctx context.Context) error {
		return bench.InParallel(ctx, 2, func(ctx context.Context, reader int) error {
			args := &redis.XReadGroupArgs{Group: groupName, Consumer: "reader-" + strconv.Itoa(reader), Streams: from, Count: int64(each), Block: -1}
			for {
				got, err := readAndEnd(ctx, g.rdb, args, true)
				if err != nil || got == 0 {
					return err
				}
				done.Add(int64(got))
			}
		})
	})
}

// readAndEnd reads once, acknowledges what came and deletes it, and returns how many there were.
func readAndEnd(ctx context.Context, rdb *redis.Client, args *redis.XReadGroupArgs, del bool) (int, error) {
	answer, err := rdb.XReadGroup(ctx, args).Result()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	got := 0
	pipe := rdb.Pipeline()
	for _, from := range answer {
		ids := make([]string, len(from.Messages))
		for i, m := range from.Messages {
			ids[i] = m.ID
		}
		pipe.XAck(ctx, from.Stream, args.Group, ids...)
		if del {
			pipe.XDel(ctx, from.Stream, ids...)
		}
		got += len(ids)
	}
	_, err = pipe.Exec(ctx)
	return got, err
}

// share is the part of n that the i-th of several has to do.
func share(n, of, i int) int {
	part := n / of
	if i < n%of {
		part++
	}
	return part
}

var consumersAxis = axis{
	name: "consumers", what: "draining by that many workers of one group, MaxJobs 100 each, all in one process", raw: "as many readers: XREADGROUP COUNT 200, XACK and XDEL",
	sizes: []int{1, 3, 10, 30, 100}, unit: of("consumer"),
	build: func(_ context.Context, g *growth, h *bench.Harness, size int) (bench.Case, func(context.Context) error, error) {
		return bench.Case{
			Jobs: g.jobs(),
			Contenders: []bench.Contender{{Name: bench.Penstock, Run: func(ctx context.Context, n int) (bench.Sample, error) {
				return g.many(ctx, h, n, many{workers: size, groups: 1})
			}}},
			Yardstick: &bench.Contender{Name: "raw loop", Run: func(ctx context.Context, n int) (bench.Sample, error) {
				return g.manyRaw(ctx, h, n, many{workers: size, groups: 1})
			}},
		}, nothing, nil
	},
}

var groupsAxis = axis{
	name: "groups", what: "each of that many groups handles each job of an events stream, MaxJobs 100; a job counts once for each group",
	raw:   "a reader for each group: XREADGROUP COUNT 200 and XACK",
	sizes: []int{1, 2, 5, 10}, unit: of("group"),
	build: func(_ context.Context, g *growth, h *bench.Harness, size int) (bench.Case, func(context.Context) error, error) {
		jobs := g.jobs()
		return bench.Case{
			Jobs: jobs,
			Contenders: []bench.Contender{{Name: bench.Penstock, Run: func(ctx context.Context, n int) (bench.Sample, error) {
				return g.many(ctx, h, n, many{workers: 1, groups: size, events: true})
			}}},
			Yardstick: &bench.Contender{Name: "raw loop", Run: func(ctx context.Context, n int) (bench.Sample, error) {
				return g.manyRaw(ctx, h, n, many{workers: 1, groups: size, events: true})
			}},
		}, nothing, nil
	},
}

// many workers, of one or more groups, on one stream.
type many struct {
	workers, groups int // workers of each group
	events          bool
}

func groupAt(i int) string { return groupName + strconv.Itoa(i) }

// many drains n jobs, each by each group.
func (g *growth) many(ctx context.Context, h *bench.Harness, n int, m many) (s bench.Sample, err error) {
	kind := stream.KindQueue
	if m.events {
		kind = stream.KindEvents
	}
	st, err := stream.New(g.rdb, h.Name(), stream.Config{Kind: kind})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, g.dropGroups(ctx, st.Name(), m)) }()
	if _, err := st.Create(ctx, stream.CreateOptions{}); err != nil {
		return s, err
	}
	if err := h.Fill(ctx, st.Name(), n); err != nil {
		return s, err
	}
	begun, first := time.Now(), atomic.Int64{}
	var workers []*consumer.Worker
	for i := range m.workers * m.groups {
		again, err := stream.New(g.rdb, st.Name(), stream.Config{})
		if err != nil {
			return s, err
		}
		w, err := consumer.New(groupAt(i%m.groups), consumer.Config{MaxJobs: handlers, KeepResult: consumer.None}, again)
		if err != nil {
			return s, err
		}
		w.HandleOther(func(context.Context, *consumer.Delivery) error {
			if first.Load() == 0 {
				first.CompareAndSwap(0, int64(time.Since(begun)))
			}
			return nil
		})
		workers = append(workers, w)
	}
	total := n * m.groups
	s, err = h.Timed(ctx, total, func() int64 {
		var done int64
		for _, w := range workers {
			done += w.Stats().Completed
		}
		return done
	}, func(ctx context.Context) error {
		return bench.InParallel(ctx, len(workers), func(ctx context.Context, i int) error { return workers[i].Run(ctx) })
	})
	s.StartsAt(time.Duration(first.Load()))
	return s, err
}

// manyRaw is the raw loop by as many readers.
func (g *growth) manyRaw(ctx context.Context, h *bench.Harness, n int, m many) (s bench.Sample, err error) {
	name := h.Name()
	defer func() { err = errors.Join(err, g.rdb.Del(context.WithoutCancel(ctx), name).Err()) }()
	if err := h.Fill(ctx, name, n); err != nil {
		return s, err
	}
	for i := range m.groups {
		if err := g.rdb.XGroupCreate(ctx, name, groupAt(i), "0").Err(); err != nil {
			return s, err
		}
	}
	var done atomic.Int64
	return h.Timed(ctx, n*m.groups, done.Load, func(ctx context.Context) error {
		return bench.InParallel(ctx, m.workers*m.groups, func(ctx context.Context, i int) error {
			args := &redis.XReadGroupArgs{Group: groupAt(i % m.groups), Consumer: fmt.Sprint("reader-", i), Streams: []string{name, ">"}, Count: rawCount, Block: -1}
			for {
				got, err := readAndEnd(ctx, g.rdb, args, !m.events)
				if err != nil || got == 0 {
					return err
				}
				done.Add(int64(got))
			}
		})
	})
}

// dropGroups removes the keys of a stream with many groups.
func (g *growth) dropGroups(ctx context.Context, name string, m many) error {
	k := engine.NewKeys(name)
	keys := []string{k.Stream, k.Config, k.IDs}
	for i := range m.groups {
		gk := k.Group(groupAt(i), m.events)
		keys = append(keys, gk.Redelivery, gk.Suspects, gk.Gate, gk.Lease, gk.Workers)
	}
	return g.rdb.Del(context.WithoutCancel(ctx), keys...).Err()
}
