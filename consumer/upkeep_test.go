package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// TestTrimmedWhileItWorks: an events stream is trimmed all the time, while three workers of two groups work, some of whose
// jobs fail at first, and while somebody destroys a group. Each group gets every job, and in the end nothing is left.
func TestTrimmedWhileItWorks(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{Kind: stream.KindEvents})
	keys := engine.NewKeys(s.Name())
	const jobs = 3000
	ledgers := make(map[string]*ledger)
	for _, name := range []string{group, "audit", group} {
		if ledgers[name] == nil {
			ledgers[name] = &ledger{}
		}
		cfg := quick()
		cfg.Lease = 10 * time.Second
		w, err := consumer.New(name, cfg, s)
		if err != nil {
			t.Fatal(err)
		}
		runs := ledgers[name]
		consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
			if n := runs.add(fmt.Sprint(job.Data)); n == 1 && job.Data%7 == 0 {
				return errors.New("not at first")
			}
			return nil
		})
		run(t, w)
	}
	redistest.Wait(t, "the groups", func() bool { return len(rdb.XInfoGroups(t.Context(), s.Name()).Val()) == 2 })
	var trimmed atomic.Int64
	trim := func(ctx context.Context) {
		v, err := engine.TrimCall(keys, 200, 0).Run(ctx, rdb)
		if err != nil && ctx.Err() == nil {
			t.Error(err)
		}
		n, _ := v.(int64)
		trimmed.Add(n)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			trim(ctx)
		}
	}()
	for i := range jobs / 100 {
		var batch []stream.Job
		for n := range 100 {
			batch = append(batch, ping.Job(100*i+n))
		}
		publish(t, s, batch...)
		if i == jobs/200 {
			rdb.XGroupDestroy(t.Context(), s.Name(), "audit")
		}
	}
	for name, runs := range ledgers {
		redistest.Wait(t, "all jobs of "+name, func() bool {
			for i := range jobs {
				if n := runs.of(fmt.Sprint(i)); n == 0 || n == 1 && i%7 == 0 {
					return false
				}
			}
			return true
		})
	}
	redistest.Wait(t, "the stream to be empty", func() bool { return rdb.XLen(t.Context(), s.Name()).Val() == 0 })
	stop()
	<-done
	if n := trimmed.Load(); n != jobs {
		t.Errorf("%d were trimmed, want %d", n, jobs)
	}
}

// TestWorkerDeclaresRetention: when it opens an events stream, if it is told one; a queue has none.
func TestWorkerDeclaresRetention(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	retention := stream.Retention{Age: time.Hour, Length: 10}
	open := func(s *stream.Stream) {
		t.Helper()
		w := newWorker(t, quick(), s)
		consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { return nil })
		stop := run(t, w)
		publish(t, s, ping.Job(1))
		redistest.Wait(t, "a job", func() bool { return w.Stats().Completed == 1 })
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	declared := func(s *stream.Stream) stream.Retention {
		t.Helper()
		d, err := s.Describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return d.Retention
	}
	events := newStream(t, rdb, stream.Config{Kind: stream.KindEvents, Retention: retention})
	if open(events); declared(events) != retention {
		t.Errorf("declared %+v, want %+v", declared(events), retention)
	}
	same, err := stream.New(rdb, events.Name(), stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if open(same); declared(same) != retention {
		t.Errorf("a worker that says nothing made it %+v", declared(same))
	}
	queue, err := stream.New(rdb, events.Name()+"-queue", stream.Config{Retention: retention})
	if err != nil {
		t.Fatal(err)
	}
	if open(queue); declared(queue) != (stream.Retention{}) {
		t.Errorf("a queue has %+v", declared(queue))
	}
}
