//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
)

var bytesText = regexp.MustCompile(`[\d.]+ K?B\b`)

func TestStreamShow(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	if got := c.fails(exitFailed, "stream", "show", name); got != "penstock: stream "+name+": not found\n" {
		t.Errorf("no stream: %s", got)
	}
	s := kill(t, c, name, threeDead...)
	if _, err := s.PublishAll(t.Context(), []stream.Job{{Type: "a"}, {Type: "b"}, {Type: "later", Delay: 3600e9}}); err != nil {
		t.Fatal(err)
	}
	got := stable(bytesText.ReplaceAllString(c.ok("stream", "show", name), "SIZE"), name)
	got = regexp.MustCompile(`3  (\S+)  0\n`).ReplaceAllString(got, "3  AGE  0\n")
	if want := `stream  NAME  queue, format 1, 2 entries, SIZE
GROUP  WAITING  ACTIVE  SCHEDULED  RETRYING  DEAD  OLDEST  WORKERS
billing  2  0  1  0  3  AGE  0
`; got != want {
		t.Errorf("stream show:\n%s\nwant:\n%s", got, want)
	}
	if text := c.ok("stream", "show", name, "--json"); !strings.Contains(text, `"oldest_ms":`) || strings.Contains(text, `"oldest":`) {
		t.Errorf("--json: %s", text)
	}
	var d struct {
		Name   string
		Kind   string
		Groups []groupDepths
	}
	if err := json.Unmarshal([]byte(c.ok("stream", "show", name, "--json")), &d); err != nil || d.Name != name || d.Kind != "queue" ||
		len(d.Groups) != 1 || d.Groups[0].Waiting != 2 || d.Groups[0].Dead != 3 {
		t.Errorf("--json: %+v, %v", d, err)
	}
	if list := c.ok("stream", "ls"); !regexp.MustCompile(regexp.QuoteMeta(name) + ` +queue +2 +1 +billing\n`).MatchString(list) {
		t.Errorf("stream ls:\n%s", list)
	}
	if list := c.ok("stream", "ls", "--json"); !strings.Contains(list, `{"name":"`+name+`","kind":"queue","format":1,"entries":2,"scheduled":1,`) {
		t.Errorf("stream ls --json:\n%s", list)
	}
}

func TestStreamLsWithBadStreams(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t) // its own: what is in the registry is for all to see
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	c := &cli{t, variables{"REDIS_URL": server.URL()}, rdb}
	c.ok("stream", "create", "orders", "--kind", "queue")
	if err := errors.Join(rdb.SAdd(t.Context(), "penstock:streams", "a bad name", "a-string").Err(), rdb.Set(t.Context(), "a-string", "x", 0).Err()); err != nil {
		t.Fatal(err)
	}
	got := c.run(t.Context(), "stream", "ls")
	if got.status != exitFailed || got.err != "" || strings.Count(got.out, "\n") != 4 ||
		!regexp.MustCompile(`(?m)^a bad name +error .+\n^a-string +error .+\n^orders +queue `).MatchString(got.out) {
		t.Errorf("exit status %d\n%s%s", got.status, got.out, got.err)
	}
	got = c.run(t.Context(), "stream", "ls", "--json")
	if got.status != exitFailed || strings.Count(got.out, `"error":"`) != 2 || !strings.Contains(got.out, `{"name":"orders","kind":"queue"`) {
		t.Errorf("--json: exit status %d\n%s%s", got.status, got.out, got.err)
	}
}

func TestStreamCreate(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	c.golden(name, "NAME  events, format 1, 0 entries\n", "stream", "create", name, "--kind", "events")
	c.golden(name, "NAME  events, format 1, 0 entries\n", "stream", "create", name, "--kind", "events") // again
	if got := c.fails(exitFailed, "stream", "create", name, "--kind", "queue"); got != "penstock: "+name+" is declared as events, and a kind cannot be changed\n" {
		t.Errorf("another kind: %s", got)
	}
	c.golden(name, "stream  NAME  events, format 1, 0 entries\nno groups: the first worker makes one\n", "stream", "show", name)
	for _, args := range [][]string{{name}, {name, "--kind", "x"}, {"--kind", "queue"}, {"a b", "--kind", "queue"}} {
		c.fails(exitMisuse, append([]string{"stream", "create"}, args...)...)
	}
}

func TestStreamCreateForeign(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	foreignStream(t, c, name, 2, "etl", "archive")
	want := `penstock: NAME already holds 2 entries and 2 groups (archive, etl) that Penstock did not make
  as a queue its entries are deleted as they complete, and archive and etl would lose them
  use --kind events, or --kind queue --force
`
	if got := strings.ReplaceAll(c.fails(exitFailed, "stream", "create", name, "--kind", "queue"), name, "NAME"); got != want {
		t.Errorf("it says:\n%s\nwant:\n%s", got, want)
	}
	out := stable(bytesText.ReplaceAllString(c.ok("stream", "show", name), "SIZE"), name)
	if want := "stream  NAME  undeclared, 2 entries, SIZE\nGROUP  WAITING  ACTIVE  SCHEDULED  RETRYING  DEAD  OLDEST  WORKERS\narchive (foreign)  –  –  –  –  –  –  –\netl (foreign)  –  –  –  –  –  –  –\n"; out != want {
		t.Errorf("stream show:\n%s\nwant:\n%s", out, want)
	}
	out = c.ok("stream", "create", name, "--kind", "queue", "--force")
	if !strings.Contains(out, "queue, format 1, 2 entries") || !strings.Contains(out, "it has 2 groups (archive, etl), and a queue works with one") {
		t.Errorf("--force says:\n%s", out)
	}
}

// TestHelp keeps what commands say of themselves.
func TestHelp(t *testing.T) {
	t.Parallel()
	c := &cli{t: t, env: variables{}}
	for noun, verbs := range map[string][]string{
		"worker": nil,
		"dead":   {"ls", "show", "redrive", "purge"},
		"stream": {"ls", "show", "create"},
	} {
		text := c.ok(noun, "--help")
		for _, verb := range verbs {
			text += "\n$ penstock " + noun + " " + verb + " --help\n" + c.ok(noun, verb, "--help")
		}
		compareGolden(t, "help_"+noun, text)
	}
}

func TestUnknownWaiting(t *testing.T) {
	t.Parallel()
	if row := (groupDepths{Name: "g", Depths: stream.Depths{Waiting: -1}}).row(); row[1] != "?" {
		t.Errorf("a number that is not known is shown as %q", row[1])
	}
}
