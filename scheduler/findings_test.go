package scheduler_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
)

// found are the kinds of findings by group.
func found(list []scheduler.Finding) string {
	var kinds []string
	for _, f := range list {
		kinds = append(kinds, fmt.Sprintf("%s/%s:%d", f.Group, f.Kind, f.Jobs))
	}
	slices.Sort(kinds)
	return strings.Join(kinds, " ")
}

// TestUpkeepFinds: what a person should look at, each for the stream that has it alone.
func TestUpkeepFinds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind stream.Kind
		make func(w *site)
		want string
	}{
		"nothing":                   {kind: stream.KindQueue, make: func(*site) {}},
		"a queue that nobody reads": {kind: stream.KindQueue, make: func(w *site) { w.add(3) }, want: "billing/unread:3"},
		"a queue that a worker reads": {kind: stream.KindQueue, make: func(w *site) {
			w.add(3)
			w.read("billing", "me", 1)
			w.heard("billing", "me", time.Second)
		}},
		"a queue that nobody reads for a moment": {kind: stream.KindQueue, make: func(w *site) { publish(w.t, w.s, stream.Job{Type: "ping"}) }},
		"a worker that died with jobs": {kind: stream.KindQueue, make: func(w *site) {
			w.add(3)
			w.read("billing", "me", 3)
			w.heard("billing", "me", time.Minute)
		}, want: "billing/unserved:3"},
		"a stream without a group": {kind: stream.KindEvents, make: func(w *site) {
			w.add(3)
			w.rdb.XGroupDestroy(w.t.Context(), "orders", "billing")
			w.rdb.HDel(w.t.Context(), w.k.Config, "epoch:billing")
		}, want: "/unread:3"},
		"a group that holds others back": {kind: stream.KindEvents, make: func(w *site) {
			w.add(3)
			w.done("billing", 3)
			w.rdb.XGroupCreate(w.t.Context(), "orders", "etl", "1-0")
		}, want: "etl/holds back:0"},
		"a group that does not within the retention": {kind: stream.KindEvents, make: func(w *site) {
			if err := w.s.SetRetention(w.t.Context(), stream.Retention{Length: 10}); err != nil {
				w.t.Fatal(err)
			}
			w.add(3)
			w.done("billing", 3)
			w.rdb.XGroupCreate(w.t.Context(), "orders", "etl", "1-0")
		}},
		"a group that somebody destroyed": {kind: stream.KindEvents, make: func(w *site) { w.rdb.XGroupDestroy(w.t.Context(), "orders", "billing") }, want: "billing/destroyed:0"},
		"history": {kind: stream.KindQueue, make: func(w *site) {
			w.add(3)
			w.done("billing", 3)
			w.rdb.HSet(w.t.Context(), w.k.Config, "floor:billing", "2-0")
		}, want: "billing/history:0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newSite(t, c.kind)
			c.make(w)
			s, err := scheduler.New(w.rdb, scheduler.Config{})
			if err != nil {
				t.Fatal(err)
			}
			list, err := s.Inspect(t.Context())
			if got := found(list); err != nil || got != c.want {
				t.Errorf("Inspect finds %q, %v, want %q", got, err, c.want)
			}
			if n := w.rdb.Exists(t.Context(), w.k.Upkeep).Val(); n != 0 {
				t.Error("who only looks keeps others from upkeep")
			}
			if got := found(w.once(scheduler.Config{}).Findings); got != c.want {
				t.Errorf("upkeep finds %q, want %q", got, c.want)
			}
		})
	}
}

// TestUpkeepReportsOnce: a finding is logged when it is seen, and when it is over; not in between.
func TestUpkeepReportsOnce(t *testing.T) {
	t.Parallel()
	w := newSite(t, stream.KindQueue)
	w.add(2)
	log := &lines{}
	s, _ := run(t, w.rdb, scheduler.Config{Upkeep: time.Second, Logger: slog.New(slog.NewTextHandler(log, nil))})
	redistest.Wait(t, "three passes", func() bool { return s.Upkeep().Passes >= 3 })
	if got := found(s.Upkeep().Findings); got != "billing/unread:2" || log.count("upkeep found something to look at") != 1 {
		t.Errorf("found %q, logged\n%s", got, log.text.String())
	}
	w.heard("billing", "me", 0) // a worker comes
	redistest.Wait(t, "the end", func() bool { return len(s.Upkeep().Findings) == 0 })
	if log.count("what upkeep found is over") != 1 || log.count("level=WARN") != 1 {
		t.Errorf("logged\n%s", log.text.String())
	}
}
