package consumer

import (
	"fmt"
	"math"
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

	trouble outage    // this stream can't be read, and others may be
	leases  outage    // its leases can't be renewed
	avoid   time.Time // until when it is left out; its reader's alone

	beats   *beats
	clock   atomic.Int64 // Redis's clock minus ours, ns
	orphans atomic.Bool  // an answer was lost: some of what we own was never seen

	mu       sync.Mutex
	group    engine.GroupKeys
	kind     stream.Kind
	epoch    int64
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
	delete bool // an entry goes as it ends
	more   bool // the last read may not have emptied it; its reader's alone

	confirmed atomic.Int64 // mono time: until then all leases of the lane's tasks are known to have been ours

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
	for _, t := range tasks {
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
		if t.over != nil {
			close(t.over)
		}
	}
	l.held -= len(tasks)
}

// entries is what is held, by entry.
func (l *lane) entries() map[string]*task {
	l.mu.Lock()
	defer l.mu.Unlock()
	set := make(map[string]*task, l.held)
	for t := l.head; t != nil; t = t.next {
		set[t.entry] = t
	}
	return set
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
	opts   engine.Opts
	bad    error // why the entry can't be understood
	route  *route
	policy policy
	weight int64

	started  time.Time
	took     time.Duration
	progress atomic.Pointer[progress]
	verdict  verdict
	worker   string
	read     int64         // mono time: the lease began no earlier
	lost     atomic.Bool   // the lease is somebody else's now
	gone     atomic.Bool   // the entry was deleted while it was held, and is in nobody's pending list any more
	owner    string        // of a job taken over: who had it
	over     chan struct{} // closed when the end is in Redis; nil: nobody waits for it
	unsure   bool          // an answer about its end was lost: what comes next may find it done

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
		if len(slab) == 0 {
			slab = make([]task, min(len(entries)-i, 16)) // few allocations, and little kept alive by one slow job
		}
		t := &slab[0]
		slab = slab[1:]
		w.fill(t, l, e, epoch, now)
		t.read = read
		tasks[i] = t
	}
	return tasks
}

func (w *Worker) fill(t *task, l *lane, e rawEntry, epoch int64, now time.Time) {
	t.lane, t.entry, t.worker = l, e.id, w.name
	t.raw, t.opts, t.bad = engine.ParseEntry(e.values)
	o := &t.opts
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
	if o.MaxTries != 0 || o.Timeout != 0 || o.Backoff != nil {
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
		Payload:   []byte(t.raw.Data),
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
	o := t.opts
	o.ID = t.ID
	o.Moves = more(o.Moves)
	if o.Published == 0 {
		o.Published = t.Published.UnixMilli()
	}
	failed := v.action == actRetry || v.action == actDead && (v.reason == reasonFailed || v.reason == reasonPermanent || v.reason == reasonUndecodable)
	if !t.started.IsZero() {
		o.Expires = 0 // it has started by then
	}
	switch {
	case failed:
		o.Errors = more(o.Errors)
		a := engine.Attempt{Attempt: t.Attempt, Worker: t.worker, Error: clip(text(v.err), historyError)}
		if !t.started.IsZero() {
			a.Started = t.started.UnixMilli()
			a.Took = t.took.Milliseconds()
		}
		o.History = remember(o.History, a)
	case v.action == actReclaim:
		o.Crashes = more(o.Crashes)
		o.History = remember(o.History, engine.Attempt{Attempt: t.Attempt, Worker: t.owner, Error: fmt.Sprintf("its lease ran out: crash %d", o.Crashes)})
	case v.action == actBounce:
		o.Bounces = more(o.Bounces)
		if o.BouncedAt == 0 {
			o.BouncedAt = t.Delivered.UnixMilli()
		}
	}
	if v.action != actBounce && v.action != actRelease && v.action != actReclaim {
		o.Bounces, o.BouncedAt = 0, 0 // somebody could handle it
	}
	e.Opts = o.String()
	return e
}

// remember appends to a history without touching the one it was copied from, and keeps its latest part.
func remember(history []engine.Attempt, a engine.Attempt) []engine.Attempt {
	history = append(history[:len(history):len(history)], a)
	return history[max(len(history)-historyLen, 0):]
}

// more counts one up, no further than what the wire format takes: a forged counter must not make a job unreadable.
func more[T int | int64](n T) T { return min(n+1, math.MaxInt32) }

// describe names the task for people.
func (t *task) describe() string {
	if t.Type == "" {
		return t.Stream + "/" + t.ID
	}
	return fmt.Sprintf("%s/%s (%s)", t.Stream, t.ID, t.Type)
}
