package model_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-go/penstock/stream/engine"
)

// worker is what one worker believes. It may be wrong: it does not know that its lease has run out.
type worker struct {
	g     *group
	name  string
	lease time.Duration
	epoch int64
	beats int64 // sent
	beat  int64 // the last that Redis took
	held  []*delivery
}

// delivery is an entry a worker believes to be its own.
type delivery struct {
	n         int // of its job
	w         *worker
	lane      place
	entry, id string
	e         engine.Entry
	o         engine.Opts
	bad       bool
	swept     bool // taken over, to be moved on
	gone      bool // a heartbeat said that it was deleted
}

// outcome is how a worker ends a delivery.
type outcome string

const (
	completes outcome = "completes"
	fails     outcome = "fails"
	snoozes   outcome = "snoozes"
	bounces   outcome = "bounces"
	releases  outcome = "releases"
	reclaims  outcome = "reclaims"
	buries    outcome = "buries" // failed, no tries left
	expires   outcome = "expires"
	cancels   outcome = "cancels" // it has heard of its job's mark, or a kill switch says so
	pauses    outcome = "pauses"
)

var steps = map[outcome]engine.Step{
	fails: engine.StepFail, snoozes: engine.StepPark, bounces: engine.StepBounce, releases: engine.StepRelease,
	reclaims: engine.StepReclaim, buries: engine.StepFail, expires: engine.StepPark, pauses: engine.StepPause,
}

// maxCrashes is the worker's setting.
const maxCrashes = 3

// sent is a call, and what the model says of its answer. It may be sent again, by whoever got none.
type sent struct {
	what  string
	call  engine.Call
	apply func(v any, err error)
	once  bool // see again
}

// send runs a call. A repeat of it may come at any later time.
func (x *world) send(s *sent, last bool) {
	x.t.Helper()
	v, err := s.call.Run(x.ctx, x.rdb)
	s.apply(v, err)
	if !last && !s.once {
		if x.sent = append(x.sent, s); len(x.sent) > 20 {
			x.sent = x.sent[1:]
		}
	}
}

// hire starts a worker, which opens its group.
func (x *world) hire(g *group) {
	x.names++
	w := &worker{g: g, name: fmt.Sprint("w", x.names), lease: rapid.SampledFrom([]time.Duration{long, short}).Draw(x.t, "lease")}
	g.workers, g.names = append(g.workers, w), append(g.names, w.name)
	x.open(w)
}

// fire: a worker is killed. A new one takes its place, with a name of its own.
func (x *world) fire(w *worker) {
	i := slices.Index(w.g.workers, w)
	w.g.workers = slices.Delete(w.g.workers, i, i+1)
	x.lost(w.g, w.name)
	x.hire(w.g)
}

// open makes the group, as a worker does at its start and when it finds no group.
func (x *world) open(w *worker) {
	x.t.Helper()
	g, kind := w.g, "queue"
	if x.events {
		kind = "events"
	}
	o, err := engine.Reopen(x.ctx, x.rdb, x.k, g.name, kind, w.epoch)
	if x.must(o, err); o.Refusal != "" {
		x.fail("a group was refused", "%+v", o)
	}
	if g.anyMissing() {
		g.epoch++
	}
	if o.Epoch != g.epoch {
		x.fail("the epoch of a group is wrong", "%s: %d, want %d", g.name, o.Epoch, g.epoch)
	}
	w.epoch = o.Epoch
	for lane, missing := range g.missing {
		if missing {
			x.remade(g, place(lane))
		}
	}
	g.missing = [engine.Lanes]bool{}
}

// remade says what a group finds that was destroyed and made again: in its own streams all that
// is there, since what is done is not; in the stream itself, on an events stream, all from its last known position.
func (x *world) remade(g *group, lane place) {
	for _, j := range g.in(lane) {
		switch {
		case j.gone:
			x.lose(g, j) // nobody knows any more that it was pending
		case j.pending():
			j.owner, j.idle = "", fresh
		}
	}
	if lane != inOrders || !x.events {
		return
	}
	for _, m := range x.orders {
		j := g.find(inOrders, m.entry)
		after := g.position == "" || compareIDs(m.entry, g.position) > 0
		switch {
		case j == nil && after: // it runs again
			x.reborn(g, m)
		case j != nil && !after:
			x.fail("a group that was made again leaves out an unfinished job", "%s: position %s", j, g.position)
		}
	}
}

// reborn makes a job of an entry that a group has had before.
func (x *world) reborn(g *group, m *msg) {
	e, o, err := engine.ParseEntry(m.values)
	c := &content{typ: e.Type, data: e.Data, trace: e.Traceparent}
	j := x.newJob(c)
	j.bad = err != nil
	for _, f := range o.Fields {
		c.fields = append(c.fields, string(f[0]), string(f[1]))
	}
	c.odd = len(e.Opts) > 0 && !j.bad && slices.Contains([]string{c.optsWithOdd(""), c.optsWithOdd(o.ID)}, e.Opts)
	if j.want.id = o.ID; o.ID == "" {
		j.want.id = m.entry
	}
	j.at, j.entry, j.origin, j.fence = inOrders, m.entry, m.entry, g.fences[m.entry]
	g.jobs = append(g.jobs, j)
	x.findMessy()
}

func (c *content) optsWithOdd(id string) string {
	odd := *c
	odd.odd = true
	return odd.opts(id)
}

// ---- reading

// take notes what Redis has given to a worker; the job's fence must have grown.
func (x *world) take(w *worker, j *job, m msg, runs bool) *delivery {
	d := &delivery{n: j.n, w: w, lane: j.at, entry: m.entry}
	var err error
	d.e, d.o, err = engine.ParseEntry(m.values)
	d.bad = err != nil
	if d.id = d.o.ID; d.id == "" {
		d.id = m.entry
	}
	if d.bad != j.bad || d.id != j.want.id {
		x.fail("a delivery is not the job that it should be", "%s: %+v", j, d)
	}
	if runs && !d.bad {
		fence := w.epoch<<32 + d.o.Moves
		if fence <= j.fence {
			x.fail("a fence has not grown with a delivery", "%s: %d after %d", j, fence, j.fence)
		}
		j.fence = fence
		w.g.fences[j.origin] = max(w.g.fences[j.origin], fence)
	}
	return d
}

// readSome reads from lanes; when the answer is lost, the worker does not know what it has.
func (x *world) readSome(w *worker, lanes []place, count int, lost bool) {
	g := w.g
	args := []any{"XREADGROUP", "GROUP", g.name, w.name, "COUNT", count, "STREAMS"}
	missing := false
	for _, lane := range lanes {
		args = append(args, g.lanes[lane])
		missing = missing || g.missing[lane]
	}
	for range lanes {
		args = append(args, ">")
	}
	v, err := engine.DoAt(x.ctx, x.rdb, 7, args...)
	if missing {
		if engine.Classify(err) != engine.NoGroup {
			x.fail("a read of no group was answered", "%v %v", v, err)
		}
		x.open(w)
		return
	}
	if engine.Classify(err) != engine.OK {
		x.must(v, err)
	}
	got := make(map[string][]msg)
	for _, item := range listOf(v) {
		pair := listOf(item)
		got[textOf(pair[0])] = entriesOf(pair[1])
	}
	for _, lane := range lanes {
		entries := got[g.lanes[lane]]
		var waiting []*job
		for _, j := range g.in(lane) {
			if j.waiting() && len(waiting) < count {
				waiting = append(waiting, j)
			}
		}
		if len(entries) != len(waiting) {
			x.fail("a read brought more or less than what waits", "%s: %d, want %d", lane, len(entries), len(waiting))
		}
		for i, j := range waiting {
			if entries[i].entry != j.entry {
				x.fail("a read brought another job than the one whose turn it is", "%s: %s", j, entries[i].entry)
			}
			j.owner, j.idle = w.name, fresh
			if !lost {
				w.held = append(w.held, x.take(w, j, entries[i], true))
			}
		}
	}
}

// orphans hands back what is pending under a worker's name and not held: the answers of reads that were lost.
func (x *world) handBackOrphans(w *worker) {
	g := w.g
	for lane := range place(engine.Lanes) {
		v, err := engine.DoAt(x.ctx, x.rdb, 7, "XREADGROUP", "GROUP", g.name, w.name, "COUNT", 100, "STREAMS", g.lanes[lane], "0")
		if g.missing[lane] {
			if engine.Classify(err) != engine.NoGroup {
				x.fail("a read of no group was answered", "%v %v", v, err)
			}
			continue
		}
		x.must(v, err)
		own := entriesOf(listOf(listOf(v)[0])[1])
		for _, j := range g.in(lane) {
			if j.pending() && j.owner == w.name {
				if len(own) == 0 || own[0].entry != j.entry || (own[0].values == nil) != j.gone {
					x.fail("what is pending under a worker's name is not what should be", "%s: %v", j, own)
				}
				if m := own[0]; !j.gone {
					j.idle = fresh // reading it again has made it so
					if w.holds(lane, j.entry) == nil {
						d := x.take(w, j, m, false)
						x.send(x.ending(d, releases), false)
					}
				}
				own = own[1:]
			}
		}
		if len(own) > 0 {
			x.fail("something is pending under a worker's name that should not be", "%v", own)
		}
	}
}

func (w *worker) holds(lane place, entry string) *delivery {
	for _, d := range w.held {
		if d.lane == lane && d.entry == entry {
			return d
		}
	}
	return nil
}

func (w *worker) forget(d *delivery) {
	if i := slices.Index(w.held, d); i >= 0 {
		w.held = slices.Delete(w.held, i, i+1)
	}
}

// ---- ending

func (d *delivery) holding() engine.Held {
	h := engine.Held{Key: d.w.g.lanes[d.lane], Group: d.w.g.name, Consumer: d.w.name, Entry: d.entry, Delete: d.lane != inOrders || !d.w.g.events}
	if d.gone {
		h.Consumer = ""
	}
	return h
}

// moved is the entry as it goes on: the engine's own arithmetic, as the worker does it.
func (d *delivery) moved(how outcome) engine.Entry {
	e := d.e
	if d.bad {
		return e
	}
	o := d.o.Moved(steps[how])
	o.ID = d.id
	e.Opts = o.String()
	return e
}

var reasons = map[outcome]string{buries: "failed", expires: "expired"}

func info(id, reason string) string {
	b, err := json.Marshal(engine.DeadInfo{ID: id, Reason: reason})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func (d *delivery) plain() bool { return d.o.ID == "" }

// ending is the call with which a worker ends a delivery. It may be sent more than once, and by a worker that has lost its lease.
func (x *world) ending(d *delivery, how outcome) *sent {
	h, g, e := d.holding(), d.w.g, d.moved(how)
	id := d.id
	if how == completes || how == cancels {
		returns := d.n%2 == 0 // half of the jobs return something
		state := map[outcome]string{completes: "completed", cancels: cancelled}[how]
		if how == completes && d.plain() && !returns {
			return x.settling(d.w, d.lane, []*delivery{d})
		}
		end := engine.End{Entry: d.entry, ID: id, Indexed: !d.plain()}
		r := record{id: id, group: g, state: state}
		if !engine.IsEntryID(id) {
			end.Keep = tombstone
		}
		if returns {
			r.result = fmt.Sprint("what #", d.n, "\nreturned")
			end.Keep, end.Record = tombstone, (&engine.Note{Type: e.Type}).Record(state, []byte(r.result))
		}
		return &sent{what: fmt.Sprintf("%s of #%d by %s", how, d.n, d.w.name), call: engine.CompleteCall(h, g.keys, state, end),
			apply: func(v any, err error) { x.completed(d, h, r, end.Keep > 0, v, err) }}
	}
	s := &sent{what: fmt.Sprintf("%s of #%d by %s", how, d.n, d.w.name), once: d.gone} // without its check of the owner, a repeat could move the job a second time
	to := inDead
	switch how {
	case fails, snoozes, bounces, pauses:
		s.call = engine.RetryCall(h, g.keys, id, far, e)
		if how == pauses {
			s.call = engine.PauseCall(h, g.keys, id, far, e)
		}
		s.apply = func(v any, err error) { x.retried(d, h, id, how, v, err) }
		return s
	case reclaims, releases:
		in := id
		if d.bad {
			in = ""
		}
		if how == reclaims && d.o.Crashes > 0 {
			to, s.call = inSuspects, engine.SuspectCall(h, g.keys, id, e)
		} else {
			to, s.call = inRedelivery, engine.ReleaseCall(h, g.keys, in, e)
		}
		s.apply = func(v any, err error) { x.moved(d, h, id, in, how, to, v, err) }
		return s
	default:
		s.call = engine.DeadCall(h, g.keys, id, e, info(id, reasons[how]), engine.Lock{})
	}
	s.apply = func(v any, err error) { x.moved(d, h, id, id, how, to, v, err) }
	return s
}

// entitled finds the job that a guarded call may move, nil when it may not; ok is false when there is no group to ask.
func (x *world) entitled(d *delivery, h engine.Held, err error) (j *job, ok bool) {
	g := d.w.g
	j = g.find(d.lane, d.entry)
	if h.Consumer == "" {
		x.must(nil, err)
		if j == nil || !j.limbo || j.owner != d.w.name {
			x.fail("the model cannot say whose a deleted job is", "%v", j)
		}
		return j, true
	}
	if g.missing[d.lane] {
		if engine.Classify(err) != engine.NoGroup {
			x.fail("a job was moved though its group is gone", "%v", err)
		}
		return nil, false
	}
	x.must(nil, err)
	if j == nil || !j.pending() || j.owner != d.w.name {
		return nil, true
	}
	return j, true
}

// moved is what the answer to a move must be, and what it changes; told is the ID that the call names.
func (x *world) moved(d *delivery, h engine.Held, id, told string, how outcome, to place, v any, err error) {
	x.t.Helper()
	j, ok := x.entitled(d, h, err)
	if !ok {
		return
	}
	entry, _ := v.(string)
	if (entry == "") != (j == nil) {
		x.fail("a job was moved by a worker that does not own it, or not moved by the one that does", "%s %s %s: %v, job %v", d.w.name, how, d.entry, v, j)
	}
	if j == nil || x.marked(d, told, engine.Marked(v)) {
		return
	}
	if d.bad {
		x.move(j, to, entry, 0, entry)
		if to == inDead {
			j.want.id, j.want.reason = id, reasons[how]
			x.index(d.w.g, j)
		}
		return
	}
	x.move(j, to, entry, 0, id)
	j.want.count(steps[how])
	j.want.reason = reasons[how]
	x.index(d.w.g, j)
}

func (x *world) retried(d *delivery, h engine.Held, id string, how outcome, v any, err error) {
	x.t.Helper()
	j, ok := x.entitled(d, h, err)
	if !ok {
		return
	}
	due, _ := v.(int64)
	if (due == 0) != (j == nil) {
		x.fail("a job was parked by a worker that does not own it, or not parked by the one that does", "%s %s %s: %v, job %v", d.w.name, how, d.entry, v, j)
	}
	if j == nil || x.marked(d, id, engine.Marked(v)) {
		return
	}
	if other := d.w.g.parked(id); other != nil {
		switch {
		case id == d.entry && !h.Delete: // the group was made again, and had it a second time
			if due != other.due {
				x.fail("a copy of a parked job was not dropped", "%s: %v", other, v)
			}
			x.finish(d.w.g, j)
		case !engine.Taken(v):
			x.fail("one parked job has overwritten another", "%s: %v", other, v)
		case id != d.entry:
			d.id = d.entry
			x.send(x.ending(d, how), false)
		case !slices.Contains(d.w.held, d): // no other ID is left: it tries again later
			d.w.held = append(d.w.held, d)
		}
		return
	}
	delete(d.w.g.paused, id)
	if how == pauses {
		d.w.g.paused[id] = true
	}
	x.move(j, inRetrying, "", due, id)
	j.want.count(steps[how])
	x.index(d.w.g, j)
	if late := time.UnixMilli(due).Sub(x.snap.now.Add(far)); late < 0 || late > time.Hour {
		x.fail("a parked job is due at a strange time", "%s: %s", j, late)
	}
}

// completed says what the answer to CompleteCall must be.
func (x *world) completed(d *delivery, h engine.Held, r record, keep bool, v any, err error) {
	x.t.Helper()
	late, refused, ok := engine.ReadCompleted(x.must(v, err))
	if !ok || len(refused) > 0 {
		x.fail("a record was not written", "%s: %v", r.id, v)
	}
	g, id := d.w.g, r.id
	j := g.find(d.lane, d.entry)
	messy := g.ids.messy[id]
	pointed, mark := false, "" // pointed: ids says that the job is at this entry
	if field, ok := g.ids.stale[id]; ok {
		at, entry, m := engine.SplitWhere(field)
		pointed, mark = at == d.lane.String() && entry == d.entry, m
	}
	if j != nil && j.indexed && j.want.id == id {
		pointed, mark = true, j.mark
	}
	if messy { // whose the field is only Redis knows: it may be of the other one, and stay
		at, entry, _ := engine.SplitWhere(x.snap.hashes[g.ids.key][id])
		pointed = at == d.lane.String() && entry == d.entry
	}
	pending := j != nil && j.pending() && !g.missing[d.lane]
	there := j != nil && j.there()
	pointed = pointed && !d.plain()
	want := h.Delete && (there || pointed || pending) || !h.Delete && pending // pointed, or pending: it was deleted while it was held, and has run all the same
	done := len(late) == 0
	if done != want && (there || !messy || !h.Delete) {
		x.fail("a job was completed by a worker that came too late, or not by the one in time", "%s %s: %v, want %v, job %v", d.w.name, d.entry, v, want, j)
	}
	if done {
		if !d.plain() && (there || pointed || !h.Delete) {
			delete(g.ids.stale, id)
			delete(g.marks, id)
		}
		if keep {
			r.mark, r.any = mark, messy
			if d.plain() {
				r.mark, r.any = "", false
			}
			x.records[g.keys.Job(id)] = r
		}
	}
	switch {
	case j == nil:
	case j.limbo && j.owner != d.w.name: // its owner goes on, and does not know
		if done {
			j.indexed, j.mark = false, ""
		}
	case done || j.limbo || pending:
		x.finish(g, j)
	}
}

// settling is the call with which a worker completes plain jobs.
func (x *world) settling(w *worker, lane place, ds []*delivery) *sent {
	entries := make([]string, len(ds))
	for i, d := range ds {
		entries[i] = d.entry
	}
	h := ds[0].holding()
	return &sent{what: fmt.Sprintf("%d settled by %s", len(ds), w.name), call: engine.SettleCall(h, entries), apply: func(v any, err error) {
		x.must(v, err)
		g := w.g
		var late []string
		acked := 0
		jobs := make([]*job, len(entries))
		for i, entry := range entries {
			j := g.find(lane, entry)
			if j == nil || slices.Contains(jobs, j) {
				continue // a worker may have it twice: its group was made again meanwhile
			}
			if jobs[i] = j; j.pending() && !g.missing[lane] {
				acked++
			}
		}
		for i, j := range jobs {
			pending := j != nil && j.pending() && !g.missing[lane]
			switch {
			case !h.Delete && !pending:
				late = append(late, "")
			case h.Delete && (j == nil || !j.there()) && acked < len(jobs):
				late = append(late, entries[i])
			}
			if j != nil && (pending || h.Delete && j.there() || j.limbo && j.owner == w.name) {
				x.finish(g, j)
			}
		}
		if got := textsOf(v); !slices.Equal(got, late) {
			x.fail("a batch was completed otherwise than it should be", "late %q, want %q", got, late)
		}
	}}
}

// ends is how a run may end: what must not run is refused.
func (d *delivery) ends(t *rapid.T) outcome {
	switch {
	case d.swept:
		return reclaims
	case d.w.g.marks[d.id] && rapid.Bool().Draw(t, "knows"):
		return cancels
	case d.bad:
		return rapid.SampledFrom([]outcome{buries, releases}).Draw(t, "outcome")
	case d.o.Crashes >= maxCrashes:
		return rapid.SampledFrom([]outcome{expires, releases}).Draw(t, "outcome")
	}
	return rapid.SampledFrom([]outcome{completes, completes, completes, fails, fails, snoozes, bounces, pauses, cancels, releases, buries, expires}).Draw(t, "outcome")
}
