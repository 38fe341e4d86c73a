package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/integration/servers"
	"github.com/penstock-go/penstock/stream"
)

// groups of an events stream each get every job; when one fails, only that one
// sees it again, and a dead letter, its redrive and its end are of one group as well.
func groups(t *testing.T, w *world) {
	s := w.stream(t, events)
	const n = 30
	var book ledger
	names := []string{"mail", "search", "audit"}
	var failing atomic.Bool
	failing.Store(true)
	for _, g := range names {
		worker := w.workerOf(t, g, quick(), s)
		consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error {
			runs := book.add(g, job.Data)
			switch {
			case g == "search" && job.Data%3 == 0 && runs == 1:
				return errors.New("once more")
			case g == "audit" && job.Data%10 == 0 && failing.Load():
				return consumer.Permanent(errors.New("never"))
			}
			return nil
		})
		run(t, worker)
		wait(t, "the worker", func() bool { return worker.Health().Ready })
	}
	jobs := numbers(0, n)
	for i := range jobs {
		if i%2 == 0 {
			jobs[i].ID = fmt.Sprintf("job-%d", i)
		}
	}
	publish(t, s, jobs...)
	drained(t, s, names...)
	check := func(redriven int) {
		t.Helper()
		for i := range n {
			want := map[string]int{"mail": 1, "search": 1, "audit": 1}
			if i%3 == 0 {
				want["search"] = 2
			}
			if i%10 == 0 {
				want["audit"] += redriven
			}
			for g, runs := range want {
				if got := book.of(g, i); got != runs {
					t.Errorf("%s ran job %d %d times, want %d", g, i, got, runs)
				}
			}
		}
	}
	dead(t, s, "mail", 0)
	dead(t, s, "search", 0)
	dead(t, s, "audit", n/10)
	check(0)
	failing.Store(false)
	if swept, err := s.Group("audit").Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{}); err != nil || swept.Moved != n/10 {
		t.Errorf("redrive: %+v, %v", swept, err)
	}
	wait(t, "the redriven jobs to run", func() bool { return book.of("audit", 0)+book.of("audit", 10)+book.of("audit", 20) == 6 })
	drained(t, s, names...)
	check(1)
	if d, err := s.Describe(t.Context()); err != nil || d.Entries != n || len(d.Groups) != len(names) {
		t.Errorf("%+v, %v; want all %d entries still there", d, err, n)
	}
}

// secondGroup: a queue has one group, since a second would lose what the first deletes.
func secondGroup(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	first := w.worker(t, quick(), s)
	run(t, first)
	wait(t, "the first group", func() bool { return first.Health().Ready })
	if err := refused(t, w.workerOf(t, "second", quick(), s)); !errors.Is(err, stream.ErrKind) {
		t.Errorf("a second group of a queue: %v, want ErrKind", err)
	}
}

// nothingTrimmed: a group that comes late to an events stream gets all that the
// others have done long since, and a full stream refuses and drops nothing.
func nothingTrimmed(t *testing.T, w *world) {
	s := w.stream(t, events)
	const n = 300
	var book ledger
	start := func(g string) {
		worker := w.workerOf(t, g, quick(), s)
		consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error { book.add(g, job.Data); return nil })
		run(t, worker)
	}
	start("early")
	publish(t, s, numbers(0, n)...)
	drained(t, s, "early")
	start("late")
	wait(t, "the late group", func() bool { return book.of("late", n-1) == 1 })
	drained(t, s, "late")
	for i := range n {
		if book.of("early", i) != 1 || book.of("late", i) != 1 {
			t.Errorf("job %d ran %d times early and %d times late, want once each", i, book.of("early", i), book.of("late", i))
		}
	}

	const most = 10
	full := over(t, s.Client(), name(t), stream.Config{MaxLen: most})
	publish(t, full, numbers(0, most)...)
	wait(t, "the stream to refuse", func() bool { // the length is at most a tenth of a second old
		_, err := full.Publish(t.Context(), number.Job(most))
		if err == nil {
			t.Fatal("a full stream took a job")
		}
		return errors.Is(err, stream.ErrStreamFull)
	})
	if r, err := full.Publish(t.Context(), stream.Job{Type: "deferred", Delay: time.Hour}); !errors.Is(err, stream.ErrStreamFull) {
		t.Errorf("a full stream on a deferred job: %+v, %v; want ErrStreamFull", r, err)
	}
	worker := w.worker(t, quick(), full)
	consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error { book.add(job.Data); return nil })
	run(t, worker)
	drained(t, full)
	book.want(t, most, once)
	wait(t, "room", func() bool { _, err := full.Publish(t.Context(), number.Job(most)); return err == nil })
}

// duplicates: an ID is taken while its job lives, dead letters included, and for a while after it has completed.
func duplicates(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	const publishers, n = 4, 25
	var stored atomic.Int64
	var wg sync.WaitGroup
	for range publishers {
		mine := w.again(t, s)
		wg.Go(func() {
			for i := range n {
				job := number.Job(i)
				job.ID = fmt.Sprintf("job-%d", i)
				if i%3 == 0 {
					job.Delay = time.Duration(i) * time.Millisecond
				}
				r, err := mine.Publish(t.Context(), job)
				if err != nil || r.ID != job.ID {
					t.Errorf("publish: %+v, %v", r, err)
				}
				if !r.Duplicate {
					stored.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if stored.Load() != n {
		t.Errorf("%d jobs were stored, want %d", stored.Load(), n)
	}
	var book ledger
	worker := w.worker(t, quick(), s)
	fix := make(chan struct{})
	consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error {
		runs := book.add(job.Data)
		switch {
		case job.Data == 1 && runs == 1:
			return consumer.RetryAfter(errors.New("once more"), time.Hour)
		case job.Data == 2:
			<-fix
			return consumer.Permanent(errors.New("never"))
		}
		return nil
	})
	run(t, worker)
	schedule(t, s.Client())
	state := func(id string) stream.State {
		r, err := s.Publish(t.Context(), stream.Job{Type: number.Name, ID: id})
		if err != nil || !r.Duplicate {
			t.Errorf("%s: %+v, %v; want a duplicate", id, r, err)
		}
		return r.State
	}
	wait(t, "all but the two", func() bool { return worker.Stats().Completed == n-2 && worker.Stats().Retried == 1 })
	for id, want := range map[string]stream.State{"job-0": stream.Completed, "job-1": stream.Retrying, "job-2": stream.Active, "job-4": stream.Completed} {
		if got := state(id); got != want {
			t.Errorf("%s is %s, want %s", id, got, want)
		}
	}
	close(fix)
	dead(t, s, group, 1)
	if got := state("job-2"); got != stream.Dead {
		t.Errorf("job-2 is %s, want dead", got)
	}
	if swept, err := s.Group(group).Purge(t.Context(), stream.DeadFilter{}, stream.PurgeOptions{}); err != nil || swept.Moved != 1 {
		t.Fatalf("purge: %+v, %v", swept, err)
	}
	if r, err := s.Publish(t.Context(), stream.Job{Type: number.Name, Data: 3, ID: "job-2"}); err != nil || r.Duplicate {
		t.Errorf("a purged job's ID: %+v, %v; want it to be free", r, err)
	}
	wait(t, "the job with the ID that is free again", func() bool { return worker.Stats().Completed == n-1 })
	book.want(t, n, func(i int) int {
		if i == 3 {
			return 2 // the last one has its number
		}
		return 1
	})
}

// deferred jobs run when they are due by Redis's clock, never before, in any
// number and order; the hints that wake those who promote them may be lost.
func deferred(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	rdb := s.Client()
	schedule(t, rdb)
	var book ledger
	worker := w.worker(t, quick(), s)
	consumer.Handle(worker, number, func(ctx context.Context, job *consumer.Job[int]) error {
		now, err := rdb.Time(ctx).Result()
		if err != nil {
			return err
		}
		runs := book.add(job.Data)
		if runs == 1 && now.Before(job.Due) {
			t.Errorf("job %d ran at %s, before it was due at %s", job.Data, now, job.Due)
		}
		if runs == 1 && job.Data%4 == 0 {
			return consumer.RetryAfter(errors.New("once more"), 300*time.Millisecond)
		}
		return nil
	})
	run(t, worker)
	const n = 100
	jobs := numbers(0, n)
	for i := range jobs {
		if at := time.Duration(n-i) * 20 * time.Millisecond; i%2 == 0 {
			jobs[i].Delay = at
		} else {
			now, err := rdb.Time(t.Context()).Result()
			if err != nil {
				t.Fatal(err)
			}
			jobs[i].At = now.Add(at)
		}
	}
	nodes := w.server.Nodes(t)
	for i := 0; i < n; i += 10 {
		for _, r := range publish(t, s, jobs[i:i+10]...) {
			if r.State != stream.Scheduled || r.Due.IsZero() {
				t.Errorf("receipt %+v, want a job that is scheduled", r)
			}
		}
		for _, node := range nodes { // who listens for hints hears none for a moment
			if err := node.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err(); err != nil {
				t.Fatal(err)
			}
		}
		wait(t, "some to run", func() bool { return book.total() >= i/2 })
	}
	drained(t, s)
	book.want(t, n, func(i int) int {
		if i%4 == 0 {
			return 2
		}
		return 1
	})
	w.clean(t, s)
}

// deadLetters say why a job died, keep all of it, and can be sent back, by what they say, or deleted.
func deadLetters(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	rdb := s.Client()
	publish(t, s,
		stream.Job{Type: "fails", ID: "failed", MaxTries: 2, Header: map[string]string{"tenant": "acme"}, Data: []byte("\x00\xff")},
		stream.Job{Type: "gives up", ID: "permanent"},
		stream.Job{Type: "panics", ID: "panicked", MaxTries: 1},
		stream.Job{Type: "fails", ID: "expired", ExpiresAt: time.Now().Add(-time.Hour)},
		stream.Job{Type: number.Name, Data: []byte(`"no number"`), ID: "undecodable"},
		stream.Job{Type: "unknown", ID: "unknown"},
	)
	cfg := quick()
	cfg.UnknownType = time.Second
	worker := w.worker(t, cfg, s)
	var well atomic.Bool
	handle := func(_ context.Context, job *consumer.Job[[]byte]) error {
		if well.Load() {
			return nil
		}
		switch job.Type {
		case "panics":
			panic("a fault")
		case "gives up":
			return consumer.Permanent(errors.New("no such account"))
		}
		return errors.New("503")
	}
	for _, typ := range []string{"fails", "gives up", "panics"} {
		consumer.Handle(worker, stream.Type[[]byte]{Name: typ}, handle)
	}
	consumer.Handle(worker, number, func(context.Context, *consumer.Job[int]) error { return nil })
	run(t, worker)
	letters := make(map[string]stream.DeadLetter)
	for _, l := range dead(t, s, group, 6) {
		letters[l.ID] = l
	}
	for id, want := range map[string]struct {
		reason, text string
		attempt      int
	}{
		"failed":      {"failed", "503", 2},
		"permanent":   {"permanent", "no such account", 1},
		"panicked":    {"failed", "a fault", 1},
		"expired":     {"expired", "not started by", 0},
		"undecodable": {"undecodable", "cannot be decoded", 1},
		"unknown":     {"unknown type", "no worker handles", 0},
	} {
		if l := letters[id]; l.Reason != want.reason || !strings.Contains(l.Error, want.text) || l.Attempt != want.attempt || l.Worker != worker.Name() {
			t.Errorf("%s: %+v, want %+v", id, l, want)
		}
	}
	if l := letters["failed"]; len(l.History) != 2 || l.Header["tenant"] != "acme" || string(l.Payload) != "\x00\xff" || l.MaxTries != 2 {
		t.Errorf("%+v, want all that was published, and its history", l)
	}
	if l := letters["panicked"]; !strings.Contains(l.Stack, "stream_test.go") {
		t.Errorf("the stack is %q", l.Stack)
	}

	well.Store(true)
	g := s.Group(group)
	for _, look := range []struct {
		filter  stream.DeadFilter
		matched int64
	}{
		{stream.DeadFilter{Type: "fails"}, 2},
		{stream.DeadFilter{Error: "expired"}, 1},
		{stream.DeadFilter{OlderThan: time.Hour}, 0},
		{stream.DeadFilter{NewerThan: time.Hour}, 6},
	} {
		if swept, err := g.Redrive(t.Context(), look.filter, stream.RedriveOptions{DryRun: true}); err != nil || swept.Matched != look.matched || swept.Moved != 0 {
			t.Errorf("redrive %+v, dry: %+v, %v; want %d matched and none moved", look.filter, swept, err, look.matched)
		}
	}
	for _, step := range []struct {
		filter stream.DeadFilter
		moved  int64
	}{
		{stream.DeadFilter{Type: "fails", Error: "503"}, 1},
		{stream.DeadFilter{IDs: []string{"permanent", "panicked", "no such"}}, 2},
		{stream.DeadFilter{NewerThan: time.Nanosecond}, 0},
	} {
		if swept, err := g.Redrive(t.Context(), step.filter, stream.RedriveOptions{}); err != nil || swept.Moved != step.moved {
			t.Errorf("redrive %+v: %+v, %v; want %d moved", step.filter, swept, err, step.moved)
		}
	}
	wait(t, "the redriven jobs", func() bool { return worker.Stats().Completed == 3 })
	dead(t, s, group, 3)
	if swept, err := g.Purge(t.Context(), stream.DeadFilter{}, stream.PurgeOptions{}); err != nil || swept.Moved != 3 {
		t.Errorf("purge: %+v, %v; want the other three", swept, err)
	}
	drained(t, s)
	if n := rdb.HLen(t.Context(), "{"+s.Name()+"}:ids").Val(); n != 0 {
		t.Errorf("%d IDs are still taken", n)
	}
	w.clean(t, s)
}

// missingGroup: a group that somebody destroyed, and a stream that somebody
// deleted, are made again. What was not done is done; what is done in between may be done again.
func missingGroup(t *testing.T, w *world) {
	rdb := w.client(t)
	for _, kind := range []stream.Kind{stream.KindQueue, stream.KindEvents} {
		s := w.stream(t, stream.Config{Kind: kind})
		var book ledger
		hold := make(chan struct{})
		cfg := quick()
		cfg.MaxJobs = 2
		worker := w.worker(t, cfg, s)
		var fence atomic.Int64
		consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error {
			fence.Store(max(fence.Load(), job.Fence))
			if book.add(job.Data); job.Data >= 20 && job.Data < 40 {
				<-hold
			}
			return nil
		})
		run(t, worker)
		publish(t, s, numbers(0, 20)...)
		drained(t, s)
		if kind == stream.KindEvents { // its position is written down by a heartbeat
			pass(lease/3 + time.Second)
		}
		publish(t, s, numbers(20, 40)...)
		wait(t, "two jobs to run", func() bool { return len(worker.Running()) == 2 })
		before := fence.Load()
		if err := rdb.XGroupDestroy(t.Context(), s.Name(), group).Err(); err != nil {
			t.Fatal(err)
		}
		close(hold)
		wait(t, "all jobs", func() bool {
			for i := range 40 {
				if book.of(i) == 0 {
					return false
				}
			}
			return true
		})
		drained(t, s)
		for i := range 20 {
			if book.of(i) != 1 {
				t.Errorf("%s: job %d, which was done before, ran %d times", kind, i, book.of(i))
			}
		}

		if err := rdb.Del(t.Context(), s.Name()).Err(); err != nil {
			t.Fatal(err)
		}
		publish(t, s, numbers(40, 60)...)
		wait(t, "the jobs of the new stream", func() bool {
			for i := 40; i < 60; i++ {
				if book.of(i) == 0 {
					return false
				}
			}
			return true
		})
		drained(t, s)
		if after := fence.Load(); after <= before {
			t.Errorf("%s: fence %d before and %d after the group was made again", kind, before, after)
		}
		if kind == stream.KindQueue {
			w.clean(t, s)
		}
	}
}

// full: at maxmemory a publisher is refused, and what is there is worked off; a
// flush takes all, and what comes after it is worked on as if nothing had been.
func full(t *testing.T, w *world) {
	own := w.own(t, servers.Config{})
	s := own.stream(t, stream.Config{})
	node := own.server.Nodes(t)[0]
	opened := own.worker(t, quick(), s) // the group has to be there before the memory is gone
	stop := run(t, opened)
	wait(t, "the group", func() bool { return opened.Health().Ready })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	const n = 100
	jobs := numbers(0, n)
	for i := range jobs {
		if i%2 == 0 {
			jobs[i].ID = fmt.Sprintf("job-%d", i)
		}
	}
	publish(t, s, jobs...)
	if err := node.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	for what, job := range map[string]stream.Job{"plain": number.Job(0), "with an ID": {Type: "x", ID: "x"}, "deferred": {Type: "x", Delay: time.Hour}} {
		if r, err := s.Publish(t.Context(), job); !errors.Is(err, stream.ErrStreamFull) {
			t.Errorf("%s at maxmemory: %+v, %v; want ErrStreamFull", what, r, err)
		}
	}
	var book ledger
	var well atomic.Bool
	worker := own.worker(t, quick(), own.again(t, s))
	consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error {
		runs := book.add(job.Data)
		switch {
		case job.Data%5 == 0 && runs == 1:
			return errors.New("once more")
		case job.Data%5 == 1 && !well.Load():
			return consumer.Permanent(errors.New("never"))
		}
		return nil
	})
	run(t, worker)
	dead(t, s, group, n/5)
	drained(t, s)
	well.Store(true)
	if swept, err := s.Group(group).Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{}); err != nil || swept.Moved != n/5 {
		t.Errorf("redrive at maxmemory: %+v, %v", swept, err)
	}
	drained(t, s)
	book.want(t, n, func(i int) int {
		if i%5 < 2 {
			return 2
		}
		return 1
	})
	if err := node.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	own.clean(t, s)

	if err := node.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	publish(t, s, numbers(n, 2*n)...)
	wait(t, "the jobs after the flush", func() bool {
		for i := n; i < 2*n; i++ {
			if book.of(i) == 0 {
				return false
			}
		}
		return true
	})
}

// manyStreams: one worker serves streams that lie on different nodes; all that belongs to one lies in one slot.
func manyStreams(t *testing.T, w *world) {
	rdb := w.client(t)
	schedule(t, rdb)
	prefix := name(t)
	var streams []*stream.Stream
	for i := range 8 {
		streams = append(streams, over(t, rdb, fmt.Sprintf("%s-%d", prefix, i), stream.Config{}))
	}
	streams = append(streams, over(t, rdb, "{"+prefix+"}tagged", stream.Config{}))
	var book ledger
	worker := w.worker(t, quick(), streams...)
	consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error {
		runs := book.add(job.Stream, " ", job.Data)
		switch {
		case job.Data%10 == 3 && runs == 1:
			return consumer.RetryAfter(errors.New("once more"), 500*time.Millisecond)
		case job.Data%10 == 7:
			return consumer.Permanent(errors.New("never"))
		}
		return nil
	})
	run(t, worker)
	const n = 50
	for _, s := range streams {
		jobs := numbers(0, n)
		for i := range jobs {
			switch i % 4 {
			case 1:
				jobs[i].ID = fmt.Sprintf("job-%d", i)
			case 2:
				jobs[i].Delay = time.Duration(i) * 5 * time.Millisecond
			}
		}
		publish(t, s, jobs...)
	}
	for _, s := range streams {
		dead(t, s, group, n/10)
		drained(t, s)
		for i := range n {
			want := 1
			if i%10 == 3 {
				want = 2
			}
			if runs := book.of(s.Name(), " ", i); runs != want {
				t.Errorf("%s: job %d ran %d times, want %d", s.Name(), i, runs, want)
			}
		}
	}
	if !w.cluster() {
		return
	}
	busy := 0
	for _, node := range w.server.Nodes(t) {
		mine := make(map[int64][]string)
		for it := node.Scan(t.Context(), 0, "*"+prefix+"*", 1000).Iterator(); it.Next(t.Context()); {
			slot := node.ClusterKeySlot(t.Context(), it.Val()).Val()
			mine[slot] = append(mine[slot], it.Val())
		}
		if len(mine) > 0 {
			busy++
		}
	}
	if busy != 3 {
		t.Errorf("the streams lie on %d nodes: this proves little", busy)
	}
	for _, s := range streams {
		slots := make(map[int64]bool)
		for _, node := range w.server.Nodes(t) {
			own := "{" + s.Name() + "}:*"
			if strings.HasPrefix(s.Name(), "{") {
				own = s.Name() + "*"
			}
			for it := node.Scan(t.Context(), 0, own, 1000).Iterator(); it.Next(t.Context()); {
				slots[node.ClusterKeySlot(t.Context(), it.Val()).Val()] = true
			}
			if node.Exists(t.Context(), s.Name()).Val() > 0 {
				slots[node.ClusterKeySlot(t.Context(), s.Name()).Val()] = true
			}
		}
		if len(slots) != 1 {
			t.Errorf("%s lies in %d slots", s.Name(), len(slots))
		}
	}
}
