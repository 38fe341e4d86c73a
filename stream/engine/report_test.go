package engine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// reported is a report as it lies in Redis.
type reported struct {
	state string
	said  engine.Said
	lines []string // "number text"
}

func (w *world) reported(id string) reported {
	w.t.Helper()
	all := w.rdb.HGetAll(w.t.Context(), w.g.Report(id)).Val()
	r := reported{state: all["state"]}
	r.said, _ = engine.ParseSaid(all["progress"])
	first, last := engine.ParseReport(r.state)
	for n := first; n <= last; n++ {
		if text, ok := all[fmt.Sprint(n)]; ok {
			r.lines = append(r.lines, fmt.Sprint(n, " ", text))
		}
	}
	if rest := len(all) - len(r.lines); rest > 2 {
		w.t.Errorf("%d fields that are neither state, progress nor a line: %v", rest-2, all)
	}
	return r
}

// TestReport follows one job's report through its runs.
func TestReport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	h := w.held("x")
	r := engine.Report{Entry: h.Entry, ID: "x", Age: 7, Fence: 1<<32 + 1, Run: "a", Keep: time.Hour, First: 1, Lines: []string{"one", "two"}}
	say := func(version int64, note string) {
		r.Version, r.Said = version, engine.Said{Age: r.Age, Fence: r.Fence, Attempt: 1, At: 5, Fraction: 0.25, Note: note}
	}
	send := func(h engine.Held) string { t.Helper(); return fmt.Sprint(w.run(engine.ReportCall(h, w.g, r))) }
	want := func(step, note string, lines ...string) {
		t.Helper()
		if got := w.reported("x"); got.said.Note != note || !slices.Equal(got.lines, lines) {
			t.Errorf("%s: %+v, want note %q and lines %q", step, got, note, lines)
		}
	}
	say(2, "second")
	send(h)
	want("the first", "second", "1 one", "2 two")
	if got := w.reported("x").said; got != r.Said || !got.Of(1) || got.Of(0) {
		t.Errorf("%+v was kept of %+v", got, r.Said)
	}

	say(1, "first") // comes late
	r.First, r.Lines = 1, []string{"one"}
	send(h)
	want("an older one that comes late", "second", "1 one", "2 two")
	r.First, r.Lines = 2, []string{"two", "three"}
	say(3, "third")
	send(h)
	want("one that repeats a line", "third", "1 one", "2 two", "3 three")

	other := h
	other.Consumer = "other"
	say(9, "stolen")
	r.First, r.Lines = 9, []string{"nine"}
	if got := send(other); got != "[[1] []]" {
		t.Errorf("somebody who does not have the job: %s", got)
	}
	want("somebody who does not have the job", "third", "1 one", "2 two", "3 three")

	w.run(engine.ReleaseCall(h, w.g, "x", entry("x")))
	late := h
	h = w.read(w.g.Redelivery)
	r.Entry, r.Run, r.Fence, r.First, r.Lines = h.Entry, "b", 1<<32+2, 1, []string{"again"}
	say(1, "anew")
	send(h)
	want("another run", "anew", "1 one", "2 two", "3 three", "4 again")

	r.Entry, r.Run, r.Fence = "", "a", 1<<32+1 // the one before, whose entry was deleted
	say(9, "late")
	if got := send(late); got != "[[1] []]" {
		t.Errorf("a run that is over: %s", got)
	}
	r.Run, r.Fence = "b", 1<<32+2
	r.First, r.Lines = 2, []string{"its entry was deleted"}
	say(2, "goes on")
	send(h)
	want("an entry that was deleted", "goes on", "1 one", "2 two", "3 three", "4 again", "5 its entry was deleted")

	r.Entry, r.Age, r.Run, r.Fence = h.Entry, 8, "c", 1<<32
	r.First, r.Lines, r.Version = 1, []string{"new"}, 0
	send(h)
	want("another job with the same ID", "", "1 new")
	if ttl := w.rdb.PTTL(t.Context(), w.g.Report("x")).Val(); ttl <= 0 || ttl > time.Hour {
		t.Errorf("it stays for %s", ttl)
	}
}

// TestReportIsBounded writes many lines, in few and in many calls.
func TestReportIsBounded(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for name, tc := range map[string]struct {
		size, each, skip int // bytes of a line, lines of a call, lines left out before each call
		kept             int
	}{
		"lines one by one": {4, 1, 0, engine.ReportLines},
		"lines in tens":    {4, 10, 0, engine.ReportLines},
		"all it takes":     {4, engine.ReportLines, 0, engine.ReportLines},
		"long lines":       {engine.LineMax, 1, 0, engine.ReportBytes / engine.LineMax},
		"long in tens":     {engine.LineMax, 10, 0, engine.ReportBytes / engine.LineMax},
		"with gaps":        {4, 10, 30, 50},
		"with large gaps":  {4, 10, 10_000, 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			h := w.held("x")
			number := int64(1)
			for sent := 0; sent < 2*engine.ReportLines; sent += tc.each {
				number += int64(tc.skip)
				r := engine.Report{Entry: h.Entry, ID: "x", Run: "a", Keep: time.Hour, First: number}
				for range tc.each {
					r.Lines = append(r.Lines, fmt.Sprintf("%0*d", tc.size, number))
					number++
				}
				w.run(engine.ReportCall(h, w.g, r))
				got, bytes := w.reported("x"), 0 // it finds fields too many
				for _, line := range got.lines {
					_, text, _ := strings.Cut(line, " ")
					bytes += len(text)
				}
				if len(got.lines) > engine.ReportLines || bytes > engine.ReportBytes || !strings.Contains(got.state, fmt.Sprint(" ", bytes, " ")) {
					t.Fatalf("%d lines with %d bytes: %s", len(got.lines), bytes, got.state)
				}
			}
			got := w.reported("x").lines
			if last := fmt.Sprintf("%d %0*d", number-1, tc.size, number-1); len(got) != tc.kept || got[len(got)-1] != last {
				t.Errorf("%d lines, of which the last is %q; want %d and %q", len(got), got[len(got)-1], tc.kept, last)
			}
		})
	}
}

// TestReportsTogether: what goes wrong with one job's report is no other's trouble.
func TestReportsTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	a, b, c := w.held("a"), w.held("b"), w.held("c")
	w.run(engine.SettleCall(a, []string{a.Entry}))
	w.rdb.Set(t.Context(), w.g.Report("b"), "somebody else's", 0)
	reports := make([]engine.Report, 3)
	for i, h := range []engine.Held{a, b, c} {
		reports[i] = engine.Report{Entry: h.Entry, ID: "abc"[i : i+1], Run: "r", Keep: time.Hour, First: 1, Lines: []string{"one"}}
	}
	late, refused, ok := engine.ReadReported(w.run(engine.ReportCall(a, w.g, reports...)))
	if !ok || len(late) != 1 || !late[0] || len(refused) != 1 || !strings.HasPrefix(refused[1], "WRONGTYPE") {
		t.Errorf("late %v, refused %v", late, refused)
	}
	if got := w.reported("c").lines; len(got) != 1 || w.rdb.Exists(t.Context(), w.g.Report("a")).Val() != 0 {
		t.Errorf("lines %q of c; a, which has ended, has a report", got)
	}
}

// TestReschedule moves jobs between times.
func TestReschedule(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for _, tc := range []struct {
		name string
		slot func(*world) engine.Slot
	}{
		{"scheduled", func(w *world) engine.Slot { w.schedule("x", time.Hour); return engine.ScheduledSlot(w.Keys) }},
		{"retrying", func(w *world) engine.Slot {
			w.run(engine.RetryCall(w.held("x"), w.g, "x", time.Hour, entry("x")))
			return engine.RetryingSlot(w.g)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			slot := tc.slot(w)
			at := time.UnixMilli(1_900_000_000_000).Add(time.Microsecond) // the next millisecond, so that it is not early
			opts := engine.Opts{ID: "x"}
			got, err := engine.ReadRescheduled(w.run(engine.RescheduleCall(slot, "x", opts.String(), opts, 0, at)))
			if err != nil || got != (engine.Rescheduled{Due: 1_900_000_000_001}) {
				t.Fatalf("%+v, %v", got, err)
			}
			body, ok := engine.ParseBody(rdb.HGet(t.Context(), slot.Bodies, "x").Val())
			moved, err := engine.ParseOpts(body.Opts)
			if !ok || err != nil || moved.Due != got.Due || moved.ID != "x" || body.Data != "data of x" || body.Type != "t" {
				t.Errorf("%+v, %+v, %v", body, moved, err)
			}
			if score := rdb.ZScore(t.Context(), slot.Set, "x").Val(); int64(score) != got.Due || w.where("x") != fmt.Sprint(tc.name, " ", got.Due, " n") {
				t.Errorf("due at %.0f, and ids says %q", score, w.where("x"))
			}
			if p, err := engine.Promote(t.Context(), rdb, slot, 10); err != nil || p.Moved != 0 {
				t.Fatalf("promoted early: %+v, %v", p, err)
			}
			if got, err = engine.ReadRescheduled(w.run(engine.RescheduleCall(slot, "x", opts.String(), opts, 0, time.Time{}))); err != nil || !got.Changed {
				t.Errorf("by what it was before: %+v, %v", got, err)
			}
			sub := rdb.Subscribe(t.Context(), engine.WakeChannel)
			defer sub.Close()
			if _, err := sub.Receive(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got, err = engine.ReadRescheduled(w.run(engine.RescheduleCall(slot, "x", moved.String(), moved, 0, time.Time{}))); err != nil || got.Gone || got.Changed {
				t.Fatalf("to now: %+v, %v", got, err)
			}
			hint := fmt.Sprint(got.Due, " ", slot.Set)
			heard := sub.Channel()
			for said := ""; said != hint; { // other tests wake schedulers too
				select {
				case msg := <-heard:
					said = msg.Payload
				case <-time.After(10 * time.Second):
					t.Fatal("no hint")
				}
			}
			if p, err := engine.Promote(t.Context(), rdb, slot, 10); err != nil || p.Moved != 1 {
				t.Errorf("due now, and not promoted: %+v, %v", p, err)
			}
			if got, err = engine.ReadRescheduled(w.run(engine.RescheduleCall(slot, "x", moved.String(), moved, time.Hour, time.Time{}))); err != nil || !got.Gone {
				t.Errorf("gone: %+v, %v", got, err)
			}
		})
	}
}

// TestRescheduleKeepsWhatItDoesNotKnow: opts of a later version, and times that a delay makes.
func TestRescheduleKeepsWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	e := engine.Entry{Type: "t", Data: "d", Opts: `{"id":"x","later":[1,2.50],"due":5,"h":{"a":"\"due\":1"}}`}
	w.run(engine.ScheduleCall(w.Keys, "x", "n", 0, time.Hour, time.Time{}, e))
	o, err := engine.ParseOpts(e.Opts)
	if err != nil {
		t.Fatal(err)
	}
	before := w.rdb.Time(t.Context()).Val()
	got, err := engine.ReadRescheduled(w.run(engine.RescheduleCall(engine.ScheduledSlot(w.Keys), "x", e.Opts, o, time.Minute, time.Time{})))
	if err != nil || time.UnixMilli(got.Due).Before(before.Add(time.Minute)) {
		t.Errorf("%+v, %v: earlier than a minute from %s", got, err, before)
	}
	body, _ := engine.ParseBody(w.rdb.HGet(t.Context(), w.ScheduledJobs, "x").Val())
	if moved, err := engine.ParseOpts(body.Opts); err != nil || moved.Header["a"] != `"due":1` || moved.Due != got.Due || !strings.Contains(body.Opts, `"later":[1,2.50]`) {
		t.Errorf("opts %s, %v", body.Opts, err)
	}
	w.rdb.ZAdd(t.Context(), w.Scheduled, redis.Z{Score: 1, Member: "bare"})
	if got, err := engine.ReadRescheduled(w.run(engine.RescheduleCall(engine.ScheduledSlot(w.Keys), "bare", "", engine.Opts{}, 0, time.Time{}))); err != nil || !got.Gone {
		t.Errorf("a member without a body: %+v, %v", got, err)
	}
}
