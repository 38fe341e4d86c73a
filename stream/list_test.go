package stream_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// list pages through jobs in one state.
func list(t *testing.T, s *stream.Stream, group string, state stream.State, limit int) string {
	t.Helper()
	var ids []string
	for page := (stream.Page{Limit: limit}); ; {
		jobs, next, err := s.Jobs(t.Context(), group, state, page)
		if err != nil || len(jobs) > limit || next != "" && len(jobs) != limit {
			t.Fatalf("%d jobs, next %q, %v", len(jobs), next, err)
		}
		for _, job := range jobs {
			if job.State != state || job.Type != "t" {
				t.Errorf("%+v is listed as %s", job, state)
			}
			ids = append(ids, job.ID)
		}
		if page.After = next; next == "" {
			return strings.Join(ids, " ")
		}
	}
}

// TestJobs lists each state with pages of every size: all are there, once, in order.
func TestJobs(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	if got := list(t, s, "", stream.Waiting, 10) + list(t, s, "", stream.Active, 10) + list(t, s, "", stream.Dead, 10) + list(t, s, "", stream.Retrying, 10); got != "" {
		t.Errorf("an empty stream: %q", got)
	}
	g := group(t, s, "g")
	add := func(prefix string, delay time.Duration) {
		t.Helper()
		for i := range 7 {
			job := stream.Job{Type: "t", ID: fmt.Sprint(prefix, i)}
			if delay > 0 {
				job.Delay = delay * time.Duration(i+1)
			}
			publish(t, s, job)
		}
	}
	add("s", time.Hour)
	add("r", 0)
	for i, d := range read(t, s, s.Name(), "g", 7) {
		call(t, s, engine.RetryCall(d.Held, g, d.id, time.Hour*time.Duration(i+1), d.entry))
	}
	add("d", 0)
	for _, d := range read(t, s, s.Name(), "g", 7) {
		kill(t, s, g, d, `{"reason":"failed"}`)
	}
	add("x", 0)
	for _, d := range read(t, s, s.Name(), "g", 7)[:4] { // some come back, and two of them are held again
		call(t, s, engine.ReleaseCall(d.Held, g, d.id, d.entry))
	}
	read(t, s, g.Redelivery, "g", 2)
	add("w", 0)
	for limit := 1; limit < 12; limit++ {
		for state, want := range map[stream.State]string{
			stream.Scheduled: "s0 s1 s2 s3 s4 s5 s6", stream.Retrying: "r0 r1 r2 r3 r4 r5 r6", stream.Dead: "d0 d1 d2 d3 d4 d5 d6",
			stream.Active: "x4 x5 x6 x0 x1", stream.Waiting: "w0 w1 w2 w3 w4 w5 w6 x2 x3",
		} {
			if got := list(t, s, "g", state, limit); got != want {
				t.Errorf("%s, %d a page: %q, want %q", state, limit, got, want)
			}
		}
	}
	rdb.XDel(t.Context(), g.Redelivery, read(t, s, g.Redelivery, "g", 1)[0].Entry)
	if jobs, _, err := s.Jobs(t.Context(), "", stream.Active, stream.Page{}); err != nil || len(jobs) != 6 || jobs[5].State != stream.Active {
		t.Errorf("one was deleted under its worker: %+v, %v", jobs, err)
	}
	for _, bad := range []struct {
		state stream.State
		after string
	}{{stream.Completed, ""}, {stream.Cancelled, ""}, {"odd", ""}, {stream.Scheduled, "-1"}, {stream.Retrying, "x"}, {stream.Waiting, "1-1"}, {stream.Active, "3 1-1"}, {stream.Active, "0 x"}, {stream.Dead, "x"}} {
		if _, _, err := s.Jobs(t.Context(), "g", bad.state, stream.Page{After: bad.after}); !errors.Is(err, stream.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, _, err := s.Jobs(t.Context(), "none", stream.Waiting, stream.Page{}); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("no such group: %v", err)
	}
}

// TestJobsOfSeveralGroups: somebody has to say which.
func TestJobsOfSeveralGroups(t *testing.T) {
	t.Parallel()
	s, _ := open(t, stream.Config{Kind: stream.KindEvents})
	group(t, s, "a")
	group(t, s, "b")
	publish(t, s, stream.Job{Type: "t", ID: "x"})
	read(t, s, s.Name(), "a", 1)
	if _, _, err := s.Jobs(t.Context(), "", stream.Waiting, stream.Page{}); !errors.Is(err, stream.ErrInvalid) || !strings.Contains(err.Error(), "a, b") {
		t.Errorf("%v, want it to name the groups", err)
	}
	if a, b := list(t, s, "a", stream.Active, 5), list(t, s, "b", stream.Waiting, 5); a != "x" || b != "x" {
		t.Errorf("%q and %q", a, b)
	}
}
