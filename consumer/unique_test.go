package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

var note = stream.Type[string]{Name: "note"}

// noted is a note with the unique key "k".
func noted(data string, u stream.Unique) stream.Job {
	job := note.Job(data)
	u.Key = "k"
	job.Unique = u
	return job
}

// pages is what handlers of note see, in order. Each waits for turn, if there is one, and ends as turn says.
type pages struct {
	mu   sync.Mutex
	seen []string
	turn chan error
}

func (p *pages) handle(ctx context.Context, job *consumer.Job[string]) error {
	p.mu.Lock()
	p.seen = append(p.seen, job.Data)
	p.mu.Unlock()
	if p.turn == nil {
		return nil
	}
	select {
	case err := <-p.turn:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pages) list() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.seen...)
}

// await waits until handlers have seen this much, no less and no more.
func (p *pages) await(t *testing.T, want ...string) {
	t.Helper()
	redistest.Wait(t, fmt.Sprintf("runs of %q", want), func() bool { return len(p.list()) >= len(want) })
	if got := p.list(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("handlers saw %q, want %q", got, want)
	}
}

func publishOne(t *testing.T, s *stream.Stream, job stream.Job) stream.Receipt {
	t.Helper()
	r, err := s.Publish(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// lockFree waits until nobody holds the key.
func lockFree(t *testing.T, s *stream.Stream) {
	t.Helper()
	keys := engine.NewKeys(s.Name())
	redistest.Wait(t, "the lock to end", func() bool { return s.Client().Exists(t.Context(), keys.Unique("k"), keys.Next).Val() == 0 })
}

// TestUniqueUntilStarted: while the first runs, another may wait, and a third may not.
func TestUniqueUntilStarted(t *testing.T) {
	t.Parallel()
	u := stream.Unique{Until: stream.UntilStarted}
	for _, size := range []int{0, 10} { // of batches; 0: none
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			s := newStream(t, redistest.Client(t), stream.Config{})
			p := &pages{turn: make(chan error)}
			cfg := quick()
			cfg.MaxJobs = 1
			w := newWorker(t, cfg, s)
			if size == 0 {
				consumer.Handle(w, note, p.handle)
			} else {
				consumer.HandleBatch(w, note, size, func(ctx context.Context, jobs []*consumer.Job[string]) []error {
					errs := make([]error, len(jobs))
					for i, job := range jobs {
						errs[i] = p.handle(ctx, job)
					}
					return errs
				})
			}
			if first := publishOne(t, s, noted("1", u)); first.Duplicate || !publishOne(t, s, noted("x", u)).Duplicate {
				t.Fatalf("the first: %+v", first)
			}
			run(t, w)
			p.await(t, "1")
			second := publishOne(t, s, noted("2", u))
			if second.Duplicate {
				t.Fatalf("while the first runs: %+v", second)
			}
			if third := publishOne(t, s, noted("3", u)); !third.Duplicate || third.ID != second.ID {
				t.Fatalf("while the second waits: %+v", third)
			}
			p.turn <- errors.New("again") // the first one's next runs end no lock of the second's
			p.turn <- nil
			p.turn <- nil
			idle(t, s)
			lockFree(t, s)
		})
	}
}

// TestCoalesce: while one runs, at most one more is kept, and it sees the latest data; one that has not started sees them itself.
func TestCoalesce(t *testing.T) {
	t.Parallel()
	u := stream.Unique{OnConflict: stream.Coalesce}
	s := newStream(t, redistest.Client(t), stream.Config{})
	p := &pages{turn: make(chan error)}
	w := newWorker(t, quick(), s)
	consumer.Handle(w, note, p.handle)
	publish(t, s, noted("1", u), noted("2", u), noted("3", u))
	run(t, w)
	p.await(t, "3")
	for i := 4; i < 7; i++ {
		if r := publishOne(t, s, noted(fmt.Sprint(i), u)); !r.Duplicate || !r.Updated || r.State != stream.Active {
			t.Errorf("while it runs: %+v", r)
		}
	}
	p.turn <- errors.New("again") // its next run sees the latest, too
	p.await(t, "3", "6")
	publishOne(t, s, noted("7", u))
	p.turn <- nil
	p.await(t, "3", "6", "7")
	publishOne(t, s, noted("8", u))
	p.turn <- consumer.Permanent(errors.New("no"))
	p.await(t, "3", "6", "7", "8") // in place of one that dies
	p.turn <- nil
	idle(t, s)
	lockFree(t, s)
	if letters := deadLetters(t, s, 1); string(letters[0].Payload) != `"7"` {
		t.Errorf("dead is %s", letters[0].Payload)
	}
	if r := publishOne(t, s, noted("9", u)); r.Duplicate {
		t.Errorf("at the end: %+v", r)
	}
	p.await(t, "3", "6", "7", "8", "9")
	p.turn <- nil
}

// TestLatestDataStay with the job, whatever becomes of its run.
func TestLatestDataStay(t *testing.T) {
	t.Parallel()
	u := stream.Unique{OnConflict: stream.Coalesce}
	s := newStream(t, redistest.Client(t), stream.Config{})
	p := &pages{turn: make(chan error, 1)}
	w := newWorker(t, quick(), s)
	consumer.Handle(w, note, p.handle)
	second := noted("2", u)
	second.Header = map[string]string{"tenant": "acme"}
	publish(t, s, noted("1", u), second)
	p.turn <- consumer.Permanent(errors.New("no"))
	run(t, w)
	letter := deadLetters(t, s, 1)[0]
	if string(letter.Payload) != `"2"` || letter.Header["tenant"] != "acme" {
		t.Errorf("dead is %s with %v, want the data that it ran with", letter.Payload, letter.Header)
	}
	lockFree(t, s)
	if _, err := s.Group(group).Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{}); err != nil {
		t.Fatal(err)
	}
	p.turn <- nil
	p.await(t, "2", "2")
	lockFree(t, s)
}

// TestCoalesceOtherType: data of another type are no handler's of this one, and run as a job of their own.
func TestCoalesceOtherType(t *testing.T) {
	t.Parallel()
	u := stream.Unique{OnConflict: stream.Coalesce}
	s := newStream(t, redistest.Client(t), stream.Config{})
	p, others := &pages{}, &pages{}
	w := newWorker(t, quick(), s)
	consumer.Handle(w, note, p.handle)
	consumer.Handle(w, stream.Type[string]{Name: "other"}, others.handle)
	job := noted("2", u)
	job.Type = "other"
	publish(t, s, noted("1", u), job)
	run(t, w)
	p.await(t, "1")
	others.await(t, "2")
	lockFree(t, s)
}

// TestLocksOfWhatNeverRuns: expired, undecodable, of no known type.
func TestLocksOfWhatNeverRuns(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*stream.Job){
		"expired":      func(j *stream.Job) { j.ExpiresAt = time.Now().Add(-time.Second) },
		"undecodable":  func(j *stream.Job) { j.Data = []byte("{") },
		"unknown type": func(j *stream.Job) { j.Type = "nobody's" },
	} {
		for _, u := range []stream.Unique{{}, {Until: stream.UntilStarted}, {For: time.Hour}} {
			t.Run(fmt.Sprint(name, u.Until, u.For), func(t *testing.T) {
				t.Parallel()
				s := newStream(t, redistest.Client(t), stream.Config{})
				cfg := quick()
				cfg.UnknownType = time.Millisecond
				w := newWorker(t, cfg, s)
				consumer.Handle(w, note, (&pages{}).handle)
				publish(t, s, with(noted("1", u), change))
				run(t, w)
				deadLetters(t, s, 1)
				lockFree(t, s)
			})
		}
	}
}

// TestUniqueForATime outlives its job, and no longer than said.
func TestUniqueForATime(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	p := &pages{}
	w := newWorker(t, quick(), s)
	consumer.Handle(w, note, p.handle)
	u := stream.Unique{For: time.Hour}
	first := publishOne(t, s, noted("1", u))
	run(t, w)
	idle(t, s)
	if r := publishOne(t, s, noted("2", u)); !r.Duplicate || r.ID != first.ID || r.State != stream.Completed {
		t.Errorf("within the hour: %+v", r)
	}
	s.Client().PExpire(t.Context(), engine.NewKeys(s.Name()).Unique("k"), time.Millisecond)
	lockFree(t, s)
	if r := publishOne(t, s, noted("3", u)); r.Duplicate {
		t.Errorf("after it: %+v", r)
	}
	p.await(t, "1", "3")
}

// refusal is an answer of a server.
type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) RedisError()     {}

// startsFail lets the first so many calls of start fail.
type startsFail struct {
	err  error
	left atomic.Int64
}

func (h *startsFail) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *startsFail) fails(cmd redis.Cmder) bool {
	keys, ok := cmd.Args()[2].(int)
	return strings.HasPrefix(cmd.Name(), "eval") && ok && keys == 5 && len(cmd.Args()) == 3+5+6 && h.left.Add(-1) >= 0 // as start has
}

func (h *startsFail) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if len(cmd.Args()) > 2 && h.fails(cmd) {
			cmd.SetErr(h.err)
			return h.err
		}
		return next(ctx, cmd)
	}
}

func (h *startsFail) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if len(cmd.Args()) > 2 && h.fails(cmd) {
				cmd.SetErr(h.err)
				return h.err
			}
		}
		return next(ctx, cmds)
	}
}

// failingStarts is a worker of s whose starts fail as the hook says.
func failingStarts(t *testing.T, s *stream.Stream, hook *startsFail) *consumer.Worker {
	t.Helper()
	rdb := redistest.Client(t)
	rdb.AddHook(hook)
	through, err := stream.New(rdb, s.Name(), stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return newWorker(t, quick(), through)
}

// TestStartIsRefused: a job whose start Redis refuses for good runs, as does one of which nobody knows whether it has started;
// one that could not say so waits, and is not handed from one to the next meanwhile. The lock ends in any case.
func TestStartIsRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err   error
		times int64
		waits bool
	}{
		"denied":    {refusal("NOPERM no"), 1 << 40, false},
		"lost":      {io.ErrUnexpectedEOF, 1 << 40, false},
		"lost once": {io.ErrUnexpectedEOF, 1, false},
		"busy":      {refusal("LOADING it is"), 2, true},
		"moving":    {refusal("TRYAGAIN later"), 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStream(t, redistest.Client(t), stream.Config{})
			hook := &startsFail{err: tc.err}
			hook.left.Store(tc.times)
			w := failingStarts(t, s, hook)
			fences := make(chan int64, 10)
			consumer.Handle(w, note, func(_ context.Context, job *consumer.Job[string]) error {
				if tc.waits && hook.left.Load() > 0 {
					t.Error("it runs before Redis has heard of it")
				}
				fences <- job.Fence & (1<<32 - 1)
				return nil
			})
			publish(t, s, noted("1", stream.Unique{Until: stream.UntilStarted}))
			run(t, w)
			if moves := <-fences; moves != 0 {
				t.Errorf("the job ran after %d moves", moves)
			}
			lockFree(t, s)
			idle(t, s)
			if hook.left.Load() == tc.times {
				t.Error("nothing was refused: this proves nothing")
			}
		})
	}
}

// TestWaitingStartGoesBack when its worker stops: with no try lost, and the lock is held by whoever runs it next.
func TestWaitingStartGoesBack(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	hook := &startsFail{err: refusal("TRYAGAIN later")}
	hook.left.Store(1 << 40)
	w := failingStarts(t, s, hook)
	consumer.Handle(w, note, func(context.Context, *consumer.Job[string]) error {
		t.Error("it runs before Redis has heard of it")
		return nil
	})
	publish(t, s, noted("1", stream.Unique{Until: stream.UntilStarted}))
	stop := run(t, w)
	redistest.Wait(t, "starts to be refused", func() bool { return hook.left.Load() < 1<<40 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	p := &pages{}
	next := newWorker(t, quick(), s)
	consumer.Handle(next, note, func(ctx context.Context, job *consumer.Job[string]) error {
		if job.Attempt != 1 {
			t.Errorf("attempt %d", job.Attempt)
		}
		return p.handle(ctx, job)
	})
	run(t, next)
	p.await(t, "1")
	lockFree(t, s)
}
