//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// work runs a worker that returns the data of each job, fails "fails" and holds "waits" until its end.
func work(t *testing.T, s *stream.Stream, group string) (stop func()) {
	t.Helper()
	w, err := consumer.New(group, consumer.Config{Name: "w", MaxJobs: 1, Grace: time.Millisecond}, s)
	if err != nil {
		t.Fatal(err)
	}
	consumer.HandleResult(w, stream.Type[[]byte]{Name: "echo"}, func(_ context.Context, job *consumer.Job[[]byte]) ([]byte, error) { return job.Data, nil })
	consumer.Handle(w, stream.Type[[]byte]{Name: "fails"}, func(context.Context, *consumer.Job[[]byte]) error { return errors.New("invoice service: 503") })
	consumer.Handle(w, stream.Type[[]byte]{Name: "silent"}, func(context.Context, *consumer.Job[[]byte]) error { return nil })
	consumer.Handle(w, stream.Type[[]byte]{Name: "waits"}, func(ctx context.Context, _ *consumer.Job[[]byte]) error { <-ctx.Done(); return ctx.Err() })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	return stop
}

func TestJobGetAndWait(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	s := c.stream(name, stream.KindAny)
	stop := work(t, s, "billing")
	for _, job := range []stream.Job{
		{Type: "echo", ID: "e-1", Data: []byte(`{"order":7}`)}, {Type: "echo", ID: "e-2", Data: []byte("\x1b\xff")},
		{Type: "fails", ID: "f-1", MaxTries: 1}, {Type: "fails", ID: "f-2", MaxTries: 5}, {Type: "silent", ID: "s-1", Delay: 3600e9},
	} {
		if _, err := s.Publish(t.Context(), job); err != nil {
			t.Fatal(err)
		}
	}
	c.golden(name, `job  e-1
type  echo
status  completed
attempt  1 of 3
published  ~ (~)
started  ~ (~)
finished  ~ (~), took ~
worker  ~
result  JSON, 11 bytes
  {
  "order": 7
  }
`, "job", "wait", name, "e-1")
	if got := c.ok("job", "get", name, "e-2", "--raw"); got != "\x1b\xff" {
		t.Errorf("--raw: %q", got)
	}
	if got := c.ok("job", "get", name, "e-2"); !strings.Contains(got, "result     2 bytes\n  \"\\x1b\\xff\"\n") {
		t.Errorf("a result that is no text: %s", got)
	}
	failed := c.run(t.Context(), "job", "wait", name, "f-1", "--for", "1m")
	if failed.status != exitFailed || failed.err != "penstock: job f-1 is dead: invoice service: 503\n" || stable(failed.out, name) != `job  f-1
type  fails
status  dead
attempt  1 of 1
published  ~ (~)
started  ~ (~)
finished  ~ (~), took ~
worker  ~
reason  failed
error  invoice service: 503
attempts
#  WORKER  STARTED  TOOK  ENDED
1  ~  ~  ~  invoice service: 503
` {
		t.Errorf("exit status %d: %s\n%s", failed.status, failed.err, stable(failed.out, name))
	}
	eventually(t, "a retry", func() bool { return strings.Contains(c.ok("job", "get", name, "f-2"), "retrying") })
	if got := c.ok("job", "get", name, "f-2"); !strings.Contains(got, "\nattempt    2 of 5\n") || !strings.Contains(got, "\nnext ") || !strings.Contains(got, "\nattempts\n") {
		t.Errorf("a retry:\n%s", got)
	}
	var info infoJSON
	if err := json.Unmarshal([]byte(c.ok("job", "get", name, "e-1", "--json")), &info); err != nil || string(info.Result) != `{"order":7}` || info.State != stream.Completed {
		t.Errorf("--json: %+v, %v", info, err)
	}
	if got := c.ok("job", "get", name, "s-1"); !strings.Contains(got, "status     scheduled\n") || !strings.Contains(got, "\ndue ") {
		t.Errorf("scheduled:\n%s", got)
	}
	for _, limit := range []time.Duration{10 * time.Millisecond, 10 * time.Microsecond} { // the second ends in the middle of a look at Redis
		if got := c.fails(exitFailed, "job", "wait", name, "s-1", "--for", limit.String()); !strings.Contains(got, "it has not ended within "+limit.String()+" (--for)") {
			t.Errorf("too long: %s", got)
		}
	}
	for _, verb := range []string{"get", "wait"} {
		if got := c.fails(exitFailed, "job", verb, name, "1726-0"); !strings.HasPrefix(got, "penstock: no job 1726-0 in "+name+"\n  it may have finished: ") || !strings.Contains(got, "PENSTOCK_KEEP_STATUS") {
			t.Errorf("none: %s", got)
		}
		c.fails(exitMisuse, "job", verb, name, "x", "--raw", "--json")
		c.fails(exitMisuse, "job", verb, name)
	}
	c.fails(exitMisuse, "job", "wait", name, "x", "--for", "-1s")
	stop()
}

func TestJobLs(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	s := c.stream(name, stream.KindAny)
	c.golden(name, "no jobs are waiting\n", "job", "ls", name, "--status", "waiting")
	publish := func(jobs ...stream.Job) {
		t.Helper()
		if _, err := s.PublishAll(t.Context(), jobs); err != nil {
			t.Fatal(err)
		}
	}
	publish(stream.Job{Type: "fails", ID: "f-1", MaxTries: 1}, stream.Job{Type: "fails", ID: "f-2", MaxTries: 2})
	publish(stream.Job{Type: "waits", ID: "a-1"})
	publish(stream.Job{Type: "echo", ID: "w-1"}, stream.Job{Type: "echo", ID: "w-2", MaxTries: 9}, stream.Job{Type: "echo", ID: "s-1", Delay: 3600e9}, stream.Job{Type: "echo", ID: "s-2", Delay: 7200e9})
	stop := work(t, s, "billing")
	eventually(t, "the jobs are where they should be", func() bool {
		d, err := s.Group("billing").Depths(t.Context())
		return err == nil && d.Dead == 1 && d.Retrying == 1 && d.Active > 0
	})
	ids := func(args ...string) string {
		t.Helper()
		var list []string
		for line := range strings.Lines(c.ok(append([]string{"job", "ls", name, "--json", "--status"}, args...)...)) {
			var info infoJSON
			if err := json.Unmarshal([]byte(line), &info); err != nil {
				t.Fatal(err)
			}
			list = append(list, info.ID+" "+string(info.State))
		}
		return strings.Join(list, ", ")
	}
	for status, want := range map[string]string{
		"scheduled": "s-1 scheduled, s-2 scheduled", "retrying": "f-2 retrying", "dead": "f-1 dead",
	} {
		if got := ids(status); got != want {
			t.Errorf("%s: %q, want %q", status, got, want)
		}
	}
	if got := ids("active") + ", " + ids("waiting"); !strings.HasPrefix(got, "a-1 active") || !strings.Contains(got, "w-1") || !strings.Contains(got, "w-2") {
		t.Errorf("active and waiting: %q", got)
	}
	if got := stable(c.ok("job", "ls", name, "--status", "retrying", "--group", "billing"), name); !regexp.MustCompile(`^ID  TYPE  ATTEMPT  PUBLISHED  DUE  WORKER  ERROR
f-2  fails  2/2  ~  in \d+s  ~  invoice service: 503
$`).MatchString(got) {
		t.Errorf("a table:\n%s", got)
	}
	page := c.ok("job", "ls", name, "--status", "scheduled", "--limit", "1")
	_, after, ok := strings.Cut(page, "1 job, and there are more.  go on with --after ")
	if !ok || strings.Contains(page, "s-2") {
		t.Fatalf("the first page:\n%s", page)
	}
	after = strings.Trim(after, "\"\n")
	if rest := c.ok("job", "ls", name, "--status", "scheduled", "--limit", "1", "--after", after); !strings.Contains(rest, "s-2") || strings.Contains(rest, "more") {
		t.Errorf("the second page:\n%s", rest)
	}
	c.fails(exitMisuse, "job", "ls", name)
	c.fails(exitMisuse, "job", "ls", name, "--status", "completed")
	c.fails(exitMisuse, "job", "ls", name, "--status", "odd")
	c.fails(exitMisuse, "job", "ls", name, "--status", "waiting", "--limit", "0")
	c.fails(exitMisuse, "job", "ls", name, "--status", "active", "--after", "x")
	c.fails(exitFailed, "job", "ls", name, "--status", "dead", "--group", "none")
	stop()
}
