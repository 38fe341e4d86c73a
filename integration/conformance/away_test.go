package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/integration/servers"
	"github.com/penstock-go/penstock/stream"
)

// load publishes jobs with IDs, a few at a time, until it is stopped, and has
// workers work on them: some are deferred, some fail once, some are put off once, some die.
type load struct {
	s       *stream.Stream
	workers []*consumer.Worker
	book    ledger
	done    atomic.Int64
	n       int
	stop    chan struct{}
	wg      sync.WaitGroup
}

// begin starts a load, with one worker for each of streams: the same stream on clients of their own.
func begin(t *testing.T, w *world, publisher *stream.Stream, streams ...*stream.Stream) *load {
	t.Helper()
	l := &load{s: publisher, stop: make(chan struct{})}
	for _, s := range streams {
		worker := w.worker(t, quick(), s)
		consumer.Handle(worker, number, l.handle)
		run(t, worker)
		l.workers = append(l.workers, worker)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { // should the test fail before it ends
		cancel()
		l.halt()
	})
	l.wg.Go(func() {
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			select {
			case <-l.stop:
				tick.Stop()
				return
			case <-tick.C:
			}
			if err := insist(ctx, l.s, l.jobs(l.n)...); err != nil && ctx.Err() == nil {
				t.Errorf("publish: %v", err)
				return
			}
			l.n += 10
		}
	})
	return l
}

// jobs are the next ten, most of them with a unique key of their own.
func (l *load) jobs(from int) []stream.Job {
	jobs := numbers(from, from+10)
	for i := range jobs {
		jobs[i].ID = fmt.Sprintf("job-%d", from+i)
		if i%5 == 1 {
			jobs[i].Delay = time.Duration(i) * 10 * time.Millisecond
		}
		if i < 3 {
			continue
		}
		jobs[i].Unique.Key = fmt.Sprintf("key-%d", from+i)
		switch i {
		case 4, 7:
			jobs[i].Unique.Until = stream.UntilStarted
		case 8:
			jobs[i].Unique.OnConflict = stream.Coalesce
		}
	}
	return jobs
}

func (l *load) handle(_ context.Context, job *consumer.Job[int]) error {
	runs := l.book.add(job.Data)
	switch {
	case job.Data >= latestFirst:
		return nil
	case job.Data >= parkedFirst:
		if runs == 1 && job.Data >= parkedFirst+2 {
			return consumer.RetryAfter(errors.New("later"), parkedFor)
		}
		return nil
	case job.Data%10 == 3 && runs == 1:
		return errors.New("once more")
	case job.Data%10 == 4 && runs == 1:
		return consumer.Snooze(time.Millisecond)
	}
	l.done.Add(1)
	if job.Data%10 == 5 {
		return consumer.Permanent(errors.New("never"))
	}
	return nil
}

// Jobs of these numbers wait for a while: the first two are deferred, the next two put off by their first run.
const (
	parkedFirst = 2_000_000
	parkedFor   = 30 * time.Second
)

func (l *load) halt() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.wg.Wait()
}

// more returns when so many more jobs are done.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	from := l.done.Load()
	wait(t, fmt.Sprintf("%d more jobs", n), func() bool {
		if t.Failed() {
			t.FailNow()
		}
		return l.done.Load() >= from+n
	})
}

// end stops publishing, and checks that each job ended once, and that nothing is left of any but the dead ones.
func (l *load) end(t *testing.T, w *world) {
	t.Helper()
	l.halt()
	if t.Failed() {
		t.FailNow()
	}
	drained(t, l.s)
	l.book.want(t, l.n, func(i int) int {
		if i%10 == 3 || i%10 == 4 {
			return 2
		}
		return 1
	})
	dead(t, l.s, group, l.n/10)
	if swept, err := l.s.Group(group).Purge(t.Context(), stream.DeadFilter{}, stream.PurgeOptions{}); err != nil || swept.Moved != int64(l.n/10) {
		t.Errorf("purge: %+v, %v", swept, err)
	}
	w.clean(t, l.s)
}

// restarts: workers and publishers wait while Redis is down or reads its data
// in, and go on when it is back; each job runs once.
func restarts(t *testing.T, w *world) {
	own := w.own(t, servers.Config{Args: []string{"--key-load-delay", "100"}})
	s := own.stream(t, stream.Config{})
	schedule(t, own.server.Client(t))
	l := begin(t, own, s, own.again(t, s), own.again(t, s))
	for range 2 {
		l.more(t, 1000)
		own.server.Down(t)
		pass(time.Second)
		own.server.Up(t)
	}
	if errs := own.server.Errors(t); errs["LOADING"] == 0 {
		t.Errorf("nobody was told LOADING: %v", errs)
	}
	l.more(t, 200)
	l.end(t, own)
}

// storm: connections break all the time and scripts are forgotten; each job runs once.
func storm(t *testing.T, w *world) {
	publisher, links := w.server.Linked(t)
	s := over(t, publisher, name(t), stream.Config{})
	all := []*servers.Links{links}
	var streams []*stream.Stream
	for range 2 {
		rdb, links := w.server.Linked(t)
		all, streams = append(all, links), append(streams, over(t, rdb, s.Name(), stream.Config{}))
	}
	schedule(t, publisher)
	l := begin(t, w, s, streams...)
	nodes := w.server.Nodes(t)
	for i := range 40 {
		all[i%len(all)].Cut()
		for _, node := range nodes {
			if err := node.ScriptFlush(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		}
		l.more(t, 10)
	}
	l.end(t, w)
	for _, worker := range l.workers { // what was read and never seen goes back at once
		if got := worker.Stats(); got.Reclaimed != 0 {
			t.Errorf("stats %+v: some jobs had to wait for a lease", got)
		}
	}
}

// readOnly: a server that became a replica refuses writes, and one that lost
// its master everything; workers and publishers wait until it is a master again.
func readOnly(t *testing.T, w *world) {
	own := w.own(t, servers.Config{})
	s := own.stream(t, stream.Config{})
	schedule(t, own.server.Client(t))
	l := begin(t, own, s, own.again(t, s), own.again(t, s))
	node := own.server.Nodes(t)[0]
	for _, stale := range []string{"yes", "no"} {
		l.more(t, 100)
		if err := node.ConfigSet(t.Context(), "replica-serve-stale-data", stale).Err(); err != nil {
			t.Fatal(err)
		}
		node.ReplicaOf(t.Context(), "127.0.0.1", "1") // nobody is there
		pass(3 * time.Second)
		node.ReplicaOf(t.Context(), "NO", "ONE")
	}
	l.more(t, 100)
	l.end(t, own)
	if errs := own.server.Errors(t); errs["READONLY"] == 0 || errs["MASTERDOWN"] == 0 {
		t.Errorf("not both errors were answered: %v", errs)
	}
}

// failovers: the replica becomes the master, with an empty cache of scripts, by
// command and after a crash. What the new master has not heard of is as if it had not been done: a job may run again, but none is lost.
func failovers(t *testing.T, w *world) {
	own := w.own(t, servers.Config{Replica: true, DownAfter: 2 * time.Second})
	s := own.stream(t, stream.Config{})
	schedule(t, own.server.Client(t))
	var book ledger
	var slow atomic.Bool
	slow.Store(true)
	for range 2 {
		worker := own.worker(t, quick(), own.again(t, s))
		consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error {
			if slow.Load() {
				pass(50 * time.Millisecond)
			}
			if runs := book.add(job.Data); job.Data%10 == 3 && runs == 1 {
				return errors.New("once more")
			}
			return nil
		})
		run(t, worker)
	}
	n := 0
	batch := func() {
		t.Helper()
		for range 20 {
			if err := insist(t.Context(), s, new(load).jobs(n)...); err != nil {
				t.Fatal(err)
			}
			n += 10
		}
		own.server.Synced(t) // a failover may lose what it has not heard of yet
	}
	batch()
	moves := []func(testing.TB){own.server.Failover}
	if w.setup.Topology == servers.Sentinel {
		moves = []func(testing.TB){own.server.Crash, own.server.Failover}
	}
	for _, move := range moves {
		move(t)
		batch()
	}
	slow.Store(false)
	drained(t, s)
	for i := range n {
		want := 1
		if i%10 == 3 {
			want = 2
		}
		runs := book.of(i)
		if runs < want || w.cluster() && runs > want { // a Cluster's failover by command loses nothing
			t.Errorf("job %d ran %d times, want %d", i, runs, want)
		}
	}
	dead(t, s, group, 0)
	own.clean(t, s)
}

// lateRedis: a worker that starts before Redis can be reached waits, and says why it is not ready.
func lateRedis(t *testing.T, w *world) {
	rdb, links := w.server.Linked(t)
	links.Refuse()
	s := over(t, rdb, name(t), stream.Config{})
	worker := w.worker(t, quick(), s)
	consumer.Handle(worker, number, func(context.Context, *consumer.Job[int]) error { return nil })
	stop := run(t, worker)
	wait(t, "the trouble to be seen", func() bool { return worker.Health().Problem != nil })
	if h := worker.Health(); h.Ready || !h.Live {
		t.Errorf("health %+v, want live and not ready", h)
	}
	links.Mend(t)
	wait(t, "the worker to be ready", func() bool { return worker.Health().Ready })
	publish(t, s, number.Job(1))
	wait(t, "the job", func() bool { return worker.Stats().Completed == 1 })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// lostReplies: what may have happened is not repeated blindly, and what was read but never seen goes back uncounted.
func lostReplies(t *testing.T, w *world) {
	published, plinks := w.server.Linked(t)
	s := over(t, published, name(t), stream.Config{})
	direct := w.again(t, s)
	publish(t, direct, stream.Job{Type: "known", ID: "known"}) // the servers know the script

	// publishing
	plinks.LoseReplies("XADD", 1)
	if r, err := s.Publish(t.Context(), number.Job(0)); !errors.Is(err, stream.ErrAmbiguous) {
		t.Errorf("a publish whose reply was lost: %+v, %v; want ErrAmbiguous", r, err)
	}
	if n := plinks.Lost(); n != 1 {
		t.Fatalf("%d replies were lost: this proves nothing", n)
	}
	plinks.LoseReplies("EVALSHA", 1)
	if r, err := s.Publish(t.Context(), stream.Job{Type: number.Name, Data: 1, ID: "one"}); err != nil || r.Duplicate || r.ID != "one" {
		t.Errorf("a publish with an ID whose reply was lost: %+v, %v", r, err)
	}
	d, err := s.Describe(t.Context())
	if err != nil || d.Entries != 3 {
		t.Errorf("%d entries, %v; want each of three jobs once", d.Entries, err)
	}

	// reading, settling, moving
	rdb, links := w.server.Linked(t)
	worker := w.worker(t, quick(), over(t, rdb, s.Name(), stream.Config{}))
	var book ledger
	worker.HandleOther(func(context.Context, *consumer.Delivery) error { return nil })
	consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error {
		runs := book.add(job.Data)
		if job.Attempt != runs {
			t.Errorf("run %d of job %d is attempt %d", runs, job.Data, job.Attempt)
		}
		if job.Data%3 == 0 && runs == 1 {
			return errors.New("once more")
		}
		if job.Data%10 == 7 {
			return consumer.Permanent(errors.New("never"))
		}
		return nil
	})
	run(t, worker)
	const n = 60
	for i := 2; i < n; i++ {
		switch i % 8 {
		case 0:
			links.LoseReplies("XREADGROUP", 1)
		case 4:
			links.LoseReplies("EVAL", 1)
		}
		job := number.Job(i)
		if i%2 == 0 {
			job.ID = fmt.Sprintf("job-%d", i)
		}
		publish(t, direct, job)
		wait(t, "the job's run", func() bool { return book.of(i) > 0 })
	}
	drained(t, s)
	if links.Lost() < 5 {
		t.Fatalf("%d replies were lost: this proves little", links.Lost())
	}
	book.want(t, n, func(i int) int {
		if i%3 == 0 {
			return 2
		}
		return 1
	})
	dead(t, s, group, n/10)
	wait(t, "the worker to know how all jobs ended", func() bool { // an end whose reply was lost is asked for again
		got := worker.Stats()
		return got.Completed >= n+1-n/10 && got.Retried >= n/3 && got.Dead >= n/10
	})
	if got := worker.Stats(); got.Completed != n+1-n/10 || got.Retried != n/3 || got.Dead != n/10 || got.Reclaimed != 0 {
		t.Errorf("stats %+v, want %d completed, %d retried, %d dead, and none that had to wait for a lease", got, n+1-n/10, n/3, n/10)
	}
}
