package stream_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// park fails a job that is held, so that it is retrying for an hour.
func park(t *testing.T, s *stream.Stream, g engine.GroupKeys, d delivery) {
	t.Helper()
	o := d.opts.Moved(engine.StepFail)
	o.ID = d.id
	d.entry.Opts = o.String()
	call(t, s, engine.RetryCall(d.Held, g, d.id, time.Hour, d.entry))
}

// TestMove gives scheduled and retrying jobs other times.
func TestMove(t *testing.T) {
	t.Parallel()
	for _, kind := range []stream.Kind{stream.KindQueue, stream.KindEvents} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s, rdb := open(t, stream.Config{Kind: kind})
			g := group(t, s, "g")
			publish(t, s, stream.Job{Type: "t", ID: "later", Data: []byte("data"), Delay: time.Hour}, stream.Job{Type: "t", ID: "failed"})
			d := read(t, s, s.Name(), "g", 1)[0]
			d.Delete = kind != stream.KindEvents
			park(t, s, g, d)
			for _, id := range []string{"later", "failed"} {
				state := get(t, s, id, map[string]stream.State{"later": stream.Scheduled, "failed": stream.Retrying}[id]).State
				at := time.Now().Add(3 * time.Hour)
				due, err := s.Move(t.Context(), "", id, stream.When{At: at})
				if info := get(t, s, id, state); err != nil || due.Before(at) || due.Sub(at) >= 2*time.Millisecond || !info.Due.Equal(due) {
					t.Errorf("%s to %s: %s, %v, and Get says %s", id, at, due, err, info.Due)
				}
				asked := time.Now()
				due, err = s.Move(t.Context(), "g", id, stream.When{Delay: time.Minute})
				if info := get(t, s, id, state); err != nil || due.Before(asked.Add(time.Minute-time.Millisecond)) || due.Sub(asked) > 2*time.Minute || !info.Due.Equal(due) {
					t.Errorf("%s by a minute: %s, %v, and Get says %s", id, due, err, info.Due)
				}
				due, err = s.Move(t.Context(), "g", id, stream.When{}) // no scheduler runs
				if info := get(t, s, id, stream.Waiting); err != nil || !info.Due.Equal(due) {
					t.Errorf("%s to now: %s, %v, and Get says %s", id, due, err, info.Due)
				}
				if _, err := s.Move(t.Context(), "", id, stream.When{}); !errors.Is(err, stream.ErrState) || !strings.Contains(err.Error(), "waiting") {
					t.Errorf("%s, which waits: %v", id, err)
				}
			}
			if d := read(t, s, s.Name(), "g", 1)[0]; d.entry.Data != "data" || d.id != "later" {
				t.Errorf("what was moved is %+v", d)
			}
			if d := read(t, s, g.Redelivery, "g", 1)[0]; d.opts.Errors != 1 || d.id != "failed" {
				t.Errorf("what was moved is %+v", d)
			}
			for _, set := range []string{g.Retrying, g.RetryingJobs} {
				if rdb.Exists(t.Context(), set).Val() != 0 {
					t.Errorf("%s is left", set)
				}
			}
		})
	}
}

func TestMoveRefuses(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	if _, err := s.Move(t.Context(), "", "none", stream.When{}); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("no such job, nor group: %v", err)
	}
	group(t, s, "g")
	publish(t, s, stream.Job{Type: "t", ID: "x", Delay: time.Hour, ExpiresAt: time.Now().Add(2 * time.Hour)}, stream.Job{Type: "t", ID: "odd", Delay: time.Hour})
	rdb.HSet(t.Context(), engine.NewKeys(s.Name()).ScheduledJobs, "odd", "not ours")
	for _, tc := range []struct {
		id   string
		when stream.When
		want error
		says string
	}{
		{"none", stream.When{}, stream.ErrNotFound, "no job none"},
		{"odd", stream.When{}, stream.ErrInvalid, "not stored as"},
		{"x", stream.When{At: time.Now().Add(3 * time.Hour)}, stream.ErrInvalid, "expires before that"},
		{"x", stream.When{Delay: 3 * time.Hour}, stream.ErrInvalid, "expires before that"},
		{"x", stream.When{Delay: -1}, stream.ErrInvalid, "negative"},
		{"x", stream.When{Delay: 1, At: time.Now()}, stream.ErrInvalid, "both"},
		{"x", stream.When{At: time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC)}, stream.ErrInvalid, "9999"},
		{"x", stream.When{At: time.UnixMilli(-1)}, stream.ErrInvalid, "1970"},
	} {
		if _, err := s.Move(t.Context(), "", tc.id, tc.when); !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s, %+v: %v, want %q", tc.id, tc.when, err, tc.says)
		}
	}
	if _, err := s.Move(t.Context(), "another", "none", stream.When{}); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("no such group: %v", err)
	}
	get(t, s, "x", stream.Scheduled)
}

// TestRetry runs jobs again that have failed, and no others.
func TestRetry(t *testing.T) {
	t.Parallel()
	for _, kind := range []stream.Kind{stream.KindQueue, stream.KindEvents} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s, _ := open(t, stream.Config{Kind: kind})
			g := group(t, s, "g")
			publish(t, s, stream.Job{Type: "t", ID: "failed"}, stream.Job{Type: "t", ID: "dead"}, stream.Job{Type: "t", ID: "runs"}, stream.Job{Type: "t", ID: "waits"}, stream.Job{Type: "t", ID: "later", Delay: time.Hour})
			ds := read(t, s, s.Name(), "g", 3)
			for i := range ds {
				ds[i].Delete = kind != stream.KindEvents
			}
			park(t, s, g, ds[0])
			kill(t, s, g, ds[1], `{"reason":"failed"}`)
			for id, want := range map[string]stream.State{"failed": stream.Retrying, "dead": stream.Dead} {
				if was, err := s.Retry(t.Context(), "", id); err != nil || was != want {
					t.Errorf("%s: %s, %v", id, was, err)
				}
				get(t, s, id, stream.Waiting)
			}
			for id, says := range map[string]string{"failed": "is waiting", "runs": "is active", "waits": "is waiting", "later": "move it to now"} {
				if _, err := s.Retry(t.Context(), "g", id); !errors.Is(err, stream.ErrState) || !strings.Contains(err.Error(), says) {
					t.Errorf("%s: %v, want %q", id, err, says)
				}
			}
			if _, err := s.Retry(t.Context(), "", "none"); !errors.Is(err, stream.ErrNotFound) {
				t.Errorf("no such job: %v", err)
			}
			if kind != stream.KindEvents {
				return
			}
			group(t, s, "h")
			if _, err := s.Retry(t.Context(), "", "runs"); !errors.Is(err, stream.ErrInvalid) || !strings.Contains(err.Error(), "name one") {
				t.Errorf("two groups: %v", err)
			}
			d := read(t, s, s.Name(), "h", 1)[0]
			d.Delete = false
			park(t, s, engine.NewKeys(s.Name()).Group("h", true), d)
			if was, err := s.Retry(t.Context(), "h", d.id); err != nil || was != stream.Retrying {
				t.Errorf("in the second group: %s, %v", was, err)
			}
			if _, err := s.Move(t.Context(), "", "later", stream.When{Delay: time.Minute}); err != nil {
				t.Errorf("a scheduled job is in no group: %v", err)
			}
		})
	}
}
