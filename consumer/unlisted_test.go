package consumer

import (
	"math"
	"testing"
	"time"
)

// TestOverlappedRead: a heartbeat that was on its way while a job was read does not know the job. The next, which does not find it in this
// worker's list, goes on with it as long as the read was less than a lease ago and Redis has been in contact since before it.
func TestOverlappedRead(t *testing.T) {
	t.Parallel()
	const lease = 10 * time.Second
	for name, tc := range map[string]struct {
		read, contact time.Duration // ago; 0: there is none
		denied        bool
	}{
		"just read":                     {read: time.Second, contact: time.Minute},
		"read nearly a lease ago":       {read: lease - time.Second, contact: time.Minute},
		"read a lease ago":              {read: lease + time.Millisecond, contact: time.Minute, denied: true},
		"contact was lost since":        {read: 2 * time.Second, contact: time.Second, denied: true},
		"contact was lost just before":  {read: 2 * time.Second, contact: 3 * time.Second},
		"no contact":                    {read: time.Second, denied: true},
		"since when is not known of it": {read: -1, contact: time.Nanosecond, denied: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := fakeWorker(t, &fakeRedis{}, Config{Lease: lease})
			e := endedTask(w, "1-1")
			e.read = mono() - int64(tc.read)
			if tc.read < 0 {
				e.read = 0
			}
			e.since = mono()
			e.lane.confirmed.Store(e.since)
			var c contact
			if tc.contact > 0 {
				c.steady = time.Now().Add(-tc.contact)
			}
			on := false
			w.unlisted(e, true, c.fresh(lease), func(*task) { on = true })
			if on == tc.denied || e.lost.Load() != tc.denied {
				t.Errorf("it goes on: %v, it is lost: %v; want it lost: %v", on, e.lost.Load(), tc.denied)
			}
		})
	}
}

// TestDeniedStaysDenied: a heartbeat that does not find a task whose end is on the wire says nothing of it then, and
// must not count later as one that found it.
func TestDeniedStaysDenied(t *testing.T) {
	t.Parallel()
	w := fakeWorker(t, &fakeRedis{}, Config{})
	goesOn := make(map[string]int)
	beat := func(tasks ...*task) {
		for _, e := range tasks {
			w.unlisted(e, true, math.MaxInt64, func(*task) { goesOn[e.entry]++ })
		}
		w.sources[0].lanes[1].confirmed.Store(mono())
	}
	known := endedTask(w, "1-1")
	beat() // finds it
	adopted := endedTask(w, "2-1")
	adopted.read = 0 // it was ours before, and nothing says since when
	both := []*task{known, adopted}
	for _, e := range both {
		e.sent.Store(true)
	}
	beat(both...)
	for _, e := range both { // it was not ours to end
		e.sent.Store(false)
	}
	beat(both...)
	if !adopted.lost.Load() || goesOn["2-1"] > 0 {
		t.Error("a task that no heartbeat ever found is believed to be ours")
	}
	if known.lost.Load() || goesOn["1-1"] != 2 {
		t.Errorf("a task that a heartbeat had found does not go on: lost %v, went on %d times", known.lost.Load(), goesOn["1-1"])
	}
}

// TestAdoptedOnce: a sweep and a search for orphans may find the same entry, in either order. One of them holds it.
func TestAdoptedOnce(t *testing.T) {
	t.Parallel()
	for name, order := range map[string][2]bool{"sweep first": {false, true}, "search first": {true, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := fakeWorker(t, &fakeRedis{}, Config{})
			l := w.sources[0].lanes[1]
			entries := func() []rawEntry {
				return []rawEntry{{id: "1-1", values: []string{"type", "t", "data", "", "traceparent", "", "opts", ""}}}
			}
			first, second := w.adopt(l, entries(), order[0]), w.adopt(l, entries(), order[1])
			if len(first) != 1 || len(second) != 0 || l.held != 1 || w.load.Load() != first[0].weight {
				t.Fatalf("held %d and %d, %d in all with a load of %d; want the first alone", len(first), len(second), l.held, w.load.Load())
			}
			first[0].lost.Store(true) // and is ours again
			if again := w.adopt(l, entries(), order[1]); len(again) != 1 {
				t.Error("an entry that was lost and is ours again is not held")
			}
		})
	}
}
