package model_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-go/penstock/stream/engine"
)

// actions are the steps of a run, each as likely as it has names.
func (x *world) actions() map[string]func(*rapid.T) {
	actions := make(map[string]func(*rapid.T))
	add := func(times int, name string, f func(*rapid.T)) {
		for i := range times {
			actions[name+strings.Repeat("'", i)] = f
		}
	}
	add(3, "publish", x.publish)
	add(3, "publish with ID", x.publishID)
	add(1, "foreign entry", x.foreign)
	add(6, "read", x.readAction)
	add(3, "read a suspect", x.readSuspect)
	add(9, "end one", x.endOne)
	add(3, "end many", x.endMany)
	add(2, "end, and again", x.endTwice)
	add(4, "make due", x.makeDue)
	add(4, "promote", x.promote)
	add(3, "heartbeat", x.beatAction)
	add(5, "leases run out", x.age)
	add(4, "sweep", x.sweep)
	add(1, "sweep after an outage", x.sweepAll)
	add(4, "move what was taken over", x.moveTaken)
	add(2, "worker is killed", x.kill)
	add(2, "orphans", x.orphans)
	add(2, "leave", x.leave)
	add(2, "redrive", x.redrive)
	add(2, "purge", x.purge)
	add(4, "cancel", x.cancel)
	add(1, "cancel of other groups", x.cancelWrongly)
	add(1, "marks are read", x.askMarks)
	add(1, "resume", x.resume)
	add(1, "a record expires", x.expireRecord)
	add(1, "a job is looked up", x.lookUp)
	add(2, "a job is moved to another time", x.reschedule)
	add(1, "an entry is deleted", x.deleteEntry)
	add(1, "a group is destroyed", x.destroyGroup)
	add(1, "a group is opened", x.openAction)
	add(1, "scripts are flushed", x.flushScripts)
	add(3, "again", x.again)
	return actions
}

func one[T any](t *rapid.T, what string, list []T) T { return rapid.SampledFrom(list).Draw(t, what) }

// some draws a part of a list, in its order and never empty.
func some[T any](t *rapid.T, what string, list []T) []T {
	first := rapid.IntRange(0, len(list)-1).Draw(t, what+" from")
	return list[first : first+rapid.IntRange(1, len(list)-first).Draw(t, what)]
}

func (x *world) anyWorker(t *rapid.T) *worker {
	return one(t, "worker", x.workers(func(*worker) bool { return true }))
}

// workers are those of all groups for which ok holds.
func (x *world) workers(ok func(*worker) bool) []*worker {
	var ws []*worker
	for _, g := range x.groups {
		for _, w := range g.workers {
			if ok(w) {
				ws = append(ws, w)
			}
		}
	}
	return ws
}

func (x *world) busy(t *rapid.T, ok func(*delivery) bool) (*worker, []*delivery) {
	ws := x.workers(func(w *worker) bool { return slices.ContainsFunc(w.held, ok) })
	x.skipIf(len(ws) == 0)
	w := one(t, "worker", ws)
	var ds []*delivery
	for _, d := range w.held {
		if ok(d) {
			ds = append(ds, d)
		}
	}
	return w, ds
}

// ---- reading

func (x *world) readAction(t *rapid.T) {
	w := x.anyWorker(t)
	x.learn(w)
	x.readSome(w, []place{inRedelivery, inOrders}, rapid.IntRange(1, 4).Draw(t, "count"), rapid.IntRange(0, 9).Draw(t, "luck") == 9)
}

func (x *world) readSuspect(t *rapid.T) {
	ws := x.workers(func(w *worker) bool {
		return !slices.ContainsFunc(w.held, func(d *delivery) bool { return d.lane == inSuspects && !d.swept }) && len(w.g.in(inSuspects)) > 0
	})
	x.skipIf(len(ws) == 0)
	w := one(t, "worker", ws)
	x.learn(w)
	x.readSome(w, []place{inSuspects}, 1, rapid.IntRange(0, 9).Draw(t, "luck") == 9)
}

// learn: a fence is only as good as the epoch that the worker knows, which each heartbeat tells.
func (x *world) learn(w *worker) {
	switch {
	case w.epoch == w.g.epoch:
	case w.g.anyMissing():
		x.open(w)
	default:
		x.beat(w)
	}
}

func (x *world) orphans(t *rapid.T) { x.handBackOrphans(x.anyWorker(t)) }

// ---- ending

func (x *world) endOne(t *rapid.T) {
	w, ds := x.busy(t, func(*delivery) bool { return true })
	d := one(t, "delivery", ds)
	s := x.ending(d, d.ends(t))
	if !d.gone && rapid.IntRange(0, 9).Draw(t, "luck") == 9 { // its answer is lost: the worker may send it again
		x.send(s, false)
		return
	}
	w.forget(d)
	x.send(s, false)
}

// endTwice settles the same thing twice, in ways that need not agree: the worker's
// answer was lost, and what it does now is another thing.
func (x *world) endTwice(t *rapid.T) {
	w, ds := x.busy(t, func(d *delivery) bool { return !d.gone })
	d := one(t, "delivery", ds)
	first, second := x.ending(d, d.ends(t)), x.ending(d, d.ends(t))
	w.forget(d)
	x.send(first, false)
	x.send(second, false)
}

// endMany ends several in one pipeline, as the settler does: plain successes together, the others each by a script.
func (x *world) endMany(t *rapid.T) {
	w, ds := x.busy(t, func(*delivery) bool { return true })
	var plain [engine.Lanes][]*delivery
	var endings []*sent
	ended := make(map[string]bool)
	for _, d := range slices.Clone(some(t, "deliveries", ds)) {
		// Twice the same entry: after a flush the one whose script is not known any more runs last, whatever their order.
		at := d.lane.String() + d.entry
		if ended[at] {
			continue
		}
		ended[at] = true
		how := d.ends(t)
		if how == completes && d.plain() {
			plain[d.lane] = append(plain[d.lane], d)
		} else {
			endings = append(endings, x.ending(d, how))
		}
		w.forget(d)
	}
	for lane, ds := range plain {
		if len(ds) > 0 {
			endings = append(endings, x.settling(w, place(lane), ds))
		}
	}
	calls := make([]engine.Call, len(endings))
	for i, s := range endings {
		calls[i] = s.call
	}
	for i, res := range engine.RunAll(x.ctx, x.rdb, calls) {
		endings[i].apply(res.Val, res.Err)
	}
}

// moveTaken sends on what a sweep has taken over: all, or some before the sweeper dies.
func (x *world) moveTaken(t *rapid.T) {
	w, ds := x.busy(t, func(d *delivery) bool { return d.swept })
	for _, d := range slices.Clone(some(t, "taken", ds)) {
		w.forget(d)
		x.send(x.ending(d, reclaims), false)
	}
}

// again sends a call once more whose answer somebody did not get: it may come late, or from a worker that is long dead.
func (x *world) again(t *rapid.T) {
	x.skipIf(len(x.sent) == 0)
	x.send(one(t, "call", x.sent), true)
}

func (x *world) kill(t *rapid.T) { x.fire(x.anyWorker(t)) }

// ---- due times

func (x *world) makeDue(t *rapid.T) {
	type parked struct {
		set string
		j   *job
	}
	var all []parked
	for _, j := range x.scheduled {
		all = append(all, parked{x.k.Scheduled, j})
	}
	for _, g := range x.groups {
		for _, j := range g.jobs {
			if j.at == inRetrying {
				all = append(all, parked{g.keys.Retrying, j})
			}
		}
	}
	x.skipIf(len(all) == 0)
	for _, p := range some(t, "parked", all) {
		x.due(p.set, p.j, rapid.Int64Range(1000, 1009).Draw(t, "due"))
	}
}

// due changes a due time, in the set and in ids.
func (x *world) due(set string, j *job, at int64) {
	ids := x.publishers
	for _, g := range x.groups {
		if set == g.keys.Retrying {
			ids = g.ids
		}
	}
	x.do("ZADD", set, "XX", at, j.want.id)
	j.due = at
	if !ids.messy[j.want.id] {
		x.do("HSET", ids.key, j.want.id, j.where())
	}
}

func (x *world) promote(t *rapid.T) {
	limit := one(t, "limit", []int{1, 2, 500})
	i := rapid.IntRange(0, len(x.groups)).Draw(t, "set")
	if i == len(x.groups) {
		x.promoteScheduled(limit)
		return
	}
	x.promoteRetrying(x.groups[i], limit)
}

// dueFirst is what a promotion moves, in its order.
func dueFirst(jobs []*job, at place, now time.Time, limit int) []*job {
	var due []*job
	for _, j := range jobs {
		if j.at == at && j.due <= now.UnixMilli() {
			due = append(due, j)
		}
	}
	slices.SortStableFunc(due, func(a, b *job) int {
		if a.due != b.due {
			return cmpUint(uint64(a.due), uint64(b.due))
		}
		return strings.Compare(a.want.id, b.want.id)
	})
	return due[:min(len(due), limit)]
}

// runPromote promotes, and returns the entries that this made.
func (x *world) runPromote(slot engine.Slot, limit int, due []*job) []msg {
	last := "-"
	if info, err := x.rdb.XRevRangeN(x.ctx, slot.Dest, "+", "-", 1).Result(); err == nil && len(info) > 0 {
		last = "(" + info[0].ID
	}
	p, err := engine.Promote(x.ctx, x.rdb, slot, limit)
	x.must(p, err)
	if p.Moved != int64(len(due)) || p.Lost != 0 {
		x.fail("a promotion moved more or less than what was due", "%+v, want %d", p, len(due))
	}
	entries := entriesOf(x.do("XRANGE", slot.Dest, last, "+"))
	if len(entries) != len(due) {
		x.fail("a promotion made more or less entries than it moved jobs", "%v, want %d", entries, len(due))
	}
	return entries
}

func (x *world) promoteScheduled(limit int) {
	due := dueFirst(x.scheduled, inScheduled, x.snap.now, limit)
	for i, m := range x.runPromote(engine.ScheduledSlot(x.k), limit, due) {
		j := due[i]
		x.checkContent(j, m.values)
		x.scheduled = slices.DeleteFunc(x.scheduled, func(other *job) bool { return other == j })
		id, mark := j.want.id, j.mark
		x.arrive(m.entry, m.values, j)
		if x.events {
			x.published[id] = where(inOrders, m.entry, mark)
		}
	}
}

func (x *world) promoteRetrying(g *group, limit int) {
	due := dueFirst(g.jobs, inRetrying, x.snap.now, limit)
	for i, m := range x.runPromote(engine.RetryingSlot(g.keys), limit, due) {
		x.move(due[i], inRedelivery, m.entry, 0, due[i].want.id)
	}
}

// ---- leases

// Leases are so long that none runs out by itself.
const (
	long  = time.Hour
	short = time.Hour / 2
)

// age lets time go by for what some worker holds.
func (x *world) age(t *rapid.T) {
	var live []*job
	var of []*group
	for _, g := range x.groups {
		for at := range place(engine.Lanes) {
			for _, j := range g.in(at) {
				if j.pending() && j.there() && !g.missing[at] {
					live, of = append(live, j), append(of, g)
				}
			}
		}
	}
	x.skipIf(len(live) == 0)
	j := one(t, "job", live)
	g := of[slices.Index(live, j)]
	all := rapid.Bool().Draw(t, "all of its worker")
	idle := one(t, "idle", []time.Duration{over, over, aging})
	for i, other := range live {
		if other == j || all && of[i] == g && other.owner == j.owner {
			x.do("XCLAIM", g.lanes[other.at], g.name, other.owner, 0, other.entry, "IDLE", idle.Milliseconds(), "JUSTID")
			other.idle = idle
		}
	}
}

func (x *world) beatAction(t *rapid.T) { x.beat(x.anyWorker(t)) }

// beat renews what a worker believes to hold, and tells it what it has lost.
func (x *world) beat(w *worker) {
	x.t.Helper()
	g := w.g
	var held, lost, deleted, nobodys [engine.Lanes][]string
	var then []func()
	none := false
	for _, d := range w.held {
		if d.gone || slices.Contains(held[d.lane], d.entry) {
			continue
		}
		j := g.find(d.lane, d.entry)
		if j != nil && !j.pending() {
			continue // its group was made again, and delivers it again: claiming it back is tested in consumer, with the reader that looks for it
		}
		held[d.lane] = append(held[d.lane], d.entry)
		none = none || g.missing[d.lane]
		switch {
		case j == nil: // in nobody's list: its worker decides by the clock whether somebody can have had it
			nobodys[d.lane] = append(nobodys[d.lane], d.entry)
		case j.owner != w.name:
			lost[d.lane] = append(lost[d.lane], d.entry)
		case j.gone:
			deleted[d.lane] = append(deleted[d.lane], d.entry)
			then = append(then, func() { j.gone, j.limbo = false, true })
		default:
			then = append(then, func() { j.idle = fresh })
		}
	}
	w.beats++
	v, err := engine.BeatCall(x.k, g.keys, g.name, w.name, w.lease, w.beats, !x.events, held, 0).Run(x.ctx, x.rdb)
	if none {
		if engine.Classify(err) != engine.NoGroup {
			x.fail("leases were renewed in no group", "%v", err)
		}
		return
	}
	x.must(v, err)
	b, err := engine.ReadBeat(v)
	x.must(b, err)
	for lane := range engine.Lanes {
		if !slices.Equal(b.Lost[lane], lost[lane]) || !slices.Equal(b.Deleted[lane], deleted[lane]) {
			x.fail("a heartbeat tells a worker something else than what it has lost", "%s: lost %v, want %v; deleted %v, want %v", w.name, b.Lost, lost, b.Deleted, deleted)
		}
		told := slices.Concat(b.Missing[lane], b.Unowned[lane])
		for _, entry := range told {
			if !slices.Contains(nobodys[lane], entry) {
				x.fail("a heartbeat says that what has an owner is in nobody's list", "%s: %s", w.name, entry)
			}
		}
		if len(told) < len(nobodys[lane]) && (lane > 0 || !x.events) || b.Mended > 0 {
			x.fail("a heartbeat does not say what is in nobody's list", "%s: %v, want %v; %d mended", w.name, told, nobodys[lane], b.Mended)
		}
	}
	for _, f := range then {
		f()
	}
	known := int64(-1)
	if r, ok := g.rows[w.name]; ok {
		known = r.beat
	}
	if b.Last != known || !b.Took {
		x.fail("a heartbeat tells another number than the last one's", "%d %v, want %d", b.Last, b.Took, known)
	}
	w.beat = w.beats
	g.rows[w.name] = row{w.beat, w.lease}
	g.longest = max(g.longest, w.lease)
	if b.Marks != int64(len(g.marks)) {
		x.fail("a heartbeat tells another number of marks", "%d, want %v", b.Marks, g.marks)
	}
	if b.Epoch != g.epoch {
		x.fail("a heartbeat tells another epoch", "%d, want %d", b.Epoch, g.epoch)
	}
	w.epoch = b.Epoch
	if b.Orphans != [engine.Lanes]bool{} {
		x.fail("a heartbeat sees jobs in nobody's list where everything has its owner", "%v", b.Orphans)
	}
	for lane := range engine.Lanes {
		v, err := engine.MendCall(x.k, g.keys, g.name, lane, "", 1000).Run(x.ctx, x.rdb)
		if err == nil {
			var n int64
			if n, _, err = engine.ReadMend(v); n != 0 {
				x.fail("jobs are taken out of nobody's list where everything has its owner", "%d", n)
			}
		}
		x.must(v, err)
	}
	for _, d := range slices.Clone(w.held) {
		if slices.Contains(deleted[d.lane], d.entry) {
			if other := w.holds(d.lane, d.entry); other != d {
				w.forget(d) // it was swept from itself: one of the two goes on
				continue
			}
			d.gone = true
		}
		// what is lost it goes on with: its handler may be at its very end
	}
	for lane := range 2 {
		want := ""
		for _, j := range g.in(place(lane)) {
			if j.waiting() && want == "" && !g.missing[lane] {
				want = j.entry
			}
		}
		if b.Unread[lane] != want {
			x.fail("a heartbeat tells another job that waits", "%q, want %q", b.Unread[lane], want)
		}
	}
	if x.events && !g.missing[inOrders] {
		g.position = x.positionOf(g)
	}
}

// positionOf is from where a group would have to read again.
func (x *world) positionOf(g *group) string {
	for _, j := range g.in(inOrders) {
		if j.pending() {
			before := "0-0"
			for _, m := range x.orders {
				if compareIDs(m.entry, j.entry) < 0 {
					before = m.entry
				}
			}
			return before
		}
	}
	return x.snap.groups[x.k.Stream][g.name].last
}

func (x *world) sweep(t *rapid.T) {
	w := x.anyWorker(t)
	late := rapid.IntRange(0, 9).Draw(t, "late") == 9
	later := rapid.Bool().Draw(t, "a second later")
	x.runSweep(w, w.lease, late, later, rapid.SampledFrom([]int{1, 2, 3, 100}).Draw(t, "limit"))
	x.perhapsMove(t, w)
}

// perhapsMove: the sweeper sends on what it has taken over, unless it dies before.
func (x *world) perhapsMove(t *rapid.T, w *worker) {
	if !rapid.Bool().Draw(t, "and moves it on") {
		return
	}
	for _, d := range slices.Clone(w.held) {
		if d.swept {
			w.forget(d)
			x.send(x.ending(d, reclaims), false)
		}
	}
}

// sweepAll: all leases have run out, those of what was deleted by hand too.
func (x *world) sweepAll(t *rapid.T) {
	w := x.anyWorker(t)
	x.outage(w)
	x.perhapsMove(t, w)
}

func (x *world) outage(w *worker) {
	g := w.g
	for at := range place(engine.Lanes) {
		if g.missing[at] {
			continue
		}
		for wait := true; wait; { // for a millisecond
			all := listOf(x.do("XPENDING", g.lanes[at], g.name, "-", "+", 1000))
			wait = len(listOf(x.do("XPENDING", g.lanes[at], g.name, "IDLE", 1, "-", "+", 1000))) < len(all)
		}
	}
	x.do("DEL", g.keys.Lease) // its time to live is over too
	g.longest = 0
	x.runSweep(w, outageLease, false, true, 100)
}

// outageLease has run out for all that is held.
const outageLease = time.Millisecond

// gate is how long a group is not swept again by another while something may run out.
const gate = 900 * time.Millisecond

func (x *world) runSweep(w *worker, lease time.Duration, late, later bool, limit int) {
	x.t.Helper()
	g := w.g
	if later {
		x.do("DEL", g.keys.Gate)
		g.sweeper = ""
	}
	notAfter := x.snap.now.Add(far)
	if late {
		notAfter = x.snap.now.Add(-time.Second)
	}
	last := "-"
	letters := g.in(inDead)
	if n := len(letters); n > 0 {
		last = "(" + letters[n-1].entry
	}
	asked := time.Now()
	v, err := engine.SweepCall(x.k, g.keys, g.name, w.name, lease, w.beat, notAfter, limit).Run(x.ctx, x.rdb)
	late = late || w.beat != 0 && g.rows[w.name].beat != w.beat // it was taken for dead, and its row removed
	shut := !late && g.sweeper != "" && g.sweeper != w.name
	if g.anyMissing() && !late && (!shut || err != nil) { // a shut gate is seen before
		if engine.Classify(err) != engine.NoGroup {
			x.fail("a group was swept that is not there", "%v %v", v, err)
		}
		return
	}
	x.must(v, err)
	s, err := engine.ReadSweep(v)
	x.must(s, err)
	if shut && s.State != engine.SweepShut && time.Since(g.swept) > g.shutFor {
		shut = false // this test was slow
	}
	lease = max(lease, g.longest)
	runOut := func(j *job) bool { return j.pending() && (j.idle >= lease || lease == outageLease) }
	want := engine.SweepQuiet
	for _, j := range g.jobs {
		if runOut(j) || j.pending() && j.idle >= lease*2/3 {
			want = engine.SweepWatch
		}
	}
	switch {
	case late:
		want = engine.SweepLate
	case shut:
		want = engine.SweepShut
	}
	if s.State != want {
		x.fail("a sweep found something else", "%s, want %s", s.State, want)
	}
	switch rest := (lease / 3).Truncate(time.Millisecond); {
	case want == engine.SweepWatch:
		g.sweeper, g.swept, g.shutFor = w.name, asked, gate
	case want == engine.SweepQuiet && rest > 0:
		g.sweeper, g.swept, g.shutFor = w.name, asked, rest
	}
	if want != engine.SweepWatch {
		runOut = func(*job) bool { return false }
	}
	took := x.sweptEntries(w, s, runOut) + x.sweptDeleted(g, s, runOut, last)
	if took > limit {
		x.fail("a sweep took more than its limit", "%d of %d", took, limit)
	}
	for _, j := range g.jobs {
		if took < limit && j.owner != w.name && runOut(j) {
			x.fail("a sweep left a job with a dead worker", "%s", j)
		}
	}
}

func (x *world) sweptEntries(w *worker, s engine.Sweep, runOut func(*job) bool) int {
	g, took := w.g, 0
	for lane, taken := range s.Taken {
		for _, r := range taken {
			j := g.find(place(lane), r.Entry)
			if j == nil || j.gone || !runOut(j) {
				x.fail("a sweep took a job from a live worker", "%s: %+v", s.State, j)
			}
			if r.Owner != j.owner {
				x.fail("a sweep tells another owner", "%q, want %q", r.Owner, j.owner)
			}
			j.owner, j.idle = w.name, fresh
			d := x.take(w, j, msg{r.Entry, r.Values}, false)
			d.swept = true
			w.held = append(w.held, d)
			took++
		}
	}
	return took
}

// sweptDeleted finds the dead letters of what was deleted by hand while it was held.
func (x *world) sweptDeleted(g *group, s engine.Sweep, runOut func(*job) bool, last string) int {
	letters := entriesOf(x.do("XRANGE", g.keys.Dead, last, "+"))
	if int(s.Deleted) != len(letters) {
		x.fail("what was deleted while it was held has no dead letter, or one too many", "%d, letters %v", s.Deleted, letters)
	}
	for _, m := range letters {
		var info engine.DeadInfo
		if err := json.Unmarshal([]byte(m.values[len(m.values)-1]), &info); err != nil {
			x.fail("a dead letter cannot be read", "%v", err)
		}
		var j *job
		for lane, key := range g.lanes {
			if found := g.find(place(lane), info.ID); found != nil && strings.Contains(info.Error, key+" ") {
				j = found
			}
		}
		if j == nil || !j.gone || !runOut(j) {
			x.fail("a dead letter tells of a lost job that is not lost", "%+v: %v", info, j)
		}
		x.lose(g, j)
		l := x.newJob(&content{})
		l.letter, l.at, l.entry, l.origin = true, inDead, m.entry, m.entry
		l.want.id, l.want.reason = info.ID, "lost"
		if info.ID == j.want.id {
			l.fence = j.fence
		}
		g.jobs = append(g.jobs, l)
		x.findMessy()
	}
	return len(letters)
}

// leave removes a consumer that holds nothing; one that holds something stays, and, if it is said so, one that was heard of.
func (x *world) leave(t *rapid.T) {
	g := one(t, "group", x.groups)
	heard := one(t, "heard", []time.Time{{}, x.snap.now.Add(-far), x.snap.now.Add(far)})
	x.runLeave(g, one(t, "consumer", g.names), heard)
}

func (x *world) runLeave(g *group, name string, heard time.Time) {
	want := int64(0)
	for at, missing := range g.missing {
		holds := slices.ContainsFunc(g.in(place(at)), func(j *job) bool { return j.pending() && j.owner == name })
		if !missing && !holds {
			want++
		}
	}
	if _, ok := g.rows[name]; ok && !heard.IsZero() && heard.Before(x.snap.now) {
		want = 0
	} else {
		delete(g.rows, name)
	}
	if v := x.must(engine.LeaveCall(x.k, g.keys, g.name, name, heard).Run(x.ctx, x.rdb)); v != want {
		x.fail("a consumer was removed that holds jobs or lives, or was not though it should", "%s: %v, want %d", name, v, want)
	}
}

// ---- dead letters

func (x *world) withLetters(t *rapid.T) (*group, []*job) {
	var gs []*group
	for _, g := range x.groups {
		if len(g.in(inDead)) > 0 {
			gs = append(gs, g)
		}
	}
	x.skipIf(len(gs) == 0)
	g := one(t, "group", gs)
	return g, g.in(inDead)
}

func (x *world) redrive(t *rapid.T) {
	g, letters := x.withLetters(t)
	j := one(t, "letter", letters)
	entry, id := j.entry, j.want.id
	m := entriesOf(x.do("XRANGE", g.keys.Dead, entry, entry))[0]
	e, o, _ := engine.ParseEntry(m.values[:8])
	o = o.Moved(engine.StepRedrive)
	o.ID = id
	e.Opts = o.String()
	x.send(&sent{what: fmt.Sprintf("redrive of #%d", j.n), call: engine.RedriveCall(g.keys, entry, id, e, engine.Opts{}), apply: func(v any, err error) {
		x.must(v, err)
		j := g.find(inDead, entry)
		if (v == "") != (j == nil) {
			x.fail("a dead letter was redriven twice, or not at all", "%v, %v", v, j)
		}
		if j == nil {
			return
		}
		x.move(j, inRedelivery, v.(string), 0, id)
		j.want.count(engine.StepRedrive)
		j.bad, j.letter = false, false
		x.index(g, j)
	}}, false)
}

func (x *world) purge(t *rapid.T) {
	g, letters := x.withLetters(t)
	x.runPurge(g, some(t, "letters", letters))
}

func (x *world) runPurge(g *group, letters []*job) {
	var list []engine.Letter
	for _, j := range letters {
		list = append(list, engine.Letter{Entry: j.entry, ID: j.want.id})
	}
	x.send(&sent{what: "purge", call: engine.PurgeCall(g.keys, list), apply: func(v any, err error) {
		x.must(v, err)
		n := int64(0)
		for _, letter := range list {
			if j := g.find(inDead, letter.Entry); j != nil {
				n++
				delete(g.ids.stale, letter.ID)
				x.finish(g, j)
			}
		}
		if v != n {
			x.fail("a purge deleted more or less than it should", "%v, want %d", v, n)
		}
	}}, false)
}

// ---- what people and time do

func (x *world) expireRecord(t *rapid.T) {
	x.skipIf(len(x.records) == 0)
	key := one(t, "record", slices.Sorted(maps.Keys(x.records)))
	x.do("DEL", key)
	delete(x.records, key)
}

// deleteEntry deletes or trims an entry, which only people do while a job has it.
func (x *world) deleteEntry(t *rapid.T) {
	type victim struct{ key, entry string }
	var victims []victim
	for _, m := range x.orders {
		victims = append(victims, victim{x.k.Stream, m.entry})
	}
	for _, g := range x.groups {
		for _, at := range []place{inRedelivery, inSuspects} {
			for _, j := range g.in(at) {
				if j.there() {
					victims = append(victims, victim{g.lanes[at], j.entry})
				}
			}
		}
	}
	x.skipIf(len(victims) == 0)
	v := one(t, "entry", victims)
	x.do("XDEL", v.key, v.entry)
	for _, g := range x.groups {
		for at, key := range g.lanes {
			if key != v.key {
				continue
			}
			switch j := g.find(place(at), v.entry); {
			case j == nil:
			case j.pending():
				j.gone = true
			default:
				j.gone = true
				x.lose(g, j)
			}
		}
	}
	if v.key == x.k.Stream {
		x.removeEntry(v.entry)
	}
}

// destroyGroup destroys a group on some of its streams.
func (x *world) destroyGroup(t *rapid.T) {
	g := one(t, "group", x.groups)
	x.skipIf(g.anyMissing())
	for _, lane := range one(t, "lanes", [][]place{{inOrders}, {inRedelivery}, {inSuspects}, {inOrders, inRedelivery, inSuspects}}) {
		x.must(engine.DoAt(x.ctx, x.rdb, 2, "XGROUP", "DESTROY", g.lanes[lane], g.name))
		g.missing[lane] = true
	}
}

func (x *world) openAction(t *rapid.T) { x.open(x.anyWorker(t)) }

func (x *world) flushScripts(*rapid.T) {
	if err := x.rdb.ScriptFlush(x.ctx).Err(); err != nil {
		x.fail("Redis answered with an error", "%v", fmt.Sprint(err))
	}
}
