// Package docs_test checks that the documentation is true.
package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// flat takes the indentation away, which is all that may differ.
func flat(code string) string {
	lines := strings.Split(strings.Trim(code, "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.Join(lines, "\n") + "\n"
}

// TestCode checks that each piece of Go in the README and the best practices stands word for
// word in a program or example that is compiled and run.
func TestCode(t *testing.T) {
	t.Parallel()
	var sources []string
	for _, dir := range []string{"examples", "../integration/examples", "../stream", "../consumer", "../scheduler"} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") && (strings.HasSuffix(dir, "examples") || strings.HasSuffix(path, "example_test.go")) {
				sources = append(sources, flat(read(t, path)))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, doc := range []string{"../README.md", "best-practices.md"} {
		blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(read(t, doc), -1)
		if len(blocks) < 4 {
			t.Fatalf("%s has %d pieces of Go, at least 4 were expected", doc, len(blocks))
		}
		for _, block := range blocks {
			found := false
			for _, source := range sources {
				found = found || strings.Contains(source, flat(block[1]))
			}
			if !found {
				t.Errorf("this is in %s, and in no example:\n%s", doc, block[1])
			}
		}
	}
}

// TestReadmeACL checks that the ACL user of the README may run every command of
// the scripts. integration/walk.sh lets one work.
func TestReadmeACL(t *testing.T) {
	t.Parallel()
	_, rest, _ := strings.Cut(read(t, "../README.md"), "<!-- acl:begin -->")
	acl, _, ok := strings.Cut(rest, "<!-- acl:end -->")
	if !ok {
		t.Fatal("the README has no ACL user")
	}
	allowed := make(map[string]bool)
	for _, word := range strings.Fields(acl) {
		if name, ok := strings.CutPrefix(word, "+"); ok {
			allowed[name] = true
		}
	}
	scripts, err := filepath.Glob("../stream/engine/lua/*.lua")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	call := regexp.MustCompile(`redis\.p?call\('(\w+)'(?:, '(\w+)')?`)
	for _, script := range scripts {
		for _, m := range call.FindAllStringSubmatch(read(t, script), -1) {
			name := strings.ToLower(m[1])
			if !allowed[name] && !allowed[name+"|"+strings.ToLower(m[2])] {
				t.Errorf("%s runs %s, which the README's ACL user may not", script, strings.TrimSpace(m[1]+" "+m[2]))
			}
		}
	}
}

var (
	link = regexp.MustCompile(`\]\(([^)]+)\)`)
	code = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`") // where a type parameter looks like a link
)

// TestLinks checks that what the documents link to in this repository is there.
func TestLinks(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{"../README.md", "../CHANGELOG.md", "../SECURITY.md", "../consumer/DESIGN.md", "wire-format.md", "best-practices.md", "cron.md"} {
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(read(t, doc), ""), -1) {
			target, _, _ := strings.Cut(m[1], "#")
			if target == "" || strings.Contains(target, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(doc), target)); err != nil {
				t.Errorf("%s links to %s, which is not there", doc, m[1])
			}
		}
	}
}

// TestDesignNamesTests checks that the tests which the design says stand behind its invariants are there.
func TestDesignNamesTests(t *testing.T) {
	t.Parallel()
	var sources strings.Builder
	for _, dir := range []string{"../stream", "../consumer", "../scheduler"} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, "_test.go") {
				sources.WriteString(read(t, path))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	_, items, _ := strings.Cut(read(t, "../consumer/DESIGN.md"), "## Non-obvious")
	list := regexp.MustCompile(`(?m)^\* `).Split(items, -1)[1:]
	if len(list) < 30 {
		t.Fatalf("the design has %d invariants, at least 30 were expected", len(list))
	}
	names := regexp.MustCompile(`\bTest\w+`)
	for _, item := range list {
		tests := names.FindAllString(item, -1)
		if len(tests) == 0 {
			t.Errorf("no test is named for: %s", item)
		}
		for _, name := range tests {
			if !strings.Contains(sources.String(), "func "+name+"(") {
				t.Errorf("the design names %s, which is no test", name)
			}
		}
	}
}
