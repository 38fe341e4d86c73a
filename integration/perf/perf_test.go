package main

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(workerEnv); spec != "" { // a process of TestTable's
		os.Exit(beWorker(spec))
	}
	goleak.VerifyTestMain(m)
}

// tiny is as little as can be measured.
var tiny = []string{"--json", "--duration", "20ms", "--pairs", "1"}

func runPerf(t *testing.T, args ...string) *Report {
	t.Helper()
	var out, errOut bytes.Buffer
	if err := perf(t.Context(), slices.Concat(tiny, args), &out, &errOut); err != nil {
		t.Fatalf("%v\n%s", err, errOut.String())
	}
	var r Report
	dec := json.NewDecoder(&out)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		t.Fatal(err)
	}
	if r.Command == "" || r.Commit == "" || r.Minutes <= 0 || r.Environment.Server == "" || r.Environment.Time.IsZero() || r.Settings.Pairs != 1 {
		t.Errorf("about the run: %+v", r.about())
	}
	return &r
}

// measured checks that a row's numbers are ones.
func measured(t *testing.T, row bench.Row) {
	t.Helper()
	positive := func(what string, s bench.Summary) {
		if !(s.Median > 0) || math.IsInf(s.Median, 0) || len(s.Samples) == 0 {
			t.Errorf("%s of %s, %s: %+v", row.Name, row.Contender, what, s)
		}
	}
	if row.Unit == bench.JobsPerSecond || row.Unit == bench.SecondsPerJob || row.Group == "latency" || row.Group == "handover" {
		positive("median", row.Value)
	}
	if y := row.Yardstick; y != nil {
		positive(y.Name, y.Value)
		positive("ratio", y.Ratio)
	}
}

// All rows of the table are measured, with the peers where they take part.
func TestTable(t *testing.T) {
	t.Parallel()
	r := runPerf(t, "--peers", "asynq,watermill", "--lease", "10s", "--drained", "20000", "--due", "2000",
		"drain", "publish", "latency", "deferred", "idle", "memory", "handover", "drained", "cron")
	all := []string{bench.Penstock, asynqName, watermillName}
	want := map[string][]string{
		drainName: all, publishName: all, "latency at 500/s, p50": all, "latency at 500/s, p99": all,
		drainName + ", beside asynq": all[:1], "drain, MaxJobs 10": all[:1], "publish, slices of 1,000": all[:1], "publish, 1 caller": all[:1],
		"deferred, 100 due/s, p50": all[:2], "idle worker": all[:1], "idle scheduler": all[:1], "memory of a waiting job": all[:1],
		"kill -9 of a worker to its job running elsewhere, lease 10s, slowest":  all[:1],
		"SIGTERM of a worker to its job running elsewhere":                      all[:1],
		"memory left after draining 20,000 jobs":                                all[:1],
		"tick of 100 schedules to its job in the stream, slowest":               all[:1],
		"2,000 deferred jobs due within a second, the last one after the first": all[:1],
	}
	got := make(map[string][]string)
	for _, row := range r.Rows {
		got[row.Name] = append(got[row.Name], row.Contender)
		measured(t, row)
	}
	for name, contenders := range want {
		if !slices.Equal(got[name], contenders) {
			t.Errorf("%s: measured of %q, want %q", name, got[name], contenders)
		}
	}
	for _, v := range r.Versions {
		if v.Version == "" {
			t.Errorf("versions %+v", r.Versions)
		}
	}
	if len(r.Versions) != 2 || len(r.Growth) != 0 {
		t.Errorf("versions %+v, growth %+v", r.Versions, r.Growth)
	}
	kill := row(t, r, "kill -9 of a worker to its job running elsewhere, lease 10s, slowest")
	if kill.Value.Median < 3 { // what a heartbeat had just renewed is not free before
		t.Errorf("a job of a killed worker ran elsewhere after %gs, while its lease of 10s had not run out", kill.Value.Median)
	}
}

func row(t *testing.T, r *Report, name string) bench.Row {
	t.Helper()
	i := slices.IndexFunc(r.Rows, func(r bench.Row) bool { return r.Name == name && r.Contender == bench.Penstock })
	if i < 0 {
		t.Fatalf("no row %q", name)
	}
	return r.Rows[i]
}

// Everything that can grow is measured.
func TestGrowth(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		most string
		axes []string
	}{
		{"100", []string{"consumers", "pending", "streams", "payload", "groups"}},
		{"10000", []string{"backlog", "scheduled"}},
	} {
		r := runPerf(t, append([]string{"--most", c.most}, c.axes...)...)
		var names []string
		for _, g := range r.Growth {
			names = append(names, g.Axis)
			for _, p := range g.Points {
				measured(t, p.Cost)
				if (p.Heap != nil) != (g.Axis == "backlog") {
					t.Errorf("%s: heap %v", g.Axis, p.Heap)
				}
			}
			if len(g.Points) == 0 || g.What == "" || g.Raw == "" {
				t.Errorf("%+v", g)
			}
		}
		slices.Sort(names)
		slices.Sort(c.axes)
		if !slices.Equal(names, c.axes) || len(r.Rows) != 0 {
			t.Errorf("measured %q and %d rows, want %q", names, len(r.Rows), c.axes)
		}
	}
}

// BullMQ is measured where it can be, and otherwise left out with a line that says why.
func TestBullMQ(t *testing.T) {
	t.Parallel()
	r := runPerf(t, "--peers", "bullmq", "drain", "publish", "latency", "deferred")
	var notes []string
	for _, note := range r.Notes {
		if strings.HasPrefix(note, "BullMQ is left out: ") {
			notes = append(notes, note)
		}
	}
	var of []string
	for _, row := range r.Rows {
		measured(t, row)
		if row.Contender == bullmqName {
			of = append(of, row.Name)
		}
	}
	_, none := exec.LookPath("npm")
	switch {
	case os.Getenv("CI") == "true" || none != nil:
		if len(notes) != 1 || len(of) > 0 {
			t.Errorf("notes %q, rows %q; want only a note that says why", notes, of)
		}
	case len(notes) == 1 && strings.Contains(notes[0], "npm could not install"):
		t.Skip(notes[0])
	default:
		want := []string{drainName, publishName, "latency at 500/s, p50", "latency at 500/s, p99", "deferred, 100 due/s, p50", "deferred, 100 due/s, p99", "deferred, 100 due/s, earliest"}
		if len(notes) > 0 || !slices.Equal(of, want) || len(r.Versions) != 2 {
			t.Errorf("notes %q, rows %q, versions %v", notes, of, r.Versions)
		}
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"drains":                 `"drains" is none of drain, publish,`,
		"drain --nonsense":       "nonsense",
		"--peers sidekiq":        `"sidekiq" is none of`,
		"--most 1":               "--most must be at least 10",
		"--page no/such/page.md": "no/such/page.md",
		"--from no/such.json":    "no/such.json",
	} {
		var out, errOut bytes.Buffer
		if err := perf(t.Context(), strings.Fields(args), &out, &errOut); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", args, err, want)
		}
		if out.Len() > 0 {
			t.Errorf("%s: printed %s", args, out.String())
		}
	}
	o, err := parse([]string{"backlog", "--full", "growth"}, &bytes.Buffer{})
	if err != nil || o.most != mostFull || !o.wants("pending") || o.wants("drain") {
		t.Errorf("%+v, %v", o, err)
	}
}

// TestNoServer is not parallel: it changes the environment.
func TestNoServer(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := perf(t.Context(), []string{"drain"}, &bytes.Buffer{}, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "apt-get install redis-server") {
		t.Errorf("%v, want what to install", err)
	}
}

// What was measured before the end is shown.
func TestStopped(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out bytes.Buffer
	err := perf(ctx, slices.Concat(tiny, []string{"--peers", "none", "memory", "latency", "idle"}), &out, watcher{"idle", cancel})
	var r Report
	if jerr := json.Unmarshal(out.Bytes(), &r); err == nil || jerr != nil || len(r.Rows) != 5 || slices.ContainsFunc(r.Rows, func(row bench.Row) bool { return row.Group != "latency" }) {
		t.Errorf("%v, %v: %+v", err, jerr, r.Rows)
	}
}

// watcher calls when it reads a word.
type watcher struct {
	word string
	call func()
}

func (w watcher) Write(text []byte) (int, error) {
	if bytes.Contains(text, []byte(w.word)) {
		w.call()
	}
	return len(text), nil
}

// TestPeersOfCases: a peer joins the cases that it has a measurement for, and no other of their groups.
func TestPeersOfCases(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // never used
	t.Cleanup(func() { _ = rdb.Close() })
	h, err := bench.New(bench.Config{Client: rdb})
	if err != nil {
		t.Fatal(err)
	}
	cases, err := h.Cases("drain", "publish", "latency", "deferred")
	if err != nil {
		t.Fatal(err)
	}
	do := func(context.Context, int) (bench.Sample, error) { return bench.Sample{}, nil }
	p := &peer{name: "peer", drain: do, publish: do, latency: do, deferred: do}
	p.join(cases)
	var joined []string
	for _, c := range cases {
		if len(c.Contenders) > 1 {
			joined = append(joined, c.Name)
		}
		if peersIn(c) != (len(c.Contenders) > 1) {
			t.Errorf("%s: peersIn says %t", c.Name, peersIn(c))
		}
	}
	if want := []string{drainName, publishName, "latency at 500/s", "deferred, 100 due/s"}; !slices.Equal(joined, want) {
		t.Errorf("a peer takes part in %q, want %q", joined, want)
	}
}
