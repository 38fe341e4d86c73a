package model_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-go/penstock/stream/engine"
)

const cancelled = "cancelled"

// cancel asks for a job's end: by an ID that it has, in whatever state it is, or by one that no job has.
func (x *world) cancel(t *rapid.T) {
	id := one(t, "id", x.ids())
	only := ""
	if rapid.IntRange(0, 2).Draw(t, "one group") == 2 {
		only = one(t, "group", x.groups).name
	}
	keep := one(t, "keep", []time.Duration{0, tombstone}) // never, but for those that a publisher may repeat
	x.send(x.cancelling(id, "", only, keep), false)
}

func (x *world) cancelling(id, entry, only string, keep time.Duration) *sent {
	return &sent{what: "cancel of " + id, call: engine.CancelCall(x.k, id, entry, x.events, only, keep, "", x.groupNames()),
		apply: func(v any, err error) { x.cancelled(id, entry, only, keep, v, err) }}
}

// cancelWrongly asks with groups, or with a kind, that the stream does not have, and is told what it has.
func (x *world) cancelWrongly(t *rapid.T) {
	events, groups := x.events, x.groupNames()
	if rapid.Bool().Draw(t, "wrong kind") {
		events = !events
	} else {
		groups = groups[:len(groups)-1]
	}
	v, err := engine.CancelCall(x.k, one(t, "id", x.ids()), "", events, "", tombstone, "", groups).Run(x.ctx, x.rdb)
	x.must(v, err)
	c, err := engine.ReadCancelled(v)
	x.must(c, err)
	slices.Sort(c.Groups)
	if !c.Again || (c.Kind == "events") != x.events || !slices.Equal(c.Groups, x.groupNames()) {
		x.fail("a cancel of other groups, or of another kind, was not refused", "%+v", c)
	}
}

func (x *world) groupNames() []string {
	names := make([]string, len(x.groups))
	for i, g := range x.groups {
		names[i] = g.name
	}
	return names
}

// ids are the IDs by which somebody may ask for a job: of those that live, of those that have ended, and one of none.
func (x *world) ids() []string {
	seen := map[string]bool{"nobody's": true, "5-5": true}
	for _, id := range chosen {
		seen[id] = true
	}
	for _, m := range x.orders {
		seen[m.entry] = true
	}
	for _, r := range x.records {
		seen[r.id] = true
	}
	for _, g := range x.groups {
		for _, j := range g.jobs {
			seen[j.want.id] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// standing is how it stands with a job of one group when somebody cancels it.
type standing struct {
	state string
	j     *job // that is to be taken away
	mark  bool // it is to be marked
}

// own is the ID that an entry of the stream gives its job; "" when it gives none.
func (x *world) own(entry string) string {
	for _, m := range x.orders {
		if m.entry == entry {
			if _, o, err := engine.ParseEntry(m.values); err == nil {
				return o.ID
			}
		}
	}
	return ""
}

// standing says, from where the model has the job, what a cancel must answer. Of an ID that two jobs have, the job meant is the one that ids says.
func (x *world) standing(g *group, id, given string) standing {
	ended := standing{state: x.records[g.keys.Job(id)].state}
	field := x.snap.hashes[g.ids.key][id]
	at, entry, _ := engine.SplitWhere(field)
	of := x.snap.hashes[x.k.IDs][id] // where the stream itself has it
	if j := g.parked(id); j != nil {
		return standing{state: "retrying", j: j}
	}
	lane := slices.Index(placeNames[:engine.Lanes], at)
	if lane < 0 || x.events && at == "orders" {
		if at == "dead" && g.find(inDead, entry) != nil {
			return standing{state: "dead"}
		}
		if at == "dead" {
			return ended
		}
		lane, entry = int(inOrders), given
		if in, e, _ := engine.SplitWhere(of); in == "orders" {
			entry = e
		} else if of != "" || entry == "" {
			return ended
		}
	}
	j := g.find(place(lane), entry)
	switch {
	case x.events && place(lane) == inOrders && g.missing[lane] && x.exists(entry): // made again, it may read it again
		return standing{state: "waiting", mark: true}
	case j == nil && x.events && place(lane) == inOrders && x.exists(entry): // this group is done with it
		if ended.state == "" {
			ended.state = "completed"
		}
		return ended
	case j == nil, j.limbo, j.gone && (!j.pending() || g.missing[lane]):
		return ended
	case j.pending() && !g.missing[lane]:
		return standing{state: "active", mark: true}
	case x.events && place(lane) == inOrders: // its entry is the other groups' too
		return standing{state: "waiting", mark: true}
	}
	return standing{state: "waiting", j: j}
}

// cancelled is what the answer to a cancel must be, and what it changes.
func (x *world) cancelled(id, entry, only string, keep time.Duration, v any, err error) {
	x.t.Helper()
	got, err := engine.ReadCancelled(x.must(v, err))
	x.must(got, err)
	if entry == "" && engine.IsEntryID(id) {
		entry = id
	}
	unknown := entry != "" && x.snap.hashes[x.k.IDs][id] == ""
	own := x.own(entry)
	if unknown && own != "" && own != id {
		if at := x.snap.hashes[x.k.IDs][own]; at == "" || strings.HasPrefix(at+" ", "orders "+entry+" ") {
			if got.ID != own {
				x.fail("a cancel by an entry does not tell the ID of its job", "%s: %+v, want %q", entry, got, own)
			}
			x.send(x.cancelling(own, entry, only, keep), false)
			return
		}
		entry = "" // another job has its ID
	}
	all, in := x.records[x.k.Job(id)].state, make([]string, len(x.groups))
	deferred := slices.IndexFunc(x.scheduled, func(j *job) bool { return j.want.id == id })
	switch whole := !x.events || only == ""; {
	case deferred >= 0 && whole:
		all = cancelled
		for i, g := range x.groups {
			in[i] = cancelled
			delete(g.marks, id)
		}
		j := x.scheduled[deferred]
		x.scheduled = slices.Delete(x.scheduled, deferred, deferred+1)
		x.tookAway(x.publishers, x.k.Job(id), nil, j, keep)
	default:
		for i, g := range x.groups {
			if x.events && only != "" && only != g.name {
				continue
			}
			s := x.standing(g, id, entry)
			if deferred >= 0 {
				s = standing{state: "scheduled", mark: true}
			}
			if in[i] = s.state; s.mark {
				g.marks[id] = true
				if unknown && own == id && id != entry && deferred < 0 { // a deleted entry does not say
					x.indexed(id, entry)
				}
			}
			if s.j != nil {
				in[i] = cancelled
				delete(g.marks, id)
				x.tookAway(g.ids, g.keys.Job(id), g, s.j, keep)
			}
		}
	}
	if got.Again || got.Full || got.State != all || !slices.Equal(got.In, in) {
		x.fail("a cancel was answered otherwise than it should be", "%s in %q: %+v, want %q %q", id, only, got, all, in)
	}
}

// indexed notes that ids knows of another program's job now, as it is marked.
func (x *world) indexed(id, entry string) {
	if x.events {
		x.published[id] = where(inOrders, entry, "")
	} else {
		x.groups[0].find(inOrders, entry).indexed = true
	}
}

// tookAway notes that a cancel has taken a job away, and what that leaves.
func (x *world) tookAway(ids *index, key string, g *group, j *job, keep time.Duration) {
	id := j.want.id
	r := record{id: id, group: g, state: cancelled, note: &engine.Note{Type: j.content.typ, Attempt: j.want.errs + 1, Crashes: j.want.crashes}}
	_, _, r.mark = engine.SplitWhere(x.snap.hashes[ids.key][id])
	if !engine.IsEntryID(id) {
		keep = max(keep, time.Minute)
	}
	if keep > 0 {
		x.records[key] = r
	}
	delete(ids.stale, id)
	if g == nil {
		return
	}
	if g.missing[inOrders] || j.at.lane() && g.missing[j.at] {
		// Nobody may be running it, as far as Redis knows: who does comes too late.
		j.owner = ""
	}
	x.finish(g, j)
}

// askMarks asks, as a worker does after a heartbeat that told of marks: what has ended is forgotten.
func (x *world) askMarks(t *rapid.T) { x.runMarks(one(t, "group", x.groups)) }

func (x *world) runMarks(g *group) {
	x.t.Helper()
	v, err := engine.MarksCall(x.k, g.keys, g.name, !x.events).Run(x.ctx, x.rdb)
	x.must(v, err)
	told, ok := engine.ReadMarks(v)
	want := make(map[string]bool)
	for id := range g.marks {
		if x.wanted(g, id) {
			want[id] = true
		}
	}
	slices.Sort(told)
	if !ok || !slices.Equal(told, slices.Sorted(maps.Keys(want))) {
		x.fail("other jobs are to end as cancelled than those that were marked and live", "%s: %v, want %v of %v", g.name, v, want, g.marks)
	}
	for _, j := range g.jobs { // said once more, without a look at ids
		lives := j.there() && j.at != inDead && (j.indexed || j.at == inOrders && engine.IsEntryID(j.want.id)) && !j.bad && !g.ids.messy[j.want.id]
		if lives && g.marks[j.want.id] && !want[j.want.id] {
			x.fail("the mark of a job that lives was forgotten", "%s", j)
		}
	}
	g.marks = want
}

// wanted reports whether a job that is marked has still to end.
func (x *world) wanted(g *group, id string) bool {
	lives := func(lane place, entry string) bool {
		j := g.find(lane, entry)
		return g.missing[lane] || j != nil && !j.limbo
	}
	switch at, entry, _ := engine.SplitWhere(x.snap.hashes[g.ids.key][id]); at {
	case "redelivery":
		return lives(inRedelivery, entry)
	case "suspects":
		return lives(inSuspects, entry)
	case "retrying":
		return true
	case "dead":
		return false
	}
	at, entry, _ := engine.SplitWhere(x.snap.hashes[x.k.IDs][id])
	switch {
	case at == "scheduled":
		return slices.ContainsFunc(x.scheduled, func(j *job) bool { return j.want.id == id })
	case at == "orders":
	case engine.IsEntryID(id):
		entry = id
	default:
		return false
	}
	return lives(inOrders, entry)
}

// marked reports whether a delivery that is about to move on under an ID is to end as cancelled instead, and checks that it was told.
func (x *world) marked(d *delivery, id string, told bool) bool {
	x.t.Helper()
	marked := id != "" && d.w.g.marks[id]
	if told != marked {
		x.fail("a job that is marked has moved on, or one that is not has not", "%s %s: told %v, want %v", d.w.name, id, told, marked)
	}
	if !marked {
		return false
	}
	if rapid.IntRange(0, 3).Draw(x.t, "dies") < 3 { // else its lease runs out
		x.send(x.ending(d, cancels), false)
	}
	return true
}

// checkMarks compares what is marked, and what was put off, with what should be.
func (x *world) checkMarks(s *snapshot) {
	for _, g := range x.groups {
		got := make(map[string]bool)
		for id := range s.sets[g.keys.Marks] {
			got[id] = true
		}
		if !maps.Equal(got, g.marks) {
			x.fail("other jobs are marked than those that should be", "%s: %v, want %v", g.name, got, g.marks)
		}
		if !maps.Equal(s.members[g.keys.Paused], g.paused) {
			x.fail("other jobs were put off than those that should be", "%s: %v, want %v", g.name, s.members[g.keys.Paused], g.paused)
		}
	}
}

// ---- kill switches that pause

// resume makes due what a kill switch has put off.
func (x *world) resume(t *rapid.T) { x.runResume(one(t, "group", x.groups)) }

func (x *world) runResume(g *group) {
	v, err := engine.ResumeCall(g.keys).Run(x.ctx, x.rdb)
	if x.must(v, err) != int64(len(g.paused)) || engine.Resumed(v) {
		x.fail("more or less was made due than had been put off", "%s: %v, want %v", g.name, v, g.paused)
	}
	for id := range g.paused {
		j := g.parked(id)
		if j == nil || j.due <= x.snap.now.UnixMilli() {
			continue
		}
		due, err := x.rdb.ZScore(x.ctx, g.keys.Retrying, id).Result()
		if late := time.UnixMilli(int64(due)).Sub(x.snap.now.Truncate(time.Millisecond)); err != nil || late < 0 || late > time.Hour {
			x.fail("a job that was let go is not due", "%s: %v %v", j, fmt.Sprint(late), err)
		}
		j.due = int64(due)
	}
	g.paused = make(map[string]bool)
}
