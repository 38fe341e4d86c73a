package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// newSchedules is on a server of the test's own, since all schedules of a Redis are in one place.
func newSchedules(t *testing.T, hide ...string) *transcript {
	t.Helper()
	s := newTranscript(t)
	url := redistest.Server(t).URL()
	s.env["REDIS_URL"] = url
	s.hide = strings.NewReplacer(append(hide, url, "$REDIS_URL")...)
	return s
}

func TestScheduleGolden(t *testing.T) {
	t.Parallel()
	s := newSchedules(t)
	run := func(args ...string) { s.run(s.env, "from stdin", append([]string{"schedule"}, args...)...) }
	const start = "2040-01-01T00:00:00Z"
	run("ls")
	run("add", "cleanup", "reports", "sessions.cleanup", "--cron", "0 3 * * *", "--start", start)
	run("add", "weekday-report", "reports", "report.build", `{"day":"today"}`, "--weekday", "mon,tue,wed,thu,fri", "--hour", "9", "--zone", "Europe/Berlin",
		"--overlap", "skip", "--start", start)
	run("add", "poll", "pings", "poll", "-", "--every", "90s", "--jitter", "10s", "--expires-in", "1m", "--missed", "all limit 5", "--start", start, "--max-tries", "2",
		"--header", "a=b", "--unique", "p", "--unique-until", "started", "--job-timeout", "off", "--end", "2040-01-01T00:03:00Z")
	run("ls")
	run("show", "weekday-report")
	run("run", "cleanup")
	run("show", "cleanup")
	run("show", "poll", "--json")
	run("run", "poll")
	run("run", "poll")
	run("run", "poll", "--json")
	run("next", "weekday-report", "-n", "2")
	run("next", "poll")
	run("next", "weekday-report", "-n", "1", "--json")
	run("pause", "poll", "none")
	run("next", "poll", "-n", "1")
	run("ls", "--json")
	run("resume", "poll", "--json")
	run("rm", "poll", "cleanup")
	run("ls")

	run("show", "none")
	run("run", "none")
	run("next", "none")
	run("next", "weekday-report", "-n", "0")
	run("add", "a", "b")
	run("add", "bad:x", "pings", "", "--cron", "61 * * * *", "--zone", "Nowhere")
	run("add", "x", "pings", "poll", "--every", "soon", "--start", "today", "--max-tries", "0", "--header", "b")
	run("add", "x", "pings", "poll")
	run("--help")
	run("add", "--help")
	s.golden("schedule")
}

// TestScheduleFile: schedules of a file are listed and run, and changed in the file.
func TestScheduleFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "schedules.yaml")
	s := newSchedules(t, dir+"/", "")
	text := "schedules:\n  - {name: cleanup, stream: reports, cron: \"0 3 * * *\", type: cleanup, start: 2040-01-01T00:00:00Z}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(s.env, "", "schedule", "ls", "--schedules", file)
	env := s.env.with("PENSTOCK_SCHEDULES_FILE=" + file)
	s.run(env, "", "schedule", "run", "cleanup")
	s.run(env, "", "schedule", "ls", "--json")
	s.run(env, "", "schedule", "pause", "cleanup")
	s.run(env, "", "schedule", "add", "cleanup", "reports", "cleanup", "--every", "1h")
	s.run(env, "", "scheduler", "--once")
	s.run(s.env, "", "schedule", "add", "cleanup", "reports", "cleanup", "--every", "1h", "--start", "2040-01-01T00:00:00Z")
	s.run(env, "", "schedule", "ls")
	if err := os.WriteFile(file, []byte(text+"  - {name: cleanup, stream: reports, hour: 25}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(env, "", "schedule", "ls")
	s.run(s.env, "", "scheduler", "--schedules", file)
	s.run(s.env, "", "scheduler", "--schedules", filepath.Join(dir, "none.yaml"))
	s.golden("schedule_file")
}

// TestScheduleFaultGolden: of what Redis keeps and no scheduler can use, people read all that is wrong, and can be rid of it.
func TestScheduleFaultGolden(t *testing.T) {
	t.Parallel()
	s := newSchedules(t)
	opt, err := redis.ParseURL(s.env["REDIS_URL"])
	if err != nil {
		t.Fatal(err)
	}
	rdb := redistest.Connect(t, opt)
	rdb.HSet(t.Context(), engine.SchedulesKey, "a", `{"spec":{"name":"a","stream":"s","cron":"61 * * * *","zone":"Nowhere","type":"t"}}`, "b", "garbage")
	for _, args := range [][]string{{"ls"}, {"ls", "--json"}, {"show", "a"}, {"next", "a"}, {"pause", "b"}, {"rm", "a", "b"}, {"ls"}} {
		s.run(s.env, "", append([]string{"schedule"}, args...)...)
	}
	s.golden("schedule_fault")
}
