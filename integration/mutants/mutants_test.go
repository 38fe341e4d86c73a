package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTable keeps the mutants from rotting: each can still be made, and each of its tests is still there.
func TestTable(t *testing.T) {
	t.Parallel()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := changed(root, apart.edits); err != nil {
		t.Error(err)
	}
	names := make(map[string]bool)
	sources := make(map[string]string)
	for _, m := range table {
		if names[m.name] {
			t.Errorf("two mutants are called %q", m.name)
		}
		names[m.name] = true
		if m.name == "" || m.breaks == "" || m.invariant == "" || m.pkg == "" || len(m.tests) == 0 || len(m.edits) == 0 {
			t.Errorf("%q: something is missing: %+v", m.name, m)
		}
		if _, err := changed(root, m.edits); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		if sources[m.pkg] == "" {
			files, err := filepath.Glob(filepath.Join(root, m.pkg, "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				sources[m.pkg] += string(b)
			}
		}
		for _, test := range m.tests {
			function, _, _ := strings.Cut(test, "/")
			if !strings.Contains(sources[m.pkg], "\nfunc "+function+"(t *testing.T)") {
				t.Errorf("%s: %s has no %s", m.name, m.pkg, function)
			}
		}
	}
}

func TestKillers(t *testing.T) {
	t.Parallel()
	red := errors.New("exit status 1")
	for name, tc := range map[string]struct {
		output string
		err    error
		want   string
		fault  string
	}{
		"all passed":        {"PASS\n", nil, "[]", ""},
		"one failed":        {"--- FAIL: TestA (0.1s)\n    a_test.go:1: no\nFAIL\n", red, "[TestA]", ""},
		"a part of it":      {"--- FAIL: TestA (0.1s)\n    --- FAIL: TestA/x (0.1s)\n    --- PASS: TestA/y (0.1s)\n", red, "[TestA/x]", ""},
		"only what we want": {"--- FAIL: TestB (0.1s)\n    --- FAIL: TestB/other (0.1s)\n    --- FAIL: TestB/y (0.1s)\n", red, "[TestB/y]", ""},
		"another test":      {"--- FAIL: TestAnother (0.1s)\n", red, "[]", "without one that failed"},
		"hangs":             {"panic: test timed out after 1s\n\trunning tests:\n\t\tTestA (1s)\n--- FAIL: TestA (1.0s)\n", red, "[]", "hang"},
		"no server":         {"--- FAIL: TestA (0.1s)\n    no Redis for tests: not found\n", red, "[]", "no Redis"},
		"leaks":             {"PASS\ngoleak: Errors on successful test run\n", red, "[]", "without one that failed"},
	} {
		by, err := killers([]string{"TestA", "TestB/y"}, tc.output, tc.err)
		if fmt.Sprint(by) != tc.want || (err != nil) != (tc.fault != "") || err != nil && !strings.Contains(err.Error(), tc.fault) {
			t.Errorf("%s: %v, %v; want %s, %q", name, by, err, tc.want, tc.fault)
		}
	}
}

func TestPattern(t *testing.T) {
	t.Parallel()
	if got, want := pattern([]string{"TestA", "TestB/x_y/v1.0"}), `^TestA$|^TestB$/^x_y$/^v1\.0$`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// sample is a module with a script that is embedded, as the engine's are.
var sample = map[string]string{
	"go.mod":           "module sample\n\ngo 1.26.0\n",
	"p/lua/answer.lua": "42\n",
	"p/lua/other.lua":  "1\n",
	"p/p.go": `package p

import "embed"

//go:embed lua/*.lua
var sources embed.FS

func double(n int) int { return 2 * n }
`,
	"p/p_test.go": `package p

import "testing"

func TestAnswer(t *testing.T) {
	if answer, err := sources.ReadFile("lua/answer.lua"); string(answer) != "42\n" {
		t.Errorf("%s, %v", answer, err)
	}
}

func TestOther(t *testing.T) {
	if other, err := sources.ReadFile("lua/other.lua"); string(other) != "1\n" {
		t.Errorf("%s, %v", other, err)
	}
}

func TestDouble(t *testing.T) {
	for name, n := range map[string]int{"none": 0, "two": 2} {
		t.Run(name, func(t *testing.T) {
			if double(n) != n+n {
				t.Error(double(n))
			}
		})
	}
}
`,
}

// TestRunner runs mutants of a module of its own: one that dies, and all the ways not to.
func TestRunner(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for file, text := range sample {
		path := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := mutant{name: "script", tests: []string{"TestAnswer"}, edits: []edit{{"p/lua/answer.lua", "42", "43"}}}
	apart := scripts{dir: "p/lua", edits: []edit{
		{"p/p.go", `import "embed"`, `import ("io/fs"; "os")`},
		{"p/p.go", "//go:embed lua/*.lua\nvar sources embed.FS\n", `var sources = os.DirFS(os.Getenv("` + scriptsEnv + `")).(fs.ReadFileFS)` + "\n"},
	}}
	var reads *scripts // nil: each mutant is a build of its own
	try := func(timeout time.Duration, list ...mutant) (string, error) {
		for i := range list {
			list[i].pkg = "p"
		}
		var out bytes.Buffer
		r := runner{root: root, work: t.TempDir(), jobs: 2, timeout: timeout, scripts: reads, out: &out}
		err := r.run(t.Context(), list)
		return out.String(), err
	}
	expect := func(output, line string) {
		t.Helper()
		if !regexp.MustCompile("(?m)^" + line + "$").MatchString(output) {
			t.Errorf("no line %q in\n%s", line, output)
		}
	}

	for _, reads = range []*scripts{nil, &apart} {
		output, err := try(time.Minute, script,
			mutant{name: "code", tests: []string{"TestDouble/none", "TestDouble/two"}, edits: []edit{{"p/p.go", "2 * n", "3 * n"}}},
			mutant{name: "both", tests: []string{"TestDouble/two"}, edits: append(script.edits, edit{"p/p.go", "2 * n", "3 * n"})})
		if err != nil {
			t.Errorf("%v\n%s", err, output)
		}
		expect(output, "script .* killed by TestAnswer")
		expect(output, "code .* killed by TestDouble/two")
		expect(output, "both .* killed by TestDouble/two")
		if reads == nil {
			expect(output, "p without any change: 3 tests passed .*")
			continue
		}
		expect(output, "p without any change: 2 tests passed .*")
		expect(output, "p, scripts apart, without any change: 1 tests passed .*")
		output, err = try(time.Minute, mutant{name: "other", tests: []string{"TestOther"}, edits: script.edits})
		if err == nil || err.Error() != "not killed: other" {
			t.Errorf("a script that this test does not read: %v\n%s", err, output)
		}
	}

	alive := []mutant{
		script,
		{name: "unnoticed", tests: []string{"TestDouble/none"}, edits: []edit{{"p/p.go", "2 * n", "3 * n"}}},
		{name: "not Go", tests: []string{"TestDouble/two"}, edits: []edit{{"p/p.go", "2 * n", "2 +* n"}}},
		{name: "moved on", tests: []string{"TestDouble/two"}, edits: []edit{{"p/p.go", "4 * n", ""}}},
		{name: "not clear", tests: []string{"TestDouble/two"}, edits: []edit{{"p/p.go", "n", ""}}},
		{name: "hangs", tests: []string{"TestDouble/two"}, edits: []edit{{"p/p.go", "return 2 * n", "select {}"}}},
	}
	output, err := try(time.Second, slices.Clone(alive)...)
	if err == nil || err.Error() != "not killed: hangs, moved on, not Go, not clear, unnoticed" {
		t.Errorf("%v\n%s", err, output)
	}
	expect(output, "unnoticed .* SURVIVED")
	expect(output, "not Go .* ERROR: it does not build: .*")
	expect(output, "moved on .* ERROR: the text to replace occurs 0 times .*")
	expect(output, "not clear .* ERROR: the text to replace occurs [0-9]+ times .*")
	expect(output, "hangs .* ERROR: its tests hang")
	expect(output, "1 of 6 mutants killed in .*")

	if _, err := try(time.Minute, mutant{name: "gone", tests: []string{"TestGone"}, edits: script.edits}); err == nil || !strings.Contains(err.Error(), "no test TestGone") {
		t.Errorf("a test that is not there: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "p/lua/answer.lua"), []byte("42 \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err := try(time.Minute, script); err == nil || !strings.Contains(err.Error(), "red without any change") || strings.Contains(output, "killed") {
		t.Errorf("a red baseline: %v\n%s", err, output)
	}
}
