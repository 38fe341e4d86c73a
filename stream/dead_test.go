package stream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// bury publishes n jobs and kills each: j0, j1, … of types even and odd, which died of "boom 0", "boom 1", ….
func bury(t testing.TB, s *stream.Stream, g engine.GroupKeys, n int) {
	t.Helper()
	jobs := make([]stream.Job, n)
	for i := range jobs {
		jobs[i] = stream.Job{Type: []string{"even", "odd"}[i%2], ID: fmt.Sprintf("j%d", i), Data: i, Header: map[string]string{"n": fmt.Sprint(i)}}
	}
	publish(t, s, jobs...)
	for i, d := range read(t, s, s.Name(), "g", int64(n)) {
		d.opts.Errors, d.opts.Moves = 3, 5
		d.opts.History = []engine.Attempt{{Attempt: 1, Worker: "w", Started: 1000, Took: 20, Error: "boom"}}
		kill(t, s, g, d, fmt.Sprintf(`{"reason":"failed","error":"boom %d","stack":"main.go:1","worker":"w/1","max_tries":3}`, i))
	}
}

func ids(letters []stream.DeadLetter) string {
	var list []string
	for _, l := range letters {
		list = append(list, l.ID)
	}
	return strings.Join(list, " ")
}

func TestDeadListAndShow(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	bury(t, s, g, 7)
	dead := s.Group("g")

	var pages []string
	after := ""
	for range 10 {
		letters, next, err := dead.Dead(ctx, stream.DeadFilter{}, stream.Page{After: after, Limit: 3})
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, ids(letters))
		if after = next; next == "" {
			break
		}
	}
	if want := []string{"j0 j1 j2", "j3 j4 j5", "j6"}; !slices.Equal(pages, want) {
		t.Errorf("pages %q, want %q", pages, want)
	}

	l, err := dead.DeadLetter(ctx, "j4")
	if err != nil || l.ID != "j4" || l.Type != "even" || l.Reason != "failed" || l.Error != "boom 4" || l.Stack != "main.go:1" || l.Worker != "w/1" ||
		l.Attempt != 3 || l.MaxTries != 3 || string(l.Payload) != "4" || l.Header["n"] != "4" || l.Published.IsZero() || time.Since(l.Died) > time.Minute ||
		len(l.History) != 1 || l.History[0].Took != 20*time.Millisecond || l.History[0].Error != "boom" {
		t.Errorf("letter %+v, %v", l, err)
	}
	for _, id := range []string{"j99", ""} {
		if l, err := dead.DeadLetter(ctx, id); !errors.Is(err, stream.ErrNotFound) {
			t.Errorf("letter %q: %+v, %v", id, l, err)
		}
	}
	if _, _, err := s.Group("h").Dead(ctx, stream.DeadFilter{}, stream.Page{}); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("no such group: %v", err)
	}
	if _, _, err := s.Group("a:b").Dead(ctx, stream.DeadFilter{}, stream.Page{}); !errors.Is(err, stream.ErrInvalid) {
		t.Errorf("no group's name: %v", err)
	}
	if _, _, err := dead.Dead(ctx, stream.DeadFilter{}, stream.Page{After: "x"}); !errors.Is(err, stream.ErrInvalid) {
		t.Errorf("no page: %v", err)
	}

	for name, c := range map[string]struct {
		filter stream.DeadFilter
		want   string
	}{
		"all":            {stream.DeadFilter{}, "j0 j1 j2 j3 j4 j5 j6"},
		"type":           {stream.DeadFilter{Type: "odd"}, "j1 j3 j5"},
		"type exactly":   {stream.DeadFilter{Type: "od"}, ""},
		"error":          {stream.DeadFilter{Error: "boom 2"}, "j2"},
		"reason":         {stream.DeadFilter{Error: "failed", Type: "odd"}, "j1 j3 j5"},
		"IDs":            {stream.DeadFilter{IDs: []string{"j5", "j0", "j99"}}, "j0 j5"},
		"ID and type":    {stream.DeadFilter{IDs: []string{"j5"}, Type: "even"}, ""},
		"older":          {stream.DeadFilter{OlderThan: time.Hour}, ""},
		"newer":          {stream.DeadFilter{NewerThan: time.Hour}, "j0 j1 j2 j3 j4 j5 j6"},
		"newer and none": {stream.DeadFilter{NewerThan: time.Hour, Error: "bang"}, ""},
	} {
		letters, next, err := dead.Dead(ctx, c.filter, stream.Page{})
		if err != nil || next != "" || ids(letters) != c.want {
			t.Errorf("%s: %q, next %q, %v, want %q", name, ids(letters), next, err, c.want)
		}
	}
	// by age: entries that say they are older
	rdb.Del(ctx, g.Dead)
	rdb.XAdd(ctx, &redis.XAddArgs{Stream: g.Dead, ID: "1000-1", Values: []string{"type", "a", "data", "", "traceparent", "", "opts", `{"id":"old"}`, "info", "{}"}})
	bury(t, s, g, 0)
	publish(t, s, stream.Job{Type: "a", ID: "new"})
	kill(t, s, g, read(t, s, s.Name(), "g", 1)[0], `not json`)
	for filter, want := range map[*stream.DeadFilter]string{{OlderThan: time.Hour}: "old", {NewerThan: time.Hour}: "new"} {
		if letters, _, err := dead.Dead(ctx, *filter, stream.Page{}); err != nil || ids(letters) != want {
			t.Errorf("%+v: %q, %v", filter, ids(letters), err)
		}
	}
	if l, err := dead.DeadLetter(ctx, "new"); err != nil || !strings.Contains(l.Error, "cannot be read") {
		t.Errorf("a letter with a broken info: %+v, %v", l, err)
	}
}

func TestRedrive(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	bury(t, s, g, 7)
	dead := s.Group("g")

	sweep, err := dead.Redrive(ctx, stream.DeadFilter{Type: "odd"}, stream.RedriveOptions{DryRun: true})
	if err != nil || sweep != (stream.Sweep{Seen: 7, Matched: 3}) || length(t, rdb, g.Dead) != 7 {
		t.Errorf("dry run: %+v, %v", sweep, err)
	}
	sweep, err = dead.Redrive(ctx, stream.DeadFilter{IDs: []string{"j2"}}, stream.RedriveOptions{})
	if err != nil || sweep != (stream.Sweep{Seen: 1, Matched: 1, Moved: 1}) {
		t.Errorf("one: %+v, %v", sweep, err)
	}
	d := read(t, s, g.Redelivery, "g", 1)[0]
	if d.id != "j2" || d.entry.Data != "2" || d.opts.Errors != 0 || d.opts.Moves != 6 || d.opts.Header["n"] != "2" || len(d.opts.History) != 1 {
		t.Errorf("redriven as %+v: want no errors, the fence kept and one higher, its headers and history", d.opts)
	}
	var calls int
	sweep, err = dead.Redrive(ctx, stream.DeadFilter{}, stream.RedriveOptions{Progress: func(stream.Sweep) { calls++ }})
	if err != nil || sweep != (stream.Sweep{Seen: 6, Matched: 6, Moved: 6}) || calls == 0 {
		t.Errorf("the rest: %+v, %v, %d calls of Progress", sweep, err, calls)
	}
	if length(t, rdb, g.Dead) != 0 || len(read(t, s, g.Redelivery, "g", 10)) != 6 {
		t.Error("not all came back")
	}
	if sweep, err := dead.Redrive(ctx, stream.DeadFilter{}, stream.RedriveOptions{}); err != nil || sweep != (stream.Sweep{}) {
		t.Errorf("none left: %+v, %v", sweep, err)
	}
}

func TestRedriveRate(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	bury(t, s, g, 10)
	begin := time.Now()
	sweep, err := s.Group("g").Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{Rate: 50})
	// batches of five: the second leaves when the first's 100 ms are over
	if took := time.Since(begin); err != nil || sweep.Moved != 10 || took < 95*time.Millisecond || took > 2*time.Second {
		t.Errorf("10 letters at 50/s took %s: %+v, %v", took, sweep, err)
	}

	for _, d := range read(t, s, g.Redelivery, "g", 10) {
		kill(t, s, g, d, "{}")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	sweep, err = s.Group("g").Redrive(ctx, stream.DeadFilter{}, stream.RedriveOptions{Rate: 0.5, Progress: func(stream.Sweep) { cancel(enough) }})
	if !errors.Is(err, enough) || sweep.Moved != 1 || length(t, rdb, g.Dead) != 9 {
		t.Errorf("stopped: %+v, %v, %d left", sweep, err, length(t, rdb, g.Dead))
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	bury(t, s, g, 5)
	dead := s.Group("g")
	sweep, err := dead.Purge(ctx, stream.DeadFilter{Type: "even"}, stream.PurgeOptions{DryRun: true})
	if err != nil || sweep != (stream.Sweep{Seen: 5, Matched: 3}) || length(t, rdb, g.Dead) != 5 {
		t.Errorf("dry run: %+v, %v", sweep, err)
	}
	sweep, err = dead.Purge(ctx, stream.DeadFilter{Type: "even"}, stream.PurgeOptions{})
	if err != nil || sweep != (stream.Sweep{Seen: 5, Matched: 3, Moved: 3}) {
		t.Errorf("purge: %+v, %v", sweep, err)
	}
	letters, _, err := dead.Dead(ctx, stream.DeadFilter{}, stream.Page{})
	if err != nil || ids(letters) != "j1 j3" {
		t.Errorf("left %q, %v", ids(letters), err)
	}
	free, err := s.Publish(ctx, stream.Job{Type: "a", ID: "j0"})
	if err != nil || free.Duplicate {
		t.Errorf("the ID of a purged letter: %+v, %v", free, err)
	}
	taken, err := s.Publish(ctx, stream.Job{Type: "a", ID: "j1"})
	if err != nil || !taken.Duplicate || taken.State != stream.Dead {
		t.Errorf("the ID of a letter that stays: %+v, %v", taken, err)
	}
}

// TestDeadForeign: an entry of some other program keeps all its fields through death and redrive.
func TestDeadForeign(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	id := rdb.XAdd(ctx, &redis.XAddArgs{Stream: s.Name(), Values: []string{"sku", "7", "data", "d", "bin", "\xff\x00"}}).Val()
	kill(t, s, g, read(t, s, s.Name(), "g", 1)[0], `{"reason":"failed"}`)
	l, err := s.Group("g").DeadLetter(ctx, id)
	if err != nil || l.Fields["sku"] != "7" || l.Fields["bin"] != "\xff\x00" || string(l.Payload) != "d" || l.Published.IsZero() {
		t.Errorf("letter %+v, %v", l, err)
	}
	if sweep, err := s.Group("g").Redrive(ctx, stream.DeadFilter{}, stream.RedriveOptions{}); err != nil || sweep.Moved != 1 {
		t.Fatalf("%+v, %v", sweep, err)
	}
	d := read(t, s, g.Redelivery, "g", 1)[0]
	if d.id != id || len(d.opts.Fields) != 3 || string(d.opts.Fields[2][1]) != "\xff\x00" {
		t.Errorf("redriven as %q with %q", d.id, d.opts.Fields)
	}
}
