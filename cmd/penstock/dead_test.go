//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// kill publishes jobs and runs them with a handler that fails each with its payload, until all are dead.
func kill(t *testing.T, c *cli, name string, jobs ...stream.Job) *stream.Stream {
	t.Helper()
	s := c.stream(name, stream.KindAny)
	if _, err := s.PublishAll(t.Context(), jobs); err != nil {
		t.Fatal(err)
	}
	w, err := consumer.New("billing", consumer.Config{MaxJobs: 1, Name: "w"}, s) // one at a time: in order
	if err != nil {
		t.Fatal(err)
	}
	w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
		if d.Type == "import.csv" {
			return consumer.Permanent(errors.New("not CSV"))
		}
		return errors.New("invoice service: 503")
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	eventually(t, "all jobs are dead", func() bool {
		d, err := s.Group("billing").Depths(t.Context())
		return err == nil && d.Dead == int64(len(jobs))
	})
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	return s
}

var volatile = regexp.MustCompile(`just now|\d+s ago|\b\d\d:\d\d:\d\d\b|(\d+\.)?\d+ms|\b0s\b|\bw-[0-9a-f]{8}\b| in [\d.]+m?s$`)

// stable takes out of an answer what differs between runs, and the width of columns.
func stable(text, name string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.ReplaceAll(text, name, "NAME")) {
		line = volatile.ReplaceAllString(strings.TrimRight(line, "\n"), "~")
		b.WriteString(regexp.MustCompile(` {2,}`).ReplaceAllString(line, "  ") + "\n")
	}
	return b.String()
}

func (c *cli) golden(name, want string, args ...string) {
	c.t.Helper()
	if got := stable(c.ok(args...), name); got != want {
		c.t.Errorf("penstock %s:\n%s\nwant:\n%s", strings.Join(args, " "), got, want)
	}
}

var threeDead = []stream.Job{
	{Type: "order.paid", ID: "paid-9", MaxTries: 1, Data: map[string]int{"order": 9}, Header: map[string]string{"tenant": "a\x1bc"}},
	{Type: "order.paid", ID: "paid-4", MaxTries: 1, Data: map[string]int{"order": 4}},
	{Type: "import.csv", ID: "imp-1", Data: []byte("\x1b[2J\x00\xff")},
}

func TestDeadLs(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	c.fails(exitFailed, "dead", "ls", name, "billing")
	s := kill(t, c, name, threeDead...)
	c.golden(name, `ID  TYPE  TRIES  DIED  REASON
paid-9  order.paid  1/1  ~  invoice service: 503
paid-4  order.paid  1/1  ~  invoice service: 503
imp-1  import.csv  1/3  ~  permanent: not CSV
3 dead letters.  penstock dead show NAME billing paid-9
`, "dead", "ls", name, "billing")
	c.golden(name, `ID  TYPE  TRIES  DIED  REASON
imp-1  import.csv  1/3  ~  permanent: not CSV
1 (import.csv, error contains "CSV", newer than 1h), of 3 dead letters.  penstock dead show NAME billing imp-1
`, "dead", "ls", name, "billing", "--type", "import.csv", "--error", "CSV", "--newer", "1h")
	c.golden(name, "none (older than 1h), of 3 dead letters\n", "dead", "ls", name, "billing", "--older", "1h")

	page := c.ok("dead", "ls", name, "billing", "--limit", "2")
	_, after, ok := strings.Cut(page, "2, of 3 dead letters.  go on with --after ")
	if !ok || strings.Contains(page, "imp-1") {
		t.Fatalf("the first page:\n%s", page)
	}
	if rest := c.ok("dead", "ls", name, "billing", "--after", strings.TrimSpace(after)); !strings.Contains(rest, "imp-1") || strings.Contains(rest, "paid") {
		t.Errorf("the second page:\n%s", rest)
	}

	var ids []string
	for line := range strings.Lines(c.ok("dead", "ls", name, "billing", "--all", "--json")) {
		var l letterJSON
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, l.ID+" "+string(l.Payload)+l.Base64)
	}
	if got, want := strings.Join(ids, "; "), `paid-9 {"order":9}; paid-4 {"order":4}; imp-1 G1sySgD/`; got != want {
		t.Errorf("--json: %s, want %s", got, want)
	}

	c.ok("dead", "purge", name, "billing", "--all", "--yes")
	c.golden(name, "no dead letters\n", "dead", "ls", name, "billing")
	if d := c.depths(s, "billing"); d.Dead != 0 {
		t.Errorf("%d dead letters are left", d.Dead)
	}
}

func TestDeadShow(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	kill(t, c, name, threeDead...)
	c.golden(name, `job  paid-9
type  order.paid
reason  failed
error  invoice service: 503
tries  1 of 1
published  ~ (~)
died  ~ (~)
worker  ~
headers  tenant = a\x1bc
attempts
#  WORKER  STARTED  TOOK  ENDED
1  ~  ~  ~  invoice service: 503
payload  JSON, 11 bytes
  {
  "order": 9
  }
`, "dead", "show", name, "billing", "paid-9")
	if got := c.ok("dead", "show", name, "billing", "imp-1"); !strings.Contains(got, "payload    6 bytes\n  \"\\x1b[2J\\x00\\xff\"\n") {
		t.Errorf("a payload that is not text:\n%s", got)
	}
	if got := c.ok("dead", "show", name, "billing", "imp-1", "--raw"); got != "\x1b[2J\x00\xff" {
		t.Errorf("--raw: %q", got)
	}
	if got := c.fails(exitFailed, "dead", "show", name, "billing", "nope"); !strings.Contains(got, "not found") {
		t.Errorf("an ID that is none: %s", got)
	}
	c.fails(exitMisuse, "dead", "show", name, "billing", "imp-1", "--raw", "--json")
	c.fails(exitMisuse, "dead", "show", name, "billing")
}

func TestRedrive(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	s := kill(t, c, name, threeDead...)
	redrive := []string{"dead", "redrive", name, "billing"}
	with := func(args ...string) []string { return append(redrive[:4:4], args...) }
	c.golden(name, "would redrive 2 of 3 dead letters (order.paid, error contains \"503\"), in about 1s at 50/s\n",
		with("--type", "order.paid", "--error", "503", "--rate", "50/s", "--dry-run")...)
	c.golden(name, "nothing to redrive: 0 of 3 dead letters (mail)\n", with("--type", "mail")...)
	if d := c.depths(s, "billing"); d.Dead != 3 || d.Waiting != 0 {
		t.Fatalf("a dry run changed something: %+v", d)
	}
	some := c.run(t.Context(), with("nope", "imp-1")...)
	if out := stable(some.out, name); some.status != exitFailed || some.err != "penstock: no dead letter: nope\n" || out != "redrove 1 of 3 dead letters (imp-1)~\n" {
		t.Errorf("one ID of two is none: exit status %d, %q, %q", some.status, out, some.err)
	}
	if d := c.depths(s, "billing"); d.Dead != 2 || d.Waiting != 1 {
		t.Fatalf("after the redrive of one: %+v", d)
	}
	c.fails(exitFailed, with("nope")...)
	c.golden(name, "redrove 2 of 2 dead letters~\n", with("--all")...)
	if d := c.depths(s, "billing"); d.Dead != 0 || d.Waiting != 3 {
		t.Errorf("after the redrive of all: %+v", d)
	}
	var end sweepJSON
	if err := json.Unmarshal([]byte(c.ok(with("--all", "--json")...)), &end); err != nil || end.Matched != 0 {
		t.Errorf("--json: %+v, %v", end, err)
	}
	for _, args := range [][]string{{}, {"--all", "x"}, {"--all", "--type", "x"}, {"--all", "--rate", "fast"}, {"--older", "-1h"}, {"--older", "2h", "--newer", "1h"}} {
		c.fails(exitMisuse, with(args...)...)
	}
	c.fails(exitMisuse, "dead", "redrive", name, "a:b", "--all")
}

func TestRedriveStops(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	var jobs []stream.Job
	for i := range 50 {
		jobs = append(jobs, stream.Job{Type: "import.csv", ID: fmt.Sprintf("j%d", i)})
	}
	s := kill(t, c, name, jobs...)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		for d := (stream.Depths{}); d.Waiting < 3 && ctx.Err() == nil; time.Sleep(time.Millisecond) {
			d, _ = s.Group("billing").Depths(ctx)
		}
		stop()
	}()
	got := c.run(ctx, "dead", "redrive", name, "billing", "--all", "--rate", "20/s", "--json")
	var end sweepJSON
	if err := json.Unmarshal([]byte(got.out), &end); err != nil {
		t.Fatalf("standard output: %s: %v", got.out, err)
	}
	d := c.depths(s, "billing")
	want := fmt.Sprintf("penstock: stopped: redrove %d of 50 dead letters; the others are as they were\n", d.Waiting)
	if got.status != exitFailed || got.err != want || !end.Stopped || end.Moved != d.Waiting {
		t.Errorf("exit status %d, %q, %+v, want %q", got.status, got.err, end, want)
	}
	if d.Waiting < 3 || d.Waiting > 40 || d.Waiting+d.Dead != 50 {
		t.Errorf("in Redis: %+v", d)
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	s := kill(t, c, name, threeDead...)
	if got := c.fails(exitMisuse, "dead", "purge", name, "billing", "--all"); !strings.Contains(got, "add --yes") {
		t.Errorf("nobody to ask: %s", got)
	}
	c.fails(exitMisuse, "dead", "purge", name, "billing", "--yes")
	c.fails(exitFailed, "dead", "purge", name, "billing", "nope", "--type", "order.paid", "--yes") // must not become every order.paid
	if d := c.depths(s, "billing"); d.Dead != 3 {
		t.Fatalf("an ID that is none purged %d", 3-d.Dead)
	}
	c.golden(name, "would purge 1 of 3 dead letters (paid-9)\n", "dead", "purge", name, "billing", "paid-9", "--dry-run")
	c.golden(name, "purged 1 of 3 dead letters (paid-9)~\n", "dead", "purge", name, "billing", "paid-9", "paid-9", "--yes")
	if d := c.depths(s, "billing"); d.Dead != 2 || d.Waiting != 0 {
		t.Errorf("after the purge of one: %+v", d)
	}
	if got := c.ok("dead", "purge", name, "billing", "--all", "--yes", "--json"); got != `{"seen":2,"matched":2,"moved":2}`+"\n" {
		t.Errorf("--json: %s", got)
	}
}

func TestConfirm(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{"y\n": true, " YES \n": true, "\n": false, "": false, "yep\n": false, "n\n": false} {
		var out output
		a := &app{in: strings.NewReader(text), out: &out}
		if got, err := a.confirm(t.Context(), "sure?"); got != want || err != nil || out.String() != "sure? [y/N] " {
			t.Errorf("%q: %v, %v, %q", text, got, err, out.String())
		}
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"50/s": "50/s", "3000/m": "50/s", "7": "7/s", "0.5/s": "30/m", "6/m": "6/m", "1/h": "1/h"} {
		var r rate
		if err := r.Set(text); err != nil || r.String() != want {
			t.Errorf("%s: %s, %v, want %s", text, r.String(), err, want)
		}
	}
	for _, bad := range []string{"", "0", "-1/s", "x/s", "1/d", "1/", "NaN", "Inf", "1/s/s"} {
		var r rate
		if err := r.Set(bad); err == nil {
			t.Errorf("%q was taken as %v", bad, float64(r))
		}
	}
}
