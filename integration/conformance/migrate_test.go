package conformance_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-go/penstock/integration/servers"
	"github.com/penstock-go/penstock/stream"
)

// migration: the slot of a stream moves from node to node, key by key, while
// jobs are published, deferred, run, retried and dead-lettered; each job runs once.
func migration(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	schedule(t, w.server.Client(t))
	l := begin(t, w, s, w.again(t, s), w.again(t, s))
	plain := trickle(t, w.again(t, s))
	check := parked(t, l)
	stop, latest := newer(t, w.again(t, s), &l.book)
	l.more(t, 100)
	before := w.server.Errors(t)

	m := w.server.Migrate(t, s.Name())
	keys := lasting(m)
	if len(keys) < 8 {
		t.Errorf("only the keys %v last: this proves little", keys)
	}
	m.Move(s.Name()) // a plain publish is asked to go elsewhere from here on
	for {            // scripts find some of their keys here and some there
		pass(200 * time.Millisecond)
		left := lasting(m)
		if len(left) == 0 {
			break
		}
		m.Move(left[0])
	}
	m.Finish()
	// Each key once as the only one that has moved: a script that uses it without having named it stops half-way then.
	for _, key := range keys {
		m := w.server.Migrate(t, s.Name())
		m.Move(key)
		pass(300 * time.Millisecond)
		m.Finish()
		l.more(t, 20)
	}
	n := plain()
	stop()
	l.end(t, w)
	check()
	latest()
	for i := range n {
		if runs, want := l.book.of(plainJob(i)), 1+i%2; runs != want {
			t.Errorf("plain job %d ran %d times, want %d", i, runs, want)
		}
	}
	after := w.server.Errors(t)
	for _, class := range []string{"TRYAGAIN", "ASK", "MOVED"} {
		if after[class] <= before[class] {
			t.Errorf("no %s was answered: %v, before %v", class, after, before)
		}
	}
	t.Logf("%d jobs and %d without an ID; errors answered: %v", l.n, n, after)
}

// lasting are the keys of the slot that have not moved, without the records of finished jobs and most locks.
func lasting(m *servers.Migration) []string {
	return slices.DeleteFunc(m.Keys(1_000_000), func(key string) bool {
		return strings.Contains(key, ":job:") || strings.Contains(key, ":unique:") && !strings.HasSuffix(key, ":"+parkedKey)
	})
}

// parked has jobs wait until the slot has moved often enough, so that the keys
// of waiting jobs are there all the time; check is for when all have run.
func parked(t *testing.T, l *load) (check func()) {
	t.Helper()
	jobs := numbers(parkedFirst, parkedFirst+4)
	jobs[0].Delay, jobs[1].Delay = parkedFor, parkedFor // the others are parked by their first run
	jobs[0].Unique.Key = parkedKey
	publish(t, l.s, jobs...)
	return func() {
		t.Helper()
		for i := range jobs {
			if runs, want := l.book.of(parkedFirst+i), 1+i/2; runs != want {
				t.Errorf("parked job %d ran %d times, want %d", i, runs, want)
			}
		}
	}
}

// plainJob is the number of a trickle's nth job; load.handle fails every second one once.
func plainJob(n int) int { return 1_000_000 + 10*n + 3*(n%2) }

// trickle publishes jobs without an ID, which Publish may not repeat by itself,
// until stop is called, which returns how many were stored.
func trickle(t *testing.T, s *stream.Stream) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			switch _, err := s.Publish(ctx, number.Job(plainJob(n))); {
			case err == nil:
				n++
			case errors.Is(err, stream.ErrUnavailable): // nothing was stored
			case ctx.Err() == nil:
				t.Errorf("publish a plain job: %v", err)
				return
			}
			pass(10 * time.Millisecond)
		}
	})
	stop = sync.OnceValue(func() int {
		cancel()
		wg.Wait()
		return n
	})
	t.Cleanup(func() { stop() })
	return stop
}
