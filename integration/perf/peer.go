package main

import (
	"context"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
)

// peer is another engine. What it has not is nil.
type peer struct {
	name    string
	version string

	drain    run // jobs that wait, with 100 handlers at once
	publish  run // by 64 callers
	latency  run // from the call that publishes to the start of the handler
	deferred run // how late jobs start that are due at 100/s
	close    func() error
}

// run is bench.Contender's.
type run = func(ctx context.Context, n int) (bench.Sample, error)

const (
	handlers = 100
	callers  = 64
)

// join adds what the peer does to the cases that measure it.
func (p *peer) join(cases []bench.Case) {
	for i := range cases {
		c := &cases[i]
		if do := p.of(c); do != nil {
			c.Contenders = append(c.Contenders, bench.Contender{Name: p.name, Run: do})
		}
	}
}

func (p *peer) of(c *bench.Case) run {
	switch {
	case c.Name == drainName:
		return p.drain
	case c.Name == publishName:
		return p.publish
	case isLatency(*c):
		return p.latency
	case c.Group == "deferred":
		return p.deferred
	}
	return nil
}

// peersIn reports whether peers can take part in a case.
func peersIn(c bench.Case) bool {
	return c.Name == drainName || c.Name == publishName || isLatency(c) || c.Group == "deferred"
}

// isLatency tells the case from the other of its group, the way of a result back.
func isLatency(c bench.Case) bool { return strings.HasPrefix(c.Name, "latency at ") }

// The cases that peers take part in, as package bench calls them.
const (
	drainName   = "drain, MaxJobs 100"
	publishName = "publish, 64 callers"
)

// atLeastTimes is how many times as fast as asynq Penstock is to drain.
var atLeastTimes = bench.Target{Ratio: true, AtLeast: true, Bound: 20}

// besideAsynq is the row of the target that is not one of a yardstick. Nothing is measured for it: both took turns already.
func besideAsynq(rows []bench.Row) []bench.Row {
	find := func(contender string) int {
		return slices.IndexFunc(rows, func(r bench.Row) bool { return r.Name == drainName && r.Contender == contender })
	}
	ours, theirs := find(bench.Penstock), find(asynqName)
	if ours < 0 || theirs < 0 {
		return rows
	}
	row := rows[ours]
	other := rows[theirs].Value
	ratio := bench.Summarize(bench.Ratios(row.Value.Samples, other.Samples))
	met := atLeastTimes.Met(ratio.Median)
	row.Name += ", beside asynq"
	row.Yardstick = &bench.Yardstick{Name: asynqName, Value: other, Ratio: ratio, OfMedians: row.Value.Median / other.Median}
	row.Target, row.Met = &atLeastTimes, &met
	return slices.Insert(rows, ours+1, row)
}

// moduleVersion of a dependency of this program.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "not known"
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return strings.TrimPrefix(m.Version, "v")
		}
	}
	return "not known"
}

// sameClient returns another client of the same server, for engines that close what they are given.
func sameClient(rdb *redis.Client) *redis.Client {
	o := rdb.Options() // not copied: it has state of the client's own
	return redis.NewClient(&redis.Options{
		Addr: o.Addr, ContextTimeoutEnabled: true, PoolSize: o.PoolSize, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout,
	})
}
