package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
)

// tiny makes a run short; its numbers mean nothing.
var tiny = []string{"--duration", "20ms", "--pairs", "1", "--max-jobs", "5", "--callers", "2"}

func measured(values ...float64) bench.Summary { return bench.Summarize(values) }

// cannedReport is what a run could have found.
func cannedReport() *bench.Report {
	row := func(group, name string, unit bench.Unit, target *bench.Target, met bool, value bench.Summary, y *bench.Yardstick) bench.Row {
		r := bench.Row{Group: group, Name: name, Contender: bench.Penstock, Unit: unit, Jobs: 1000, Value: value, Yardstick: y, Target: target}
		if target != nil {
			r.Met = &met
		}
		return r
	}
	ratio := func(bound float64, atLeast bool) *bench.Target {
		return &bench.Target{Ratio: true, AtLeast: atLeast, Bound: bound}
	}
	other := row("drain", "drain, MaxJobs 100", bench.JobsPerSecond, nil, false, measured(13_000, 13_100, 12_900),
		&bench.Yardstick{Name: "raw loop", Value: measured(400_000, 410_000, 390_000), Ratio: measured(0.0325, 0.0319, 0.0331)})
	other.Contender = "asynq"
	return &bench.Report{
		Environment: bench.Environment{
			Time: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), CPU: "Some CPU @ 3 GHz", Cores: 2, Load: 0.1, OS: "linux/amd64",
			Go: "1.26.8", GoRedis: "9.23.0", Server: "Redis 7.0.15", Topology: "one node", Connection: "TCP over loopback", Own: true,
		},
		Settings: bench.Settings{DurationMS: 1000, Pairs: 3, Rate: 500, Payload: 97, Streams: 1},
		Rows: []bench.Row{
			row("drain", "drain, MaxJobs 100", bench.JobsPerSecond, ratio(0.85, true), true, measured(350_000, 360_000, 340_000),
				&bench.Yardstick{Name: "raw loop", Value: measured(400_000, 410_000, 390_000), Ratio: measured(0.875, 0.878, 0.872)}),
			other,
			row("publish", "publish, 64 callers", bench.JobsPerSecond, ratio(1.7, true), false, measured(200_000),
				&bench.Yardstick{Name: "XADD", Value: measured(125_000), Ratio: measured(1.6)}),
			row("publish", "publish, 3 callers", bench.JobsPerSecond, nil, false, measured(50_000, 52_000),
				&bench.Yardstick{Name: "XADD", Value: measured(50_000, 50_000), Ratio: measured(1, 1.04)}),
			row("latency", "latency at 500/s, p50", bench.Seconds, ratio(1.3, false), true, measured(0.00021, 0.00022, 0.0002),
				&bench.Yardstick{Name: "XADD to XREADGROUP", Value: measured(0.00018, 0.00018, 0.00019), Ratio: measured(1.17, 1.22, 1.05)}),
			row("latency", "latency at 500/s, p99", bench.Seconds, ratio(1.3, false), false, measured(0.0009, 0.001, 0.0008),
				&bench.Yardstick{Name: "XADD to XREADGROUP", Value: measured(0.0006, 0.0006, 0.0006), Ratio: measured(1.5, 1.67, 1.33)}),
			row("deferred", "deferred, 100 due/s, p50", bench.Seconds, &bench.Target{Bound: 0.001}, true, measured(0.0008), nil),
			row("deferred", "deferred, 100 due/s, earliest", bench.Seconds, &bench.Target{AtLeast: true}, true, measured(0.0003), nil),
			row("idle", "idle scheduler", bench.CommandsPerSecond, &bench.Target{Bound: 0.2}, false, measured(0.25), nil),
			row("memory", "memory of a waiting job", bench.Bytes, ratio(1.1, false), true, measured(135),
				&bench.Yardstick{Name: "bare entry", Value: measured(134), Ratio: measured(1.007)}),
		},
		Notes: []string{"the raw loop's reading alone does 500,000/s, and redis-benchmark with as many clients 510,000/s: 0.98 of it (medians of 3)"},
	}
}

func TestBenchGolden(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	a := &app{out: &b}
	if err := a.printBench(cannedReport()); err != nil {
		t.Fatal(err)
	}
	busy := cannedReport()
	busy.Environment.Load, busy.Environment.Own, busy.Rows, busy.Notes = 7.5, false, busy.Rows[:1], []string{"idle worker is left out: \x1b[31mnobody"}
	b.WriteString("\n")
	if err := a.printBench(busy); err != nil {
		t.Fatal(err)
	}
	b.WriteString("\n")
	a.json = true
	if err := a.printBench(busy); err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "bench", b.String())
}

func TestBenchMisuseGolden(t *testing.T) {
	t.Parallel()
	s := newTranscript(t)
	s.run(s.env, "", "bench", "drian", "latency", "speed")
	s.run(s.env, "", "bench", "--duration", "1ms", "--pairs", "0", "--rate", "1000000/s", "--payload", "3", "--max-jobs", "10,0", "--streams", "0", "--callers", "-1")
	s.run(s.env, "", "bench", "--duration", "soon")
	s.run(s.env, "", "bench", "--rate", "0")
	s.run(s.env, "", "bench", "--max-jobs", "ten")
	s.run(s.env, "", "bench", "idle", "memory", "--svg", "idle.svg")
	s.run(s.env, "", "bench", "drain", "--svg", "/nowhere/at/all.svg")
	s.run(s.env, "", "bench", "drain", "--redis", "http://localhost")
	s.run(variables{}, "", "bench", "drain", "--redis", "")
	s.run(s.env, "", "bench", "drain", "--redis", "redis://127.0.0.1:1?max_retries=-1")
	s.golden("bench_misuse")
	if _, err := os.Stat("idle.svg"); err == nil {
		t.Error("it makes a picture before it knows whether there will be one")
	}
}

// benchReport runs bench and reads its JSON.
func benchReport(t *testing.T, env variables, args ...string) (r bench.Report, said string) {
	t.Helper()
	var out, err bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &out, err: &err, env: env}
	status := a.run(t.Context(), append(append([]string{"bench", "--json"}, tiny...), args...))
	if status != exitOK {
		t.Fatalf("exit status %d: %s", status, err.String())
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || strings.Count(out.String(), "\n") != 1 {
		t.Fatalf("%v: it writes %q", err, out.String())
	}
	return r, err.String()
}

// Any Redis: the keys that were there stay, those of the run go.
func TestBenchOnYourRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	keys := func() string { return fmt.Sprint(slices.Sorted(slices.Values(rdb.Keys(t.Context(), "*").Val()))) }
	env := variables{"REDIS_URL": server.URL()}
	svg := filepath.Join(t.TempDir(), "bench.svg")
	if err := os.WriteFile(svg, bytes.Repeat([]byte("<longer than the picture>"), 10_000), 0o600); err != nil {
		t.Fatal(err)
	}

	r, said := benchReport(t, env, "drain", "publish", "latency", "memory", "--svg", svg)
	if len(r.Rows) != 12 || r.Environment.Own || r.Settings.Payload != 97 || r.Settings.Pairs != 1 || r.Rows[0].Yardstick.Ratio.Median <= 0 {
		t.Errorf("%+v", r)
	}
	if !strings.HasPrefix(said, "this takes up to ") || strings.Count(said, "\n") != 1 || strings.Contains(said, "\x1b") {
		t.Errorf("on an empty Redis it says %q", said)
	}
	text, err := os.ReadFile(svg)
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
	}
	if !bytes.HasPrefix(text, []byte("<svg ")) || !bytes.Contains(text, []byte("drain, MaxJobs 5")) {
		t.Errorf("the picture begins %.100q", text)
	}
	if left := keys(); left != "[]" {
		t.Errorf("it leaves %s", left)
	}

	if err := rdb.Set(t.Context(), "theirs", 1, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if _, said = benchReport(t, env, "memory"); !strings.Contains(said, "note: this Redis is in use: 1 key, an append-only file\n") {
		t.Errorf("on a Redis with a key it says %q", said)
	}
	theirs, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.Create(t.Context(), stream.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	before := keys()
	s := newTranscript(t)
	if status, out := s.run(env, "", "bench", "memory"); status != exitMisuse || out != "" || !strings.Contains(s.text.String(), "streams of Penstock are here (orders)") || !strings.Contains(s.text.String(), "--yes") {
		t.Errorf("exit status %d: %s", status, s.text.String())
	}
	if r, said = benchReport(t, env, "memory", "--yes"); len(r.Rows) != 1 || !strings.Contains(said, "3 keys, 1 stream of Penstock, an append-only file") {
		t.Errorf("with --yes: %+v, it says %q", r, said)
	}
	if after := keys(); after != before {
		t.Errorf("keys %s, before %s", after, before)
	}
}

func TestBenchNeedsRoom(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t, "--maxmemory", "20mb")
	s := newTranscript(t)
	status, out := s.run(variables{}, "", "bench", "drain", "--redis", server.URL())
	if text := s.text.String(); status != exitFailed || out != "" || !strings.Contains(text, "not enough memory: up to ") || !strings.Contains(text, "a shorter --duration") {
		t.Errorf("exit status %d: %s", status, text)
	}
}

// Without REDIS_URL a server is started, and gone at the end.
func TestBenchStartsItsOwn(t *testing.T) {
	s := newTranscript(t) // while there is a server for all tests to start
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	r, said := benchReport(t, variables{}, "deferred")
	if len(r.Rows) != 3 || !r.Environment.Own || strings.Contains(said, "note:") {
		t.Errorf("%+v, it says %q", r, said)
	}
	if entries, err := os.ReadDir(cache); err != nil || len(entries) > 0 {
		t.Errorf("%v is left, %v", entries, err)
	}

	t.Setenv("PATH", t.TempDir())
	svg := filepath.Join(t.TempDir(), "bench.svg")
	if status, _ := s.run(variables{}, "", "bench", "drain", "--svg", svg); status != exitFailed || !strings.Contains(s.text.String(), "apt-get install redis-server") {
		t.Errorf("exit status %d: %s", status, s.text.String())
	}
	if _, err := os.Stat(svg); err == nil {
		t.Error("it leaves an empty picture")
	}
}

// The pool has a connection for each caller, unless the URL says otherwise.
func TestBenchPool(t *testing.T) {
	t.Parallel()
	opt := benchOptions{Config: bench.Config{Callers: []int{1, 100}}}
	for url, want := range map[string]int{"redis://h:1/2": 116, "redis://h:1/2?read_timeout=5s": 116, "unix:///run/redis.sock?db=2&pool_size=3": 3} {
		a := &app{env: variables{"REDIS_URL": url}}
		rdb, own, stop, err := a.benchRedis(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		timeout := benchTimeout
		if strings.Contains(url, "5s") {
			timeout = 5 * time.Second
		}
		got := rdb.(*redis.Client).Options()
		if own || got.PoolSize != want || got.DB != 2 || got.ReadTimeout != timeout || a.env["REDIS_URL"] != url {
			t.Errorf("%s: pool of %d, database %d, timeout %s; the variable is now %s", url, got.PoolSize, got.DB, got.ReadTimeout, a.env["REDIS_URL"])
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}
