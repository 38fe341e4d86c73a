package model_test

import (
	"context"
	"slices"

	"pgregory.net/rapid"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// lookUp asks for a job by its ID: the answer is where the model has it.
func (x *world) lookUp(t *rapid.T) {
	type candidate struct {
		id string
		g  *group // nil: it is the stream's
		j  *job
	}
	var all []candidate
	for _, j := range x.scheduled {
		if !x.publishers.messy[j.want.id] {
			all = append(all, candidate{j.want.id, nil, j})
		}
	}
	deferred := func(id string) bool { // on an events stream an ID is free once its entry was deleted, whatever its groups do
		return slices.ContainsFunc(x.scheduled, func(j *job) bool { return j.want.id == id })
	}
	for _, g := range x.groups {
		for _, j := range g.jobs {
			switch plain := j.at == inOrders && j.want.id == "" && !j.gone; {
			case j.limbo, j.letter, j.at.lane() && g.missing[j.at], g.missing[inOrders]:
			case plain:
				all = append(all, candidate{j.entry, g, j})
			case j.indexed && !g.ids.messy[j.want.id] && !deferred(j.want.id):
				all = append(all, candidate{j.want.id, g, j})
			}
		}
	}
	x.skipIf(len(all) == 0)
	c := one(t, "job", all)
	s, err := stream.New(x.rdb, x.name, stream.Config{})
	x.must(nil, err)
	info, err := s.Get(context.Background(), c.id)
	if c.g != nil && c.g.events {
		info = info.Groups[c.g.name]
	}
	want := map[place]stream.State{inScheduled: stream.Scheduled, inRetrying: stream.Retrying, inDead: stream.Dead}[c.j.at]
	switch {
	case want != "":
	case c.j.pending() && c.j.owner != engine.Nobody:
		want = stream.Active
	default:
		want = stream.Waiting
	}
	if err != nil || info.State != want || want == stream.Active && info.Worker != c.j.owner {
		x.fail("a job is looked up in vain, or found where it is not", "%s: %+v, %v, want it %s", c.j, info, err, want)
	}
}
