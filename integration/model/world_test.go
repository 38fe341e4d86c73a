package model_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/penstock-go/penstock/stream/engine"
)

// world is one stream on Redis, its groups and workers, and what the model says of them.
type world struct {
	t      *rapid.T
	ctx    context.Context
	rdb    *redis.Client
	name   string
	k      engine.Keys
	events bool
	crowd  int // more jobs than this are too many
	groups []*group
	snap   *snapshot // of the last check
	broken bool      // something was wrong

	orders     []*msg // the entries of the stream itself
	scheduled  []*job
	published  map[string]string // of an events stream: the fields of what was published with an ID
	publishers *index            // of an events stream
	records    map[string]record // by key
	sent       []*sent           // calls that may be repeated
	jobs       int               // made so far
	names      int               // of workers, so far
}

func newWorld(t *rapid.T, rdb *redis.Client, name string) *world {
	x := &world{
		t: t, ctx: context.Background(), rdb: rdb, name: name, k: engine.NewKeys(name),
		published: make(map[string]string), records: make(map[string]record),
	}
	groups := rapid.SampledFrom([]int{1, 1, 2, 3}).Draw(t, "groups")
	x.events = groups > 1
	x.crowd = rapid.SampledFrom([]int{3 * groups, 40}).Draw(t, "crowd") // few jobs see much
	shared := newIndex(x.k.IDs)
	x.publishers = shared
	for i := range groups {
		g := &group{name: string(rune('a' + i)), events: x.events, fences: make(map[string]int64), rows: make(map[string]row), marks: make(map[string]bool), paused: make(map[string]bool)}
		g.keys = x.k.Group(g.name, x.events)
		g.lanes = x.k.LaneKeys(g.keys)
		if g.ids = shared; x.events {
			g.ids = newIndex(g.keys.IDs)
		}
		g.missing = [engine.Lanes]bool{true, true, true}
		x.groups = append(x.groups, g)
		for range rapid.IntRange(2, 3).Draw(t, "workers") {
			x.hire(g)
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "clock") == 3 {
		x.clash()
	}
	return x
}

// clash lets the streams give out the same entry IDs, as they do when much is added to each within a millisecond.
func (x *world) clash() {
	const ahead = "9999999999999-0" // an entry of a host whose clock is wrong is enough
	x.do("XSETID", x.k.Stream, ahead)
	for _, g := range x.groups {
		x.do("XSETID", g.keys.Redelivery, ahead)
		x.do("XSETID", g.keys.Suspects, ahead)
	}
}

// fail ends the run. What is always the same says why, so that rapid knows a failure again when it makes it smaller.
func (x *world) fail(why, format string, args ...any) {
	x.t.Helper()
	x.broken = true
	x.t.Logf("%s: %s", why, fmt.Sprintf(format, args...))
	x.t.Fatal(why)
}

func (x *world) must(v any, err error) any {
	x.t.Helper()
	if err != nil {
		x.fail("Redis answered with an error", "%v", err)
	}
	return v
}

func (x *world) do(args ...any) any {
	x.t.Helper()
	return x.must(engine.Do(x.ctx, x.rdb, args...))
}

func (x *world) newJob(c *content) *job {
	x.jobs++
	return &job{n: x.jobs, content: c}
}

// living is how many jobs there are.
func (x *world) living() int {
	n := len(x.scheduled)
	for _, g := range x.groups {
		n += len(g.jobs)
	}
	return n
}

// arrive notes a new entry of the stream, which is a job for each group.
func (x *world) arrive(entry string, values []string, of *job) {
	x.orders = append(x.orders, &msg{entry: entry, values: values})
	for i, g := range x.groups {
		j := of
		if i > 0 {
			j = x.newJob(of.content)
			j.want, j.bad, j.mark, j.indexed = of.want, of.bad, of.mark, of.indexed
		}
		if x.events { // a group's own index learns of a job when it moves
			j.mark, j.indexed = "", false
		}
		if j.want.id == "" {
			j.want.id = entry
		}
		j.at, j.entry, j.origin = inOrders, entry, entry
		g.jobs = append(g.jobs, j)
	}
	x.findMessy()
}

// leaveOrders takes a queue's entry out of the stream, as its job leaves it.
func (x *world) leaveOrders(j *job) {
	if j.at == inOrders && !x.events && j.there() {
		x.removeEntry(j.entry)
	}
}

func (x *world) removeEntry(entry string) {
	for i, m := range x.orders {
		if m.entry == entry {
			x.orders = append(x.orders[:i:i], x.orders[i+1:]...)
			return
		}
	}
}

// finish takes a job out of the world.
func (x *world) finish(g *group, j *job) {
	x.leaveOrders(j)
	for i, other := range g.jobs {
		if other == j {
			g.jobs = append(g.jobs[:i:i], g.jobs[i+1:]...)
			return
		}
	}
	x.fail("the model finishes a job twice", "%s", j)
}

// lose takes out a job whose entry was deleted by hand: its field in ids stays, since nobody knows any more that it was the job's.
func (x *world) lose(g *group, j *job) {
	if j.indexed {
		g.ids.stale[j.want.id] = j.where()
	}
	x.finish(g, j)
}

// lost takes out all that only a worker had that is no more.
func (x *world) lost(g *group, worker string) {
	for _, j := range append([]*job(nil), g.jobs...) {
		if j.limbo && j.owner == worker {
			x.lose(g, j)
		}
	}
}

// move puts a job where a script has moved it to.
func (x *world) move(j *job, to place, at string, due int64, id string) {
	x.leaveOrders(j)
	if j.want.id != id {
		j.mark, j.indexed = "", false // it goes on under another ID
	}
	j.at, j.entry, j.due = to, at, due
	j.owner, j.idle, j.gone, j.limbo = "", fresh, false, false
	j.want.id = id
	x.findMessy()
}

// index notes that ids has a field for a job now; the publisher's mark stays in it.
func (x *world) index(g *group, j *job) {
	if field, ok := g.ids.stale[j.want.id]; ok {
		_, _, j.mark = engine.SplitWhere(field)
		delete(g.ids.stale, j.want.id)
	}
	j.indexed = true
}

// count is what a step does to a job's counters: said here a second time, since the engine's own word is what is tested.
func (w *want) count(step engine.Step) {
	w.moves++
	switch step {
	case engine.StepFail:
		w.errs, w.bounces, w.pauses = w.errs+1, 0, 0
	case engine.StepReclaim:
		w.crashes++
	case engine.StepBounce:
		w.bounces++
	case engine.StepPark:
		w.bounces, w.pauses = 0, 0
	case engine.StepPause:
		w.bounces, w.pauses = 0, w.pauses+1
	case engine.StepRedrive:
		w.errs, w.crashes, w.bounces, w.pauses, w.reason = 0, 0, 0, 0, ""
	}
}

// ---- publishing

var chosen = []string{"c0", "c1", "c2", "c3", "c4"}

// content draws what a job is to hold.
func (x *world) content() (*content, engine.Entry) {
	x.jobs++ // not a job's number, and makes the payload its own
	c := &content{typ: "t" + fmt.Sprint(x.jobs%3), data: fmt.Sprintf(`{"n":%d}`, x.jobs), odd: rapid.Bool().Draw(x.t, "odd")}
	if c.odd {
		c.trace = "00-11111111111111111111111111111111-2222222222222222-01"
	}
	return c, engine.Entry{Type: c.typ, Data: c.data, Traceparent: c.trace}
}

// opts of a job as it is published.
func (c *content) opts(id string) string {
	var parts []string
	if id != "" {
		parts = append(parts, fmt.Sprintf(`"id":%q`, id))
	}
	if c.odd {
		parts = append(parts, oddOpt)
	}
	if len(parts) == 0 {
		return ""
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func (x *world) skipIf(cond bool) {
	if cond {
		x.t.Skip()
	}
}

// Publish adds a plain job.
func (x *world) publish(*rapid.T) {
	x.skipIf(x.living() > x.crowd)
	c, e := x.content()
	e.Opts = c.opts("")
	entry := x.do(append([]any{"XADD", x.k.Stream, "*"}, e.Fields()...)...)
	x.arrive(entry.(string), engineFields(e), x.newJob(c))
}

// publishID adds a job with an ID, now or for later. Again repeats it, as a publisher does whose answer never came.
func (x *world) publishID(t *rapid.T) {
	x.skipIf(x.living() > x.crowd)
	id := rapid.SampledFrom(chosen).Draw(t, "id")
	later := rapid.Bool().Draw(t, "later")
	c, e := x.content()
	by := fmt.Sprint("p", x.jobs) // a repeat has the same
	e.Opts = c.opts(id)
	call := engine.PublishCall(x.k, id, by, 0, e)
	if later {
		call = engine.ScheduleCall(x.k, id, by, 0, far, time.Time{}, e)
	}
	x.send(&sent{what: "publish of " + id, call: call, apply: func(v any, err error) { x.stored(id, by, later, c, e, v, err) }}, false)
}

// far is a due time that does not come while a test runs: it makes due what it wants.
const far = 24 * time.Hour

// stored is what the answer to a publish must be, and what it changes.
func (x *world) stored(id, by string, later bool, c *content, e engine.Entry, v any, err error) {
	stored, err := engine.ReadStored(x.must(v, err), by)
	if err != nil {
		x.fail("the answer to a publish cannot be read", "%v", err)
	}
	field, taken := x.field(id)
	at, entry, mark := engine.SplitWhere(field)
	if gone := taken && at == "orders" && !x.exists(entry); gone && stored.Gone != (mark != by) {
		x.fail("an entry that was deleted by hand is not missed", "%s: %+v, field %q", id, stored, field)
	}
	if !taken && later && slices.ContainsFunc(x.scheduled, func(j *job) bool { return j.want.id == id }) {
		taken, mark = true, "" // another program's job of the same ID has taken its field along
	}
	if r, ok := x.records[x.k.Job(id)]; ok && !taken {
		taken, mark = true, r.mark
		if r.any {
			return
		}
	}
	if taken {
		if mine := !stored.Duplicate || stored.Mine; mine != (mark == by) {
			x.fail("a job was stored though one with its ID stands, or a publisher's own job is taken for another's", "%s by %s: %+v, field %q", id, by, stored, field)
		}
		return
	}
	if stored.Duplicate || stored.Full {
		x.fail("a job was refused though none with its ID stands", "%s: %+v", id, stored)
	}
	j := x.newJob(c)
	j.want.id, j.indexed, j.mark = id, true, by
	delete(x.publishers.stale, id)
	if !x.events {
		delete(x.groups[0].marks, id) // of an earlier job
	}
	if later {
		if due := stored.Due; !stored.Deferred || time.UnixMilli(due).Sub(x.snap.now.Add(far)) < 0 || time.UnixMilli(due).Sub(x.snap.now.Add(far)) > time.Hour {
			x.fail("a deferred job is due at a strange time", "%+v", stored)
		}
		j.at, j.due = inScheduled, stored.Due
		x.scheduled = append(x.scheduled, j)
		x.findMessy()
		return
	}
	x.arrive(stored.Entry, engineFields(e), j)
	if x.events {
		x.published[id] = where(inOrders, stored.Entry, by)
	}
}

// field is what the publishers' index said of an ID before this step.
func (x *world) field(id string) (string, bool) {
	if x.publishers.messy[id] {
		v, ok := x.snap.hashes[x.k.IDs][id]
		return v, ok
	}
	for _, j := range x.scheduled {
		if j.want.id == id {
			return j.where(), true
		}
	}
	if x.events {
		v, ok := x.published[id]
		return v, ok
	}
	for _, j := range x.groups[0].jobs {
		if j.want.id == id && j.indexed {
			return j.where(), true
		}
	}
	v, ok := x.publishers.stale[id]
	return v, ok
}

func (x *world) exists(entry string) bool {
	for _, m := range x.orders {
		if m.entry == entry {
			return true
		}
	}
	return false
}

// foreign adds what some other program might.
func (x *world) foreign(t *rapid.T) {
	x.skipIf(x.living() > x.crowd)
	c, _ := x.content()
	c.odd = false
	c.trace = ""
	j := x.newJob(c)
	values := []string{"type", c.typ, "data", c.data, "more", "of it"}
	kinds := []string{"fields", "fields", "no type", "bad", "bad", "dup", "dup", "wide"}
	if x.living() > 5 {
		kinds = kinds[:7] // reading a wide one again and again takes its time
	}
	switch one(t, "kind", kinds) {
	case "no type":
		c.typ, c.data = "", ""
		values = []string{"a", "1", "b", fmt.Sprint(j.n)}
	case "bad":
		j.bad = true
		values = engineFields(engine.Entry{Type: c.typ, Data: c.data, Opts: badOpts})
	case "dup": // an ID that a living job may have
		j.want.id = rapid.SampledFrom(chosen).Draw(t, "id")
		values = engineFields(engine.Entry{Type: c.typ, Data: c.data, Opts: c.opts(j.want.id)})
	case "wide": // more than Lua unpacks at once
		for i := range 4100 {
			values = append(values, fmt.Sprint("f", i), fmt.Sprint(i))
		}
	}
	if len(values) != 8 {
		c.fields = values
	}
	args := []any{"XADD", x.k.Stream, "*"}
	for _, v := range values {
		args = append(args, v)
	}
	entry := x.do(args...).(string)
	x.arrive(entry, values, j)
}
