package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

var ping = stream.Type[int]{Name: "ping"}

func TestEveryJobRunsOnce(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	var book ledger
	for range 3 {
		w := newWorker(t, quick(), s)
		consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
			book.add(fmt.Sprint(job.Data))
			return nil
		})
		run(t, w)
	}
	const n = 3000
	jobs := make([]stream.Job, n)
	for i := range jobs {
		jobs[i] = ping.Job(i)
	}
	publish(t, s, jobs...)
	redistest.Wait(t, "all jobs to run", func() bool { return book.total() >= n })
	idle(t, s)
	for i := range n {
		if runs := book.of(fmt.Sprint(i)); runs != 1 {
			t.Errorf("job %d ran %d times, want once", i, runs)
		}
	}
	if d := depths(t, s); d.Dead != 0 || d.Workers != 3 {
		t.Errorf("depths = %+v, want no dead letter and 3 workers", d)
	}
	if length := rdb.XLen(t.Context(), s.Name()).Val(); length != 0 {
		t.Errorf("%d entries are left in the stream, want none", length)
	}
}

func TestRetriesThenDies(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	var attempts []int
	var fences []int64
	var ids []string
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
		attempts, fences, ids = append(attempts, job.Attempt), append(fences, job.Fence), append(ids, job.ID)
		if job.MaxTries != 3 {
			t.Errorf("MaxTries = %d, want 3", job.MaxTries)
		}
		if job.Attempt == 3 {
			panic("third time unlucky")
		}
		return fmt.Errorf("boom %d", job.Attempt)
	})
	stop := run(t, w)
	job := ping.Job(7)
	job.Header = map[string]string{"tenant": "blue"}
	receipt := publish(t, s, job)[0]
	letter := deadLetters(t, s, 1)[0]
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(attempts, []int{1, 2, 3}) {
		t.Errorf("attempts = %v, want 1 2 3", attempts)
	}
	if !slices.IsSorted(fences) || len(slices.Compact(fences)) != 3 {
		t.Errorf("fences = %v, want growing ones", fences)
	}
	if slices.ContainsFunc(ids, func(id string) bool { return id != receipt.ID }) {
		t.Errorf("ids = %v, want %s in each run", ids, receipt.ID)
	}
	if letter.ID != receipt.ID || letter.Type != "ping" || letter.Reason != "failed" || letter.Attempt != 3 || letter.MaxTries != 3 ||
		string(letter.Payload) != "7" || letter.Header["tenant"] != "blue" || letter.Worker != w.Name() || letter.Published.IsZero() {
		t.Errorf("dead letter = %+v", letter)
	}
	if letter.Error != "panic: third time unlucky" || !strings.Contains(letter.Stack, "worker_test.go") {
		t.Errorf("error %q with stack %q, want the panic and where it was", letter.Error, letter.Stack)
	}
	if len(letter.History) != 3 || letter.History[0].Error != "boom 1" || letter.History[1].Attempt != 2 || letter.History[0].Started.IsZero() {
		t.Errorf("history = %+v, want the three runs", letter.History)
	}
	if got := w.Stats(); got.Started != 3 || got.Retried != 2 || got.Dead != 1 || got.Panics != 1 || got.Completed != 0 {
		t.Errorf("stats = %+v", got)
	}
}

// TestOutcomes runs one job of each kind of answer and looks where it ends.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	type answer struct {
		name   string
		job    stream.Job
		handle func(ctx context.Context, d *consumer.Delivery) error
		runs   int
		dead   string // the reason, or "" when the job completes
		errHas string
	}
	errPlain := errors.New("no luck")
	twice := func(first error) func(context.Context, *consumer.Delivery) error {
		var n atomic.Int32
		return func(context.Context, *consumer.Delivery) error {
			if n.Add(1) == 1 {
				return first
			}
			return nil
		}
	}
	for _, tc := range []answer{
		{name: "completes", runs: 1, handle: func(context.Context, *consumer.Delivery) error { return nil }},
		{name: "retry after", runs: 2, handle: twice(consumer.RetryAfter(errPlain, time.Millisecond))},
		{name: "wrapped retry after", runs: 2, handle: twice(fmt.Errorf("ctx: %w", consumer.RetryAfter(errPlain, 0)))},
		{name: "permanent", runs: 1, dead: "permanent", errHas: "no luck", handle: func(context.Context, *consumer.Delivery) error { return consumer.Permanent(errPlain) }},
		{name: "one try", job: stream.Job{MaxTries: 1}, runs: 1, dead: "failed", handle: func(context.Context, *consumer.Delivery) error { return errPlain }},
		{name: "goexit", job: stream.Job{MaxTries: 2}, runs: 2, dead: "failed", errHas: "Goexit", handle: func(context.Context, *consumer.Delivery) error { runtime.Goexit(); return nil }},
		{name: "an error that panics", job: stream.Job{MaxTries: 1}, runs: 1, dead: "failed", errHas: "panics", handle: func(context.Context, *consumer.Delivery) error { var e *nilError; return e }},
		{name: "times out", job: stream.Job{Timeout: 5 * time.Millisecond, MaxTries: 1}, runs: 1, dead: "failed", errHas: "job timed out", handle: func(ctx context.Context, _ *consumer.Delivery) error {
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), consumer.ErrTimeout) || ctx.Err() != context.DeadlineExceeded {
				return consumer.Permanent(errors.New("wrong cause"))
			}
			return ctx.Err()
		}},
		{name: "takes more time", job: stream.Job{Timeout: 20 * time.Millisecond, MaxTries: 1}, runs: 1, handle: func(ctx context.Context, d *consumer.Delivery) error {
			d.SetTimeout(time.Hour)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(60 * time.Millisecond):
				return nil
			}
		}},
		{name: "finishes late", job: stream.Job{Timeout: time.Millisecond}, runs: 1, handle: func(ctx context.Context, _ *consumer.Delivery) error { <-ctx.Done(); return nil }},
		{name: "expired", job: stream.Job{ExpiresAt: time.Now().Add(-time.Minute)}, runs: 0, dead: "expired", handle: func(context.Context, *consumer.Delivery) error { return nil }},
		{name: "in time", job: stream.Job{ExpiresAt: time.Now().Add(time.Hour)}, runs: 1, handle: func(context.Context, *consumer.Delivery) error { return nil }},
		{name: "wrong payload", job: stream.Job{Type: "ping", Data: []byte(`"seven"`)}, runs: 0, dead: "undecodable", errHas: "payload of ping"},
		{name: "own backoff", job: stream.Job{Backoff: stream.Backoff{Delay: time.Millisecond}}, runs: 2, handle: twice(errPlain)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newStream(t, rdb, stream.Config{})
			cfg := quick()
			if strings.Contains(tc.name, "own backoff") {
				cfg.Backoff.Delay = time.Hour
			}
			w := newWorker(t, cfg, s)
			var runs atomic.Int32
			consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { runs.Add(1); return nil })
			w.HandleOther(func(ctx context.Context, d *consumer.Delivery) error {
				runs.Add(1)
				return tc.handle(ctx, d)
			})
			run(t, w)
			if tc.job.Type == "" {
				tc.job.Type = "any"
			}
			id := publish(t, s, tc.job)[0].ID
			if tc.dead == "" {
				redistest.Wait(t, "the job to complete", func() bool { return w.Stats().Completed == 1 })
			} else {
				letter := deadLetters(t, s, 1)[0]
				if letter.ID != id || letter.Reason != tc.dead || !strings.Contains(letter.Error, tc.errHas) {
					t.Errorf("dead letter = %+v, want %s for reason %q with %q", letter, id, tc.dead, tc.errHas)
				}
			}
			idle(t, s)
			if int(runs.Load()) != tc.runs {
				t.Errorf("%d runs, want %d", runs.Load(), tc.runs)
			}
		})
	}
}

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

// TestIDStaysTakenForAWhile: a publisher that repeats itself after a lost answer must not store the job again.
func TestIDStaysTakenForAWhile(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
		if job.Attempt == 1 {
			return errors.New("once more") // so that the plain job has a place in ids too
		}
		return nil
	})
	run(t, w)
	job := ping.Job(1)
	job.ID = "invoice-7"
	publish(t, s, job, ping.Job(2))
	redistest.Wait(t, "both jobs", func() bool { return w.Stats().Completed == 2 })
	receipt, err := s.Publish(t.Context(), job)
	if err != nil || !receipt.Duplicate || receipt.State != stream.Completed {
		t.Errorf("published again: %+v %v, want a duplicate of a completed job", receipt, err)
	}
	keys, err := redistest.Keys(t.Context(), rdb, s.Name())
	if err != nil {
		t.Fatal(err)
	}
	var records []string
	for _, key := range keys {
		if strings.Contains(key, ":job:") {
			records = append(records, key)
		}
		if strings.HasSuffix(key, ":ids") {
			t.Errorf("%s is left behind: %v", key, rdb.HGetAll(t.Context(), key).Val())
		}
	}
	if len(records) != 1 || !strings.HasSuffix(records[0], ":job:invoice-7") {
		t.Errorf("records = %v, want one of invoice-7 alone", records)
	} else if ttl := rdb.TTL(t.Context(), records[0]).Val(); ttl < 30*time.Second || ttl > time.Hour {
		t.Errorf("the record stays for %s, want about a minute", ttl)
	}
}

func TestSnoozeCostsNoTry(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	w := newWorker(t, quick(), s)
	var attempts []int
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
		if attempts = append(attempts, job.Attempt); len(attempts) < 6 {
			return consumer.Snooze(time.Millisecond)
		}
		return nil
	})
	stop := run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the job to complete", func() bool { return w.Stats().Completed == 1 })
	_ = stop()
	if !slices.Equal(attempts, []int{1, 1, 1, 1, 1, 1}) {
		t.Errorf("attempts = %v, want six first ones", attempts)
	}
}

func TestRetryIsNotEarly(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	w := newWorker(t, quick(), s)
	var at []time.Time
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error {
		if at = append(at, time.Now()); len(at) == 1 {
			return consumer.RetryAfter(errors.New("busy"), 150*time.Millisecond)
		}
		return nil
	})
	stop := run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the second run", func() bool { return w.Stats().Completed == 1 })
	_ = stop()
	if pause := at[1].Sub(at[0]); pause < 150*time.Millisecond {
		t.Errorf("the second run came after %s, want at least 150ms", pause)
	}
}

func TestUnknownTypeWaitsForAWorkerThatKnowsIt(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	old := newWorker(t, quick(), s)
	consumer.Handle(old, stream.Type[int]{Name: "other"}, func(context.Context, *consumer.Job[int]) error { return nil })
	stop := run(t, old)
	id := publish(t, s, ping.Job(1))[0].ID
	redistest.Wait(t, "the job to bounce", func() bool { return old.Stats().Bounced > 0 })
	if d := depths(t, s); d.Dead != 0 || d.Retrying != 1 {
		t.Errorf("depths = %+v, want the job parked", d)
	}
	_ = stop()
	w := newWorker(t, quick(), s)
	got := make(chan *consumer.Job[int], 1)
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error { got <- job; return nil })
	run(t, w)
	select {
	case job := <-got:
		if job.ID != id || job.Attempt != 1 {
			t.Errorf("job %s in attempt %d, want %s in its first", job.ID, job.Attempt, id)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the job never came back")
	}
}

func TestUnknownTypeDiesInTheEnd(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	cfg := quick()
	cfg.UnknownType = 10 * time.Millisecond
	w := newWorker(t, cfg, s)
	run(t, w)
	publish(t, s, ping.Job(1))
	if letter := deadLetters(t, s, 1)[0]; letter.Reason != "unknown type" || letter.Attempt != 0 || string(letter.Payload) != "1" {
		t.Errorf("dead letter = %+v, want an unknown type that cost no try", letter)
	}
}

func TestEventsReachEveryGroup(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{Kind: stream.KindEvents})
	var books [2]ledger
	for i, name := range []string{"billing", "search"} {
		w, err := consumer.New(name, quick(), s)
		if err != nil {
			t.Fatal(err)
		}
		consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
			books[i].add(job.ID)
			if i == 0 && job.Data == 3 && job.Attempt == 1 {
				return errors.New("only here")
			}
			return nil
		})
		run(t, w)
	}
	var ids []string
	for i := range 20 {
		ids = append(ids, publish(t, s, ping.Job(i))[0].ID)
	}
	redistest.Wait(t, "both groups", func() bool { return books[0].total() >= 21 && books[1].total() >= 20 })
	if books[0].of(ids[3]) != 2 || books[1].of(ids[3]) != 1 {
		t.Errorf("the failed job ran %d and %d times, want 2 in its own group and 1 in the other", books[0].of(ids[3]), books[1].of(ids[3]))
	}
	if n := rdb.XLen(t.Context(), s.Name()).Val(); n != 20 {
		t.Errorf("%d entries, want all 20 kept", n)
	}
}

func TestEarlierStreamsFirst(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	high, low := newStream(t, rdb, stream.Config{}), newStream(t, rdb, stream.Config{})
	var order []string
	cfg := quick()
	cfg.MaxJobs = 1
	w := newWorker(t, cfg, high, low)
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
		order = append(order, job.Stream)
		return nil
	})
	for i := range 200 {
		publish(t, low, ping.Job(i))
	}
	for i := range 200 {
		publish(t, high, ping.Job(i))
	}
	stop := run(t, w)
	redistest.Wait(t, "all jobs", func() bool { return w.Stats().Completed == 400 })
	_ = stop()
	// A few of the later stream's may have been read with the first of the earlier one's.
	first := 0
	for _, name := range order[:200] {
		if name == high.Name() {
			first++
		}
	}
	if first < 150 {
		t.Errorf("%d of the first 200 runs were of the earlier stream, want nearly all", first)
	}
}
