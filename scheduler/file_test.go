package scheduler_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
)

// opener gives streams of a client that nobody uses.
func opener(t testing.TB) scheduler.Opener {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() { _ = rdb.Close() })
	return func(name string) (*stream.Stream, error) { return stream.New(rdb, name, stream.Config{}) }
}

const everything = `
schedules:
  - name: cleanup
    stream: reports
    cron: "0 3 * * *"
    type: sessions.cleanup

  - name: weekday-report
    stream: reports
    weekday: [mon, tue, wed, thu, fri]
    hour: 9
    zone: Europe/Berlin
    jitter: 2m
    start: 2026-01-01T00:00:00Z
    end: 2030-01-01T00:00:00+01:00
    overlap: skip
    missed: all within 6h limit 50
    type: report.build
    data: {day: today, pages: [1, 2.50, "3"], html: <b>, none: ~, at: 2026-01-01}
    delay: 1s
    expires_in: 2h
    max_tries: 5
    timeout: off
    retry_delay: 5s
    retry_factor: 1.5
    retry_max: 10m
    retry_jitter: off
    keep_result: 24h
    unique: report
    unique_until: started
    on_conflict: replace
    header: {tenant: acme}

  - {name: ping, stream: pings, every: 90s, type: ping, data: "as it is", unique_by_data: true, unique_until: 10m}
`

func TestParseFile(t *testing.T) {
	t.Parallel()
	list, err := scheduler.ParseFile([]byte(everything), opener(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		if want := []string{"reports", "reports", "pings"}[i]; list[i].Stream.Name() != want {
			t.Errorf("schedule %d publishes to %s, want %s", i, list[i].Stream.Name(), want)
		}
		list[i].Stream = nil
	}
	want := []scheduler.Schedule{
		{Name: "cleanup", Cron: "0 3 * * *", Job: stream.Job{Type: "sessions.cleanup"}},
		{
			Name: "weekday-report", Fields: scheduler.Fields{Weekday: []string{"mon", "tue", "wed", "thu", "fri"}, Hour: []int{9}},
			Zone: "Europe/Berlin", Jitter: 2 * time.Minute,
			Start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), End: time.Date(2030, 1, 1, 0, 0, 0, 0, time.FixedZone("", 3600)),
			Overlap: scheduler.OverlapSkip, Missed: scheduler.Missed{Policy: scheduler.MissedAll, Within: 6 * time.Hour, Limit: 50},
			ExpiresIn: 2 * time.Hour,
			Job: stream.Job{
				Type: "report.build", Data: []byte(`{"day":"today","pages":[1,2.50,"3"],"html":"<b>","none":null,"at":"2026-01-01"}`),
				Delay: time.Second, MaxTries: 5, Timeout: stream.None,
				Backoff:    stream.Backoff{Delay: 5 * time.Second, Factor: 1.5, Max: 10 * time.Minute, Jitter: -1},
				KeepResult: 24 * time.Hour, Unique: stream.Unique{Key: "report", Until: stream.UntilStarted, OnConflict: stream.Replace},
				Header: map[string]string{"tenant": "acme"},
			},
		},
		{Name: "ping", Every: 90 * time.Second, Job: stream.Job{Type: "ping", Data: []byte("as it is"), Unique: stream.Unique{ByData: true, For: 10 * time.Minute}}},
	}
	if len(list) != len(want) {
		t.Fatalf("%d schedules, want %d", len(list), len(want))
	}
	for i := range want {
		if !list[i].End.Equal(want[i].End) {
			t.Errorf("schedule %d ends at %s, want %s", i, list[i].End, want[i].End)
		}
		list[i].End, want[i].End = time.Time{}, time.Time{}
		if !reflect.DeepEqual(list[i], want[i]) {
			t.Errorf("schedule %d:\n got %+v\nwant %+v", i, list[i], want[i])
		}
	}
}

// TestPageOnCron: the file that the page shows is one.
func TestPageOnCron(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/cron.md")
	if err != nil {
		t.Fatal(err)
	}
	_, file, _ := strings.Cut(string(page), "```yaml\n")
	file, _, _ = strings.Cut(file, "```")
	if list, err := scheduler.ParseFile([]byte(file), opener(t)); err != nil || len(list) != 3 {
		t.Errorf("%d schedules, %v, want 3", len(list), err)
	}
}

// TestSpecKeepsEverything: a schedule is the same after it was text.
func TestSpecKeepsEverything(t *testing.T) {
	t.Parallel()
	open := opener(t)
	list, err := scheduler.ParseFile([]byte(everything), open)
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range []any{
		nil, []byte{}, []byte("null"), []byte(`"quoted"`), []byte(`{"a": 1}`), []byte("text"), []byte("\xff\x00"), []byte(`"\xff"`), []byte("<&>"),
		json.RawMessage(`{"a":"<"}`), json.RawMessage(`{"a":1e400}`), []byte("7"), map[string]int{"n": 1},
	} {
		list = append(list, scheduler.Schedule{Name: fmt.Sprint("s", len(list)), Cron: "@daily", Stream: list[0].Stream, Job: stream.Job{Type: "t", Data: data}})
	}
	for _, want := range list {
		got := rewrite(t, want, func(string) (*stream.Stream, error) { return want.Stream, nil })
		if a, b := wire(t, got.Job.Data), wire(t, want.Job.Data); a != b {
			t.Errorf("%s: the payload is %q, was %q", want.Name, a, b)
		}
		if !got.End.Equal(want.End) {
			t.Errorf("%s: ends at %s, did at %s", want.Name, got.End, want.End)
		}
		got.Job.Data, want.Job.Data, got.End, want.End = nil, nil, time.Time{}, time.Time{}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", want.Name, got, want)
		}
	}
}

// rewrite writes a schedule as JSON and reads it again.
func rewrite(t *testing.T, s scheduler.Schedule, open scheduler.Opener) scheduler.Schedule {
	t.Helper()
	spec, err := scheduler.SpecOf(s)
	if err != nil {
		t.Fatalf("%s: %v", s.Name, err)
	}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatalf("%s: %v", s.Name, err)
	}
	again, err := scheduler.ParseSpec(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	out, err := again.Schedule(open)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return out
}

// wire is what is published of a job's data; nothing and an empty payload are the same there.
func wire(t *testing.T, data any) string {
	t.Helper()
	switch d := data.(type) {
	case nil:
		return ""
	case []byte:
		return string(d)
	case json.RawMessage:
		return string(d)
	}
	b, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestParseFileFaults(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, file string
		want       []string
	}{
		{"empty", "", []string{"schedules: is missing: the file is empty"}},
		{"a comment", "# none", []string{"schedules: is missing: the file is empty"}},
		{"no YAML", "schedules:\n  - name: [", []string{"line 2: not YAML: did not find expected node content"}},
		{"a star without quotes", "schedules:\n  - cron: */5 * * * *\n", []string{
			`line 2: not YAML: did not find expected alphabetic or numeric character (a value that begins with '*' must be quoted, as in cron: "*/5 * * * *")`,
		}},
		{"a list", "- name: a", []string{"line 1: schedules: is missing: the file must be a mapping with that key"}},
		{"another key", "schedule: []", []string{"line 1: schedule: is not known: the only key here is schedules", "line 1: schedules: is missing"}},
		{"no list", "schedules: {}", []string{"line 1: schedules: must be a list"}},
		{"two documents", "schedules: []\n---\nschedules: []", []string{"line 2: a second document begins here: there must be one"}},
		{"no mapping", "schedules: [7]", []string{"line 1: schedule 1 of the list: must be a mapping, with name, stream, type and a time"}},
		{"nothing in it", "schedules:\n  - {}", []string{
			"line 2: schedule 1 of the list: stream: is missing",
			"line 2: schedule 1 of the list: name: is missing",
			"line 2: schedule 1 of the list: cron: is missing: give Cron, Every or Fields",
			"line 2: schedule 1 of the list: type: is empty",
		}},
		{"all at once", `schedules:
  - name: a:b
    stream: "penstock:x"
    cron: "61 25 * * *"
    type: t
  - name: two
    stream: orders
    every: 1500ms
    hour: [0, 24]
    zone: Mars/Olympus
    jitter: 25h
    start: 2026-01-02T00:00:00Z
    end: 2026-01-01T00:00:00Z
    overlap: maybe
    type: t
    header: {a: 1}
    max_tries: 0
    timeout: 0s
    every: 1s
    timezone: UTC
    jobtype: t
`, []string{
			`line 3: schedule a:b: stream is "penstock:x": invalid: stream name "penstock:x": names that begin with penstock: are ours`,
			`line 2: schedule a:b: name is "a:b": must not contain ':', braces, spaces or unprintable characters`,
			`line 4: schedule a:b: cron is "61 25 * * *": minute end of range (61) above maximum (59): "61"; hour end of range (25) above maximum (23): "25"`,
			`line 16: schedule two: header: must be a mapping of strings to strings`,
			`line 17: schedule two: max_tries: must be a number, at least 1, not 0`,
			`line 18: schedule two: timeout: must be a positive duration such as 5m, or off, not "0s"`,
			`line 19: schedule two: every: is in line 8 already`,
			`line 20: schedule two: timezone: is not known: write zone`,
			`line 21: schedule two: jobtype: is not known`,
			`line 8: schedule two: every is 1.5s: must be whole seconds, at least one`,
			`line 10: schedule two: zone is "Mars/Olympus": has no meaning with Every, which counts from the Unix epoch`,
			`line 9: schedule two: hour is 24: must be between 0 and 23`,
			`line 11: schedule two: jitter is 25h: must be positive, at most 24h`,
			`line 13: schedule two: end is 2026-01-01T00:00:00Z: lies before Start`,
			`line 14: schedule two: overlap is "maybe": must be allow or skip`,
		}},
		{"twice the same name", "schedules:\n  - {name: a, stream: s, every: 1s, type: t}\n  - {name: a, stream: s, every: 1s, type: t}", []string{
			"line 3: schedule a: name: the schedule in line 2 has it already",
		}},
		{"values of other kinds", `schedules:
  - name: 7
    stream: s
    type: [t]
    weekday: [mon, 3]
    minute: []
    jitter: off
    start: tomorrow
    missed: never
    data_base64: "?"
    retry_jitter: -1
    unique_by_data: 1
    cron:
`, []string{
			"line 2: schedule 7: name: must be a string: quote it, not 7",
			`line 4: schedule 7: type: must be a string: quote it, not ["t"]`,
			`line 5: schedule 7: weekday: must be a weekday or a list of them, as in [mon, fri], not ["mon",3]`,
			"line 6: schedule 7: minute: must not be empty: leave it out",
			`line 7: schedule 7: jitter: must be a positive duration such as 5m, not "off"`,
			`line 8: schedule 7: start: must be a time such as 2006-01-02T15:04:05Z, not "tomorrow"`,
			`line 9: schedule 7: missed: must be once, skip or all, as in "all within 6h limit 50", not "never"`,
			`line 10: schedule 7: data_base64: must be base64`,
			"line 11: schedule 7: retry_jitter: must be a positive number, or off, not -1",
			"line 12: schedule 7: unique_by_data: must be true or false, not 1",
			"line 13: schedule 7: cron: must have a value: or leave it out",
		}},
		{"a day that never comes", "schedules:\n  - {name: a, stream: s, type: t, cron: 0 0 30 2 *}\n  - {name: b, stream: s, type: t, month: 2,\n     day: 30}", []string{
			`line 2: schedule a: cron is "0 0 30 2 *": there is no such day in any year`,
			`line 4: schedule b: day: there is no such day in any year`,
		}},
		{"no tick between", "schedules:\n  - {name: a, stream: s, type: t, cron: '@yearly', start: 2026-02-01T00:00:00Z, end: 2026-03-01T00:00:00Z}", []string{
			"line 2: schedule a: end is 2026-03-01T00:00:00Z: no tick lies between Start and End",
		}},
		{"data that JSON does not have", "schedules:\n  - {name: a, stream: s, type: t, every: 1s, data: {a: .inf}}\n  - {name: b, stream: s, type: t, every: 1s, data: {a: 1, a: 2}}\n  - {name: c, stream: s, type: t, every: 1s, data: !secret x}", []string{
			"line 2: schedule a: data: must be a number that JSON has, not .inf",
			"line 3: schedule b: data: must have each key once: a comes again in line 3",
			"line 4: schedule c: data: must not have the tag !secret (line 4)",
		}},
		{"aliases without end", "schedules:\n  - {name: a, stream: s, type: t, every: 1s, data: &a [*a]}", []string{
			"line 2: schedule a: data: must be at most 50 levels deep",
		}},
		{"merged", "schedules:\n  - &a {name: a, stream: s, type: t, every: 1s}\n  - {<<: *a, name: b}", []string{
			"line 3: schedule b: <<: mappings can't be merged here: write the keys out",
			"line 3: schedule b: stream: is missing",
			"line 3: schedule b: cron: is missing: give Cron, Every or Fields",
			"line 3: schedule b: type: is empty",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			list, err := scheduler.ParseFile([]byte(test.file), opener(t))
			var got []string
			if faults, ok := errors.AsType[*multierror.Error](err); ok {
				for _, err := range faults.Errors {
					got = append(got, err.Error())
				}
			}
			if !slices.Equal(got, test.want) || list != nil {
				t.Errorf("got  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(test.want, "\n     "))
			}
		})
	}
}

func TestParseFileBounds(t *testing.T) {
	t.Parallel()
	var bomb strings.Builder
	bomb.WriteString("schedules:\n  - name: a\n    stream: s\n    type: t\n    every: 1s\n    data:\n      a0: &a0 x\n")
	for i := range 30 {
		fmt.Fprintf(&bomb, "      a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
	}
	many := "schedules:\n" + strings.Repeat("  - {}\n", 200)
	for _, test := range []struct {
		name, file, want string
		faults           int
	}{
		{"a file too large", strings.Repeat("#", 1<<20+1), "the file must have at most 1048576 bytes", 1},
		{"too many schedules", "schedules:\n" + strings.Repeat("- {}\n", 10_001), "there are 10001, at most 10000 are allowed", 1},
		{"aliases that grow", bomb.String(), "the file has too many values", 1},
		{"too many faults", many, "there are more faults than these", 101},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := scheduler.ParseFile([]byte(test.file), opener(t))
			faults, ok := errors.AsType[*multierror.Error](err)
			if !ok || len(faults.Errors) != test.faults || !strings.Contains(faults.Errors[len(faults.Errors)-1].Error(), test.want) {
				t.Errorf("%v\nwant %d faults, at last %q", err, test.faults, test.want)
			}
			if !errors.Is(err, stream.ErrInvalid) {
				t.Error("it is no stream.ErrInvalid")
			}
		})
	}
}

// TestParseFileAliases: a text of a file that is small stands for more than a machine has, when many aliases stand for it.
func TestParseFileAliases(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("x", 500_000)
	for name, file := range map[string]string{
		"values":    `schedules: [{name: a, stream: s, type: t, every: 1m, data: [&x "` + text + `"` + strings.Repeat(", *x", 200) + `]}]`,
		"keys":      `schedules: [{name: a, stream: s, type: t, every: 1m, data: [&x "` + text + `"` + strings.Repeat(", {*x : 1}", 200) + `]}]`,
		"schedules": `schedules: [{name: a, stream: s, type: t, every: 1m, data: &x "` + text + `"}` + strings.Repeat(", {name: a, stream: s, type: t, every: 1m, data: *x}", 200) + `]`,
	} {
		_, err := scheduler.ParseFile([]byte(file), opener(t))
		if !errors.Is(err, stream.ErrInvalid) || !strings.Contains(err.Error(), "aliases stand for") {
			t.Errorf("%s: %.300v", name, err)
		}
	}
}

// TestFileWithoutEnd: of a file no more is read than one may have.
func TestFileWithoutEnd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "large.yaml")
	if err := os.WriteFile(path, []byte("schedules: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<42); err != nil { // with nothing on the disk
		t.Fatal(err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer rdb.Close()
	s, err := scheduler.New(rdb, scheduler.Config{SchedulesFile: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ReadSchedules(); !errors.Is(err, stream.ErrInvalid) || !strings.Contains(err.Error(), "at most 1048576 bytes") {
		t.Error(err)
	}
}

// TestFileFaultsKeepSecrets: what goes with jobs is not for logs.
func TestFileFaultsKeepSecrets(t *testing.T) {
	t.Parallel()
	for _, field := range []string{"header: {authorization: [hunter2]}", "header: hunter2", "data_base64: [hunter2]", "data: !x hunter2"} {
		_, err := scheduler.ParseFile([]byte("schedules: [{name: a, stream: s, type: t, every: 1m, "+field+"}]"), opener(t))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", field, err)
		}
	}
}
