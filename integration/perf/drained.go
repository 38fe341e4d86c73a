package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// drained is what a stream leaves in Redis's memory when all its jobs are done.
type drained struct {
	h   *bench.Harness
	rdb *redis.Client
	n   int
}

func (d *drained) cases() []bench.Case {
	name := "memory left after draining " + count(d.n) + " jobs"
	return []bench.Case{{
		Group: "drained", Name: name, Jobs: d.n, Most: d.n, Pairs: 1,
		Contenders: []bench.Contender{{Name: bench.Penstock, Run: d.run}},
		Figures: []bench.Figure{
			{Name: name, Unit: bench.Bytes, Of: func(s bench.Sample) float64 { return s.Value }, Target: &bench.Target{Bound: float64(d.n)}}, // a byte a job
		},
	}}
}

// run says by how much Redis's data are larger after the drain than before it, with the stream still there.
func (d *drained) run(ctx context.Context, n int) (s bench.Sample, err error) {
	st, err := stream.New(d.rdb, d.h.Name(), stream.Config{Kind: stream.KindQueue})
	if err != nil {
		return s, err
	}
	before, err := d.memory(ctx)
	if err != nil {
		return s, err
	}
	if _, err := st.Create(ctx, stream.CreateOptions{}); err != nil {
		return s, err
	}
	if err := d.h.Fill(ctx, st.Name(), n); err != nil {
		return s, err
	}
	filled, err := d.dataset(ctx)
	if err != nil {
		return s, err
	}
	if filled-before < int64(n) {
		return s, fmt.Errorf("%d jobs took %d bytes of Redis's data, from %d to %d", n, filled-before, before, filled)
	}
	w, err := consumer.New(groupName, consumer.Config{MaxJobs: handlers, KeepResult: consumer.None}, st)
	if err != nil {
		return s, err
	}
	w.HandleOther(func(context.Context, *consumer.Delivery) error { return nil })
	if s, err = d.h.Timed(ctx, n, func() int64 { return w.Stats().Completed }, w.Run); err != nil {
		return s, err
	}
	after, err := d.memory(ctx)
	s.Value = float64(after - before)
	return s, err
}

const (
	lookEvery  = 200 * time.Millisecond
	stillFor   = 5 // looks in which nothing more is freed
	mostLooks  = 100
	datasetTag = "used_memory_dataset"
)

// memory is dataset once nothing more is freed: Redis does some of that in the background.
func (d *drained) memory(ctx context.Context) (int64, error) {
	least, still := int64(-1), 0
	for range mostLooks {
		now, err := d.dataset(ctx)
		if err != nil {
			return 0, err
		}
		if still++; least < 0 || now < least {
			least, still = now, 0
		}
		if still >= stillFor {
			return least, nil
		}
		if err := pause(ctx, lookEvery); err != nil {
			return 0, err
		}
	}
	return least, nil
}

// dataset is the memory of Redis's data, without that of connections and scripts.
func (d *drained) dataset(ctx context.Context) (int64, error) {
	info, err := d.rdb.Info(ctx, "memory").Result()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(info) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), datasetTag+":"); ok {
			return strconv.ParseInt(text, 10, 64)
		}
	}
	return 0, errors.New("INFO memory has no " + datasetTag)
}
