package consumer

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/engine"
)

// readMax is how many entries one read asks a lane for.
const readMax = 256

// readBytes is about how many bytes one read asks a lane for, by the size of those that came last: for larger answers
// Redis and the worker would wait for each other.
const readBytes = 2 << 20

// reader takes entries from its sources and queues them for the slots. There
// is one, or on a Cluster one for each source, since one command can't reach two slots.
type reader struct {
	w       *Worker
	sources []*source
	line    *line
	reads   outage // what can't be read now
	answer  engine.Answer
	reply   replyReader
	notRaw  bool  // an answer as it came was not understood: go-redis decodes the others
	weight  int64 // of a job, as the last read had them
	weighs  int64 // bytes of its entry, the same
	live    int64 // lanes that had any in the last read

	looked time.Time // when all lanes that come first were asked

	ghosts []*line   // connections that were lost: the server may still read for them
	again  time.Time // when to look for orphans once more, since a ghost could not be laid

	took   atomic.Int64 // entries read
	waited atomic.Int64 // times it waited for room

	below atomic.Int64 // the load at which the reader, waiting, wants to be told; -1: it does not wait
	room  chan struct{}
}

func (w *Worker) makeReaders() []*reader {
	var readers []*reader
	add := func(sources []*source) {
		r := &reader{w: w, sources: sources, weight: w.unit, room: make(chan struct{}, 1)}
		for _, src := range sources {
			src.reader = r
		}
		r.below.Store(-1)
		readers = append(readers, r)
	}
	if _, cluster := w.rdb.(*redis.ClusterClient); cluster {
		for i := range w.sources {
			add(w.sources[i : i+1])
		}
	} else {
		add(w.sources)
	}
	return readers
}

// run reads until ctx ends.
func (r *reader) run(ctx context.Context) {
	defer r.hangUp()
	defer r.lastOrphans(ctx)
	pauses := newPauses()
	for {
		n := r.waitForRoom(ctx)
		if ctx.Err() != nil {
			return
		}
		err := r.read(ctx, n)
		if err == nil {
			pauses.Reset()
			continue
		}
		if !sleep(ctx, r.failed(ctx, err, pauses)) {
			return
		}
	}
}

// failed looks at why a read failed, and says how long to wait before the next.
func (r *reader) failed(ctx context.Context, err error, pauses *backoff.ExponentialBackOff) time.Duration {
	w := r.w
	switch engine.Classify(err) {
	case engine.NoGroup, engine.Refused, engine.Denied: // flushed, deleted or overwritten by hand: one stream's own fault
		if r.blame(ctx) {
			w.log.Warn("a read failed, and its streams have been looked after", "err", err)
			break
		}
		r.reads.began(w.log, "jobs cannot be read, trying again", err)
	case engine.Lost:
		r.suspectOrphans()
		if r.line != nil && !errors.Is(err, errAnswer) { // else the connection is well, and goes back to the pool
			r.ghosts = append(r.ghosts, r.line)
		}
		r.reads.began(w.log, "jobs cannot be read, trying again", err)
	case engine.Busy:
		if c, ok := w.rdb.(*redis.ClusterClient); ok {
			c.ReloadState(ctx) // a slot may have moved: only commands through the client itself notice
		}
		fallthrough
	default:
		r.reads.began(w.log, "jobs cannot be read, trying again", err)
	}
	r.hangUp()
	return pauses.NextBackOff()
}

// avoidFor is how long a stream that can't be read is left out, for the others' sake.
const avoidFor = 2 * time.Second

// blame opens each source anew and leaves out those for which that fails. It reports whether any is well.
func (r *reader) blame(ctx context.Context) bool {
	well := false
	for _, src := range r.sources {
		callCtx, cancel := context.WithTimeout(ctx, openTimeout)
		err := r.w.openSource(callCtx, src)
		cancel()
		if err != nil {
			src.trouble.began(r.w.log.With("stream", src.stream.Name()), "a stream cannot be read, the others go on", err)
			src.avoid = time.Now().Add(avoidFor)
			continue
		}
		r.admit(src)
		well = true
	}
	return well
}

func (r *reader) admit(src *source) {
	src.trouble.over(r.w.log.With("stream", src.stream.Name()), "the stream can be read again")
	src.avoid = time.Time{}
}

// readmit tries streams that were left out for long enough.
func (r *reader) readmit(ctx context.Context) {
	for _, src := range r.sources {
		if src.avoid.IsZero() || time.Now().Before(src.avoid) {
			continue
		}
		callCtx, cancel := context.WithTimeout(ctx, openTimeout)
		err := r.w.openSource(callCtx, src)
		cancel()
		if err == nil {
			r.admit(src)
		} else {
			src.avoid = time.Now().Add(avoidFor)
		}
	}
}

func (r *reader) hangUp() {
	if r.line != nil {
		_ = r.line.close() // the connection goes back to its pool, or is broken
		r.line = nil
	}
}

// waitForRoom returns how many entries may be read, in weight, once there is
// room for at least one; with much in flight it waits for more, so that reads stay large.
func (r *reader) waitForRoom(ctx context.Context) int64 {
	w := r.w
	for {
		ahead := w.prefetch(time.Now()) * r.weight
		if r.batches() {
			ahead = 0 // a slot that ends a batch would take the few that were read ahead, and batches would stay small
		}
		limit := int64(w.cfg.MaxJobs)*w.unit + ahead
		target := limit - max(r.weight, ahead/4)
		if load := w.load.Load(); load <= target {
			return limit - load
		}
		r.below.Store(target)
		r.waited.Add(1)
		if w.load.Load() <= target {
			r.below.Store(-1)
			continue
		}
		select {
		case <-r.room:
		case <-ctx.Done():
		}
		r.below.Store(-1)
		if ctx.Err() != nil {
			return 0
		}
	}
}

// read asks for entries and queues them. free is what may be taken, in weight.
func (r *reader) read(ctx context.Context, free int64) error {
	w := r.w
	if r.line == nil {
		callCtx, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		l, err := dial(callCtx, w.rdb, r.sources[0].keys.Stream, blockFor+replySlack, w.cfg.Lease)
		if err != nil {
			return err
		}
		r.line = l
	}
	if r.anyOrphans() || !r.again.IsZero() && time.Now().After(r.again) {
		if err := r.handBackOrphans(ctx); err != nil {
			return err
		}
	}
	r.readmit(ctx)
	lanes, block := r.choose(time.Now())
	if len(lanes) == 0 {
		sleep(ctx, avoidFor/4) // every stream is left out
		return nil
	}
	block = block && r.reads.cause() == nil // after an outage the first read answers at once, and says that it is over
	fit := free / max(r.weight, 1)
	if block && fit < int64(len(lanes)) && len(lanes) <= looksMax {
		// Each lane may answer with an entry, and there is no room for so many: ask fewer at a time, the first ones first.
		size := int(max(fit, 1))
		for part := range slices.Chunk(lanes, size) {
			n, err := r.readFrom(ctx, part, 1, false)
			if n > 0 || err != nil {
				return err
			}
		}
	}
	share, most := int64(len(lanes)), min(readMax, max(readBytes/max(r.weighs, 1), 1))
	if r.batches() { // to fill them; what is too much for once waits for the next
		share, most = max(r.live, 1), max(readMax, w.unit)
	}
	count := min(max(fit/share, 1), most)
	_, err := r.readFrom(ctx, lanes, count, block)
	return err
}

// batches reports whether most of what was read last goes to batch handlers.
func (r *reader) batches() bool { return r.weight*2 <= r.w.unit }

// looksMax is up to how many lanes are looked at a few at a time before a read blocks on them all.
const looksMax = 32

// few jobs are less than it takes to keep all processors busy.
const few = 8

// readFrom reads up to count entries of each lane, queues them, and returns how many there were.
func (r *reader) readFrom(ctx context.Context, lanes []*lane, count int64, block bool) (int64, error) {
	w := r.w
	asked := mono()
	read, err := r.ask(ctx, lanes, count, block)
	if err != nil {
		return 0, err
	}
	defer r.reply.drop()
	r.reads.over(w.log, "jobs are read again")
	var weight, bytes, n, live int64
	for _, l := range lanes {
		entries := read[l.key]
		l.more = int64(len(entries)) == count
		if len(entries) == 0 {
			continue
		}
		if l.repeats(entries) {
			entries = r.notEnded(ctx, l, l.notHeld(entries))
		}
		tasks := w.handOut(l, entries, asked)
		l.hold(tasks)
		for i, t := range tasks {
			weight += t.weight
			bytes += int64(entries[i].size())
		}
		n += int64(len(tasks))
		live++
		w.load.Add(sum(tasks))
		w.queue(tasks)
	}
	if n > 0 {
		r.took.Add(n)
		r.weight, r.weighs, r.live = max(weight/n, 1), bytes/n, live
	}
	if 0 < n && n < few { // their handlers first: the next read has to be sent, which takes as long as starting them
		runtime.Gosched()
	}
	return n, nil
}

// notEnded leaves out what this worker held when it was delivered again, and has ended since.
func (r *reader) notEnded(ctx context.Context, l *lane, entries []rawEntry) []rawEntry {
	if len(entries) == 0 {
		return nil
	}
	callCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTimeout)
	defer cancel()
	v, err := engine.DoAt(callCtx, r.line, 1, "XPENDING", l.key, r.w.group, entries[0].id, entries[len(entries)-1].id, pendingMax, r.w.name)
	if err != nil {
		return entries // some may run twice: better than not at all
	}
	pending := make(map[string]bool)
	list, _ := v.([]any)
	for _, item := range list {
		if fields, _ := item.([]any); len(fields) > 0 {
			id, _ := fields[0].(string)
			pending[id] = true
		}
	}
	if len(pending) == pendingMax {
		return entries
	}
	return slices.DeleteFunc(entries, func(e rawEntry) bool { return !pending[e.id] })
}

// pendingMax is how many entries of this worker's list are looked through after a replay.
const pendingMax = 10_000

func sum(tasks []*task) (weight int64) {
	for _, t := range tasks {
		weight += t.weight
	}
	return weight
}

// choose says which lanes to read: all of them, and blocked, when none is
// known to hold more; else those of the first source that does, with all
// before it, so that earlier streams come first and nothing is read that need not be.
func (r *reader) choose(now time.Time) (lanes []*lane, block bool) {
	for _, src := range r.sources {
		if !src.avoid.IsZero() {
			continue
		}
		more := false
		for _, l := range src.lanes {
			lanes = append(lanes, l)
			more = more || l.more
		}
		if !more {
			continue
		}
		if before := lanes[:len(lanes)-len(src.lanes)]; len(before) > looksMax {
			if now.Sub(r.looked) < looksEach {
				return src.lanes, false
			}
			r.looked = now
		}
		return lanes, false
	}
	r.looked = now
	return lanes, true
}

// looksEach is how often a reader of many streams looks whether an earlier one has got something while a later one has more:
// each look passes all of them, brings few entries, and costs Redis about 0.1 µs a stream.
const looksEach = 20 * time.Millisecond

// ask sends one XREADGROUP and returns the entries of each lane that has any. It outlives ctx by what CLIENT UNBLOCK needs,
// so that its answer is never dropped.
func (r *reader) ask(ctx context.Context, lanes []*lane, count int64, block bool) (map[string][]rawEntry, error) {
	args := make([]any, 0, 8+2*len(lanes))
	args = append(args, "XREADGROUP", "GROUP", r.w.group, r.w.name, "COUNT", count)
	if block {
		args = append(args, "BLOCK", r.line.block.Milliseconds())
	}
	args = append(args, "STREAMS")
	first := len(args)
	for _, l := range lanes {
		args = append(args, l.key)
	}
	for range lanes {
		args = append(args, ">")
	}
	callCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.line.block+replySlack)
	defer cancel()
	if block {
		line, stopped, returned := r.line, make(chan struct{}), make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(returned)
			line.unblock(ctx, stopped)
		})
		defer func() {
			close(stopped)
			if !stop() {
				<-returned
			}
		}()
	}
	if r.line.raw && !r.notRaw && r.weighs < rawMax {
		ok, err := engine.DoRaw(callCtx, r.line, first, &r.answer, args...)
		if err != nil {
			return nil, err
		}
		if ok {
			read, err := r.reply.read(r.answer.Bytes())
			r.notRaw = err != nil
			return read, err
		}
	}
	v, err := engine.DoAt(callCtx, r.line, first, args...)
	if engine.Classify(err) == engine.OK { // redis.Nil: nothing came
		return parseRead(v)
	}
	return nil, err
}

// rawMax is up to how many bytes an entry may have, as the last read had them, for the next answer to be taken as it
// comes: that saves allocations, but copies the payload once more, and from a few hundred bytes on that costs more.
const rawMax = 192

// queue gives tasks to the slots.
func (w *Worker) queue(tasks []*task) {
	for _, t := range tasks { // before any token, so that the slot that gets the first finds all that has arrived
		if t.route != nil && t.route.batch != nil {
			t.route.queue.push(t)
		}
	}
	w.ready.push(tasks...)
}
