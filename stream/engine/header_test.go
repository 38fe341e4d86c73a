package engine_test

import (
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

var (
	numbered = regexp.MustCompile(`(?:^|  )(\d+)(\.\.)? `)
	used     = regexp.MustCompile(`(KEYS|ARGV)\[(\d+)\]`)
)

// TestScriptHeaders checks three things against each other: what a script's
// header says of KEYS and ARGV, what its text uses, and what the Go call passes.
func TestScriptHeaders(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for name, sc := range scenarios {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := sc.prepare(newWorld(t, rdb, redistest.Name(t)))
			source := c.Script.Source()
			if want := "-- " + c.Script.Name() + " "; !strings.HasPrefix(source, want) || !strings.HasPrefix(name, c.Script.Name()) {
				t.Errorf("its header does not begin with %q", want)
			}
			if !strings.Contains(source, "\n-- returns ") {
				t.Error("its header does not say what it returns")
			}
			if strings.HasPrefix(source, "#!") {
				t.Error("a #! line: refused at maxmemory")
			}
			passed := map[string]int{"KEYS": len(c.Keys), "ARGV": len(c.Args)}
			for list, n := range passed {
				said, open := header(t, source, list)
				if said != n && (!open || n < said-1) { // what may be any number may be none
					t.Errorf("the header has %d %s, open end %v; the call passes %d", said, list, open, n)
				}
				for _, m := range used.FindAllStringSubmatch(source, -1) {
					if i, _ := strconv.Atoi(m[2]); m[1] == list && (i > said || i == 0) && !open {
						t.Errorf("it uses %s, the header has %d", m[0], said)
					}
				}
			}
		})
	}
}

// header returns how many of KEYS or ARGV a script's header names, and whether more may follow.
func header(t *testing.T, source, list string) (n int, open bool) {
	t.Helper()
	for line := range strings.Lines(source) {
		text, found := strings.CutPrefix(line, "-- "+list+": ")
		if !found {
			continue
		}
		if strings.HasPrefix(text, "pairs of ") {
			return 2, true
		}
		for i, m := range numbered.FindAllStringSubmatch(text, -1) {
			if m[1] != strconv.Itoa(i+1) {
				t.Errorf("the header's %s are not numbered in order: %s", list, text)
			}
			n, open = i+1, m[2] != ""
		}
		return n, open
	}
	t.Errorf("the header does not name its %s", list)
	return 0, false
}

// TestScriptsAreAll: every file is among Scripts, or a part of one.
func TestScriptsAreAll(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(engine.Sources, "lua/*.lua")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, s := range engine.Scripts() {
		all.WriteString("lua/" + s.Name() + ".lua\n")
		if _, part, ok := strings.Cut(s.Source(), "\n-- Part: "); ok {
			part, _, _ = strings.Cut(part, "\n")
			all.WriteString("lua/" + part + "\n")
		}
	}
	for _, file := range files {
		if !strings.Contains(all.String(), file+"\n") {
			t.Errorf("%s is not among the scripts", file)
		}
	}
}
