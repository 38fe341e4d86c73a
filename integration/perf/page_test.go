package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
)

const committed = "../../docs/PERFORMANCE.md"

// The committed page shows the committed numbers as this program writes them, and they are of all that it measures.
func TestCommittedPage(t *testing.T) {
	t.Parallel()
	p, err := readPage(committed)
	if err != nil {
		t.Fatal(err)
	}
	r, err := readReport(numbersOf(committed))
	if err != nil {
		t.Fatal(err)
	}
	if p.generated != r.markdown() {
		t.Errorf("it is not what the program writes now; without measuring again:\n" +
			"  go -C integration run ./perf --from ../docs/PERFORMANCE.json --page ../docs/PERFORMANCE.md")
	}
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // never dialled
	t.Cleanup(func() { _ = rdb.Close() })
	o, err := parse(nil, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	h, err := bench.New(bench.Config{Client: rdb})
	if err != nil {
		t.Fatal(err)
	}
	cases, err := h.Cases()
	if err != nil {
		t.Fatal(err)
	}
	cases = slices.Concat(cases, (&handover{h, rdb, o.lease}).cases(), (&drained{h, rdb, o.drained}).cases(), (&cron{h, rdb, o.due}).cases())
	due := map[string]bench.Target{drainName + ", beside asynq": atLeastTimes}
	for _, c := range cases {
		for _, f := range c.Figures {
			if f.Target != nil {
				due[f.Name] = *f.Target
			}
		}
	}
	for name, target := range due {
		i := slices.IndexFunc(r.Rows, func(r bench.Row) bool { return r.Name == name && r.Contender == bench.Penstock })
		if i < 0 {
			t.Errorf("the row %q is missing: measure again (make perf)", name)
		} else if got := r.Rows[i].Target; got == nil || *got != target {
			t.Errorf("%s: its target was %+v and is %+v: measure again (make perf)", name, got, target)
		}
	}
	for _, contender := range []string{asynqName, watermillName, bullmqName} {
		if !slices.ContainsFunc(r.Rows, func(r bench.Row) bool { return r.Name == drainName && r.Contender == contender }) {
			t.Errorf("%s is missing: measure again (make perf)", contender)
		}
	}
	var grown []string
	for _, g := range r.Growth {
		grown = append(grown, g.Axis)
	}
	if !slices.Equal(grown, axisNames()) {
		t.Errorf("growth of %q, want %q: measure again (make perf)", grown, axisNames())
	}
}

// fixture is a report with everything in it.
func fixture() *Report {
	summary := func(f float64) bench.Summary { return bench.Summarize([]float64{f, f * 1.1, f * 0.9}) }
	cost := func(name string, f, raw float64) bench.Row {
		return bench.Row{Name: name, Contender: bench.Penstock, Unit: bench.SecondsPerJob, Value: summary(f),
			Yardstick: &bench.Yardstick{Name: "raw", Value: summary(raw), Ratio: summary(f / raw)}}
	}
	drain := func(contender string, f float64) bench.Row {
		return bench.Row{Group: "drain", Name: drainName, Contender: contender, Unit: bench.JobsPerSecond, Value: summary(f),
			Yardstick: &bench.Yardstick{Name: "raw loop", Value: summary(400_000), Ratio: summary(f / 400_000)}}
	}
	heap := bench.Row{Unit: bench.Bytes, Value: summary(5e6), Yardstick: &bench.Yardstick{Value: summary(6e6)}}
	return &Report{
		Command: "go -C integration run ./perf", Commit: "abc", Minutes: 3.4,
		Environment: bench.Environment{Time: time.Unix(1_800_000_000, 0).UTC(), CPU: "a CPU", Cores: 2, Go: "1.26", GoRedis: "9", Server: "Redis 7"},
		Settings:    bench.Settings{DurationMS: 1000, Pairs: 7, Payload: 97},
		Versions:    []Version{{asynqName, "0.26.0"}},
		Rows:        besideAsynq([]bench.Row{drain(bench.Penstock, 350_000), drain(asynqName, 10_000)}),
		Growth: []Growth{{"backlog", "what", "raw", []Point{
			{10, "10 jobs", cost("a", 1, 1), &heap}, {100, "100 jobs", cost("b", 1.1, 1), nil},
			{1000, "1,000 jobs", cost("c", 2, 1.9), nil}, {10000, "10,000 jobs", cost("d", 2, 1), nil},
		}}},
		Notes: []string{"BullMQ is left out: there is no node here"},
	}
}

func TestRender(t *testing.T) {
	t.Parallel()
	r := fixture()
	text := r.markdown()
	for _, want := range []string{
		"| drain, MaxJobs 100 | penstock | 350,000/s | raw loop | 400,000/s | 0.88 (0.79–0.96) | – |\n",
		"| drain, MaxJobs 100, beside asynq | penstock | 350,000/s | asynq | 10,000/s | 35.00 | ≥ 20: ok |\n",
		"| backlog | 10 jobs | 1000000.00µs | – | 1000000.00µs | – | 1.00 (0.90–1.10) | – |\n",
		" | 1.10 (0.99–1.21) | flat |\n", "| 2.00 | 1900000.00µs | 1.90 | 1.05 (0.95–1.16) | as Redis |\n", " | grows |\n",
		"| 10 jobs | 5,000 KB | 6,000 KB |\n", "- BullMQ is left out", "asynq 0.26.0",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	r.Environment.Load = 1.5
	if !strings.Contains(r.markdown(), "too busy") {
		t.Error("numbers of a busy machine do not say so")
	}
	var out bytes.Buffer
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"commit    abc\n", "WHAT", "35.00", "≥ 20: ok\n", "note: BullMQ"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// A page keeps what was written by hand, and its numbers make the same page again.
func TestPage(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "page.md")
	write := func(text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("no markers")
	if err := perf(t.Context(), []string{"--page", name}, &bytes.Buffer{}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "perf:begin") {
		t.Errorf("without markers: %v", err)
	}
	write("above\n" + pageBegin + "old\n" + pageEnd + "below\n")
	r := fixture()
	if err := writePage(name, r); err != nil {
		t.Fatal(err)
	}
	want := "above\n" + pageBegin + r.markdown() + pageEnd + "below\n"
	read := func() string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if got := read(); got != want {
		t.Errorf("page\n%s\nwant\n%s", got, want)
	}
	write("above\n" + pageBegin + "old\n" + pageEnd + "below\n")
	if err := perf(t.Context(), []string{"--from", numbersOf(name), "--page", name}, &bytes.Buffer{}, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != want {
		t.Errorf("made again:\n%s\nwant\n%s", got, want)
	}
	if r.Rows[0].Value.Samples == nil || r.Rows[0].Yardstick.Value.Samples == nil || r.Growth[0].Points[0].Heap.Value.Samples == nil {
		t.Error("the report has lost its samples")
	}
}
