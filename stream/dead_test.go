package stream_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
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
	still := redistest.Standstill(t)
	begin := time.Now()
	sweep, err := s.Group("g").Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{Rate: 50})
	// batches of five: the second leaves when the first's 100 ms are over
	if took := time.Since(begin); err != nil || sweep.Moved != 10 || took < 95*time.Millisecond || took > 2*time.Second+still() {
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

// TestRedriveSaturates: the highest fence there is stays readable.
func TestRedriveSaturates(t *testing.T) {
	t.Parallel()
	s, _ := open(t, stream.Config{})
	g := group(t, s, "g")
	publish(t, s, stream.Job{Type: "a", ID: "x"})
	d := read(t, s, s.Name(), "g", 1)[0]
	d.opts.Moves = math.MaxInt32
	kill(t, s, g, d, "{}")
	if sweep, err := s.Group("g").Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{}); err != nil || sweep.Moved != 1 {
		t.Fatalf("%+v, %v", sweep, err)
	}
	if d := read(t, s, g.Redelivery, "g", 1)[0]; d.opts.Moves != math.MaxInt32 {
		t.Errorf("redriven with fence %d", d.opts.Moves)
	}
}

// TestDeadPages: next is empty on the last page, whatever the filter and however full the page is.
func TestDeadPages(t *testing.T) {
	t.Parallel()
	s, _ := open(t, stream.Config{})
	g := group(t, s, "g")
	bury(t, s, g, 6)
	for name, c := range map[string]struct {
		filter stream.DeadFilter
		limit  int
		want   string
	}{
		"full":        {stream.DeadFilter{}, 3, "j0 j1 j2/j3 j4 j5"},
		"all in one":  {stream.DeadFilter{}, 6, "j0 j1 j2 j3 j4 j5"},
		"rest":        {stream.DeadFilter{}, 4, "j0 j1 j2 j3/j4 j5"},
		"type":        {stream.DeadFilter{Type: "even"}, 1, "j0/j2/j4"},
		"one ID":      {stream.DeadFilter{IDs: []string{"j3"}}, 1, "j3"},
		"IDs":         {stream.DeadFilter{IDs: []string{"j3", "j1"}}, 1, "j1/j3"},
		"one too few": {stream.DeadFilter{Error: "boom"}, 5, "j0 j1 j2 j3 j4/j5"},
	} {
		var pages []string
		page := stream.Page{Limit: c.limit}
		for range 10 {
			letters, next, err := s.Group("g").Dead(t.Context(), c.filter, page)
			if err != nil {
				t.Fatal(err)
			}
			pages = append(pages, ids(letters))
			if page.After = next; next == "" {
				break
			}
		}
		if got := strings.Join(pages, "/"); got != c.want {
			t.Errorf("%s: pages %s, want %s", name, got, c.want)
		}
	}
	one := stream.DeadFilter{IDs: []string{"j3"}}
	letters, _, err := s.Group("g").Dead(t.Context(), one, stream.Page{})
	if err != nil || len(letters) != 1 {
		t.Fatal(letters, err)
	}
	if again, next, err := s.Group("g").Dead(t.Context(), one, stream.Page{After: letters[0].Entry}); err != nil || len(again) != 0 || next != "" {
		t.Errorf("after itself: %q, next %q, %v", ids(again), next, err)
	}
}

// counts is a hook that notes the COUNT of each XRANGE.
type counts struct{ seen []int }

func (c *counts) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *counts) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (c *counts) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if args := cmd.Args(); cmd.Name() == "xrange" && len(args) == 6 {
			n, _ := args[5].(int)
			c.seen = append(c.seen, n)
		}
		return next(ctx, cmd)
	}
}

// TestDeadLargeLetters: a listing reads no more than it needs, and a walk over large letters no more at once than fits.
func TestDeadLargeLetters(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	letter := func(i, size int) {
		e := engine.Entry{Type: "a", Data: strings.Repeat("x", size), Opts: engine.Opts{ID: fmt.Sprint(i)}.String()}
		if err := rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: g.Dead, Values: append(e.Fields(), "info", "{}")}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 40 {
		letter(i, 512<<10)
	}
	c := &counts{}
	rdb.AddHook(c)
	letters, next, err := s.Group("g").Dead(t.Context(), stream.DeadFilter{}, stream.Page{Limit: 1})
	if err != nil || len(letters) != 1 || next == "" || fmt.Sprint(c.seen) != "[2]" {
		t.Errorf("a page of one: %d letters, next %q, %v, read %v", len(letters), next, err, c.seen)
	}
	c.seen = nil
	sweep, err := s.Group("g").Purge(t.Context(), stream.DeadFilter{Type: "none"}, stream.PurgeOptions{})
	if err != nil || sweep.Seen != 40 {
		t.Errorf("%+v, %v", sweep, err)
	}
	for i, n := range c.seen {
		if i == 0 && n > 50 || i > 0 && n > 8 {
			t.Errorf("read %v letters of 512 KiB at once, want 8 once their size is known", c.seen)
			break
		}
	}
	if sweep, err := s.Group("g").Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{}); err != nil || sweep.Moved != 40 {
		t.Errorf("redrive: %+v, %v", sweep, err)
	}
	for i := range 1500 {
		letter(i, 10)
	}
	c.seen = nil
	if sweep, err := s.Group("g").Purge(t.Context(), stream.DeadFilter{}, stream.PurgeOptions{}); err != nil || sweep.Moved != 1500 || len(c.seen) > 8 {
		t.Errorf("%+v, %v, read in steps of %v: small letters go in large ones", sweep, err, c.seen)
	}
}
