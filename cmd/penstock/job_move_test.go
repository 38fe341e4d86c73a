//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

func TestJobMoveAndRetry(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	s := c.stream(name, stream.KindAny)
	if _, err := s.PublishAll(t.Context(), []stream.Job{
		{Type: "fails", ID: "f-1", MaxTries: 1}, {Type: "fails", ID: "f-2", MaxTries: 5}, {Type: "silent", ID: "s-1", Delay: time.Hour}, {Type: "silent", ID: "s-2", Delay: time.Hour},
	}); err != nil {
		t.Fatal(err)
	}
	stop := work(t, s, "billing")
	eventually(t, "a retry and a dead letter", func() bool {
		d, err := s.Group("billing").Depths(t.Context())
		return err == nil && d.Dead == 1 && d.Retrying == 1
	})
	stop()

	for _, list := range [][]string{{"--delay", "2h"}, {"--at", time.Now().Add(2 * time.Hour).Format(time.RFC3339)}} {
		got := c.ok(append([]string{"job", "move", name, "s-1"}, list...)...)
		if !regexp.MustCompile(`^s-1  due .*\d\d:\d\d:\d\d \(in (2h|1h59m)\)\n$`).MatchString(got) {
			t.Errorf("%s: %s", list, got)
		}
	}
	c.golden(name, "s-1  due now\n", "job", "move", name, "s-1", "--now")
	if got := c.ok("job", "get", name, "s-1"); !strings.Contains(got, "status     waiting\n") {
		t.Errorf("moved to now:\n%s", got)
	}
	var moved struct {
		ID  string
		Due time.Time
	}
	if err := json.Unmarshal([]byte(c.ok("job", "move", name, "f-2", "--delay", "1h", "--json")), &moved); err != nil || moved.ID != "f-2" || time.Until(moved.Due) < 50*time.Minute {
		t.Errorf("--json: %+v, %v", moved, err)
	}
	for _, list := range [][]string{{}, {"--now", "--delay", "1h"}, {"--delay", "0s"}, {"--delay", "-1s"}, {"--at", "tomorrow"}, {"--at", ""}, {"--now=false"}} {
		c.fails(exitMisuse, append([]string{"job", "move", name, "s-2"}, list...)...)
	}
	for id, want := range map[string]string{
		"s-1": "penstock: job s-1 of " + name + " is waiting: not in this state: only a job that is scheduled or retrying can be moved\n",
		"1-1": "penstock: no job 1-1 in " + name + "\n  it may have finished",
	} {
		if got := c.fails(exitFailed, "job", "move", name, id, "--now"); !strings.HasPrefix(got, want) {
			t.Errorf("moving %s: %s", id, got)
		}
	}

	c.golden(name, "f-1  waiting, was dead\nf-2  waiting, was retrying\n", "job", "retry", name, "f-1", "f-2")
	got := c.run(t.Context(), "job", "retry", name, "f-1", "s-2", "1-1")
	if got.status != exitFailed || got.out != "" ||
		!strings.Contains(got.err, "job f-1 of "+name+" is waiting: not in this state: only one that is dead or retrying can be retried\n") ||
		!strings.Contains(got.err, "job s-2 of "+name+" is scheduled, and has not failed\n  to run it now: penstock job move "+name+" s-2 --now\n") ||
		!strings.Contains(got.err, "no job 1-1 in "+name+"\n") {
		t.Errorf("exit status %d: %s\n%s", got.status, got.out, got.err)
	}
	lines := c.run(t.Context(), "job", "retry", name, "f-1", "1-1", "--json")
	for line := range strings.Lines(lines.out) {
		var r retriedJSON
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Error == "" || r.Was != "" {
			t.Errorf("--json: %q, %v", line, err)
		}
	}
	if strings.Count(lines.out, "\n") != 2 || lines.status != exitFailed {
		t.Errorf("--json: %d, %s", lines.status, lines.out)
	}
	c.fails(exitMisuse, "job", "retry", name)
}

// talker runs a worker whose jobs say what comes in, until it is closed.
func talker(t *testing.T, s *stream.Stream, say <-chan string) {
	t.Helper()
	w, err := consumer.New("billing", consumer.Config{Name: "w", Backoff: consumer.Backoff{Delay: time.Millisecond}}, s)
	if err != nil {
		t.Fatal(err)
	}
	consumer.Handle(w, stream.Type[[]byte]{Name: "talks"}, func(ctx context.Context, job *consumer.Job[[]byte]) error {
		for {
			select {
			case text, more := <-say:
				switch {
				case !more:
					return nil
				case text == "fail":
					return errors.New("no")
				}
				job.Logf("%s", text)
				job.Progress(0.43, text)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestJobLog(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	s := c.stream(name, stream.KindAny)
	say := make(chan string)
	talker(t, s, say)
	if _, err := s.PublishAll(t.Context(), []stream.Job{{Type: "talks", ID: "t-1", MaxTries: 2, KeepResult: time.Hour}, {Type: "none", ID: "n-1", Delay: time.Hour}}); err != nil {
		t.Fatal(err)
	}
	say <- "reading \x1b[2J"
	say <- "two\nlines"
	eventually(t, "a log", func() bool { return strings.Contains(c.ok("job", "log", name, "t-1"), "lines") })
	c.golden(name, "~  1  reading \\x1b[2J\n~  1  two\n  lines\n", "job", "log", name, "t-1")
	if got := stable(c.ok("job", "get", name, "t-1"), name); !strings.Contains(got, "progress  43 %  two\\nlines (~)\n") {
		t.Errorf("job get:\n%s", got)
	}
	var info infoJSON
	if err := json.Unmarshal([]byte(c.ok("job", "get", name, "t-1", "--json")), &info); err != nil || info.Progress.Fraction != 0.43 || info.Progress.Attempt != 1 {
		t.Errorf("--json: %+v, %v", info.Progress, err)
	}

	followed := make(chan answer, 1)
	go func() { followed <- c.run(t.Context(), "job", "log", name, "t-1", "-f", "--group", "billing") }()
	say <- "fail"
	say <- "once more"
	close(say)
	got := <-followed
	if want := "~  1  reading \\x1b[2J\n~  1  two\n  lines\n~  2  once more\n"; got.status != exitOK || got.err != "" || stable(got.out, name) != want {
		t.Errorf("-f: exit status %d, %s\n%s", got.status, got.err, stable(got.out, name))
	}
	var line stream.LogLine
	if err := json.Unmarshal([]byte(strings.SplitAfter(c.ok("job", "log", name, "t-1", "--json"), "\n")[2]), &line); err != nil || line.Text != "once more" || line.Number != 3 || line.Attempt != 2 {
		t.Errorf("--json: %+v, %v", line, err)
	}
	c.golden(name, "nothing is written about job n-1\n", "job", "log", name, "n-1")
	if got := c.fails(exitFailed, "job", "log", name, "1-1"); !strings.HasPrefix(got, "penstock: no job 1-1 in "+name+"\n") {
		t.Errorf("none: %s", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if got := c.run(ctx, "job", "log", name, "n-1", "-f"); got.status != exitOK {
		t.Errorf("Ctrl-C: exit status %d, %s", got.status, got.err)
	}
	c.fails(exitMisuse, "job", "log", name)
	c.fails(exitFailed, "job", "log", name, "t-1", "--group", "another")
}

func TestPrintLogSaysWhatIsLeftOut(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	a := &app{out: &out, env: variables{}}
	at := time.Now()
	last, err := a.printLog([]stream.LogLine{{Number: 3, At: at, Attempt: 1, Text: "three"}, {Number: 4, At: at, Attempt: 1, Text: "four"}}, 0)
	if want := "… 2 lines left out\n~  1  three\n~  1  four\n"; err != nil || last != 4 || strings.ReplaceAll(out.String(), at.Format(time.TimeOnly), "~") != want {
		t.Errorf("%d, %v\n%s", last, err, out.String())
	}
}

// TestWatchJob reads what a terminal would show while a job is waited for.
func TestWatchJob(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var out output
	now := time.Now()
	looks := 0
	stop := watchJob(t.Context(), &out, func(context.Context) (stream.Info, error) {
		mu.Lock()
		defer mu.Unlock()
		if looks++; looks == 2 {
			return stream.Info{}, stream.ErrUnavailable
		}
		return stream.Info{ID: "a\x1bb", State: stream.Active, Attempt: looks, Progress: stream.Progress{Fraction: 0.999, Note: "two\nlines", At: now}}, nil
	})
	eventually(t, "two lines", func() bool { return strings.Count(out.String(), "\r\x1b[K") == 2 })
	stop()
	got := strings.Split(out.String(), "\r\x1b[K")
	for i, want := range []string{"", `a\x1bb  active  99 %  two\nlines (`, `a\x1bb  active  attempt 3  99 %  two\nlines (`, ""} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) || want == "" && got[i] != "" {
			t.Fatalf("it wrote %q, of which part %d ought to begin with %q", got, i, want)
		}
	}
	if text := statusLine(stream.Info{ID: "x", State: stream.Retrying, Attempt: 2, Due: now.Add(time.Minute)}, now); text != "x  retrying  attempt 2  due in 1m" {
		t.Errorf("retrying: %q", text)
	}
}

// TestJobHelpGolden pins the help of what is done to one job.
func TestJobHelpGolden(t *testing.T) {
	t.Parallel()
	s := newTranscript(t)
	s.run(variables{}, "", "job", "--help")
	for _, verb := range []string{"cancel", "retry", "log", "move"} {
		s.run(variables{}, "", "job", verb, "--help")
	}
	s.golden("help_job")
}
