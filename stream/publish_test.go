package stream_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

func TestPublishPlainIsOneEntry(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	r, err := s.Publish(t.Context(), stream.Job{Type: "greet", Data: map[string]int{"n": 1}})
	if err != nil || !engine.IsEntryID(r.ID) || r.State != stream.Waiting || r.Duplicate {
		t.Fatalf("receipt %+v, %v", r, err)
	}
	v, err := engine.Do(t.Context(), rdb, "XRANGE", s.Name(), "-", "+")
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(v)
	want := `[["` + r.ID + `",["type","greet","data","{\"n\":1}","traceparent","","opts",""]]]`
	if string(got) != want {
		t.Errorf("stored %s, want %s", got, want)
	}
	if n := rdb.Exists(t.Context(), "{"+s.Name()+"}:ids", "{"+s.Name()+"}:config").Val(); n != 0 {
		t.Error("a plain publish wrote a second key")
	}
}

func TestPublishCarriesOptions(t *testing.T) {
	t.Parallel()
	s, _ := open(t, stream.Config{})
	g := group(t, s, "g")
	expires := time.Now().Add(time.Hour)
	job := stream.Job{
		Type: "report", Data: json.RawMessage(`{ "raw": true }`), ID: "r/1", ExpiresAt: expires, MaxTries: 7, Timeout: time.Hour,
		KeepResult: stream.None, Header: map[string]string{"tenant": "ä"}, Backoff: stream.Backoff{Delay: time.Second, Factor: 1},
	}
	publish(t, s, job)
	d := read(t, s, s.Name(), "g", 1)[0]
	o := d.opts
	if d.id != "r/1" || d.entry.Type != "report" || d.entry.Data != `{ "raw": true }` || o.Expires != expires.UnixMilli() || o.MaxTries != 7 ||
		o.Timeout != 3600_000 || o.KeepResult != -1 || o.Header["tenant"] != "ä" || o.Backoff.Delay != 1000 || o.Backoff.Factor != 1 || o.Published == 0 {
		t.Errorf("delivered %+v, %+v", d.entry, o)
	}
	_ = g
	for name, data := range map[string]any{"nil": nil, "bytes": []byte("\x00\xff"), "empty": []byte{}} {
		publish(t, s, stream.Job{Type: "b", Data: data})
		want := ""
		if name == "bytes" {
			want = "\x00\xff"
		}
		if d := read(t, s, s.Name(), "g", 1)[0]; d.entry.Data != want {
			t.Errorf("%s: delivered %q", name, d.entry.Data)
		}
	}
}

func TestPublishRefusesBadJobs(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{MaxPayload: 10})
	for name, c := range map[string]struct {
		job  stream.Job
		want error
		says string
	}{
		"no type":          {stream.Job{}, stream.ErrInvalid, "Type"},
		"long type":        {stream.Job{Type: strings.Repeat("t", 257)}, stream.ErrInvalid, "257"},
		"too large":        {stream.Job{Type: "a", Data: make([]byte, 11)}, stream.ErrTooLarge, "at most 10"},
		"too large script": {stream.Job{Type: "a", ID: "x", Data: make([]byte, 11)}, stream.ErrTooLarge, "at most 10"},
		"unencodable":      {stream.Job{Type: "a", Data: make(chan int)}, stream.ErrInvalid, "Data"},
		"entry ID":         {stream.Job{Type: "a", ID: "12-0"}, stream.ErrInvalid, "digits-digits"},
		"long ID":          {stream.Job{Type: "a", ID: strings.Repeat("i", 129)}, stream.ErrInvalid, "129"},
		"space in ID":      {stream.Job{Type: "a", ID: "a b"}, stream.ErrInvalid, "spaces"},
		"ID not UTF-8":     {stream.Job{Type: "a", ID: "\xff"}, stream.ErrInvalid, "UTF-8"},
		"delay and at":     {stream.Job{Type: "a", Delay: 1, At: time.Now()}, stream.ErrInvalid, "both"},
		"negative delay":   {stream.Job{Type: "a", Delay: -1}, stream.ErrInvalid, "Delay"},
		"at too late":      {stream.Job{Type: "a", At: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, stream.ErrInvalid, "At"},
		"expires too late": {stream.Job{Type: "a", ExpiresAt: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, stream.ErrInvalid, "ExpiresAt"},
		"negative tries":   {stream.Job{Type: "a", MaxTries: -1}, stream.ErrInvalid, "MaxTries"},
		"negative timeout": {stream.Job{Type: "a", Timeout: -2}, stream.ErrInvalid, "Timeout"},
		"negative keep":    {stream.Job{Type: "a", KeepResult: -2}, stream.ErrInvalid, "KeepResult"},
		"backoff":          {stream.Job{Type: "a", Backoff: stream.Backoff{Factor: 0.5}}, stream.ErrInvalid, "Backoff"},
		"big header":       {stream.Job{Type: "a", Header: map[string]string{"h": strings.Repeat("v", 16<<10)}}, stream.ErrInvalid, "Header"},
		"header not UTF-8": {stream.Job{Type: "a", Header: map[string]string{"h": "\xff"}}, stream.ErrInvalid, "UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Publish(t.Context(), c.job)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %v saying %q", err, c.want, c.says)
			}
		})
	}
	jobs := []stream.Job{{Type: "a"}, {}, {Type: "b", ID: "b"}, {Type: "c", Data: make([]byte, 11)}}
	receipts, err := s.PublishAll(t.Context(), jobs)
	if err == nil || !strings.Contains(err.Error(), "2 of 4") || !errors.Is(receipts[1].Err, stream.ErrInvalid) || !errors.Is(receipts[3].Err, stream.ErrTooLarge) {
		t.Errorf("PublishAll: %v, %+v", err, receipts)
	}
	if receipts[0].Err != nil || receipts[2].ID != "b" || length(t, rdb, s.Name()) != 2 {
		t.Errorf("the good jobs of the slice: %+v, %d stored", receipts, length(t, rdb, s.Name()))
	}
}

func TestPublishAllInOrder(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	const n = 1203 // three pipelines
	jobs := make([]stream.Job, n)
	for i := range jobs {
		jobs[i] = stream.Job{Type: "n", Data: i}
	}
	receipts := publish(t, s, jobs...)
	msgs, err := rdb.XRange(t.Context(), s.Name(), "-", "+").Result()
	if err != nil || len(msgs) != n {
		t.Fatalf("%d stored, %v", len(msgs), err)
	}
	for i, m := range msgs {
		if b, _ := json.Marshal(i); m.Values["data"] != string(b) || receipts[i].ID != m.ID {
			t.Fatalf("job %d: stored %v as %s, receipt %s", i, m.Values["data"], m.ID, receipts[i].ID)
		}
	}
	if receipts, err := s.PublishAll(t.Context(), nil); err != nil || len(receipts) != 0 {
		t.Errorf("no jobs: %v, %v", receipts, err)
	}
}

// TestDuplicateStates walks one job through its life; in each state its ID is taken, and the receipt says by what.
func TestDuplicateStates(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	keys := engine.NewKeys(s.Name())
	again := func(want stream.State, due bool) {
		t.Helper()
		for _, job := range []stream.Job{{Type: "a", ID: "x"}, {Type: "a", ID: "x", Delay: time.Hour}} {
			before := rdb.ZCard(t.Context(), keys.Scheduled).Val()
			r, err := s.Publish(t.Context(), job)
			if err != nil || !r.Duplicate || r.ID != "x" || r.State != want || r.Due.IsZero() == due {
				t.Fatalf("while %s: receipt %+v, %v", want, r, err)
			}
			all, err := s.PublishAll(t.Context(), []stream.Job{job})
			if err != nil || !all[0].Duplicate || all[0].State != want {
				t.Fatalf("while %s: receipts %+v, %v", want, all, err)
			}
			if after := rdb.ZCard(t.Context(), keys.Scheduled).Val(); after != before {
				t.Fatalf("while %s: a duplicate was scheduled", want)
			}
		}
	}
	r, err := s.Publish(t.Context(), stream.Job{Type: "a", ID: "x", At: time.Now().Add(-time.Second)})
	if err != nil || r.State != stream.Scheduled || r.Duplicate {
		t.Fatalf("receipt %+v, %v", r, err)
	}
	again(stream.Scheduled, true)
	if p, err := engine.Promote(t.Context(), rdb, engine.ScheduledSlot(keys), 10); err != nil || p.Moved != 1 {
		t.Fatalf("promoted %+v, %v", p, err)
	}
	again(stream.Waiting, false)
	d := read(t, s, s.Name(), "g", 1)[0]
	again(stream.Active, false)
	call(t, s, engine.RetryCall(d.Held, g, "x", -time.Second, d.entry))
	again(stream.Retrying, true)
	if p, err := engine.Promote(t.Context(), rdb, engine.RetryingSlot(g), 10); err != nil || p.Moved != 1 {
		t.Fatalf("promoted %+v, %v", p, err)
	}
	again(stream.Waiting, false)
	d = read(t, s, g.Redelivery, "g", 1)[0]
	again(stream.Active, false)
	kill(t, s, g, d, `{"reason":"failed"}`)
	again(stream.Dead, false)
	if sweep, err := s.Group("g").Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{}); err != nil || sweep.Moved != 1 {
		t.Fatalf("redrive: %+v, %v", sweep, err)
	}
	d = read(t, s, g.Redelivery, "g", 1)[0]
	if v := call(t, s, engine.CompleteCall(d.Held, g, "completed", engine.End{Entry: d.Entry, ID: "x", Indexed: true, Keep: time.Minute})); fmt.Sprint(v) != "[[] []]" {
		t.Fatalf("complete answered %v", v)
	}
	again(stream.Completed, false)
	rdb.Del(t.Context(), keys.Job("x"))
	if r, err := s.Publish(t.Context(), stream.Job{Type: "a", ID: "x"}); err != nil || r.Duplicate {
		t.Errorf("after its record has gone: %+v, %v", r, err)
	}
	// an entry that somebody else trimmed away frees its ID, when nobody can be running it any more
	rdb.XTrimMaxLen(t.Context(), s.Name(), 0)
	stands(t, s, "just after its entry was trimmed")
	age(t, rdb, keys)
	if r, err := s.Publish(t.Context(), stream.Job{Type: "a", ID: "x"}); err != nil || r.Duplicate {
		t.Errorf("after its entry was trimmed: %+v, %v", r, err)
	}
	twice := publish(t, s, stream.Job{Type: "a", ID: "twice"}, stream.Job{Type: "a", ID: "twice"})
	if twice[0].Duplicate || !twice[1].Duplicate {
		t.Errorf("the same ID twice in one slice: %+v", twice)
	}
}

func TestPublishDeferred(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	far := time.Date(2900, 1, 1, 0, 0, 0, 0, time.UTC) // past 2262, where UnixNano ends
	at := time.Now().Add(time.Hour).Truncate(time.Millisecond).Add(1)
	jobs := []stream.Job{{Type: "a", Delay: time.Hour}, {Type: "a", At: at, ID: "at"}, {Type: "a", At: far}, {Type: "a", Delay: 1}}
	before := time.Now()
	receipts := publish(t, s, jobs...)
	if d := receipts[0].Due.Sub(before); d < time.Hour-time.Second || d > time.Hour+10*time.Second {
		t.Errorf("a delay of an hour is due in %s", d)
	}
	if got := receipts[1].Due; !got.Equal(at.Truncate(time.Millisecond).Add(time.Millisecond)) {
		t.Errorf("due at %s, want the millisecond after %s: never early", got, at)
	}
	if got := receipts[2].Due; !got.Equal(far) {
		t.Errorf("due at %s, want %s", got, far)
	}
	if !receipts[3].Due.After(before) {
		t.Errorf("a delay of 1 ns is due at %s, before it was published", receipts[3].Due)
	}
	for i, r := range receipts {
		if r.State != stream.Scheduled || r.ID == "" || engine.IsEntryID(r.ID) || r.ID == receipts[(i+1)%4].ID {
			t.Errorf("receipt %+v", r)
		}
	}
	if n := rdb.ZCard(t.Context(), "{"+s.Name()+"}:scheduled").Val(); n != 4 || length(t, rdb, s.Name()) != 0 {
		t.Errorf("%d scheduled, %d waiting", n, length(t, rdb, s.Name()))
	}
	if names, err := stream.Names(t.Context(), rdb); err != nil || !contains(names, s.Name()) {
		t.Errorf("schedulers do not find %s in %v, %v", s.Name(), names, err)
	}
}

func contains(list []string, want string) bool {
	for _, s := range list {
		if s == want {
			return true
		}
	}
	return false
}

func TestStreamFull(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{MaxLen: 3})
	publish(t, s, stream.Job{Type: "a", ID: "x"}, stream.Job{Type: "a"}, stream.Job{Type: "a"})
	for name, job := range map[string]stream.Job{"plain": {Type: "a"}, "script": {Type: "a", ID: "y"}, "deferred": {Type: "a", Delay: time.Hour}} {
		if _, err := s.Publish(t.Context(), job); !errors.Is(err, stream.ErrStreamFull) || !strings.Contains(err.Error(), "MaxLen") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.PublishAll(t.Context(), []stream.Job{job}); !errors.Is(err, stream.ErrStreamFull) {
			t.Errorf("%s in a slice: %v", name, err)
		}
	}
	if r, err := s.Publish(t.Context(), stream.Job{Type: "a", ID: "x"}); err != nil || !r.Duplicate {
		t.Errorf("a duplicate needs no room: %+v, %v", r, err)
	}
	if n := length(t, rdb, s.Name()); n != 3 {
		t.Errorf("%d entries, at most 3 are allowed", n)
	}
	rdb.XTrimMaxLen(t.Context(), s.Name(), 0)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for { // room is seen at most 100 ms later
		if _, err := s.Publish(t.Context(), stream.Job{Type: "a"}); err == nil {
			break
		} else if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// make4 makes four jobs.
func make4() []stream.Job {
	return []stream.Job{{Type: "a"}, {Type: "a"}, {Type: "a"}, {Type: "a"}}
}

// TestDuplicateOnEvents: there an entry stays when it is done, and the state is that of the group that is farthest from its end.
func TestDuplicateOnEvents(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{Kind: stream.KindEvents})
	again := func(want stream.State) {
		t.Helper()
		if r, err := s.Publish(t.Context(), stream.Job{Type: "a", ID: "x"}); err != nil || !r.Duplicate || r.State != want {
			t.Errorf("receipt %+v, %v, want a duplicate that is %s", r, err, want)
		}
	}
	publish(t, s, stream.Job{Type: "a", ID: "x"})
	again(stream.Waiting)
	g, h := group(t, s, "g"), group(t, s, "h")
	again(stream.Waiting)
	take := func(key, group string) delivery {
		d := read(t, s, key, group, 1)[0]
		d.Delete = key != s.Name()
		return d
	}
	done := func(d delivery, g engine.GroupKeys) {
		t.Helper()
		if v := call(t, s, engine.CompleteCall(d.Held, g, "completed", engine.End{Entry: d.Entry, ID: "x", Indexed: true})); fmt.Sprint(v) != "[[] []]" {
			t.Fatalf("complete answered %v", v)
		}
	}
	d := take(s.Name(), "g")
	again(stream.Active)
	done(d, g)
	again(stream.Waiting) // for h
	d = take(s.Name(), "h")
	call(t, s, engine.RetryCall(d.Held, h, "x", -time.Second, d.entry))
	again(stream.Retrying)
	if p, err := engine.Promote(t.Context(), rdb, engine.RetryingSlot(h), 10); err != nil || p.Moved != 1 {
		t.Fatalf("promoted %+v, %v", p, err)
	}
	again(stream.Waiting)
	d = take(h.Redelivery, "h")
	again(stream.Active)
	kill(t, s, h, d, "{}")
	again(stream.Dead)
	if _, err := s.Group("h").Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{}); err != nil {
		t.Fatal(err)
	}
	done(take(h.Redelivery, "h"), h)
	again(stream.Completed)
}

// TestPublishAllLargeJobs: many large jobs do not go out in one pipeline, which would not fit into its deadline.
func TestPublishAllLargeJobs(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	most := &pipelines{}
	rdb.AddHook(most)
	jobs := make([]stream.Job, 12)
	for i := range jobs {
		jobs[i] = stream.Job{Type: "a", Data: make([]byte, 1<<20)}
	}
	publish(t, s, jobs...)
	if n := length(t, rdb, s.Name()); n != 12 || most.most() != 4 {
		t.Errorf("%d stored, at most %d of 1 MiB in one pipeline: want 12 and 4", n, most.most())
	}
}

// pipelines is a hook that sees how many XADDs go out together.
type pipelines struct{ xadds atomic.Int64 }

func (p *pipelines) most() int64 { return p.xadds.Load() }

func (p *pipelines) DialHook(next redis.DialHook) redis.DialHook { return next }

func (p *pipelines) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (p *pipelines) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() == "xadd" {
			n := int64(len(cmds))
			for old := p.xadds.Load(); n > old && !p.xadds.CompareAndSwap(old, n); old = p.xadds.Load() {
			}
		}
		return next(ctx, cmds)
	}
}

// TestExtremesCanBeRead: what Publish accepts a worker can read, and the rest is refused.
func TestExtremesCanBeRead(t *testing.T) {
	t.Parallel()
	s, _ := open(t, stream.Config{})
	group(t, s, "g")
	for _, tries := range []int{math.MaxInt32 + 1, math.MaxInt} {
		if r, err := s.Publish(t.Context(), stream.Job{Type: "a", MaxTries: tries}); !errors.Is(err, stream.ErrInvalid) || !strings.Contains(err.Error(), "MaxTries") {
			t.Errorf("MaxTries %d: %+v, %v, want ErrInvalid", tries, r, err)
		}
	}
	last := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	publish(t, s, stream.Job{
		Type: "a", MaxTries: math.MaxInt32, Timeout: math.MaxInt64, KeepResult: math.MaxInt64, ExpiresAt: last, ID: strings.Repeat("i", 128),
		Backoff: stream.Backoff{Delay: math.MaxInt64, Max: math.MaxInt64, Factor: 100, Jitter: -math.MaxFloat64},
	}, stream.Job{Type: "a", Timeout: stream.None, KeepResult: stream.None, Backoff: stream.Backoff{Jitter: 1}, ExpiresAt: time.Unix(0, 0)})
	if n := len(read(t, s, s.Name(), "g", 10)); n != 2 { // read fails the test when it can't parse one
		t.Errorf("%d delivered", n)
	}
	publish(t, s, stream.Job{Type: "a", At: last, ID: "last"})
	body := s.Client().HGet(t.Context(), engine.NewKeys(s.Name()).ScheduledJobs, "last").Val()
	if _, err := engine.ParseOpts(body[strings.IndexByte(body, '{'):]); err != nil {
		t.Errorf("body %q: %v", body, err)
	}
}

// TestPublishAllIntoWhatRoomThereIs: a slice that does not fit is stored as far as it does.
func TestPublishAllIntoWhatRoomThereIs(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{MaxLen: 100})
	jobs := make([]stream.Job, 150)
	for i := range jobs {
		jobs[i] = stream.Job{Type: "a", Data: i}
	}
	receipts, err := s.PublishAll(t.Context(), jobs)
	if n := length(t, rdb, s.Name()); n != 100 || err == nil || !strings.Contains(err.Error(), "50 of 150") {
		t.Errorf("%d stored, %v", n, err)
	}
	for i, r := range receipts {
		if ok := r.Err == nil && r.ID != ""; ok != (i < 100) || !ok && !errors.Is(r.Err, stream.ErrStreamFull) {
			t.Fatalf("job %d: %+v", i, r)
		}
	}
}

// TestMaxLenManyCallers: callers that share a length that was read just now do not all take the last place.
func TestMaxLenManyCallers(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{MaxLen: 40})
	publish(t, s, stream.Job{Type: "a"}) // the length is read
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if _, err := s.Publish(t.Context(), stream.Job{Type: "a"}); err != nil && !errors.Is(err, stream.ErrStreamFull) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := length(t, rdb, s.Name()); n > 40 {
		t.Errorf("%d stored, at most 40 are allowed", n)
	}
}

// TestPublishAtTheEpoch: a job is scheduled, however long ago it was due.
func TestPublishAtTheEpoch(t *testing.T) {
	t.Parallel()
	s, _ := open(t, stream.Config{})
	r, err := s.Publish(t.Context(), stream.Job{Type: "a", At: time.Unix(0, 0)})
	if err != nil || r.State != stream.Scheduled || !r.Due.Equal(time.Unix(0, 0)) {
		t.Errorf("receipt %+v, %v", r, err)
	}
}
