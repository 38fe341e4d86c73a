package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
)

// transcript runs command lines and writes down what a person would see.
type transcript struct {
	t    *testing.T
	env  variables
	hide *strings.Replacer // names that differ from run to run
	text bytes.Buffer
}

func newTranscript(t *testing.T, hide ...string) *transcript {
	t.Helper()
	opt := redistest.Options(t)
	url := fmt.Sprintf("redis://%s/%d", opt.Addr, opt.DB)
	hide = append(hide, url, "$REDIS_URL", opt.Addr, "$REDIS")
	return &transcript{t: t, env: variables{"REDIS_URL": url}, hide: strings.NewReplacer(hide...)}
}

// with returns the variables with more of them; NAME= removes one.
func (v variables) with(vars ...string) variables {
	all := maps.Clone(v)
	for _, kv := range vars {
		name, value, _ := strings.Cut(kv, "=")
		if all[name] = value; value == "" {
			delete(all, name)
		}
	}
	return all
}

// run writes down a command line, what it says, and its exit status.
func (s *transcript) run(env variables, in string, args ...string) (status int, out string) {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{in: strings.NewReader(in), out: &stdout, err: &stderr, env: env}
	status = a.run(s.t.Context(), args)
	quoted := make([]string, len(args))
	for i, arg := range args {
		if quoted[i] = arg; arg == "" || strings.ContainsAny(arg, ` "{}|`) {
			quoted[i] = "'" + arg + "'"
		}
	}
	fmt.Fprintf(&s.text, "$ penstock %s\n%s%s", strings.Join(quoted, " "), stdout.String(), stderr.String())
	if status != exitOK {
		fmt.Fprintf(&s.text, "[exit %d]\n", status)
	}
	s.text.WriteByte('\n')
	return status, stdout.String()
}

var unstable = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`\b\d{13}-\d+\b`), "ENTRY"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[0-9.]*(Z|[+-]\d\d:\d\d)`), "TIME"},
	{regexp.MustCompile(`\b(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d\b`), "CLOCK"},
	{regexp.MustCompile(`\bin (5m|4m5\ds)\b`), "in 5m"},
	{regexp.MustCompile(`:now:\S+-[0-9a-f]{6}`), ":now:NEW"},
	{regexp.MustCompile(`\bin \d{3,}d( \d+h)?`), "in DAYS"},
	{regexp.MustCompile(`in DAYS {2,}`), "in DAYS  "}, // columns are as wide as the days and hours are long
	{regexp.MustCompile(`NEXT +`), "NEXT  "},
	{regexp.MustCompile(`(Redis|Valkey) \d[\d.]*`), "SERVER"},
	{regexp.MustCompile(`answers in [\d.]+(ms|s)`), "answers in TOOK"},
	{regexp.MustCompile(`\b\d+ streams? in the registry`), "N streams in the registry"},
	{regexp.MustCompile(`penstock \S+ \((commit \w+, )?go[^)]*\)`), "penstock VERSION (BUILD)"},
}

// golden compares the transcript with a file.
func (s *transcript) golden(name string) {
	s.t.Helper()
	text := s.hide.Replace(s.text.String())
	for _, v := range unstable {
		text = v.pattern.ReplaceAllString(text, v.text)
	}
	compareGolden(s.t, name, text)
}

func compareGolden(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if string(want) == text && err == nil {
		return
	}
	if !*update {
		t.Logf("it says:\n%s", text)
	}
	compare(t, file, text)
}

func TestPublishGolden(t *testing.T) {
	t.Parallel()
	name := redistest.Name(t)
	s := newTranscript(t, name, "orders")
	env := s.env
	file := filepath.Join(t.TempDir(), "data.bin")
	if err := os.WriteFile(file, []byte("\x00\xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.hide = strings.NewReplacer(name, "orders", file, "data.bin", env["REDIS_URL"], "$REDIS_URL")
	s.run(env, "", "publish", name, "order.paid", `{"order":7}`)
	s.run(env, "", "publish", name, "order.paid", `{"order":7}`, "--id", "paid-7", "--delay", "5m")
	s.run(env, "", "publish", name, "order.paid", `{"order":7}`, "--id", "paid-7")
	s.run(env, "from stdin", "publish", name, "order.paid", "-", "--id", "stdin", "--expires", "1h", "--max-tries", "5", "--job-timeout", "off", "--header", "a=b=c")
	s.run(env, "", "publish", name, "order.paid", "@"+file, "--id", "file")
	s.run(env, "", "publish", name, "order.paid", "--id", "file")
	s.run(env, "", "publish", name, "order.paid", "--json", "--id", "paid-7")
	s.run(env, "", "publish", name, "index", "1", "--id", "first", "--unique", "page-7", "--delay", "5m")
	s.run(env, "", "publish", name, "index", "2", "--unique", "page-7")
	s.run(env, "", "publish", name, "index", "3", "--unique", "page-7", "--on-conflict", "replace", "--delay", "1h")
	s.run(env, "", "publish", name, "index", "4", "--unique", "page-7", "--on-conflict", "coalesce", "--json")
	s.run(env, "", "publish", name, "index", "5", "--id", "hourly", "--unique-by-data", "--unique-until", "1h")
	s.run(env, "", "publish", name, "index", "5", "--unique-by-data", "--unique-until", "started")
	s.run(env, "", "publish", name, "index", "--unique-until", "done")
	s.run(env, "", "publish", name, "index", "--unique", "", "--unique-until", "soon", "--max-tries", "0")
	s.run(env, "", "publish", name, "index", "--unique", "a b")
	s.run(env, "", "publish", name, "index", "--unique", "k", "--on-conflict", "fight")
	s.run(env, "", "publish", name, "order.paid", "--json")
	s.run(env, "", "publish", name)
	s.run(env, "", "publish", name, "t", "@/nowhere/file")
	s.run(env, "", "publish", name, "t", "--delay", "0s", "--at", "tomorrow", "--expires", "-1h", "--max-tries", "0", "--job-timeout", "0", "--header", "x")
	s.run(env, "", "publish", name, "t", "--id", "1-1")
	s.run(env, "", "publish", "a{}b", "t")
	s.run(env.with("PENSTOCK_MAX_PAYLOAD=3"), "", "publish", name, "t", "four")
	s.run(env.with("PENSTOCK_MAX_LEN=1"), "", "publish", name, "t")
	s.run(env.with("PENSTOCK_MAX_LEN=many"), "", "publish", name, "t")
	s.run(env.with("REDIS_URL="), "", "publish", name, "t")
	s.run(env, "", "publish", name, "t", "--redis", "redis://127.0.0.1:1?max_retries=-1", "--timeout", "3s")
	s.golden("publish")

	rdb := redistest.Client(t)
	entries, err := rdb.XRange(t.Context(), name, "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	payloads := make(map[any]bool)
	for _, e := range entries {
		payloads[e.Values["data"]] = true
	}
	for _, want := range []string{`{"order":7}`, "from stdin", "\x00\xff", ""} {
		if !payloads[want] {
			t.Errorf("no entry has the data %q: %v", want, entries)
		}
	}
	if opts, _ := entries[1].Values["opts"].(string); !strings.Contains(opts, `"a":"b=c"`) {
		t.Errorf("options %s", opts)
	}
}

// An answer that is lost leaves the job's fate open; with an ID it is settled by asking again.
func TestPublishLostReply(t *testing.T) {
	t.Parallel()
	name := redistest.Name(t)
	s := newTranscript(t)
	proxy := redistest.NewProxy(t, redistest.Options(t).Addr)
	url := "redis://" + proxy.Addr()
	proxy.LoseReplies(name, 1)
	if status, _ := s.run(s.env, "", "publish", name, "t", "--redis", url); status != exitFailed || !strings.Contains(s.text.String(), "may store it twice; with an --id it would be safe") {
		t.Errorf("exit status %d:\n%s", status, s.text.String())
	}
	proxy.LoseReplies(name, 1)
	if status, out := s.run(s.env, "", "publish", name, "t", "--id", "x", "--redis", url); status != exitOK || out != "x  waiting\n" {
		t.Errorf("exit status %d:\n%s", status, s.text.String())
	}
	if n := redistest.Client(t).XLen(t.Context(), name).Val(); n != 2 {
		t.Errorf("the stream holds %d entries, want 2", n)
	}
}

func TestPublishLinesGolden(t *testing.T) {
	t.Parallel()
	name := redistest.Name(t)
	s := newTranscript(t, name, "orders")
	lines := `{"type":"a","data":{"x":1}}

{"data":[1],"id":"b-1","delay":"1h","header":{"k":"v"},"max_tries":2,"timeout":"off","expires":"2h"}
{"id":"b-1"}
{"foo":1}
not json
{"id":"r","delay":"x","max_tries":0}
{"type":"a"} {}
[1]
{"delay":5}
{"id":"bad id"}
{"type":`
	s.run(s.env, lines, "publish", name, "b", "--ndjson")
	s.run(s.env, lines, "publish", name, "b", "--ndjson", "-", "--json")
	s.run(s.env, `{"data":1}`, "publish", name, "--ndjson")
	s.run(s.env, strings.Repeat("x\n", 30), "publish", name, "b", "--ndjson")
	s.run(s.env, "", "publish", name, "b", "--ndjson")
	s.run(s.env, "", "publish", name, "b", "c", "--ndjson")
	s.run(s.env, "", "publish", name, "b", "--ndjson", "--id", "x")
	s.run(s.env, "", "publish", name, "b", "--ndjson", "--unique", "x")
	s.run(s.env, "{\"unique\":\"k\"}\n{\"unique\":\"k\"}\n{}\n", "publish", name, "b", "--ndjson", "--unique-until", "1h")
	s.run(s.env, "", "publish", name, "b", "--ndjson", "@/nowhere/file")
	s.run(s.env, "{}\n{}\n", "publish", name, "b", "--ndjson", "--redis", "redis://127.0.0.1:1?max_retries=-1", "--timeout", "3s")
	s.golden("publish_lines")
}

func TestPublishManyLines(t *testing.T) {
	t.Parallel()
	name := redistest.Name(t)
	s := newTranscript(t)
	const n = 3456
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"data\":%d,\"id\":\"n-%d\"}\n", i, i)
	}
	for range 2 {
		if status, _ := s.run(s.env, b.String(), "publish", name, "t", "--ndjson"); status != exitOK {
			t.Errorf("exit status %d", status)
		}
	}
	if text := s.text.String(); !strings.Contains(text, "published 3,456, duplicates 0, failed 0\n") || !strings.Contains(text, "published 0, duplicates 3,456, failed 0\n") {
		t.Errorf("it says:\n%s", text)
	}
	if got := redistest.Client(t).XLen(t.Context(), name).Val(); got != n {
		t.Errorf("the stream holds %d entries, want %d", got, n)
	}
}

func TestSettingsGolden(t *testing.T) {
	t.Parallel()
	s := newTranscript(t)
	none := variables{}
	s.run(none, "", "publish", "orders", "order.paid")
	s.run(none.with("PENSTOCK_MAX_JOBS=0", "PENSTOCK_JOB_TIMEOUT=300", "PENSTOCK_KEEP_RESULT=0", "PENSTOCK_RETRY_FACTOR=0.5",
		"PENSTOCK_MAX_TRYS=5", "REDIS_URL=redis://u:hunter2@h:port/0"), "", "scheduler")
	s.run(none.with("REDIS_URL=redis://u:hunter2@h:1/0", "PENSTOCK_MAX_JOBS=50", "PENSTOCK_JOB_TIMEOUT=off", "PENSTOCK_GRACE=1m",
		"PENSTOCK_SERVICE_HOST=10.0.0.1", "PENSTOCK_PORT_8080_TCP=tcp://10.0.0.1:8080", "PENSTOCK_JOB_ID=7", "PENSTOCK_FUTURE=1"), "", "config")
	s.run(none.with("PENSTOCK_MAX_JOBS=x"), "", "config")
	s.run(none.with("REDIS_URL=redis://h"), "", "config", "--redis", "redis://:hunter3@other")
	s.golden("settings")
	if text := s.text.String(); strings.Contains(text, "hunter2") || strings.Count(text, "hunter3") != 1 {
		t.Error("a password is shown")
	}
}

// The defaults that the comments name are those that are used.
func TestDefaultsAreDocumented(t *testing.T) {
	t.Parallel()
	list, err := (&app{env: variables{}}).list(settings{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Default != "1 MiB" && s.Value != "" && s.Value != s.Default {
			t.Errorf("%s is %s, and its comment says %s", s.Name, s.Value, s.Default)
		}
	}
}

// Six rows of bad configuration come back in one error.
func TestSixFaultsInOneError(t *testing.T) {
	t.Parallel()
	env := variables{
		"REDIS_URL":             "redis://h:x",
		"PENSTOCK_MAX_JOBS":     "-1",
		"PENSTOCK_JOB_TIMEOUT":  "soon",
		"PENSTOCK_MAX_TRIES":    "0",
		"PENSTOCK_RETRY_FACTOR": "0.1",
		"PENSTOCK_POLL_DELAY":   "1ms",
	}
	for _, args := range [][]string{{"scheduler"}, {"worker", "orders", "--group", "g", "--", "true"}} {
		s := newTranscript(t)
		status, _ := s.run(env, "", args...)
		text := s.text.String()
		if status != exitMisuse || strings.Count(text, "penstock: ") != 1 || !strings.Contains(text, "penstock: 6 settings are wrong\n") {
			t.Errorf("%s: exit status %d:\n%s", args[0], status, text)
		}
		for name := range env {
			if strings.Count(text, "\n  "+name+" ") != 1 {
				t.Errorf("%s: %s is not named once:\n%s", args[0], name, text)
			}
		}
	}
}

func TestCheckGolden(t *testing.T) {
	t.Parallel()
	s := newTranscript(t)
	s.run(s.env, "", "check")
	s.run(s.env, "", "check", "--json")
	s.run(s.env.with("PENSTOCK_MAX_TRIES=0"), "", "check")
	s.run(s.env, "", "check", "--redis", "redis://127.0.0.1:1?max_retries=-1")
	s.run(variables{}, "", "check", "--json")
	s.run(s.env, "", "version")
	s.run(s.env, "", "check", "now")
	s.run(s.env, "", "chek")
	s.run(s.env, "", "check", "--verbos")
	s.golden("check")
}

func TestSchedulerOnce(t *testing.T) {
	t.Parallel()
	name := redistest.Name(t)
	s := newTranscript(t)
	rdb := redistest.Client(t)
	s.run(s.env, "", "publish", name, "t", "--id", "a", "--delay", "1ms")
	redistest.Wait(t, "the job is promoted", func() bool {
		if status, _ := s.run(s.env, "", "scheduler", "--once", "--json"); status != exitOK {
			t.Fatal(s.text.String())
		}
		return rdb.XLen(t.Context(), name).Val() == 1
	})
}

func TestJSON(t *testing.T) {
	t.Parallel()
	s := newTranscript(t)
	for _, args := range [][]string{{"config"}, {"version"}, {"check"}, {"scheduler", "--once"}, {"publish", redistest.Name(t), "t"}} {
		status, out := s.run(s.env, "", append(args, "--json")...)
		if status != exitOK || out == "" {
			t.Errorf("%s: exit status %d:\n%s", args[0], status, s.text.String())
		}
		for line := range strings.Lines(out) {
			if !json.Valid([]byte(line)) || !strings.HasPrefix(line, "{") {
				t.Errorf("%s writes %q", args[0], line)
			}
		}
	}
}

// TestHelpGolden pins the help of the commands, and that each has all its parts.
func TestHelpGolden(t *testing.T) {
	t.Parallel()
	a := &app{env: variables{}}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if name := c.Name(); name == "completion" || name == "help" {
			return
		}
		if !c.HasSubCommands() && (c.Short == "" || c.Long == "" || c.Example == "") {
			t.Errorf("%s lacks Short, Long or Example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(a.root())

	s := newTranscript(t)
	s.run(variables{}, "", "--help")
	for _, name := range []string{"publish", "config", "check", "scheduler", "bench", "version"} {
		s.run(variables{}, "", name, "--help")
	}
	s.golden("help")
}

func TestHeaderValuesAreStrings(t *testing.T) {
	t.Parallel()
	for _, line := range []string{`{"header":{"a":1}}`, `{"header":["a"]}`} {
		if _, err := parseLine([]byte(line), stream.Job{Type: "t"}, time.Now()); err == nil || !strings.Contains(err.Error(), "header values must be strings") {
			t.Errorf("%s: %v", line, err)
		}
	}
}
