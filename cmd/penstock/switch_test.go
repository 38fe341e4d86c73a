//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
)

func TestJobCancel(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	s := c.stream(name, stream.KindAny)
	if _, err := s.PublishAll(t.Context(), []stream.Job{
		{Type: "waits", ID: "a-1"}, {Type: "silent", ID: "w-1"}, {Type: "silent", ID: "w-2"}, {Type: "silent", ID: "s-1", Delay: time.Hour},
	}); err != nil {
		t.Fatal(err)
	}
	stop := work(t, s, "billing")
	eventually(t, "one to run", func() bool { return strings.Contains(c.ok("job", "get", name, "a-1"), "status     active\n") })

	got := c.run(t.Context(), "job", "cancel", name, "w-1", "1-1", "s-1")
	if got.status != exitFailed || got.out != "w-1  cancelled\ns-1  cancelled\n" || !strings.HasPrefix(got.err, "penstock: no job 1-1 in "+name+"\n  it may have finished: ") {
		t.Errorf("one of three is none: exit status %d\n%s\n%s", got.status, got.out, got.err)
	}
	if got := c.ok("job", "get", name, "w-1"); !strings.Contains(got, "status     cancelled\n") {
		t.Errorf("a cancelled job:\n%s", got)
	}
	if got := c.fails(exitFailed, "job", "cancel", name, "w-2", "--group", "another"); strings.Contains(got, "no job") || !strings.Contains(got, "another") {
		t.Errorf("in a group that there is not: %s", got)
	}
	if got := c.ok("job", "get", name, "w-2"); strings.Contains(got, "cancelled") {
		t.Errorf("it was cancelled for a group that there is not:\n%s", got)
	}
	if got := c.ok("job", "cancel", name, "a-1", "--group", "billing"); got != "a-1  active, and told to stop\n" {
		t.Errorf("a job that runs: %s", got)
	}
	if got := c.fails(exitFailed, "job", "wait", name, "a-1", "--for", "1m"); got != "penstock: job a-1 was cancelled\n" {
		t.Errorf("its end: %s", got)
	}
	lines := c.run(t.Context(), "job", "cancel", name, "a-1", "1-1", "--json")
	if want := fmt.Sprintf(`{"id":"a-1","state":"cancelled"}
{"id":"1-1","error":"no job 1-1 in %s`, name); lines.status != exitFailed || !strings.HasPrefix(lines.out, want) || strings.Count(lines.out, "\n") != 2 {
		t.Errorf("--json: exit status %d\n%s", lines.status, lines.out)
	}
	c.fails(exitMisuse, "job", "cancel", name)
	c.fails(exitMisuse, "job", "cancel", name, "a-1", "--group", "a:b")
	stop()
}

func TestCancelText(t *testing.T) {
	t.Parallel()
	for state, want := range map[stream.State]string{
		stream.Cancelled: "cancelled", stream.Active: "active, and told to stop", stream.Waiting: "waiting, and will not run",
		stream.Scheduled: "scheduled, and will not run", stream.Completed: "completed before, and stays so", stream.Dead: "dead before, and stays so",
	} {
		if got := cancelText(state); got != want {
			t.Errorf("%s: %q, want %q", state, got, want)
		}
	}
}

// A job that is put off says so, and goes on once the switch is lifted.
func TestSwitches(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	s := c.stream(name, stream.KindAny)
	c.golden(name, "no kill switches\n", "switch", "ls", name)
	var sw stream.Switch
	if got := c.fails(exitFailed, "switch", "rm", name, "12345678"); got != "penstock: no kill switch 12345678 in "+name+": there are none\n" {
		t.Errorf("there is none: %s", got)
	}

	typo := c.run(t.Context(), "switch", "add", name, "echo", "--pause", "--json")
	if typo.status != exitOK || typo.err != "note: there is no stream "+name+" yet; the switch holds once there is\n" || json.Unmarshal([]byte(typo.out), &sw) != nil {
		t.Errorf("of a stream that there is not: %+v", typo)
	}
	c.ok("switch", "rm", name, sw.ID)
	if _, err := s.Publish(t.Context(), stream.Job{Type: "echo", Data: []byte(`{"tenant":"other"}`)}); err != nil {
		t.Fatal(err)
	}
	if typo = c.run(t.Context(), "switch", "add", name, "echo", "--pause", "--json", "--group", "bill"); typo.err != "note: "+name+" has no group bill yet; the switch holds once it has\n" || json.Unmarshal([]byte(typo.out), &sw) != nil {
		t.Errorf("of a group that there is not: %+v", typo)
	}
	c.ok("switch", "rm", name, sw.ID)

	added := c.ok("switch", "add", name, "echo", "--pause", "--field", "tenant", "--value", "acme", "--reason", "too \x1b[2Jmany")
	id, _, _ := strings.Cut(added, " ")
	if want := fmt.Sprintf("%s  pauses echo with tenant = acme, until it is lifted\n  to lift it: penstock switch rm %s %s\n", id, name, id); added != want {
		t.Errorf("switch add:\n%swant\n%s", added, want)
	}
	again := c.ok("switch", "add", name, "echo", "--pause", "--field", "tenant", "--value", "acme", "--json", "--reason", "too \x1b[2Jmany")
	if err := json.Unmarshal([]byte(again), &sw); err != nil || sw.ID != id || sw.Action != stream.PauseJobs || !sw.Expires.IsZero() {
		t.Errorf("the same once more: %s, %v", again, err)
	}
	c.golden(name, "ID  ACTION  JOBS  GROUP  MADE  ENDS  REASON\n"+id+"  pause  echo with tenant = acme  every  ~  when lifted  too \\x1b[2Jmany\n", "switch", "ls", name)

	stop := work(t, s, "billing")
	if _, err := s.PublishAll(t.Context(), []stream.Job{
		{Type: "echo", ID: "p-1", Data: []byte(`{"tenant":"acme"}`)}, {Type: "echo", ID: "p-2", Data: []byte(`{"tenant":"other"}`)},
	}); err != nil {
		t.Fatal(err)
	}
	c.ok("job", "wait", name, "p-2", "--for", "1m")
	eventually(t, "a job to be put off", func() bool {
		return regexp.MustCompile(`\nstatus +retrying\n(?s:.*)\npaused +\d+ times? by a kill switch; see penstock switch ls\n`).MatchString(c.ok("job", "get", name, "p-1"))
	})
	var info infoJSON
	if err := json.Unmarshal([]byte(c.ok("job", "get", name, "p-1", "--json")), &info); err != nil || info.Paused < 1 || info.Attempt != 1 {
		t.Errorf("job get --json: %+v, %v", info, err)
	}
	wrong := id[:7] + string(id[7]^1)
	got := c.run(t.Context(), "switch", "rm", name, wrong, "nothing", id)
	if want := fmt.Sprintf("penstock: no kill switch %s in %s: did you mean %s?\n  there are: %s\nno kill switch nothing in %s\n  there are: %s\n", wrong, name, id, id, name, id); got.status != exitFailed || got.err != want || got.out != id+"  lifted\n" {
		t.Errorf("one of three: exit status %d\n%s\n%swant\n%s", got.status, got.out, got.err, want)
	}
	c.ok("job", "wait", name, "p-1", "--for", "1m")
	lines := c.run(t.Context(), "switch", "rm", name, id, "--json")
	if want := fmt.Sprintf(`{"id":%q,"lifted":false,"error":"no kill switch %s in %s: there are none"}`+"\n", id, id, name); lines.status != exitFailed || lines.out != want {
		t.Errorf("rm --json: exit status %d, %s", lines.status, lines.out)
	}

	if got := c.ok("switch", "add", name, "waits", "--cancel", "--group", "billing", "--for", "1h"); !regexp.MustCompile(`^[0-9a-f]{8}  cancels waits in group billing, until .*\d\d:\d\d:\d\d \(in (1h|59m5\ds)\)\n  to lift it: `).MatchString(got) {
		t.Errorf("switch add --cancel: %s", got)
	}
	if _, err := s.Publish(t.Context(), stream.Job{Type: "waits", ID: "c-1"}); err != nil {
		t.Fatal(err)
	}
	if got := c.fails(exitFailed, "job", "wait", name, "c-1", "--for", "1m"); !strings.HasPrefix(got, "penstock: job c-1 was cancelled\n") {
		t.Errorf("what a switch cancels: %s", got)
	}
	if got := c.ok("switch", "ls", name, "--json"); strings.Count(got, "\n") != 1 || json.Unmarshal([]byte(got), &sw) != nil || sw.Action != stream.CancelJobs || sw.Group != "billing" || sw.Expires.IsZero() {
		t.Errorf("ls --json: %s", got)
	}
	stop()

	for _, list := range [][]string{
		{}, {"--pause", "--cancel"}, {"--pause", "--field", "f"}, {"--pause", "--value", "v"}, {"--pause", "--field", "", "--value", "v"},
		{"--pause", "--for", "0s"}, {"--pause", "--for", "-1h"}, {"--pause", "--for", "1ms"}, {"--cancel", "--group", "a:b"}, {"--cancel", "--group", ""},
	} {
		c.fails(exitMisuse, append([]string{"switch", "add", name, "mail"}, list...)...)
	}
	c.fails(exitMisuse, "switch", "add", name, "", "--pause")
	c.fails(exitMisuse, "switch", "add", name, "--pause")
	c.fails(exitMisuse, "switch", "rm", name)
	c.fails(exitMisuse, "switch", "ls")
}

// The table gives way where people wrote much, and fits.
func TestSwitchTable(t *testing.T) {
	t.Parallel()
	now := time.Now()
	long := strings.Repeat("long ", 100)
	for _, list := range [][]stream.Switch{
		{{ID: "01234567", Action: stream.CancelJobs, Type: long, Field: long, Value: "\x1b" + long, Group: long, Reason: "\x1b" + long, Made: now.Add(-time.Hour), Expires: now.Add(time.Hour)}},
		{{ID: "01234567", Action: stream.PauseJobs, Type: "t", Reason: long, Made: now}},
		{{ID: "01234567", Action: stream.PauseJobs, Type: long, Made: now}},
		{{ID: "01234567", Action: stream.PauseJobs, Type: "short", Made: now}},
	} {
		for _, width := range []int{80, 100, 200} {
			header, rows := switchTable(list, now, width)
			var out output
			if err := (&app{out: &out}).table(header, rows); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(out.String()) {
				if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > width {
					t.Errorf("a line of %d characters, for a terminal of %d:\n%s", n, width, line)
				}
			}
			if list[0].Type == "t" && !strings.Contains(out.String(), "long long") || list[0].Type == "short" && !strings.Contains(out.String(), "  short ") {
				t.Errorf("more is left out than need be:\n%s", out.String())
			}
		}
	}
}

// TestSwitchHelpGolden pins the help of kill switches.
func TestSwitchHelpGolden(t *testing.T) {
	t.Parallel()
	s := newTranscript(t)
	s.run(variables{}, "", "switch", "--help")
	for _, verb := range []string{"ls", "add", "rm"} {
		s.run(variables{}, "", "switch", verb, "--help")
	}
	s.golden("help_switch")
}
