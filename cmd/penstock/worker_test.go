//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
)

// output is a buffer that may be read while it is written to.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// cli runs command lines against the tests' Redis.
type cli struct {
	t   *testing.T
	env variables
	rdb *redis.Client
}

func newCLI(t *testing.T, env ...string) *cli {
	t.Helper()
	opt := redistest.Options(t)
	url := fmt.Sprintf("redis://%s/%d", opt.Addr, opt.DB)
	if opt.Network == "unix" {
		url = fmt.Sprintf("unix://%s?db=%d", opt.Addr, opt.DB)
	}
	vars := variables{"PATH": os.Getenv("PATH"), "REDIS_URL": url, "REDIS_USERNAME": opt.Username, "REDIS_PASSWORD": opt.Password}
	for i := 0; i+1 < len(env); i += 2 {
		vars[env[i]] = env[i+1]
	}
	return &cli{t, vars, redistest.Client(t)}
}

// answer of a command line.
type answer struct {
	status   int
	out, err string
}

func (c *cli) run(ctx context.Context, args ...string) answer {
	var out, errs output
	a := &app{in: strings.NewReader(""), out: &out, err: &errs, env: c.env}
	return answer{a.run(ctx, args), out.String(), errs.String()}
}

// ok runs a command line that must succeed, and returns its standard output.
func (c *cli) ok(args ...string) string {
	c.t.Helper()
	got := c.run(c.t.Context(), args...)
	if got.status != exitOK || got.err != "" {
		c.t.Fatalf("penstock %s: exit status %d\n%s%s", strings.Join(args, " "), got.status, got.out, got.err)
	}
	return got.out
}

// fails runs a command line that must fail, and returns what it says.
func (c *cli) fails(status int, args ...string) string {
	c.t.Helper()
	got := c.run(c.t.Context(), args...)
	if got.status != status {
		c.t.Fatalf("penstock %s: exit status %d, want %d\n%s%s", strings.Join(args, " "), got.status, status, got.out, got.err)
	}
	return got.err
}

// working is a worker under way.
type working struct {
	*cli
	out, err output
	stop     context.CancelFunc
	status   chan int
}

func (c *cli) start(args ...string) *working {
	c.t.Helper()
	ctx, stop := context.WithCancel(c.t.Context())
	w := &working{cli: c, stop: stop, status: make(chan int, 1)}
	a := &app{in: strings.NewReader(""), out: &w.out, err: &w.err, env: c.env}
	go func() { w.status <- a.run(ctx, append([]string{"worker", "--log-format", "text"}, args...)) }()
	return w
}

// end stops the worker and returns its exit status.
func (w *working) end() int {
	w.t.Helper()
	w.stop()
	select {
	case status := <-w.status:
		return status
	case <-time.After(20 * time.Second):
		w.t.Fatalf("the worker does not end\n%s", w.err.String())
		return -1
	}
}

func (c *cli) stream(name string, kind stream.Kind) *stream.Stream {
	c.t.Helper()
	s, err := stream.New(c.rdb, name, stream.Config{Kind: kind})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *cli) depths(s *stream.Stream, group string) stream.Depths {
	c.t.Helper()
	d, err := s.Group(group).Depths(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

func TestWorkerRunsCommands(t *testing.T) {
	t.Parallel()
	c := newCLI(t, "PENSTOCK_RETRY_DELAY", "20ms", "PENSTOCK_POLL_DELAY", "20ms")
	name, file := redistest.Name(t), filepath.Join(t.TempDir(), "runs")
	s := c.stream(name, stream.KindAny)
	jobs := []stream.Job{
		{Type: "done", Data: 1, ID: "j-done"},
		{Type: "special", Data: 2, ID: "j-special"},
		{Type: "poison", Data: 3, ID: "j-poison"},
		{Type: "fails twice", Data: 4, ID: "j-retry", Header: map[string]string{"tenant": "acme"}},
		{Type: "fails", Data: 5, ID: "j-fail", MaxTries: 2},
	}
	if _, err := s.PublishAll(t.Context(), jobs); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if err := c.rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: name, Values: []any{"n", i}}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	script := `echo "$PENSTOCK_JOB_ATTEMPT $PENSTOCK_JOB_TYPE $(cat) $PENSTOCK_JOB_FIELDS$PENSTOCK_JOB_HEADER_TENANT" >> "$FILE"
case "$PENSTOCK_JOB_TYPE" in
poison) echo no such order >&2; exit 65;;
fails) echo busy >&2; exit 1;;
"fails twice") test "$PENSTOCK_JOB_ATTEMPT" = 3 || exit 75;;
esac`
	w := c.start(name, "--kind", "queue", "--group", "g", "-v", "--max-jobs", "3", "--env", "FILE="+file,
		"--handle", `special=sh -c 'echo special >> "$FILE"; echo the result'`, "--", "sh", "-c", script)
	defer w.stop()
	eventually(t, "all jobs have ended", func() bool {
		d, err := s.Group("g").Depths(t.Context())
		return err == nil && d.Waiting+d.Active+d.Retrying == 0 && d.Dead == 2
	})
	if status := w.end(); status != exitOK {
		t.Errorf("exit status %d\n%s", status, w.err.String())
	}

	want := []string{"1 done 1 ", "special", "1 poison 3 ", "1 fails twice 4 acme", "2 fails twice 4 acme", "3 fails twice 4 acme", "1 fails 5 ", "2 fails 5 "}
	for i := range 10 {
		want = append(want, fmt.Sprintf(`1   {"n":"%d"}`, i))
	}
	got := strings.Split(strings.TrimSuffix(read(t, file), "\n"), "\n")
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("runs:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	out := regexp.MustCompile(`worker \S+`).ReplaceAllString(w.out.String(), "worker X")
	if want := "ready    " + name + "/g  3 jobs at once  worker X\nstopped  18 started: 13 completed, 3 retried, 2 dead\n"; out != want {
		t.Errorf("standard output:\n%s\nwant:\n%s", out, want)
	}
	for _, line := range []string{`job=j-poison type=poison attempt=1 took=`, `err="exit status 65: no such order"`, `stdout="the result"`, `msg="job started" stream=` + name + ` job=j-retry type="fails twice" attempt=3`} {
		if !strings.Contains(w.err.String(), line) {
			t.Errorf("the log lacks %s:\n%s", line, w.err.String())
		}
	}
}

func TestWorkerHandsBack(t *testing.T) {
	t.Parallel()
	c := newCLI(t, "PENSTOCK_GRACE", "100ms")
	name, file := redistest.Name(t), filepath.Join(t.TempDir(), "runs")
	s := c.stream(name, stream.KindAny)
	if _, err := s.Publish(t.Context(), stream.Job{Type: "long", ID: "j"}); err != nil {
		t.Fatal(err)
	}
	w := c.start(name, "--json", "--env", "FILE="+file, "--", "sh", "-c", `trap 'exit 0' TERM; echo started >> "$FILE"; sleep 300 & wait`)
	defer w.stop()
	eventually(t, "the job has started", func() bool { _, err := os.Stat(file); return err == nil })
	if status := w.end(); status != exitOK {
		t.Errorf("exit status %d\n%s", status, w.err.String())
	}
	if d := c.depths(s, "default"); d.Waiting != 1 || d.Active+d.Retrying+d.Dead != 0 {
		t.Errorf("after the stop: %+v, want the job waiting", d)
	}
	lines := strings.Split(strings.TrimSpace(w.out.String()), "\n")
	var last stoppedLine
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || len(lines) != 2 || !last.Stopped || last.Stats.HandedBack != 1 {
		t.Errorf("standard output: %s, %v", w.out.String(), err)
	}
}

func TestSecondSignal(t *testing.T) { // not parallel: it signals this process
	ours := make(chan os.Signal, 100)
	signal.Notify(ours, syscall.SIGTERM) // before and after the worker listens
	defer signal.Stop(ours)
	c := newCLI(t)
	name, file := redistest.Name(t), filepath.Join(t.TempDir(), "runs")
	s := c.stream(name, stream.KindAny)
	if _, err := s.Publish(t.Context(), stream.Job{Type: "long", ID: "j"}); err != nil {
		t.Fatal(err)
	}
	w := c.start(name, "--env", "FILE="+file, "--", "sh", "-c", `trap '' TERM; echo $$ > "$FILE"; sleep 300; sleep 300`)
	eventually(t, "the job has started", func() bool { b, _ := os.ReadFile(file); return len(b) > 0 })
	w.stop()
	eventually(t, "the worker listens for a second signal", func() bool { return strings.Contains(w.err.String(), "another signal ends them") })
	still := redistest.Standstill(t)
	began := time.Now()
	for len(w.status) == 0 && time.Since(began) < 10*time.Second {
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		time.Sleep(50 * time.Millisecond)
	}
	if status := w.end(); status != exitFailed || !strings.HasSuffix(w.err.String(), "penstock: stopped at once: 1 command killed\n") {
		t.Errorf("exit status %d\n%s", status, w.err.String())
	}
	if !strings.Contains(w.out.String(), "\nstopped  1 started: ") {
		t.Errorf("standard output: %s", w.out.String())
	}
	if took := time.Since(began); took < sameStop/2 || took > 5*time.Second+still() {
		t.Errorf("it took %s: signals of the first moment are one", took)
	}
	if lives(strings.TrimSpace(read(t, file))) {
		t.Error("the command lives on")
	}
	if d := c.depths(s, "default"); d.Waiting+d.Retrying != 1 || d.Dead+d.Active != 0 {
		t.Errorf("after the end: %+v, want the job back", d)
	}
}

func TestWorkerMisuse(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	for want, args := range map[string][]string{
		"requires at least 1 arg(s), only received 0; usage: penstock worker STREAM… [flags] [-- COMMAND [ARG…]]": {},
		"say which streams: penstock worker STREAM… -- COMMAND":                                                   {"--", "true"},
		"say what runs the jobs: -- COMMAND, or --handle TYPE=COMMAND\n  e.g. penstock worker orders -- ./handle-order": {
			"orders",
		},
		`command "no-such-program-here" cannot be run: executable file not found in $PATH`: {"orders", "--", "no-such-program-here"},
		`--handle "true" is not TYPE=COMMAND`:                                              {"orders", "--handle", "true"},
		`--handle: type a has two commands`:                                                {"orders", "--handle", "a=true", "--handle", "a=false"},
		`command "true | cat" has shell syntax: quote it, or write it as sh -c '…'`:        {"orders", "--handle", "a=true | cat"},
		`--kind "topic" is neither queue nor events`:                                       {"orders", "--kind", "topic", "--", "true"},
		`--max-jobs 0 must be at least 1`:                                                  {"orders", "--max-jobs", "0", "--", "true"},
		`--log-format "xml" is none of text, json and auto`:                                {"orders", "--log-format", "xml", "--", "true"},
		`--env NO_SUCH: there is no such variable`:                                         {"orders", "--env", "NO_SUCH", "--", "true"},
	} {
		if got := c.fails(exitMisuse, append([]string{"worker"}, args...)...); got != "penstock: "+want+"\n" {
			t.Errorf("penstock worker %q says %q, want %q", args, got, want)
		}
	}
	for _, args := range [][]string{{"bad name", "--", "true"}, {"a", "a", "--", "true"}, {"a", "--group", "x:y", "--", "true"}} {
		c.fails(exitMisuse, append([]string{"worker"}, args...)...)
	}
	c.env = variables{"PATH": os.Getenv("PATH")}
	if got := c.fails(exitMisuse, "worker", "orders"); !strings.Contains(got, "REDIS_URL is not set") {
		t.Errorf("without REDIS_URL and a command: %s", got)
	}
	for want, args := range map[string][]string{
		"1 setting is wrong\n  --redis  xxxxx  ": {"--redis", "foo", "worker", "orders", "--", "true"},
		"unknown command \"bogus\"":              {"help", "bogus"},
		"with --ndjson the data is in the lines: penstock publish STREAM [TYPE] --ndjson [-|@FILE]": {"publish", "--ndjson", "a", "b", "c", "d"},
	} {
		if got := c.fails(exitMisuse, args...); !strings.Contains(got, want) || strings.Contains(got, "REDIS_URL") {
			t.Errorf("penstock %q says %q, want %q", args, got, want)
		}
	}
	for _, args := range [][]string{{"stream", "ls"}, {"publish", "s", "t"}, {"config"}} {
		if got := c.fails(exitMisuse, append(args, "--redis", "foo")...); !strings.Contains(got, "--redis  xxxxx") {
			t.Errorf("penstock %q --redis foo says %q", args, got)
		}
	}
	if got, want := c.ok("--version"), c.ok("version"); got != want {
		t.Errorf("--version says %q, want %q", got, want)
	}
	if got := c.ok("help", "stream", "ls"); got != c.ok("stream", "ls", "--help") {
		t.Errorf("help stream ls says:\n%s", got)
	}
	if got := c.fails(exitMisuse, "worker", "orders", "--", "true"); !strings.Contains(got, "REDIS_URL is not set") {
		t.Errorf("without REDIS_URL: %s", got)
	}
}

func TestWorkerRefusesForeignStream(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	name := redistest.Name(t)
	foreignStream(t, c, name, 3, "archive", "etl")
	want := `penstock: NAME already holds 3 entries and 2 groups (archive, etl) that Penstock did not make
  say once what it is:
    penstock stream create NAME --kind events          each group gets every entry
    penstock stream create NAME --kind queue --force   entries are deleted as they complete, and archive and etl would lose them
`
	if got := strings.ReplaceAll(c.fails(exitFailed, "worker", name, "--", "true"), name, "NAME"); !strings.HasSuffix(got, want) {
		t.Errorf("it says:\n%s\nwant:\n%s", got, want)
	}
}

// foreignStream makes a stream as another program would.
func foreignStream(t *testing.T, c *cli, name string, entries int, groups ...string) {
	t.Helper()
	for i := range entries {
		if err := c.rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: name, Values: []any{"line", strconv.Itoa(i)}}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range groups {
		if err := c.rdb.XGroupCreateMkStream(t.Context(), name, g, "0").Err(); err != nil {
			t.Fatal(err)
		}
	}
}
