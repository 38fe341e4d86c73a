package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
)

// small is a config whose numbers mean nothing.
func small(rdb redis.UniversalClient, own bool) Config {
	return Config{Client: rdb, Own: own, Duration: minDuration, Pairs: 1, MaxJobs: []int{5}, Callers: []int{1, 3}, Streams: 2, Rate: 200}
}

func dump(t *testing.T, rdb *redis.Client) string {
	t.Helper()
	keys, err := rdb.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	var b strings.Builder
	for _, key := range keys {
		b.WriteString(key + " " + rdb.Dump(t.Context(), key).Val() + "\n")
	}
	return b.String()
}

// own returns a client of a server that is this test's alone.
func ownServer(t *testing.T, args ...string) *redis.Client {
	t.Helper()
	return redistest.Connect(t, &redis.Options{Addr: redistest.Server(t, args...).Addr(), ContextTimeoutEnabled: true, PoolSize: 40, ReadTimeout: askFor, WriteTimeout: askFor})
}

// Everything is measured on a Redis of our own, and nothing is left there.
func TestAllCases(t *testing.T) {
	t.Parallel()
	rdb := ownServer(t)
	h, err := New(small(rdb, true))
	if err != nil {
		t.Fatal(err)
	}
	cases, err := h.Cases()
	if err != nil {
		t.Fatal(err)
	}
	survey, err := h.Survey(t.Context(), cases)
	if err != nil || !survey.Empty() || survey.Need <= 0 {
		t.Fatalf("%+v, %v", survey, err)
	}
	r, err := h.Run(t.Context(), cases)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"drain, MaxJobs 5", "drain, results kept", "drain, every status kept", "publish, 1 caller", "publish, 3 callers", "publish with an ID, 3 callers", "publish, slices of 1,000", "latency at 200/s, p50", "latency at 200/s, p99", "result to who waits, p50", "result to who waits, p99", "handler's return to who waits, p50",
		"deferred, 100 due/s, p50", "deferred, 100 due/s, p99", "deferred, 100 due/s, earliest", "idle worker per stream", "idle scheduler per stream",
		"memory of a waiting job", "memory of a record",
	}
	var names []string
	for _, row := range r.Rows {
		names = append(names, row.Name)
		check(t, row)
	}
	if !slices.Equal(names, want) {
		t.Errorf("rows %q", names)
	}
	memory := r.Rows[len(r.Rows)-2]
	if ratio := memory.Yardstick.Ratio.Median; ratio < 0.9 || ratio > 1.1 || memory.Value.Median < 97 || memory.Value.Median > 250 {
		t.Errorf("memory: %+v, beside %+v", memory.Value, memory.Yardstick)
	}
	// one that is always measured exactly: nobody else is here, and a worker without jobs blocks, beats and looks
	idle := r.Rows[14]
	if idle.Value.Median > 100 || idle.Commands["xack"] > 0 || idle.Commands["info"] > 0 {
		t.Errorf("idle worker: %+v", idle)
	}
	if len(r.Notes) != 1 || !strings.HasPrefix(r.Notes[0], "the raw loop's reading alone ") {
		t.Errorf("notes %q", r.Notes)
	}
	e := r.Environment
	if e.CPU == "" || e.Cores < 1 || e.Go == "" || e.GoRedis == "" || e.Topology != "one node" || e.Connection != "TCP over loopback" || !e.Own ||
		!strings.HasPrefix(e.Server, "Redis ") && !strings.HasPrefix(e.Server, "Valkey ") {
		t.Errorf("environment %+v", e)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(text, &back); err != nil || len(back.Rows) != len(r.Rows) || back.Rows[0].Yardstick.Ratio.Median != r.Rows[0].Yardstick.Ratio.Median {
		t.Errorf("JSON %s: %v", text, err)
	}
	checkPicture(t, r, "latency at 200/s", "drain, MaxJobs 5", "raw loop", "XADD to XREADGROUP")

	if left := dump(t, rdb); left != "" {
		t.Errorf("what it used is left before Close: %q", left)
	}
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if left := dump(t, rdb); left != "" {
		t.Errorf("it leaves %q", left)
	}
}

func check(t *testing.T, row Row) {
	t.Helper()
	positive := func(what string, s Summary) {
		if !(s.Median > 0) || math.IsInf(s.Median, 0) || s.Min > s.Median || s.Max < s.Median || len(s.Samples) != 1 {
			t.Errorf("%s, %s: %+v", row.Name, what, s)
		}
	}
	if row.Contender != Penstock || row.Jobs < 1 {
		t.Errorf("%+v", row)
	}
	if row.Unit != CommandsPerSecond { // there none is the best
		positive("value", row.Value)
	}
	if row.Group == "deferred" || row.Group == "idle" || strings.HasSuffix(row.Name, "who waits, p50") || strings.HasSuffix(row.Name, "who waits, p99") || row.Name == "memory of a record" {
		if row.Yardstick != nil {
			t.Errorf("%s has a yardstick", row.Name)
		}
		return
	}
	positive(row.Yardstick.Name, row.Yardstick.Value)
	positive("ratio", row.Yardstick.Ratio)
	if got := row.Value.Median / row.Yardstick.Value.Median; math.Abs(got-row.Yardstick.Ratio.Median) > 1e-9 || math.Abs(got-row.Yardstick.OfMedians) > 1e-9 {
		t.Errorf("%s: %v is not the ratio of %+v", row.Name, got, row)
	}
}

// checkPicture reads the whole SVG as XML, and looks for texts in it.
func checkPicture(t *testing.T, r *Report, texts ...string) {
	t.Helper()
	var svg bytes.Buffer
	if err := r.Picture(&svg); err != nil {
		t.Fatal(err)
	}
	elements := make(map[string]int)
	var words strings.Builder
	for d := xml.NewDecoder(&svg); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			elements[token.Name.Local]++
			if len(elements) == 1 && (token.Name.Local != "svg" || token.Name.Space != "http://www.w3.org/2000/svg") {
				t.Errorf("the picture begins with %v", token.Name)
			}
			for _, a := range token.Attr {
				if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
					t.Errorf("%s=%q", a.Name.Local, a.Value)
				}
			}
		case xml.CharData:
			words.Write(token)
			words.WriteByte('\n')
		}
	}
	if elements["svg"] != 1 || elements["path"] < 10 || elements["text"] < 10 {
		t.Errorf("the picture has %v", elements)
	}
	for _, text := range texts {
		if !strings.Contains(words.String(), text) {
			t.Errorf("the picture does not say %q: %q", text, words.String())
		}
	}
}

func TestNothingToShow(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := new(Report).Picture(&b); !errors.Is(err, ErrNothingToShow) || b.Len() > 0 {
		t.Errorf("%v, %q", err, b.String())
	}
}

// On a Redis of others, everything of theirs stays as it is, wherever a run is stopped.
func TestStoppedAnywhere(t *testing.T) {
	t.Parallel()
	rdb := ownServer(t)
	theirs, err := stream.New(rdb, "theirs", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.Publish(t.Context(), stream.Job{Type: "t", Delay: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	before := dump(t, rdb)
	run := func(stopAt int, delay time.Duration, groups ...string) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		cfg, steps := small(rdb, false), 0
		cfg.Progress = func(Step) {
			if steps++; steps == stopAt {
				time.AfterFunc(delay, cancel)
			}
		}
		h, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		cases, err := h.Cases(groups...)
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.Run(ctx, cases)
		if cerr := h.Close(ctx); cerr != nil {
			t.Error(cerr)
		}
		if after := dump(t, rdb); after != before {
			t.Errorf("%v, stopped %s after step %d, changed what was there: %q, before %q", groups, delay, stopAt, after, before)
		}
		return err
	}
	if err := run(0, 0); err != nil {
		t.Fatal(err)
	}
	delays := []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 500 * time.Millisecond}
	for i, group := range Groups() {
		for step := 1; step <= 2; step++ {
			delay := delays[(2*i+step)%len(delays)]
			if err := run(step, delay, group); err != nil && !errors.Is(err, errStopped) { // a short one may be over before
				t.Errorf("%s, stopped %s after step %d: %v", group, delay, step, err)
			}
		}
	}
}

// What the yardsticks add is what a plain publish does.
func TestRawEntryIsAJob(t *testing.T) {
	t.Parallel()
	h := testHarness(t, Config{})
	s, err := stream.New(h.rdb, h.Name(), stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Publish(t.Context(), stream.Job{Type: typeName, Data: h.data}); err != nil {
		t.Fatal(err)
	}
	if err := h.rdb.XAdd(t.Context(), rawEntry(s.Name(), h.data)).Err(); err != nil {
		t.Fatal(err)
	}
	entries, err := h.rdb.XRange(t.Context(), s.Name(), "-", "+").Result()
	if err != nil || len(entries) != 2 || !maps.Equal(entries[0].Values, entries[1].Values) {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestSurvey(t *testing.T) {
	t.Parallel()
	rdb := ownServer(t, "--maxmemory", "32mb")
	h, err := New(Config{Client: rdb})
	if err != nil {
		t.Fatal(err)
	}
	all, err := h.Cases()
	if err != nil {
		t.Fatal(err)
	}
	s, err := h.Survey(t.Context(), all)
	if !errors.Is(err, ErrNoRoom) || !strings.Contains(err.Error(), "its maxmemory") || s.Need < 100<<20 || s.Room > 32<<20 {
		t.Errorf("%+v, %v", s, err)
	}
	idle, err := h.Cases("idle")
	if err != nil {
		t.Fatal(err)
	}
	if s, err = h.Survey(t.Context(), idle); err != nil || !s.Empty() || !s.AppendOnly || !s.MaxMemory {
		t.Errorf("%+v, %v", s, err)
	}

	theirs, err := stream.New(rdb, "theirs", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.Create(t.Context(), stream.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if s, err = h.Survey(t.Context(), idle); err != nil || s.Empty() || s.Keys != 2 || !slices.Equal(s.Streams, []string{"theirs"}) {
		t.Errorf("%+v, %v", s, err)
	}

	host, port, _ := strings.Cut(rdb.Options().Addr, ":")
	replica := ownServer(t, "--replicaof", fmt.Sprintf("%s %s", host, port))
	redistest.Wait(t, "the replica is connected", func() bool {
		s, err = h.Survey(t.Context(), idle)
		return err == nil && s.Replicas == 1
	})
	h, err = New(Config{Client: replica})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Survey(t.Context(), idle); err == nil || !strings.Contains(err.Error(), "is a replica") {
		t.Error(err)
	}
}

// Large payloads make fewer jobs, not more memory.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	for _, payload := range []int{minPayload, 97, 10_000, maxPayload} {
		h, err := New(Config{Client: redistest.Client(t), Payload: payload, Duration: maxDuration})
		if err != nil {
			t.Fatal(err)
		}
		cases, err := h.Cases()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			n := max(c.Jobs, c.Most)
			if need := int64(n) * h.jobBytes(); need > mostMemory && n > leastJobs {
				t.Errorf("%s with payloads of %d bytes: %d jobs need %d bytes", c.Name, payload, n, need)
			}
		}
	}
}

// Where others are busy, what INFO counts is not ours.
func TestIdleBesideOthers(t *testing.T) {
	t.Parallel()
	rdb := ownServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	busy := make(chan struct{})
	go func() {
		defer close(busy)
		for ctx.Err() == nil {
			rdb.Ping(ctx)
		}
	}()
	defer func() { cancel(); <-busy }()
	cfg := small(rdb, false)
	cfg.Duration = 200 * time.Millisecond
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cases, err := h.Cases("idle")
	if err != nil {
		t.Fatal(err)
	}
	r, err := h.Run(t.Context(), cases)
	if err != nil || len(r.Rows) != 0 || len(r.Notes) != 2 || !strings.Contains(r.Notes[0], "idle worker per stream is left out: INFO commandstats counts for everybody") {
		t.Errorf("%v, %+v", err, r)
	}
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Client: redistest.Client(t), Duration: time.Millisecond, Pairs: -1, Rate: math.NaN(), Payload: 5, MaxJobs: []int{1, 0}, Streams: 1001, Callers: []int{-3}})
	for _, field := range []string{"Duration", "Pairs", "Rate", "Payload", "MaxJobs", "Streams", "Callers"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
	if _, err := New(Config{}); !errors.Is(err, stream.ErrUnsupportedClient) {
		t.Error(err)
	}
	h := testHarness(t, Config{})
	if _, err := h.Cases("drain", "drian"); err == nil || !strings.Contains(err.Error(), `"drian" is none of drain, publish`) {
		t.Error(err)
	}
	if cases, err := h.Cases("memory", "drain"); err != nil || len(cases) != 6 || cases[0].Group != "drain" {
		t.Errorf("%v, %v", cases, err)
	}
}

// What a run that was killed in the middle leaves is found by its prefix, in the registry too; another run's is not.
func TestClose(t *testing.T) {
	t.Parallel()
	rdb := ownServer(t)
	h, err := New(Config{Client: rdb})
	if err != nil {
		t.Fatal(err)
	}
	other, err := New(Config{Client: rdb})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.newStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := dump(t, rdb)
	for range 3 {
		s, err := h.newStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Publish(t.Context(), stream.Job{Type: "t", ID: "x", Delay: time.Hour}); err != nil {
			t.Fatal(err)
		}
		if err := rdb.Set(t.Context(), "{"+s.Name()+"}:of a later version", 1, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Close(ctx); err != nil {
		t.Error(err)
	}
	if after := dump(t, rdb); after != before {
		t.Errorf("left is %q, before it was %q", after, before)
	}
}

// A deferred job that starts before it is due fails the run.
func TestEarlyFailsTheRun(t *testing.T) {
	t.Parallel()
	h := testHarness(t, Config{Pairs: 1, Duration: minDuration})
	name := h.prefix + "-1"
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil { // as if promoted at once
			if h.rdb.ZCard(ctx, "{"+name+"}:scheduled").Val() > 0 {
				h.rdb.XAdd(ctx, rawEntry(name, h.Payload(99)))
				return
			}
		}
	}()
	defer func() { cancel(); <-done }()
	cases, err := h.Cases("deferred")
	if err != nil {
		t.Fatal(err)
	}
	if r, err := h.Run(t.Context(), cases); !errors.Is(err, ErrEarly) || len(r.Rows) != 0 {
		t.Errorf("%v, %+v", err, r.Rows)
	}
}

// On a Cluster the keys of a run are on several servers.
func TestOnCluster(t *testing.T) {
	t.Parallel()
	theirs, servers := redistest.Cluster(t)
	opt := *theirs.Options()
	opt.ReadTimeout, opt.WriteTimeout = askFor, askFor
	rdb := redis.NewClusterClient(&opt)
	defer rdb.Close()
	for _, server := range servers {
		node := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
		// a node that stalls on a machine under load is not down
		if err := node.ConfigSet(t.Context(), "cluster-node-timeout", "60000").Err(); err != nil {
			t.Fatal(err)
		}
		if err := node.FlushAll(t.Context()).Err(); err != nil { // of what it was tried with
			t.Fatal(err)
		}
	}
	h, err := New(small(rdb, true))
	if err != nil {
		t.Fatal(err)
	}
	cases, err := h.Cases()
	if err != nil {
		t.Fatal(err)
	}
	if s, err := h.Survey(t.Context(), cases); err != nil || !s.Empty() {
		t.Fatalf("%+v, %v", s, err)
	}
	r, err := h.Run(t.Context(), cases)
	if err != nil || len(r.Rows) != 19 || r.Environment.Topology != "cluster" {
		t.Errorf("%v, %d rows, %+v", err, len(r.Rows), r.Environment)
	}
	if len(r.Notes) != 1 || !strings.HasSuffix(r.Notes[0], "redis-benchmark: this is not one node") {
		t.Errorf("notes %q", r.Notes)
	}
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for _, server := range servers {
		if left := dump(t, redistest.Connect(t, &redis.Options{Addr: server.Addr()})); left != "" {
			t.Errorf("%s holds %q", server.Addr(), left)
		}
	}
}
