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

// only is a job that is the only one with the key "k".
func only(u stream.Unique, data string) stream.Job {
	if u.Key == "" && !u.ByData {
		u.Key = "k"
	}
	return stream.Job{Type: "t", Data: []byte(data), Unique: u}
}

// put publishes a job, whatever becomes of it.
func put(t *testing.T, s *stream.Stream, job stream.Job) stream.Receipt {
	t.Helper()
	r, err := s.Publish(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func lockOf(s *stream.Stream) string { return engine.NewKeys(s.Name()).Unique("k") }

func TestUniqueFaults(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	for name, tc := range map[string]struct {
		job  stream.Job
		want string
	}{
		"no key":              {stream.Job{Unique: stream.Unique{Until: stream.UntilDone}}, "Unique.Key is empty"},
		"two keys":            {stream.Job{Unique: stream.Unique{Key: "k", ByData: true}}, "Unique.Key and ByData are both set"},
		"long key":            {stream.Job{Unique: stream.Unique{Key: strings.Repeat("k", 257)}}, "Unique.Key has 257 bytes, at most 256"},
		"control character":   {stream.Job{Unique: stream.Unique{Key: "a\nb"}}, "Unique.Key \"a\\nb\""},
		"space":               {stream.Job{Unique: stream.Unique{Key: "a b"}}, "Unique.Key \"a b\""},
		"no UTF-8":            {stream.Job{Unique: stream.Unique{Key: "\xff"}}, "not valid UTF-8"},
		"until":               {stream.Job{Unique: stream.Unique{Key: "k", Until: "soon"}}, "Unique.Until is \"soon\""},
		"negative":            {stream.Job{Unique: stream.Unique{Key: "k", For: -1}}, "Unique.For is negative"},
		"for ever":            {stream.Job{Unique: stream.Unique{Key: "k", For: 1<<63 - 1}, Delay: 0}, ""},
		"both":                {stream.Job{Unique: stream.Unique{Key: "k", For: time.Hour, Until: stream.UntilStarted}}, "Unique.For and Until are both set"},
		"conflict":            {stream.Job{Unique: stream.Unique{Key: "k", OnConflict: "fight"}}, "Unique.OnConflict is \"fight\""},
		"coalesce for a time": {stream.Job{Unique: stream.Unique{Key: "k", For: time.Hour, OnConflict: stream.Coalesce}}, "until the job is done"},
		"coalesce started":    {stream.Job{Unique: stream.Unique{Key: "k", Until: stream.UntilStarted, OnConflict: stream.Coalesce}}, "until the job is done"},
		"coalesce later":      {stream.Job{Unique: stream.Unique{Key: "k", OnConflict: stream.Coalesce}, Delay: time.Hour}, "takes no Delay or At"},
	} {
		tc.job.Type = "t"
		_, err := s.Publish(t.Context(), tc.job)
		if tc.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			rdb.Del(t.Context(), lockOf(s))
			continue
		}
		if !errors.Is(err, stream.ErrInvalid) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	if n := rdb.XLen(t.Context(), s.Name()).Val(); n != 1 {
		t.Errorf("%d jobs were stored, want that which is unique for ever", n)
	}
}

// TestUniqueReceipts: who publishes under a held key hears which job stands, wherever that is.
func TestUniqueReceipts(t *testing.T) {
	t.Parallel()
	hour := time.Hour
	for name, tc := range map[string]struct {
		first stream.Unique
		delay time.Duration
		then  func(t *testing.T, s *stream.Stream, g engine.GroupKeys)
		want  stream.State
	}{
		"waiting":   {want: stream.Waiting},
		"scheduled": {delay: hour, want: stream.Scheduled},
		"active":    {then: func(t *testing.T, s *stream.Stream, _ engine.GroupKeys) { read(t, s, s.Name(), "g", 1) }, want: stream.Active},
		"retrying": {then: func(t *testing.T, s *stream.Stream, g engine.GroupKeys) {
			d := read(t, s, s.Name(), "g", 1)[0]
			call(t, s, engine.RetryCall(d.Held, g, d.id, hour, d.entry))
		}, want: stream.Retrying},
		"handed back": {then: func(t *testing.T, s *stream.Stream, g engine.GroupKeys) {
			d := read(t, s, s.Name(), "g", 1)[0]
			call(t, s, engine.ReleaseCall(d.Held, g, d.id, d.entry))
		}, want: stream.Waiting},
		"completed, for a time": {first: stream.Unique{For: hour}, then: func(t *testing.T, s *stream.Stream, g engine.GroupKeys) {
			d := read(t, s, s.Name(), "g", 1)[0]
			call(t, s, engine.CompleteCall(d.Held, g, "completed", engine.End{Entry: d.Entry, ID: d.id, Indexed: true, Keep: hour}))
		}, want: stream.Completed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, rdb := open(t, stream.Config{})
			g := group(t, s, "g")
			job := only(tc.first, "1")
			job.Delay = tc.delay
			first := put(t, s, job)
			if first.Duplicate || first.ID == "" {
				t.Fatalf("the first: %+v", first)
			}
			if tc.then != nil {
				tc.then(t, s, g)
			}
			r := put(t, s, only(stream.Unique{}, "2"))
			if !r.Duplicate || r.Updated || r.ID != first.ID || r.State != tc.want || (r.State == stream.Scheduled || r.State == stream.Retrying) == r.Due.IsZero() {
				t.Errorf("the second: %+v, want %s as %s", r, first.ID, tc.want)
			}
			if holder := rdb.Get(t.Context(), lockOf(s)).Val(); holder != first.ID {
				t.Errorf("the lock is held by %q, want %q", holder, first.ID)
			}
		})
	}
}

// TestUniqueKeys: what is the same key, and what is not.
func TestUniqueKeys(t *testing.T) {
	t.Parallel()
	s, _ := open(t, stream.Config{})
	jobs := []stream.Job{
		{Type: "a", Unique: stream.Unique{Key: "k"}},
		{Type: "b", Unique: stream.Unique{Key: "k"}}, // whatever the type
		{Type: "a", Unique: stream.Unique{Key: "k2"}},
		{Type: "a", Data: 1, Unique: stream.Unique{ByData: true}},
		{Type: "a", Data: 1, Unique: stream.Unique{ByData: true}},
		{Type: "a", Data: 2, Unique: stream.Unique{ByData: true}},
		{Type: "b", Data: 1, Unique: stream.Unique{ByData: true}},
		{Type: "a1", Data: nil, Unique: stream.Unique{ByData: true}},
		{Type: "a", Data: 1},
		{Type: "a", Data: 1, ID: "chosen", Unique: stream.Unique{Key: "k3"}},
		{Type: "a", Data: 1, ID: "chosen", Unique: stream.Unique{Key: "k4"}}, // by its ID
		{Type: "a", Data: 1, Unique: stream.Unique{Key: "k4"}},
	}
	want := []bool{false, true, false, false, true, false, false, false, false, false, true, false}
	for i, r := range publish(t, s, jobs...) {
		if r.Duplicate != want[i] {
			t.Errorf("job %d: %+v, want a duplicate: %v", i, r, want[i])
		}
	}
}

// TestReplace: while the first is scheduled it takes what comes, and is the first still.
func TestReplace(t *testing.T) {
	t.Parallel()
	s, _ := open(t, stream.Config{})
	group(t, s, "g")
	job := only(stream.Unique{OnConflict: stream.Replace}, "1")
	job.Delay = time.Hour
	first := put(t, s, job)
	job.Data, job.Delay = []byte("2"), 2*time.Hour
	r := put(t, s, job)
	if r.ID != first.ID || !r.Duplicate || !r.Updated || r.State != stream.Scheduled || r.Due.Sub(first.Due) < 30*time.Minute {
		t.Errorf("replaced: %+v, first %+v", r, first)
	}
	job.Data, job.Delay = []byte("3"), 0
	if r = put(t, s, job); r.ID != first.ID || !r.Updated || r.State != stream.Waiting {
		t.Errorf("replaced at once: %+v", r)
	}
	job.Data = []byte("4")
	if r = put(t, s, job); r.ID != first.ID || !r.Duplicate || r.Updated {
		t.Errorf("not scheduled any more: %+v", r)
	}
	d := read(t, s, s.Name(), "g", 10)
	if len(d) != 1 || d[0].id != first.ID || d[0].entry.Data != "3" {
		t.Errorf("delivered %+v", d)
	}
}

// TestUniqueOnEvents: unique until done is refused, as soon as anybody knows the kind.
func TestUniqueOnEvents(t *testing.T) {
	t.Parallel()
	declared, rdb := open(t, stream.Config{Kind: stream.KindEvents})
	group(t, declared, "g")
	for name, s := range map[string]*stream.Stream{"declared": declared, "not declared": over(t, rdb, declared.Name(), stream.Config{})} {
		_, err := s.Publish(t.Context(), only(stream.Unique{}, "1"))
		if !errors.Is(err, stream.ErrKind) || !strings.Contains(err.Error(), "Unique.Until") {
			t.Errorf("%s: %v, want ErrKind", name, err)
		}
	}
	if n := rdb.Exists(t.Context(), declared.Name(), lockOf(declared)).Val(); n > 1 {
		t.Error("something was stored")
	}
	if a, b := put(t, declared, only(stream.Unique{For: time.Hour}, "1")), put(t, declared, only(stream.Unique{Until: stream.UntilStarted}, "1")); a.Duplicate || !b.Duplicate || b.ID != a.ID {
		t.Errorf("for a time: %+v, then %+v", a, b)
	}
}

// TestRedriveTakesTheLock or leaves the letter, and says whose the key is.
func TestRedriveTakesTheLock(t *testing.T) {
	t.Parallel()
	for _, u := range []stream.Unique{{}, {Until: stream.UntilStarted}, {For: time.Hour}} {
		t.Run(fmt.Sprint(u.Until, u.For), func(t *testing.T) {
			t.Parallel()
			s, rdb := open(t, stream.Config{})
			g := group(t, s, "g")
			bury := func() {
				t.Helper()
				d := read(t, s, s.Name(), "g", 1)[0]
				if v := call(t, s, engine.DeadCall(d.Held, g, d.id, d.entry, `{"reason":"failed"}`, engine.Lock{Key: "k"})); v == "" {
					t.Fatal("not ours to bury")
				}
			}
			first := put(t, s, only(u, "1"))
			bury()
			if n := rdb.Exists(t.Context(), lockOf(s)).Val(); n != 0 {
				t.Fatal("the dead hold a lock")
			}
			second := put(t, s, only(u, "2"))
			if second.Duplicate {
				t.Fatalf("the second: %+v", second)
			}
			done, err := s.Group("g").Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{})
			if !errors.Is(err, stream.ErrLocked) || done.Moved != 0 || done.Locked != 1 ||
				!strings.Contains(err.Error(), first.ID) || !strings.Contains(err.Error(), second.ID) || !strings.Contains(err.Error(), `"k"`) {
				t.Errorf("redrive of what another holds the key of: %+v, %v", done, err)
			}
			bury()
			done, err = s.Group("g").Redrive(t.Context(), stream.DeadFilter{IDs: []string{first.ID}}, stream.RedriveOptions{})
			if err != nil || done.Moved != 1 {
				t.Errorf("redrive: %+v, %v", done, err)
			}
			if holder := rdb.Get(t.Context(), lockOf(s)).Val(); holder != first.ID {
				t.Errorf("the lock is held by %q, want %q", holder, first.ID)
			}
			if ttl := rdb.PTTL(t.Context(), lockOf(s)).Val(); (ttl > 0) != (u.For > 0) {
				t.Errorf("the lock ends by itself in %s", ttl)
			}
			done, err = s.Group("g").Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{})
			if !errors.Is(err, stream.ErrLocked) || done.Moved != 0 {
				t.Errorf("redrive of the other: %+v, %v", done, err)
			}
		})
	}
}

// TestLockOfAJobDeletedByHand: it counts no longer, for a publisher or a redrive.
func TestLockOfAJobDeletedByHand(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	ctx := t.Context()
	dead := put(t, s, only(stream.Unique{}, "0"))
	d := read(t, s, s.Name(), "g", 1)[0]
	call(t, s, engine.DeadCall(d.Held, g, d.id, d.entry, `{"reason":"failed"}`, engine.Lock{Key: "k"}))

	later := only(stream.Unique{}, "1")
	later.Delay = time.Hour
	first := put(t, s, later)
	keys := engine.NewKeys(s.Name())
	rdb.Del(ctx, keys.Scheduled, keys.ScheduledJobs)
	second := put(t, s, later)
	if second.Duplicate || second.ID == first.ID {
		t.Errorf("the second: %+v", second)
	}
	rdb.Del(ctx, keys.Scheduled, keys.ScheduledJobs)
	if done, err := s.Group("g").Redrive(ctx, stream.DeadFilter{}, stream.RedriveOptions{}); err != nil || done.Moved != 1 {
		t.Errorf("redrive: %+v, %v", done, err)
	}
	if r := put(t, s, later); !r.Duplicate || r.ID != dead.ID {
		t.Errorf("under the lock of the redriven: %+v", r)
	}
}
