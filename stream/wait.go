package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/engine"
)

const (
	waitPoll  = time.Second // between two looks at all that is waited for: half of it to one and a half
	waitBatch = 200         // jobs in one look
)

// Wait waits until a job has ended, and says how: completed, cancelled or
// dead. What ended before is known at once. On an events stream it
// waits for every group. It gives up when ctx ends.
//
// Any number of callers share one subscription to Redis, which the first makes
// and the last closes. Its messages are hints: one that is lost, or a job that leaves no record, is noticed within 1.5 s. Redis may
// go away meanwhile.
//
// ErrNotFound: there is no such job, or it has finished and left no record; see [Stream.Get].
func (s *Stream) Wait(ctx context.Context, id string) (Info, error) {
	w := &waiter{id: id, answer: make(chan looked, 1)}
	l := s.joinAny(w) // before the look, so that an end after it is heard
	if l != nil {
		defer s.leave(ctx, l, w)
	}
	info, err := s.Get(ctx, id)
	if err != nil || info.Ended() {
		return info, err
	}
	if l == nil {
		l = s.join(w)
		defer s.leave(ctx, l, w)
	}
	l.tell(func() { l.known(id, info) })
	select {
	case a := <-w.answer:
		return a.info, a.err
	case <-ctx.Done():
		return Info{}, fmt.Errorf("wait for job %s of %s: %w", id, s.name, errors.Join(context.Cause(ctx), l.trouble()))
	}
}

// Result waits until a job has completed and returns what its handler
// returned, decoded by the stream's codec; []byte and json.RawMessage take it as it is.
//
// A job that did not complete is a *JobError, one that completed and whose
// result is not kept ErrNoResult. Else errors are those of [Stream.Wait].
func Result[R any](ctx context.Context, s *Stream, id string) (R, error) {
	var result R
	info, err := s.Wait(ctx, id)
	switch {
	case err != nil:
		return result, err
	case info.State != Completed:
		return result, &JobError{info}
	case info.Result == nil:
		return result, fmt.Errorf("job %s of %s: %w", id, s.name, ErrNoResult)
	}
	switch r := any(&result).(type) {
	case *[]byte:
		*r = info.Result
	case *json.RawMessage:
		*r = info.Result
	default:
		if err := s.cfg.Codec.Unmarshal(info.Result, &result); err != nil {
			return result, fmt.Errorf("the result of job %s of %s: %w", id, s.name, err)
		}
	}
	return result, nil
}

// waiter is one call of Wait.
type waiter struct {
	id     string      // that it asked for
	answer chan looked // capacity 1
}

// lookout looks at jobs for those who wait for them. It lives from the first to the last.
type lookout struct {
	s    *Stream
	stop context.CancelFunc
	done chan struct{}
	ping chan struct{} // capacity 1: something is due

	mu      sync.Mutex
	waiters map[string][]*waiter
	due     map[string]how    // to be looked at next
	own     map[string]string // of an entry that carries an ID of its own: that ID, by which its end is announced
	entry   map[string]string // and the other way round
	up      bool
	events  bool  // every group has a record of its own
	err     error // of the last look, when Redis was away
}

// how a job is to be looked at.
type how int

const (
	byRecord how = iota + 1 // its end was announced
	wholly
)

// joinAny adds a waiter to the lookout that there is, or returns nil.
func (s *Stream) joinAny(w *waiter) *lookout {
	s.waits.Lock()
	defer s.waits.Unlock()
	if s.lookout != nil {
		s.lookout.add(w)
	}
	return s.lookout
}

// join adds a waiter to the lookout, which the first one makes.
func (s *Stream) join(w *waiter) *lookout {
	s.waits.Lock()
	defer s.waits.Unlock()
	l := s.lookout
	if l == nil {
		ctx, cancel := context.WithCancel(context.Background())
		l = &lookout{s: s, stop: cancel, done: make(chan struct{}), ping: make(chan struct{}, 1),
			waiters: make(map[string][]*waiter), due: make(map[string]how), own: make(map[string]string), entry: make(map[string]string)}
		s.lookout = l
		go l.run(ctx)
	}
	l.add(w)
	l.tell(func() {
		if l.up { // it may have ended since the caller looked; when the channel comes up all are looked at
			l.due[w.id] = wholly
		}
	})
	return l
}

func (l *lookout) add(w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiters[w.id] = append(l.waiters[w.id], w)
}

// leave takes a waiter out again. The last one ends the lookout, and waits for its end unless ctx has ended.
func (s *Stream) leave(ctx context.Context, l *lookout, w *waiter) {
	s.waits.Lock()
	l.mu.Lock()
	list := l.waiters[w.id]
	for i := range list {
		if list[i] == w {
			list[i] = list[len(list)-1]
			list[len(list)-1] = nil
			list = list[:len(list)-1]
			break
		}
	}
	if l.waiters[w.id] = list; len(list) == 0 {
		delete(l.waiters, w.id)
		delete(l.entry, l.own[w.id])
		delete(l.own, w.id)
	}
	last := len(l.waiters) == 0
	l.mu.Unlock()
	if last {
		s.lookout = nil
	}
	s.waits.Unlock()
	if last {
		l.stop()
		select {
		case <-l.done:
		case <-ctx.Done(): // a look that is on its way may take long
		}
	}
}

func (l *lookout) tell(change func()) {
	l.mu.Lock()
	change()
	wake := len(l.due) > 0
	l.mu.Unlock()
	if wake {
		select {
		case l.ping <- struct{}{}:
		default:
		}
	}
}

func (l *lookout) trouble() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// all makes everything due that is waited for; l.mu is held.
func (l *lookout) all() {
	for id := range l.waiters {
		l.due[id] = wholly
	}
}

// known takes in what a look says of a job that has not ended: among that the ID by which its end will be announced. l.mu is held.
func (l *lookout) known(id string, info Info) {
	l.events = l.events || info.Groups != nil
	if info.ID != id && l.own[id] != info.ID && l.waiters[id] != nil {
		l.own[id], l.entry[info.ID] = info.ID, id
		l.due[id] = wholly // nobody listened for that ID till now
	}
}

// run looks at what is due, and now and then at everything, until ctx ends.
func (l *lookout) run(ctx context.Context) {
	defer close(l.done)
	var listening sync.WaitGroup
	defer listening.Wait()
	listener := engine.Listener{Client: l.s.rdb, Channel: l.s.keys.Ended, Heard: l.heard, Pause: waitPoll,
		Up: func(up bool) {
			l.tell(func() {
				if l.up = up; up { // what was said before is lost
					l.all()
				}
			})
		},
	}
	listening.Go(func() { listener.Run(ctx) })
	poll := time.NewTimer(waitPoll/2 + rand.N(waitPoll))
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.ping:
		case <-poll.C:
			l.tell(l.all)
			poll.Reset(waitPoll/2 + rand.N(waitPoll))
		}
		for ids := l.take(); len(ids) > 0 && ctx.Err() == nil; ids = l.take() {
			l.look(ctx, ids)
		}
	}
}

// heard takes in the IDs of jobs that have just ended, and when these are few their records too, which spare those who wait a look.
func (l *lookout) heard(text string) {
	defer runtime.Gosched() // who was told goes first: to listen on takes as long
	ids, records, _ := strings.Cut(text, "\n\n")
	l.tell(func() {
		for id := range strings.SplitSeq(ids, "\n") {
			var record string
			record, records = cutRecord(records)
			if l.waiters[id] != nil {
				if info := (Info{ID: id}); !l.events && info.recorded(record) && info.Ended() {
					l.answer(id, looked{info: info})
				} else {
					l.due[id] = max(l.due[id], byRecord)
				}
			}
			if entry := l.entry[id]; l.waiters[entry] != nil {
				l.due[entry] = wholly
			}
		}
	})
}

// cutRecord takes off the first record of a hint, each of which has its length in a line before it. It is "" when there is none.
func cutRecord(text string) (record, rest string) {
	length, rest, _ := strings.Cut(text, "\n")
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 || n > len(rest) {
		return "", ""
	}
	return rest[:n], rest[n:]
}

// take returns some of what is due, and how it is to be looked at.
func (l *lookout) take() map[string]how {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := make(map[string]how)
	for id, how := range l.due {
		if len(ids) == waitBatch {
			break
		}
		delete(l.due, id)
		if l.waiters[id] == nil {
			continue
		}
		if ids[id] = how; l.events {
			ids[id] = wholly
		}
	}
	return ids
}

// look reads what became of jobs, and tells those who wait for them.
func (l *lookout) look(ctx context.Context, due map[string]how) {
	ctx, cancel := context.WithTimeout(ctx, l.s.cfg.PublishTimeout)
	defer cancel()
	l.readRecords(ctx, due)
	if len(due) == 0 {
		return
	}
	ids := slices.Collect(maps.Keys(due))
	answers := l.s.getAll(ctx, ids)
	l.underOwnID(ctx, ids, answers)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = nil
	for i, a := range answers {
		switch {
		case a.err == nil && !a.info.Ended():
			l.known(ids[i], a.info)
			continue
		case errors.Is(a.err, ErrUnavailable):
			l.err = a.err
			continue
		}
		l.answer(ids[i], a)
	}
}

// readRecords tells the ends of jobs that were announced, and takes out of due those of which a record says it all: most of
// the time that is everything, and a record is read sooner than all that may be known of a job.
func (l *lookout) readRecords(ctx context.Context, due map[string]how) {
	ids := make([]string, 0, len(due))
	for id, how := range due {
		if how == byRecord {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return
	}
	records := make([]*redis.StringCmd, len(ids))
	_, _ = l.s.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, id := range ids {
			records[i] = pipe.Get(ctx, l.s.keys.Job(id))
		}
		return nil
	}) // what could not be read is looked at wholly
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, id := range ids {
		info := Info{ID: id}
		if info.recorded(records[i].Val()) && info.Ended() {
			l.answer(id, looked{info: info})
			delete(due, id)
		}
	}
}

// answer tells those who wait for a job; l.mu is held.
func (l *lookout) answer(id string, a looked) {
	for _, w := range l.waiters[id] {
		select {
		case w.answer <- a:
		default:
		}
	}
}

// underOwnID looks once more for entries that are gone and whose job was known by another ID.
func (l *lookout) underOwnID(ctx context.Context, ids []string, answers []looked) {
	var gone []int
	var own []string
	l.mu.Lock()
	for i, a := range answers {
		if id := l.own[ids[i]]; id != "" && errors.Is(a.err, ErrNotFound) {
			gone, own = append(gone, i), append(own, id)
		}
	}
	l.mu.Unlock()
	for n, a := range l.s.getAll(ctx, own) {
		answers[gone[n]] = a
	}
}
