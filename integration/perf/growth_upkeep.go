package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

const (
	promoteMany  = 1000 // jobs that are due, of a sample
	promoteLimit = 100  // that one script moves
	fillMany     = 1000 // jobs in a pipeline
)

var scheduledAxis = axis{
	name: "scheduled", what: "promoting 1,000 jobs that are due, one hundred a script, while that many are not",
	raw:   "ZRANGE BYSCORE, then HGET, ZREM, HDEL, XADD and HSET for each, in pipelines of 100",
	sizes: []int{1_000, 10_000, 100_000, 1_000_000}, unit: so("scheduled"),
	build: func(ctx context.Context, g *growth, h *bench.Harness, size int) (bench.Case, func(context.Context) error, error) {
		st, err := stream.New(g.rdb, h.Name(), stream.Config{Kind: stream.KindQueue})
		if err != nil {
			return bench.Case{}, nil, err
		}
		p := &promoting{rdb: g.rdb, k: engine.NewKeys(st.Name()), data: string(h.Payload(0))}
		done := func(ctx context.Context) error {
			return g.rdb.Del(ctx, p.k.Stream, p.k.IDs, p.k.Scheduled, p.k.ScheduledJobs, p.k.Config).Err()
		}
		if err := p.schedule(ctx, size, time.Now().Add(24*time.Hour)); err != nil {
			return bench.Case{}, nil, errors.Join(err, done(context.WithoutCancel(ctx)))
		}
		// both promote from the same sets: what differs is how
		return bench.Case{
			Jobs:       promoteMany,
			Contenders: []bench.Contender{{Name: bench.Penstock, Run: p.sample(p.promote)}},
			Yardstick:  &bench.Contender{Name: "raw commands", Run: p.sample(p.promoteRaw)},
		}, done, nil
	},
}

// promoting moves jobs whose time has come into their stream.
type promoting struct {
	rdb  *redis.Client
	k    engine.Keys
	data string
	made int
}

// schedule stores n more jobs.
func (p *promoting) schedule(ctx context.Context, n int, due time.Time) error {
	for left := n; left > 0; left -= fillMany {
		calls := make([]engine.Call, min(fillMany, left))
		for i := range calls {
			p.made++
			id := fmt.Sprintf("perf-%012d", p.made)
			e := engine.Entry{Type: "perf", Data: p.data, Opts: engine.Opts{ID: id}.String()}
			calls[i] = engine.ScheduleCall(p.k, id, "perf", 0, 0, due, e)
		}
		for _, r := range engine.RunAll(ctx, p.rdb, calls) {
			if r.Err != nil {
				return r.Err
			}
		}
	}
	return nil
}

// sample makes jobs due, and times how they are promoted.
func (p *promoting) sample(promote func(context.Context, int) error) run {
	return func(ctx context.Context, n int) (s bench.Sample, err error) {
		from := p.made
		if err := p.schedule(ctx, n, time.Now().Add(-time.Minute)); err != nil {
			return s, err
		}
		begun := time.Now()
		if err := promote(ctx, n); err != nil {
			return s, err
		}
		s = bench.Sample{Jobs: n, Took: time.Since(begun)}
		moved, err := p.rdb.XLen(ctx, p.k.Stream).Result()
		if err == nil && moved != int64(n) {
			err = fmt.Errorf("%d of %d jobs were promoted", moved, n)
		}
		if err != nil {
			return s, err
		}
		ids := make([]string, 0, n)
		for i := from + 1; i <= p.made; i++ {
			ids = append(ids, fmt.Sprintf("perf-%012d", i))
		}
		return s, errors.Join(p.rdb.Del(ctx, p.k.Stream).Err(), p.rdb.HDel(ctx, p.k.IDs, ids...).Err())
	}
}

func (p *promoting) promote(ctx context.Context, n int) error {
	for moved := 0; moved < n; {
		got, err := engine.Promote(ctx, p.rdb, engine.ScheduledSlot(p.k), promoteLimit)
		if err != nil {
			return err
		}
		if got.Moved == 0 {
			return fmt.Errorf("nothing is due after %d of %d jobs", moved, n)
		}
		moved += int(got.Moved)
	}
	return nil
}

// promoteRaw does what the script does, command by command.
func (p *promoting) promoteRaw(ctx context.Context, n int) error {
	for moved := 0; moved < n; {
		now := strconv.FormatInt(time.Now().UnixMilli(), 10)
		ids, err := p.rdb.ZRangeArgs(ctx, redis.ZRangeArgs{Key: p.k.Scheduled, ByScore: true, Start: "-inf", Stop: now, Count: promoteLimit}).Result()
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			return fmt.Errorf("nothing is due after %d of %d jobs", moved, n)
		}
		pipe := p.rdb.Pipeline()
		for _, id := range ids {
			pipe.HGet(ctx, p.k.ScheduledJobs, id)
			pipe.ZRem(ctx, p.k.Scheduled, id)
			pipe.HDel(ctx, p.k.ScheduledJobs, id)
			pipe.XAdd(ctx, &redis.XAddArgs{Stream: p.k.Stream, Values: []any{"type", "perf", "data", p.data, "traceparent", "", "opts", `{"id":"` + id + `"}`}})
			pipe.HSet(ctx, p.k.IDs, id, "orders 0-0")
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
		moved += len(ids)
	}
	return nil
}

var pendingAxis = axis{
	name: "pending", what: "a heartbeat that renews the leases of that many jobs, and the sweep's look at them",
	raw:   "XPENDING by pages of 1,000, XCLAIM JUSTID of 4,000 a command, XPENDING IDLE",
	sizes: []int{10, 100, 1_000, 10_000, 100_000}, unit: so("pending"),
	build: func(ctx context.Context, g *growth, h *bench.Harness, size int) (bench.Case, func(context.Context) error, error) {
		p := &holding{rdb: g.rdb, name: h.Name()}
		p.k = engine.NewKeys(p.name)
		p.g = p.k.Group(groupName, false)
		done := func(ctx context.Context) error {
			return g.rdb.Del(ctx, p.k.Stream, p.k.Config, p.g.Redelivery, p.g.Suspects, p.g.Gate, p.g.Lease, p.g.Workers).Err()
		}
		if err := p.hold(ctx, h, size); err != nil {
			return bench.Case{}, nil, errors.Join(err, done(context.WithoutCancel(ctx)))
		}
		return bench.Case{
			Jobs:       size,
			Contenders: []bench.Contender{{Name: bench.Penstock, Run: p.sample(p.renew)}},
			Yardstick:  &bench.Contender{Name: "raw commands", Run: p.sample(p.renewRaw)},
		}, done, nil
	},
}

// holding is a worker that holds jobs, and does nothing but keep them.
type holding struct {
	rdb  *redis.Client
	name string
	k    engine.Keys
	g    engine.GroupKeys
	ids  []string
	beat int64
}

const (
	holder    = "holder"
	holdLease = time.Hour // no lease runs out here
)

// hold makes n jobs pending.
func (p *holding) hold(ctx context.Context, h *bench.Harness, n int) error {
	if _, err := engine.Open(ctx, p.rdb, p.k, groupName, string(stream.KindQueue), false); err != nil {
		return err
	}
	if err := h.Fill(ctx, p.name, n); err != nil {
		return err
	}
	answer, err := p.rdb.XReadGroup(ctx, &redis.XReadGroupArgs{Group: groupName, Consumer: holder, Streams: []string{p.name, ">"}, Count: int64(n), Block: -1}).Result()
	if err != nil {
		return err
	}
	for _, m := range answer[0].Messages {
		p.ids = append(p.ids, m.ID)
	}
	return nil
}

// enough entries are looked at in a sample for it to be long enough to measure.
const enough = 300_000

// sample does it often enough; a job counts each time.
func (p *holding) sample(do func(context.Context) error) run {
	return func(ctx context.Context, _ int) (bench.Sample, error) {
		n := len(p.ids)
		times := min(max(enough/n, 3), 1000)
		took, err := repeated(ctx, times, do)
		return bench.Sample{Jobs: n * times, Took: took}, err
	}
}

func (p *holding) renew(ctx context.Context) error {
	p.beat++
	v, err := engine.BeatCall(p.k, p.g, groupName, holder, holdLease, p.beat, true, [engine.Lanes][]string{p.ids}, 0).Run(ctx, p.rdb)
	if err != nil {
		return err
	}
	b, err := engine.ReadBeat(v)
	if err != nil {
		return err
	}
	if len(b.Lost[0])+len(b.Missing[0])+len(b.Deleted[0]) > 0 {
		return errors.New("a heartbeat lost what it renewed")
	}
	if err := p.rdb.Del(ctx, p.g.Gate).Err(); err != nil { // or the next look would be shut out
		return err
	}
	v, err = engine.SweepCall(p.k, p.g, groupName, holder, holdLease, p.beat, b.Now.Add(time.Hour), 100).Run(ctx, p.rdb)
	if err != nil {
		return err
	}
	swept, err := engine.ReadSweep(v)
	if err == nil && swept.State != engine.SweepQuiet {
		err = fmt.Errorf("a sweep is %v, where no lease had run out", swept.State)
	}
	return err
}

func (p *holding) renewRaw(ctx context.Context) error {
	const page, claimed = 1000, 4000
	for from := "-"; ; {
		list, err := p.rdb.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: p.name, Group: groupName, Start: from, End: "+", Count: page, Consumer: holder}).Result()
		if err != nil {
			return err
		}
		if len(list) < page {
			break
		}
		from = "(" + list[page-1].ID
	}
	for first := 0; first < len(p.ids); first += claimed {
		ids := p.ids[first:min(first+claimed, len(p.ids))]
		if err := p.rdb.XClaimJustID(ctx, &redis.XClaimArgs{Stream: p.name, Group: groupName, Consumer: holder, Messages: ids}).Err(); err != nil {
			return err
		}
	}
	return p.rdb.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: p.name, Group: groupName, Idle: holdLease, Start: "-", End: "+", Count: 1}).Err()
}
