//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
)

// TestStreamSet declares what an events stream keeps, and shows it.
func TestStreamSet(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	first := func(out string) string {
		line, _, _ := strings.Cut(out, "\n")
		return strings.TrimPrefix(line, name+"  ")
	}
	if got := first(c.ok("stream", "create", name, "--kind", "events", "--retention", "24h")); got != "events, format 1, 0 entries, kept for 1d" {
		t.Errorf("create: %q", got)
	}
	for _, set := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--retention", "90m", "--retention-length", "1000"}, "events, format 1, 0 entries, kept for 1h30m, at most 1,000 entries"},
		{[]string{"--retention-length", "5000"}, "events, format 1, 0 entries, the last 5,000 entries kept"},
		{[]string{"--retention", "off"}, "events, format 1, 0 entries"},
	} {
		if got := first(c.ok(append([]string{"stream", "set", name}, set.flags...)...)); got != set.want {
			t.Errorf("set %v: %q, want %q", set.flags, got, set.want)
		}
	}
	c.ok("stream", "set", name, "--retention", "1h", "--retention-length", "7")
	if got := c.ok("stream", "show", name, "--json"); !strings.Contains(got, `"retention":{"age_ms":3600000,"length":7}`) {
		t.Errorf("show --json: %s", got)
	}
	for _, bad := range [][]string{
		{}, {"--retention", "x"}, {"--retention", "0s"}, {"--retention-length", "-1"}, {"--retention", "off", "--retention-length", "5"},
	} {
		if got := c.fails(exitMisuse, append([]string{"stream", "set", name}, bad...)...); !strings.Contains(got, "--retention") {
			t.Errorf("set %v: %s", bad, got)
		}
	}
	queue := redistest.Name(t) + "q"
	if got := c.fails(exitMisuse, "stream", "create", queue, "--kind", "queue", "--retention", "1h"); !strings.Contains(got, "events streams") {
		t.Errorf("a queue: %s", got)
	}
	c.ok("stream", "create", queue, "--kind", "queue")
	if got := c.fails(exitFailed, "stream", "set", queue, "--retention", "1h"); !strings.Contains(got, "no events stream") {
		t.Errorf("a queue: %s", got)
	}
}

// TestSchedulerOnceSaysWhatItDid: upkeep included.
func TestSchedulerOnceSaysWhatItDid(t *testing.T) {
	t.Parallel()
	rdb := redistest.Connect(t, &redis.Options{Addr: redistest.Server(t).Addr()})
	c := newCLI(t)
	c.env["REDIS_URL"] = "redis://" + rdb.Options().Addr
	if got := c.ok("scheduler", "--once"); got != "promoted 0 jobs, fired 0 ticks\n" {
		t.Errorf("without a stream: %q", got)
	}
	s, err := stream.New(rdb, "orders", stream.Config{Kind: stream.KindEvents})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), stream.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: "orders", ID: fmt.Sprint(i+1, "-0"), Values: []string{"a", "b"}})
	}
	rdb.XGroupCreate(t.Context(), "orders", "etl", "2-0")
	if got, want := c.ok("scheduler", "--once"), "promoted 0 jobs, fired 0 ticks\nupkeep of 1 stream: 2 entries trimmed\n  orders/etl  holds back: "; !strings.HasPrefix(got, want) {
		t.Errorf("%q, want %q…", got, want)
	}
	if got, want := c.ok("scheduler", "--once"), "promoted 0 jobs, fired 0 ticks\nupkeep of 1 stream: nothing to do\n"; !strings.HasPrefix(got, want) {
		t.Errorf("%q, want %q…", got, want)
	}
	var said struct {
		Promoted int64
		Upkeep   struct {
			Passes   int64
			Findings []struct{ Stream, Group, Kind, Advice string }
		}
	}
	if err := json.Unmarshal([]byte(c.ok("scheduler", "--once", "--json")), &said); err != nil || said.Upkeep.Passes != 1 || len(said.Upkeep.Findings) != 1 || said.Upkeep.Findings[0].Kind != "holds back" {
		t.Errorf("--json: %+v, %v", said, err)
	}
}
