package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// devTestOptions are those of a short run.
func devTestOptions(jobs int) devOptions {
	return devOptions{jobs: jobs, rate: 4000, seed: 7, workers: 2, maxJobs: 20, stall: 20 * time.Second, grace: 2 * time.Second, maxDelay: 500 * time.Millisecond}
}

// runDev runs dev with --json and returns what it says.
func runDev(t *testing.T, ctx context.Context, a *app, opt devOptions) (r devReport, err error) {
	t.Helper()
	var out bytes.Buffer
	a.out, a.err, a.json, a.timeout = &out, io.Discard, true, 10*time.Second
	if a.env == nil {
		a.env = variables{}
	}
	err = a.dev(ctx, opt)
	if out.Len() == 0 {
		return r, err
	}
	dec := json.NewDecoder(&out)
	dec.DisallowUnknownFields()
	if e := dec.Decode(&r); e != nil {
		t.Fatalf("what it prints is no JSON: %v", e)
	}
	if _, e := dec.Token(); e != io.EOF {
		t.Errorf("something follows the one object: %v", e)
	}
	return r, err
}

// expected computes what must come of the first n jobs from the kinds' names alone, not from their steps.
func expected(m devMix, n int) devReport {
	var r devReport
	for i := range n {
		j := m.job(i)
		r.Published++
		r.Completed++
		r.Runs++
		switch devKinds[j.kind].typ {
		case "card.charge":
			r.Retries, r.Runs = r.Retries+2, r.Runs+2
		case "card.refund":
			r.Panics, r.Retries, r.Runs = r.Panics+1, r.Retries+1, r.Runs+1
		case "stock.sync":
			r.Retries, r.Runs = r.Retries+1, r.Runs+1
		case "payment.await":
			r.Snoozes, r.Runs = r.Snoozes+1, r.Runs+1
		case "coupon.apply":
			r.Completed, r.Dead, r.Retries, r.Runs = r.Completed-1, r.Dead+1, r.Retries+2, r.Runs+2
		case "address.check":
			r.Completed, r.Dead = r.Completed-1, r.Dead+1
		case "mail.reminder":
			r.Deferred++
		}
		if j.twice {
			r.Duplicates++
		}
	}
	return r
}

func TestDevAddsUp(t *testing.T) {
	t.Parallel()
	for _, embedded := range []bool{false, true} {
		opt := devTestOptions(400)
		opt.embedded = embedded
		opt.countFile = filepath.Join(t.TempDir(), "runs")
		r, err := runDev(t, t.Context(), &app{}, opt)
		if err != nil {
			t.Fatal(err)
		}
		want := expected(devMix{opt.seed, opt.maxDelay}, opt.jobs)
		got := devReport{Published: r.Published, Completed: r.Completed, Dead: r.Dead, Retries: r.Retries, Snoozes: r.Snoozes,
			Panics: r.Panics, Duplicates: r.Duplicates, Deferred: r.Deferred, Runs: r.Runs}
		if got.text(t) != want.text(t) {
			t.Errorf("embedded %t: it says\n%s\nand this would be right\n%s", embedded, got.text(t), want.text(t))
		}
		if !r.OK || r.Lost != 0 || r.Left != 0 || len(r.Faults) != 0 || r.Published != r.Completed+r.Dead || r.Errors != 0 {
			t.Errorf("embedded %t: %+v", embedded, r)
		}
		if r.TookMS <= 0 || r.JobsPerSec <= 0 || r.Workers != 2 || r.Redis.Where == "" || !r.Redis.Own || (r.Redis.Kind == "miniredis") != embedded {
			t.Errorf("embedded %t: %+v, redis %+v", embedded, r, *r.Redis)
		}
		outcomes := countLines(t, opt.countFile)
		if n := outcomes["ok"]; n != int(want.Completed) {
			t.Errorf("%d lines say ok, want %d", n, want.Completed)
		}
		sum := 0
		for _, n := range outcomes {
			sum += n
		}
		if sum != int(want.Runs) || outcomes["panic"] != int(want.Panics) || outcomes["snooze"] != int(want.Snoozes) {
			t.Errorf("runs in the file %v, want %d", outcomes, want.Runs)
		}
	}
}

func (r devReport) text(t *testing.T) string {
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var countLine = regexp.MustCompile(`^\S+ \S+ \d+ (\S+)$`)

func countLines(t *testing.T, file string) map[string]int {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	outcomes := make(map[string]int)
	for line := range strings.Lines(string(text)) {
		m := countLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			t.Fatalf("line %q", line)
		}
		outcomes[m[1]]++
	}
	return outcomes
}

func TestDevCtrlC(t *testing.T) {
	t.Parallel()
	for _, jobs := range []int{0, 100_000} {
		for _, embedded := range []bool{false, true} {
			opt := devTestOptions(jobs)
			opt.embedded, opt.rate = embedded, 1000
			opt.countFile = filepath.Join(t.TempDir(), "runs")
			ctx, cancel := context.WithCancel(t.Context())
			var ended time.Time
			still := redistest.Standstill(t)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					if info, err := os.Stat(opt.countFile); err == nil && info.Size() > 20_000 {
						break
					}
					if !pauseFor(ctx, time.Millisecond) {
						return
					}
				}
				ended = time.Now()
				cancel()
			}()
			r, err := runDev(t, ctx, &app{}, opt)
			cancel()
			<-done
			if took := time.Since(ended); took > 2*time.Second+still() {
				t.Errorf("it took %s to end", took)
			}
			if jobs == 0 && (err != nil || !r.OK) {
				t.Errorf("without --jobs: %v, %+v", err, r)
			}
			if jobs > 0 && (err == nil || r.OK || !strings.Contains(err.Error(), count(r.Left)+" left")) {
				t.Errorf("with --jobs: %v, %+v", err, r)
			}
			if r.Published != r.Completed+r.Dead+r.Left || r.Left == 0 || r.Lost != 0 || r.Active != 0 || len(r.Faults) > 0 {
				t.Errorf("it does not add up: %+v", r)
			}
		}
	}
}

// TestDevLeavesNothing is about the folder in the cache: it changes the environment, and so is not parallel.
func TestDevLeavesNothing(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	empty := func(when string) {
		t.Helper()
		entries, err := os.ReadDir(cache)
		if err != nil || len(entries) > 0 {
			t.Errorf("%s: %v is left, %v", when, entries, err)
		}
	}
	if r, err := runDev(t, t.Context(), &app{}, devTestOptions(20)); err != nil || !r.OK {
		t.Errorf("%v, %+v", err, r)
	}
	empty("after a good run")

	opt := devTestOptions(20)
	opt.keep = true
	if _, err := runDev(t, t.Context(), &app{}, opt); err != nil {
		t.Error(err)
	}
	kept, _ := filepath.Glob(filepath.Join(cache, "penstock", "dev-*", "appendonlydir"))
	if len(kept) != 1 {
		t.Errorf("--keep keeps %v", kept)
	}
	if err := os.RemoveAll(filepath.Join(cache, "penstock")); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := runDev(t, ctx, &app{}, devTestOptions(20)); err == nil || !strings.Contains(err.Error(), "stopped before it had begun") {
		t.Errorf("stopped at once: %v", err)
	}
	if _, err := runDev(t, ctx, &app{}, devTestOptions(0)); err != nil {
		t.Errorf("stopped at once without --jobs: %v", err)
	}
	empty("stopped at once")

	bin := t.TempDir()
	script := "#!/bin/sh\necho no such thing >&2\nexit 3\n"
	if err := os.WriteFile(filepath.Join(bin, "redis-server"), []byte(script), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	if _, err := runDev(t, t.Context(), &app{}, devTestOptions(20)); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("a server that does not start: %v", err)
	}
	empty("a server that does not start")

	t.Setenv("PATH", t.TempDir())
	r, err := runDev(t, t.Context(), &app{}, devTestOptions(20))
	if err != nil || !r.OK || r.Redis.Kind != "miniredis" {
		t.Errorf("without a server: %v, %+v", err, r.Redis)
	}
}

func TestDevOnYourRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	theirs, err := stream.New(rdb, "theirs", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.Publish(t.Context(), stream.Job{Type: "t", Delay: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	dump := func() string {
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
	before := dump()
	opt := devTestOptions(150)
	opt.yours = true
	r, err := runDev(t, t.Context(), &app{redis: server.URL()}, opt)
	if err != nil || !r.OK || r.Redis.Own || r.Redis.Kind == "" || !strings.HasPrefix(r.Streams[0], "penstock-dev-") {
		t.Errorf("%v, %+v, %+v", err, r, r.Redis)
	}
	if after := dump(); after != before {
		t.Errorf("it changed what was there: %q, before %q", after, before)
	}
	opt.keep = true
	if r, err = runDev(t, t.Context(), &app{redis: server.URL()}, opt); err != nil || !r.OK {
		t.Errorf("%v, %+v", err, r)
	}
	if n := rdb.XLen(t.Context(), engine.NewKeys(r.Streams[0]).Group(devGroup, false).Dead).Val(); n != r.Dead {
		t.Errorf("%d dead letters are kept, want %d", n, r.Dead)
	}
}

// TestDevRedisEnds: the server of the run itself is killed.
func TestDevRedisEnds(t *testing.T) {
	t.Parallel()
	a := &app{out: io.Discard, err: io.Discard, env: variables{}, timeout: time.Second}
	s := &devSession{app: a, opt: devTestOptions(10_000), mix: devMix{7, time.Second}, ledger: newDevLedger(), tally: &logTally{}}
	if _, err := s.openFiles(); err != nil {
		t.Fatal(err)
	}
	died := make(chan struct{})
	var err error
	if s.redis, err = embeddedRedis(); err != nil {
		t.Fatal(err)
	}
	s.redis.died = died
	time.AfterFunc(200*time.Millisecond, func() { close(died) })
	r, _, err := s.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "has ended before its time") || r == nil || r.OK {
		t.Errorf("%v, %+v", err, r)
	}
	if err := s.redis.stop(); err != nil {
		t.Error(err)
	}
}

func TestDevMisuse(t *testing.T) {
	t.Parallel()
	for _, c := range [][]string{
		{"--jobs", "0"}, {"--rate", "0"}, {"--rate", "NaN"}, {"--workers", "0"}, {"--max-jobs", "0"}, {"--embedded", "--redis", "redis://localhost"},
		{"more"}, {"--log-file", "/nowhere/at/all"}, {"--redis", "http://localhost"}, {"--redis", ""},
	} {
		a := &app{out: io.Discard, err: io.Discard, env: variables{}}
		if status := a.run(t.Context(), append([]string{"dev"}, c...)); status != exitMisuse {
			t.Errorf("dev %q: exit status %d", c, status)
		}
	}
	var usage usageError
	opt := devTestOptions(0)
	opt.countFile = "/nowhere/at/all"
	if err := (&app{env: variables{}}).dev(t.Context(), opt); !errors.As(err, &usage) {
		t.Errorf("a file that can't be written: %v", err)
	}
}
