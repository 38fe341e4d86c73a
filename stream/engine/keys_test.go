package engine_test

import (
	"strings"
	"testing"

	"github.com/penstock-go/penstock/stream/engine"
)

func TestCheckName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"orders", "orders:paid", "tenant/7", "ä", strings.Repeat("n", 256), "{tenant}orders", "{tenant}:orders", "a{b}c", "orders{7}", "penstock",
		"orders:config", "{t}:orders:jobs", "{t}:configs", "{t}:gs", "{t}x:y", "{t}:orders:g2",
	} {
		if err := engine.CheckName(name); err != nil {
			t.Errorf("%q is refused: %v", name, err)
		}
	}
	for name, says := range map[string]string{
		"": "empty", strings.Repeat("n", 257): "257", "a b": "spaces", "a\n": "control", "\xff": "UTF-8", "penstock:streams": "ours",
		"{": "braces", "}": "braces", "{}": "braces", "{}a": "braces", "a}b{": "braces", "{a}{b}": "braces", "{a}}": "braces", "{{a}": "braces", "a{": "braces",
		"{a}": "stream \"a\"", "{a}:config": "own", "{a}:ids": "own", "{a}:scheduled": "own", "{a}:scheduled:jobs": "own", "{a}:g:g:dead": "own",
		"{a}:g": "own", "{a}:job": "own", "{a}:unique": "own", "{a}:sweep": "own", "{a}:g:x": "own", "{a}:next:x": "own", "{a}b:c:job": "own",
		"{a}:job:7": "own", "{a}b:config": "own", "{a}:b:next": "own", "{a}:workers": "own", "{a}:upkeep": "own",
	} {
		if err := engine.CheckName(name); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want an error saying %q", name, err, says)
		}
	}
}

// TestKeysAreApart: no key of one stream is a key of another, and all are in one slot.
func TestKeysAreApart(t *testing.T) {
	t.Parallel()
	owner := make(map[string]string)
	for _, name := range []string{"a", "b", "{a}b", "b{a}", "{a}:b", "a:config", "ab"} {
		if err := engine.CheckName(name); err != nil {
			t.Fatal(err)
		}
		k := engine.NewKeys(name)
		keys := []string{k.Stream, k.Config, k.IDs, k.Scheduled, k.ScheduledJobs, k.Job("config"), k.Job("x")}
		for _, group := range []string{"g", "h"} {
			q, e := k.Group(group, false), k.Group(group, true)
			keys = append(keys, q.Redelivery, q.Suspects, q.Retrying, q.RetryingJobs, q.Dead, e.IDs)
			if q.IDs != k.IDs || e.IDs == k.IDs {
				t.Errorf("the ids of %s/%s: %s on a queue, %s on an events stream", name, group, q.IDs, e.IDs)
			}
		}
		for _, key := range keys {
			if other := owner[key]; other != "" {
				t.Errorf("%s is a key of %q and of %q", key, other, name)
			}
			owner[key] = name
			if tag(key) != tag(name) {
				t.Errorf("%s is in the slot of %q, %s in that of %q", key, tag(key), name, tag(name))
			}
		}
	}
}

// tag is the part of a key that decides its slot, as a Redis Cluster sees it.
func tag(key string) string {
	if _, rest, found := strings.Cut(key, "{"); found {
		if t, _, found := strings.Cut(rest, "}"); found && t != "" {
			return t
		}
	}
	return key
}

func TestCheckGroupAndID(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"billing", "ä", "a/b", strings.Repeat("g", 128)} {
		if err := engine.CheckGroup(name); err != nil {
			t.Errorf("group %q is refused: %v", name, err)
		}
		if err := engine.CheckID(name); err != nil {
			t.Errorf("ID %q is refused: %v", name, err)
		}
	}
	for _, name := range []string{"", "a:b", "a{b", "a}b", "a b", "\x7f", "\xff", strings.Repeat("g", 129)} {
		if engine.CheckGroup(name) == nil {
			t.Errorf("group %q is accepted", name)
		}
	}
	for _, id := range []string{"1-1", "0-0", "a b", "\x00", "\xff", strings.Repeat("i", 129)} {
		if engine.CheckID(id) == nil {
			t.Errorf("ID %q is accepted", id)
		}
	}
	for id, want := range map[string]bool{"1-1": true, "01-0": true, "-1": false, "1-": false, "1": false, "a-1": false, "1-1-1": false, "": false} {
		if engine.IsEntryID(id) != want {
			t.Errorf("IsEntryID(%q) is %v", id, !want)
		}
	}
}
