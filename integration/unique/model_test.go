package unique_test

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// What rapid runs, unless it is told otherwise.
var defaults = map[string]string{"rapid.checks": "200", "rapid.steps": "100"}

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Visit(func(f *flag.Flag) { delete(defaults, f.Name) })
	for name, value := range defaults {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	redistest.Main(m)
}

const (
	group = "g"
	hour  = time.Hour
)

// job is one that lives, as the model has it.
type job struct {
	id, key, data string
	until         int64 // as in Opts
	coalesce      bool
	place, at     string // as in ids
	owner         string // of its entry, when somebody has read it
}

// task is a job as a worker knows it, who may have lost it.
type task struct {
	job
	held engine.Held
	seen int64
}

// behind is what is kept behind a lock.
type behind struct {
	version  int64
	id, data string
}

// lock of a key.
type lock struct {
	holder string
	timed  bool
}

// world is a queue and its model.
type world struct {
	t     *rapid.T
	rdb   *redis.Client
	keys  engine.Keys
	group engine.GroupKeys

	n     int
	jobs  map[string]*job
	tasks []*task
	locks map[string]lock
	next  map[string]behind
}

// TestUniqueModel: after every step each lock has the holder that the model says, what is behind it is the latest, and every
// job is where it should be, with the data it should have.
func TestUniqueModel(t *testing.T) {
	opt := redistest.Options(t)
	opt.Protocol = 2 // lists are lists
	rdb := redistest.Connect(t, opt)
	base, n := redistest.Name(t), 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		w := newWorld(rt, rdb, fmt.Sprint(base, "-", n))
		rt.Repeat(map[string]func(*rapid.T){
			"publish": w.publish, "read": w.read, "start": w.start, "complete": w.complete, "bury": w.bury, "retry": w.retry, "release": w.release,
			"steal": w.steal, "promote": w.promote, "redrive": w.redrive, "purge": w.purge, "expire": w.expire, "": w.check,
		})
		w.drain()
	})
}

func newWorld(t *rapid.T, rdb *redis.Client, name string) *world {
	w := &world{t: t, rdb: rdb, keys: engine.NewKeys(name), jobs: make(map[string]*job), locks: make(map[string]lock), next: make(map[string]behind)}
	w.group = w.keys.Group(group, false)
	if _, err := engine.Open(t.Context(), rdb, w.keys, group, "queue", false); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) run(c engine.Call) any {
	v, err := c.Run(w.t.Context(), w.rdb)
	if err != nil {
		w.t.Fatalf("%s: %v", c.Script.Name(), err)
	}
	return v
}

func (w *world) opts(j job) engine.Opts {
	return engine.Opts{ID: j.id, Unique: j.key, Until: j.until, Coalesce: j.coalesce}
}

func (w *world) entry(j job) engine.Entry {
	return engine.Entry{Type: "t", Data: j.data, Opts: w.opts(j).String()}
}

// stands is the job that holds a key, which may have completed; "" when another may have it.
func (w *world) stands(key string) string {
	l := w.locks[key]
	j := w.jobs[l.holder]
	if l.holder == "" || j != nil && j.place == "dead" || j == nil && !l.timed {
		return ""
	}
	return l.holder
}

func (w *world) publish(t *rapid.T) {
	w.n++
	j := job{id: "j" + strconv.Itoa(w.n), key: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key"), data: "data " + strconv.Itoa(w.n)}
	j.until = rapid.SampledFrom([]int64{0, 0, engine.UntilStarted, hour.Milliseconds()}).Draw(t, "until")
	conflict := rapid.SampledFrom([]string{engine.ConflictKeep, engine.ConflictReplace, engine.ConflictCoalesce}).Draw(t, "conflict")
	delay := rapid.SampledFrom([]time.Duration{0, hour}).Draw(t, "delay")
	if conflict == engine.ConflictCoalesce {
		j.until, delay, j.coalesce = 0, 0, true
	}
	c := engine.UniqueCall(w.keys, j.id, "n"+j.id, 0, delay, time.Time{}, engine.Locked{Key: j.key, Until: j.until, Conflict: conflict}, w.entry(j), w.opts(j))
	s, err := engine.ReadStored(w.run(c), "n"+j.id)
	if err != nil {
		t.Fatal(err)
	}
	holder := w.stands(j.key)
	first := w.jobs[holder]
	place := "orders"
	if delay > 0 {
		place = "scheduled"
	}
	updated := false
	switch {
	case holder == "":
		j.place = place
		w.jobs[j.id] = &j
		w.locks[j.key] = lock{j.id, j.until > 0}
		delete(w.next, j.key)
		first = &j
	case conflict == engine.ConflictReplace && first != nil && first.place == "scheduled":
		first.data, first.until, first.coalesce, first.place = j.data, j.until, j.coalesce, place
		w.locks[j.key] = lock{holder, j.until > 0}
		delete(w.next, j.key)
		updated = true
	case conflict == engine.ConflictCoalesce && first != nil && !w.locks[j.key].timed:
		w.next[j.key] = behind{w.next[j.key].version + 1, j.id, j.data}
		updated = true
	}
	if s.Holder != holder || s.Updated != updated || s.Duplicate != (holder != "") || s.Gone {
		t.Fatalf("answered %+v; want the holder %q, updated %v", s, holder, updated)
	}
	if first != nil && (holder == "" || updated && !strings.HasPrefix(conflict, "co")) {
		first.at = w.whereIs(first.id)
	}
	if rapid.Bool().Draw(t, "again") { // as after a lost answer
		again, err := engine.ReadStored(w.run(c), "n"+j.id)
		if err != nil || again.Duplicate != s.Duplicate || again.Holder != s.Holder || again.Updated != s.Updated {
			t.Fatalf("answered %+v, %v, and before that %+v", again, err, s)
		}
	}
}

// whereIs is where the index has a job, as the model does not give out entries and times.
func (w *world) whereIs(id string) string {
	_, at, _ := engine.SplitWhere(w.rdb.HGet(w.t.Context(), w.keys.IDs, id).Val())
	return at
}

func (w *world) read(t *rapid.T) {
	lane := rapid.SampledFrom([]string{"orders", "redelivery"}).Draw(t, "lane")
	key := map[string]string{"orders": w.keys.Stream, "redelivery": w.group.Redelivery}[lane]
	res, err := w.rdb.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: group, Consumer: "me", Streams: []string{key, ">"}, Count: 1, Block: -1}).Result()
	if err == redis.Nil { //nolint:errorlint // go-redis returns it bare
		t.Skip("nothing to read")
	}
	if err != nil {
		t.Fatal(err)
	}
	m := res[0].Messages[0]
	for _, j := range w.jobs {
		if j.place == lane && j.at == m.ID && j.owner == "" {
			if m.Values["data"] != j.data || m.Values["opts"] != w.opts(*j).String() {
				t.Fatalf("read %v, want %+v", m.Values, j)
			}
			j.owner = "me"
			w.tasks = append(w.tasks, &task{*j, engine.Held{Key: key, Group: group, Consumer: "me", Entry: m.ID, Delete: true}, 0})
			return
		}
	}
	t.Fatalf("read a job that the model does not have: %v", m)
}

// steal gives an entry to another consumer, as when a lease runs out. Its first owner goes on.
func (w *world) steal(t *rapid.T) {
	x := w.pick(t)
	j := w.of(x)
	if j == nil || j.owner != x.held.Consumer {
		t.Skip("not its own")
	}
	w.n++
	stolen := task{*j, x.held, 0}
	stolen.held.Consumer = "w" + strconv.Itoa(w.n)
	if err := w.rdb.XClaimJustID(t.Context(), &redis.XClaimArgs{Stream: x.held.Key, Group: group, Consumer: stolen.held.Consumer, Messages: []string{x.held.Entry}}).Err(); err != nil {
		t.Fatal(err)
	}
	j.owner = stolen.held.Consumer
	w.tasks = append(w.tasks, &stolen)
}

func (w *world) pick(t *rapid.T) *task {
	if len(w.tasks) == 0 {
		t.Skip("no task")
	}
	return rapid.SampledFrom(w.tasks).Draw(t, "task")
}

// of is the job of a task when it is where the task was read; nil: it has moved on.
func (w *world) of(x *task) *job {
	j := w.jobs[x.id]
	if j == nil || j.place != x.place || j.at != x.at {
		return nil
	}
	return j
}

// own is of for what looks at the owner.
func (w *world) own(x *task) *job {
	if j := w.of(x); j != nil && j.owner == x.held.Consumer {
		return j
	}
	return nil
}

// unlock ends the lock of a job whose run has seen a version of what is behind it.
func (w *world) unlock(j job, seen int64) {
	if holder := w.locks[j.key].holder; holder != "" && holder != j.id {
		return
	}
	delete(w.locks, j.key)
	b, ok := w.next[j.key]
	delete(w.next, j.key)
	if !ok || b.version <= seen {
		return
	}
	w.jobs[b.id] = &job{id: b.id, key: j.key, data: b.data, coalesce: true, place: "orders", at: w.whereIs(b.id)}
	w.locks[j.key] = lock{b.id, false}
}

func (w *world) start(t *rapid.T) {
	x := w.pick(t)
	j := w.own(x)
	switch {
	case x.until == engine.UntilStarted:
		ours, _ := engine.ReadStarted(w.run(engine.StartUntilCall(x.held, w.group, x.id, x.key)))
		if ours != (j != nil) {
			t.Fatalf("started: %v, want %v", ours, j != nil)
		}
		if ours {
			w.unlock(x.job, 0)
		}
	case x.coalesce:
		ours, latest := engine.ReadStarted(w.run(engine.StartLatestCall(x.held, w.group, x.id, x.key)))
		want := behind{}
		if w.locks[x.key].holder == x.id {
			want = w.next[x.key]
		}
		if ours != (j != nil) || ours && (latest.Version != want.version || latest.Entry.Data != want.data) {
			t.Fatalf("started: %v with %+v, want %v with %+v", ours, latest, j != nil, want)
		}
		if ours && latest.Version > 0 {
			x.data, x.seen = latest.Entry.Data, latest.Version
		}
	default:
		t.Skip("needs no start")
	}
}

func (x *task) lock() engine.Lock { return engine.Lock{Key: x.key, Seen: x.seen} }

func (w *world) complete(t *rapid.T) {
	x := w.pick(t)
	end := engine.End{Entry: x.held.Entry, ID: x.id, Indexed: true}
	if x.until <= 0 {
		end.Lock = x.lock()
	}
	late, _, _ := engine.ReadCompleted(w.run(engine.CompleteCall(x.held, w.group, "completed", end)))
	j := w.of(x)
	if (len(late) == 0) != (j != nil) {
		t.Fatalf("late %v, and the job is %+v", late, j)
	}
	if j != nil {
		delete(w.jobs, x.id)
		if x.until <= 0 {
			w.unlock(x.job, x.seen)
		}
	}
}

// moved checks a guarded move, and returns the job when it was made.
func (w *world) moved(t *rapid.T, x *task, answer any) *job {
	j := w.own(x)
	if done := answer != "" && answer != int64(0); done != (j != nil) {
		t.Fatalf("answered %v, and the job is %+v", answer, j)
	}
	if j != nil {
		j.data, j.owner, j.at = x.data, "", w.whereIs(x.id)
	}
	return j
}

func (w *world) bury(t *rapid.T) {
	x := w.pick(t)
	if j := w.moved(t, x, w.run(engine.DeadCall(x.held, w.group, x.id, w.entry(x.job), "{}", x.lock()))); j != nil {
		j.place = "dead"
		w.unlock(x.job, x.seen)
	}
}

func (w *world) retry(t *rapid.T) {
	x := w.pick(t)
	if j := w.moved(t, x, w.run(engine.RetryCall(x.held, w.group, x.id, hour, w.entry(x.job)))); j != nil {
		j.place = "retrying"
	}
}

func (w *world) release(t *rapid.T) {
	x := w.pick(t)
	if j := w.moved(t, x, w.run(engine.ReleaseCall(x.held, w.group, x.id, w.entry(x.job)))); j != nil {
		j.place = "redelivery"
	}
}

func (w *world) promote(t *rapid.T) {
	for from, slot := range map[string]engine.Slot{"scheduled": engine.ScheduledSlot(w.keys), "retrying": engine.RetryingSlot(w.group)} {
		for _, id := range w.rdb.ZRange(t.Context(), slot.Set, 0, -1).Val() {
			w.rdb.ZAdd(t.Context(), slot.Set, redis.Z{Score: 1000, Member: id})
		}
		if _, err := engine.Promote(t.Context(), w.rdb, slot, 1000); err != nil {
			t.Fatal(err)
		}
		for _, j := range w.jobs {
			if j.place == from {
				j.place, j.at = slot.Place, w.whereIs(j.id)
			}
		}
	}
}

func (w *world) dead(t *rapid.T) *job {
	var dead []*job
	for _, id := range slices.Sorted(maps.Keys(w.jobs)) {
		if w.jobs[id].place == "dead" {
			dead = append(dead, w.jobs[id])
		}
	}
	if len(dead) == 0 {
		t.Skip("nothing is dead")
	}
	return rapid.SampledFrom(dead).Draw(t, "letter")
}

func (w *world) redrive(t *rapid.T) {
	j := w.dead(t)
	moved, holder, _ := engine.ReadRedriven(w.run(engine.RedriveCall(w.group, j.at, j.id, w.entry(*j), w.opts(*j))))
	stands := w.stands(j.key)
	if moved != (stands == "") || holder != stands {
		t.Fatalf("redriven: %v, the holder %q; want %q to hold the key", moved, holder, stands)
	}
	if moved {
		j.place, j.at = "redelivery", w.whereIs(j.id)
		w.locks[j.key] = lock{j.id, j.until > 0}
	}
}

func (w *world) purge(t *rapid.T) {
	j := w.dead(t)
	if v := w.run(engine.PurgeCall(w.group, []engine.Letter{{Entry: j.at, ID: j.id, Unique: j.key}})); v != int64(1) {
		t.Fatalf("purged %v", v)
	}
	delete(w.jobs, j.id)
}

// expire ends locks that are held for a time.
func (w *world) expire(t *rapid.T) {
	for key, l := range w.locks {
		if l.timed {
			w.rdb.Del(t.Context(), w.keys.Unique(key))
			delete(w.locks, key)
		}
	}
}

func (w *world) check(t *rapid.T) {
	for _, key := range []string{"a", "b"} {
		l := w.locks[key]
		holder := w.rdb.Get(t.Context(), w.keys.Unique(key)).Val()
		if timed := w.rdb.PTTL(t.Context(), w.keys.Unique(key)).Val() > 0; holder != l.holder || timed != l.timed {
			t.Fatalf("the lock %s is held by %q, for a time: %v; want %+v", key, holder, timed, l)
		}
		want := ""
		if b, ok := w.next[key]; ok {
			want = fmt.Sprintf("%d n%s %s", b.version, b.id, b.id)
			if w.stands(key) == "" || l.timed {
				t.Fatalf("%+v is behind a lock that nobody will end", b)
			}
		}
		if kept, _, _ := strings.Cut(w.rdb.HGet(t.Context(), w.keys.Next, key).Val(), "\n"); kept != want {
			t.Fatalf("behind the lock %s is %q, want %q", key, kept, want)
		}
	}
	ids := w.rdb.HGetAll(t.Context(), w.keys.IDs).Val()
	for id, where := range ids {
		place, at, _ := engine.SplitWhere(where)
		if j := w.jobs[id]; j == nil || j.place != place || j.at != at {
			t.Fatalf("%s is at %q, want %+v", id, where, j)
		}
	}
	if len(ids) != len(w.jobs) {
		t.Fatalf("%d jobs in the index, want %d", len(ids), len(w.jobs))
	}
}

// drain ends all jobs: nothing is left behind.
func (w *world) drain() {
	for range 10 { // what is behind locks comes after what is not
		w.promote(w.t)
		for lane, key := range map[string]string{"orders": w.keys.Stream, "redelivery": w.group.Redelivery} {
			for _, m := range w.rdb.XRange(w.t.Context(), key, "-", "+").Val() {
				for _, j := range w.jobs {
					if j.place != lane || j.at != m.ID {
						continue
					}
					w.rdb.XGroupSetID(w.t.Context(), key, group, "$")
					w.rdb.Do(w.t.Context(), "XCLAIM", key, group, "last", 0, m.ID, "FORCE", "JUSTID")
					end := engine.End{Entry: m.ID, ID: j.id, Indexed: true, Lock: engine.Lock{Key: j.key}}
					if j.until > 0 {
						end.Lock = engine.Lock{}
					}
					w.run(engine.CompleteCall(engine.Held{Key: key, Group: group, Consumer: "last", Entry: m.ID, Delete: true}, w.group, "completed", end))
					delete(w.jobs, j.id)
					if j.until <= 0 {
						w.unlock(*j, 0)
					}
					break
				}
			}
		}
		for _, j := range w.jobs {
			if j.place == "dead" {
				w.run(engine.PurgeCall(w.group, []engine.Letter{{Entry: j.at, ID: j.id, Unique: j.key}}))
				delete(w.jobs, j.id)
			}
		}
		w.check(w.t)
	}
	w.expire(w.t)
	if len(w.jobs) > 0 || w.rdb.Exists(w.t.Context(), w.keys.Unique("a"), w.keys.Unique("b"), w.keys.Next, w.keys.IDs).Val() > 0 {
		w.t.Fatalf("left over: %v", w.jobs)
	}
	keys, err := redistest.Keys(w.t.Context(), w.rdb, w.keys.Stream)
	if err == nil && len(keys) > 0 {
		err = w.rdb.Del(w.t.Context(), keys...).Err()
	}
	if err != nil {
		w.t.Fatal(err)
	}
}
