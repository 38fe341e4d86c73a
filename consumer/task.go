package consumer

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// source is one stream of a worker.
type source struct {
	stream *stream.Stream
	keys   engine.Keys
	rank   int // 0 is served first

	reader  *reader
	trouble outage    // this stream can't be read, and others may be
	stalled outage    // its jobs wait, and this worker takes none
	leases  outage    // its leases can't be renewed
	sweeps  outage    // nor those of dead workers be taken over
	avoid   time.Time // until when it is left out; its reader's alone

	beats    *beats
	reports  *reporter             // the worker's
	clock    atomic.Int64          // Redis's clock minus ours, ns
	opened   time.Time             // ours, when Redis first told its own: before anything was read
	waiting  atomic.Int64          // jobs that the group has not read, at the last heartbeat; -1: not known
	mend     mender                // its lease loop's alone
	sweeping sync.Mutex            // held by the lease loop while it sweeps, and at the end by Run: then nothing is taken over any more
	stops    atomic.Pointer[stops] // what it must not run; nil: it may run all
	asks     atomic.Int64          // how often its kill switches were asked for
	lifts    atomic.Int64          // how often one that pauses was lifted
	orphans  atomic.Bool           // an answer was lost: some of what we own was never seen

	mu       sync.Mutex
	group    engine.GroupKeys
	kind     stream.Kind
	epoch    int64
	switches string  // the version of the kill switches that it obeys; "": there are none
	asked    int64   // which of the asks that was
	paused   bool    // jobs may have been put off that nothing holds back any more
	lanes    []*lane // those the reader reads
	suspects *lane   // what crashed its workers twice, read one at a time
}

// inOrder is the source's lanes as the scripts of leases name them.
func (src *source) inOrder() [engine.Lanes]*lane {
	return [engine.Lanes]*lane{src.lanes[1], src.lanes[0], src.suspects}
}

// now is Redis's clock.
func (src *source) now() time.Time { return time.Now().Add(time.Duration(src.clock.Load())) }

// lane is one stream key a worker reads: a source's own, or what comes back to its group.
type lane struct {
	src    *source
	key    string
	delete bool   // an entry goes as it ends
	more   bool   // the last read may not have emptied it; its reader's alone
	search bool   // an answer was lost: what it brought is looked for first; the suspects' reader's alone
	last   string // the highest entry that a read brought; its reader's alone

	confirmed atomic.Int64 // mono time: the leases of all tasks that the lane held by then were ours later than that

	// What this worker holds, from the reply that brought it until its end is
	// in Redis. Linked and not indexed: it changes once a batch, and is searched only after a lost reply.
	mu   sync.Mutex
	head *task
	held int
}

// hold adds a batch to what is held.
func (l *lane) hold(tasks []*task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(tasks)
}

// holdOthers holds those of the tasks whose entry is not held by another already that will do, and returns them.
func (l *lane) holdOthers(tasks []*task, do func(held *task) bool) []*task {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := make(map[string]bool)
	for t := l.head; t != nil; t = t.next {
		if do(t) {
			held[t.entry] = true
		}
	}
	tasks = slices.DeleteFunc(tasks, func(t *task) bool { return held[t.entry] })
	l.add(tasks)
	return tasks
}

// add is hold under the lock.
func (l *lane) add(tasks []*task) {
	since := mono()
	for _, t := range tasks {
		t.since = since
		t.next = l.head
		if l.head != nil {
			l.head.prev = t
		}
		l.head = t
	}
	l.held += len(tasks)
}

// forget takes away what has ended.
func (l *lane) forget(tasks []*task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range tasks {
		if t.prev != nil {
			t.prev.next = t.next
		} else {
			l.head = t.next
		}
		if t.next != nil {
			t.next.prev = t.prev
		}
		t.prev, t.next = nil, nil
		t.tell()
	}
	l.held -= len(tasks)
}

// entries is what is held, by entry.
func (l *lane) entries() map[string]*task {
	set, _ := l.snapshot()
	return set
}

// snapshot is what is held, by entry, and when that was so.
func (l *lane) snapshot() (set map[string]*task, at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	set = make(map[string]*task, l.held)
	for t := l.head; t != nil; t = t.next {
		if later := set[t.entry]; later == nil || later.lost.Load() { // a run whose lease was lost, and that goes on, hides no other
			set[t.entry] = t
		}
	}
	return set, mono()
}

// holds reports whether t is held still.
func (l *lane) holds(t *task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head == t || t.prev != nil
}

// repeats notes how far reads have come, and reports whether one brought what was delivered before: the group
// was set back, or made again.
func (l *lane) repeats(entries []rawEntry) bool {
	again := l.last != "" && !engine.EntryLess(l.last, entries[0].id)
	if last := entries[len(entries)-1].id; l.last == "" || engine.EntryLess(l.last, last) {
		l.last = last
	}
	return again
}

// notHeld leaves out what this worker holds, which is in its list again and goes on.
func (l *lane) notHeld(entries []rawEntry) []rawEntry {
	held := l.entries()
	return slices.DeleteFunc(entries, func(e rawEntry) bool {
		t := held[e.id]
		if t == nil || t.lost.Load() {
			return false
		}
		t.gone.Store(false)
		return true
	})
}

// suspect reports whether the job may be what kills its workers, and so goes through the suspects stream.
func (t *task) suspect() bool { return t.lane == t.lane.src.suspects || t.opts.Crashes > 1 }

// tell who waits for the task, once. The settler calls it, and nobody else.
func (t *task) tell() {
	if t.over != nil && !t.told {
		close(t.over)
		t.told = true
	}
}

var processStarted = time.Now()

// mono is a monotonic clock.
func mono() int64 { return int64(time.Since(processStarted)) }

// task is a delivery with what the engine needs to end it.
type task struct {
	Delivery
	lane   *lane
	entry  string // its ID in the lane's stream
	raw    engine.Entry
	opts   *engine.Opts // not to be changed: those that have none share one
	bad    error        // why the entry can't be understood
	route  *route
	policy policy
	weight int64

	started   time.Time
	took      time.Duration
	report    atomic.Pointer[report] // nil: its handler has said nothing
	verdict   verdict
	kept      *kept // what it leaves behind; nil: nothing
	seen      int64 // version of the data behind its lock that it runs with; 0: they are its own
	worker    string
	read      int64                         // mono time: the lease began no earlier
	since     int64                         // mono time: when the lane began to hold it
	sent      atomic.Bool                   // its end is on its way to Redis, and may be there
	lost      atomic.Bool                   // the lease is somebody else's now
	cancelled atomic.Bool                   // it is to end so, unless it succeeds
	barredBy  atomic.Pointer[engine.Switch] // the kill switch that cancelled it while it was held; nil: none did
	denied    bool                          // a heartbeat did not find it in our list, and somebody else may have had it; the lease loop's alone
	gone      atomic.Bool                   // the entry was deleted while it was held, and is in nobody's pending list any more
	owner     string                        // of a job taken over: who had it
	orphan    bool                          // found in our list without having been delivered, to be handed back
	over      chan struct{}                 // closed when the end is in Redis, or is refused there; nil: nobody waits for it
	told      bool                          // over is closed
	unsure    bool                          // an answer about its end was lost: what comes next may find it done

	again   time.Time       // set aside: not to be tried before; the settler's alone, as the next two
	asked   <-chan struct{} // closed: a heartbeat has looked at it
	checked bool            // unsure, and a heartbeat was asked
	refused bool            // it is set aside since Redis refused its end

	prev, next *task
}

// handOut makes tasks of the entries that a read brought from one lane.
func (w *Worker) handOut(l *lane, entries []rawEntry, read int64) []*task {
	now := l.src.now()
	l.src.mu.Lock()
	epoch := l.src.epoch
	l.src.mu.Unlock()
	tasks := make([]*task, len(entries))
	var slab []task
	for i, e := range entries {
		var t *task
		switch { // few allocations, and little kept alive by one slow job
		case e.size() > textBytes:
			t = new(task)
		case len(slab) == 0:
			slab = make([]task, min(len(entries)-i, textEntries))
			fallthrough
		default:
			t, slab = &slab[0], slab[1:]
		}
		w.fill(t, l, e, epoch, now)
		t.read = read
		tasks[i] = t
	}
	for some := range slices.Chunk(tasks, textEntries) {
		payloads(some)
	}
	return tasks
}

// payloads gives tasks their payloads, which handlers may write to, and small ones one array.
func payloads(tasks []*task) {
	size := 0
	for _, t := range tasks {
		size += len(t.raw.Data)
	}
	if size > textBytes {
		for _, t := range tasks {
			t.Payload = []byte(t.raw.Data)
		}
		return
	}
	room := make([]byte, 0, size)
	for _, t := range tasks {
		from := len(room)
		room = append(room, t.raw.Data...)
		t.Payload = room[from:len(room):len(room)]
	}
}

var noOpts engine.Opts

func (w *Worker) fill(t *task, l *lane, e rawEntry, epoch int64, now time.Time) {
	t.lane, t.entry, t.worker = l, e.id, w.name
	var opts engine.Opts
	t.raw, opts, t.bad = engine.ParseEntry(e.values)
	t.opts = &noOpts
	if t.raw.Opts != "" || len(opts.Fields) > 0 {
		kept := opts
		t.opts = &kept
	}
	o := t.opts
	t.route = w.routes[t.raw.Type]
	if t.route == nil {
		t.route = w.routes[""]
	}
	t.policy, t.weight = w.policy, w.unit
	if t.route != nil {
		t.policy, t.weight = t.route.policy, t.route.weight
	} else if tc, ok := w.cfg.Types[t.raw.Type]; ok {
		t.policy = t.policy.with(tc)
	}
	if o.MaxTries != 0 || o.Timeout != 0 || o.Backoff != nil || o.KeepResult != 0 {
		t.policy = t.policy.forJob(o)
	}
	t.Delivery = Delivery{
		ID:        e.id,
		Type:      t.raw.Type,
		Stream:    l.src.stream.Name(),
		Group:     w.group,
		Attempt:   o.Errors + 1,
		MaxTries:  t.policy.maxTries,
		Fence:     epoch<<32 + o.Moves,
		Published: engine.EntryTime(e.id),
		Delivered: now,
		Header:    o.Header,
		codec:     l.src.stream.Codec(),
		task:      t,
	}
	if o.ID != "" {
		t.ID = o.ID
	}
	if o.Published > 0 {
		t.Published = time.UnixMilli(o.Published)
	} else if o.ID != "" && engine.IsEntryID(o.ID) {
		t.Published = engine.EntryTime(o.ID)
	}
	t.Due = t.Published
	if o.Due > 0 {
		t.Due = time.UnixMilli(o.Due)
	}
	if len(o.Fields) > 0 {
		t.Fields = make(map[string]string, len(o.Fields))
		for _, f := range o.Fields {
			t.Fields[string(f[0])] = string(f[1])
		}
	}
}

// inIDs is the ID under which the ids hash is to know the task when it is sent
// back: none when the entry can't be read, since nothing in it says that it once was known by this ID.
func (t *task) inIDs() string {
	if t.bad != nil {
		return ""
	}
	return t.ID
}

// plain reports whether the job lives in the stream alone, with no place in ids.
func (t *task) plain() bool { return t.opts.ID == "" }

func (t *task) holding(group, consumer string) engine.Held {
	if t.gone.Load() {
		consumer = "" // nobody owns what is not there: it is ours since we have it
	}
	return engine.Held{Key: t.lane.key, Group: group, Consumer: consumer, Entry: t.entry, Delete: t.lane.delete}
}

// groupKeys of the task's stream.
func (t *task) groupKeys() engine.GroupKeys {
	t.lane.src.mu.Lock()
	defer t.lane.src.mu.Unlock()
	return t.lane.src.group
}

const (
	historyLen   = 20
	historyError = 1 << 10
	stackMax     = 8 << 10
	deadErrorMax = 4 << 10
)

// moved returns the entry as it goes on after verdict v, its counters brought up to date.
func (t *task) moved(v verdict) engine.Entry {
	e := t.raw
	if t.bad != nil {
		return e // kept as it is, for people to look at
	}
	step := v.step()
	o := t.opts.Moved(step)
	o.ID = t.ID
	if o.Published == 0 {
		o.Published = t.Published.UnixMilli()
	}
	if !t.started.IsZero() {
		o.Expires = 0 // it has started by then
	}
	switch step {
	case engine.StepFail:
		a := engine.Attempt{Attempt: t.Attempt, Worker: t.worker, Error: clip(text(v.err), historyError)}
		if !t.started.IsZero() {
			a.Started = t.started.UnixMilli()
			a.Took = t.took.Milliseconds()
		}
		o.History = remember(o.History, a)
	case engine.StepReclaim:
		o.History = remember(o.History, engine.Attempt{Attempt: t.Attempt, Worker: t.owner, Error: fmt.Sprintf("its lease ran out: crash %d", o.Crashes)})
	case engine.StepBounce:
		if o.BouncedAt == 0 {
			o.BouncedAt = t.Delivered.UnixMilli()
		}
	}
	e.Opts = o.String()
	return e
}

// remember appends to a history without touching the one it was copied from, and keeps its latest part.
func remember(history []engine.Attempt, a engine.Attempt) []engine.Attempt {
	history = append(history[:len(history):len(history)], a)
	return history[max(len(history)-historyLen, 0):]
}

// describe names the task for people.
func (t *task) describe() string {
	if t.Type == "" {
		return t.Stream + "/" + t.ID
	}
	return fmt.Sprintf("%s/%s (%s)", t.Stream, t.ID, t.Type)
}
