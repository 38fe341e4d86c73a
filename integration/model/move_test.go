package model_test

import (
	"fmt"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-go/penstock/stream/engine"
)

// parked is a job in a sorted set.
type parked struct {
	slot engine.Slot
	ids  *index
	j    *job
}

func (x *world) allParked() []parked {
	var all []parked
	for _, j := range x.scheduled {
		all = append(all, parked{engine.ScheduledSlot(x.k), x.publishers, j})
	}
	for _, g := range x.groups {
		for _, j := range g.jobs {
			if j.at == inRetrying {
				all = append(all, parked{engine.RetryingSlot(g.keys), g.ids, j})
			}
		}
	}
	return all
}

// reschedule gives a parked job another due time, or tries to by what it was before.
func (x *world) reschedule(t *rapid.T) {
	var all []parked
	for _, p := range x.allParked() {
		if !p.j.bad {
			all = append(all, p)
		}
	}
	x.skipIf(len(all) == 0)
	p := one(t, "parked", all)
	id := p.j.want.id
	seen := engineBody(x, p)
	o, err := engine.ParseOpts(seen.Opts)
	x.must(nil, err)
	var delay time.Duration
	var at time.Time
	switch rapid.IntRange(0, 3).Draw(t, "when") {
	case 0:
		delay = time.Hour
	case 1:
		at = time.UnixMilli(rapid.Int64Range(1000, 1009).Draw(t, "due"))
	case 2:
		at = x.snap.now.Add(24 * time.Hour).Truncate(time.Millisecond)
	}
	if rapid.IntRange(0, 9).Draw(t, "luck") == 9 {
		v := x.call(engine.RescheduleCall(p.slot, id, seen.Opts+" ", o, delay, at))
		if r, err := engine.ReadRescheduled(v); err != nil || !r.Changed {
			x.fail("a job that has changed was moved all the same", "%s: %v, %v", p.j, v, err)
		}
		return
	}
	r, err := engine.ReadRescheduled(x.call(engine.RescheduleCall(p.slot, id, seen.Opts, o, delay, at)))
	early := !at.IsZero() && r.Due != at.UnixMilli() || at.IsZero() && r.Due < x.snap.now.Add(delay).UnixMilli()
	if err != nil || r.Gone || r.Changed || early {
		x.fail("a job was not moved, or to another time", "%s: %+v, %v; by %s, to %s", p.j, r, err, delay, at)
	}
	p.j.due, p.j.indexed = r.Due, true
	delete(p.ids.stale, id)
	moved := engineBody(x, p)
	if o, err = engine.ParseOpts(moved.Opts); err != nil || o.Due != r.Due {
		x.fail("what was moved says that it is due at another time", "%s: %d, %v, want %d", p.j, o.Due, err, r.Due)
	}
	if again, err := engine.ReadRescheduled(x.call(engine.RescheduleCall(p.slot, id+"-none", moved.Opts, o, delay, at))); err != nil || !again.Gone {
		x.fail("a job that is not there was moved", "%+v, %v", again, err)
	}
}

// engineBody is the entry of a parked job.
func engineBody(x *world, p parked) engine.Entry {
	body := fmt.Sprint(x.do("HGET", p.slot.Bodies, p.j.want.id))
	e, ok := engine.ParseBody(body)
	if !ok {
		x.fail("a body cannot be unpacked", "%s: %q", p.j, body)
	}
	return e
}

func (x *world) call(c engine.Call) any {
	v, err := c.Run(x.ctx, x.rdb)
	return x.must(v, err)
}
