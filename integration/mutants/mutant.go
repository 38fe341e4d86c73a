package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// mutant is one way to break the product.
type mutant struct {
	name      string
	breaks    string   // what it does, in place of what is right
	invariant string   // which promise that breaks
	pkg       string   // directory of the package whose tests must notice
	tests     []string // those tests, as go test names them: one of them has to fail
	edits     []edit
}

// edit replaces text in a file, which is named from the module's root. The old text occurs there once.
type edit struct{ file, old, new string }

// changed returns the files that the edits make, by their names.
func changed(root string, edits []edit) (map[string]string, error) {
	files := make(map[string]string)
	for _, e := range edits {
		text, seen := files[e.file]
		if !seen {
			b, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return nil, err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return nil, fmt.Errorf("the text to replace occurs %d times in %s, want once: the code has moved on, and so must the mutant: %q", n, e.file, e.old)
		}
		files[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	return files, nil
}

// overlay writes what edits make to dir, and other files by their paths, with what tells the go command of it, and returns the latter's path.
func overlay(root, dir string, edits []edit, others map[string]string) (string, error) {
	files, err := changed(root, edits)
	if err != nil {
		return "", err
	}
	replace := make(map[string]string)
	write := func(file, path, text string) error {
		to := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		replace[path] = to
		return os.WriteFile(to, []byte(text), 0o600)
	}
	for path, text := range others {
		if err := write(filepath.Base(path), path, text); err != nil {
			return "", err
		}
	}
	for file, text := range files {
		if err := write(file, filepath.Join(root, file), text); err != nil {
			return "", err
		}
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	to := filepath.Join(dir, "overlay.json")
	return to, os.WriteFile(to, b, 0o600)
}

// scripts tells how to build a program that reads its scripts when it starts, in
// place of those it was built with: mutants of scripts alone need no build each.
type scripts struct {
	dir   string // of the scripts, from the module's root; their names end in .lua
	edits []edit
}

// scriptsEnv names the directory that holds the scripts' own, for a program that reads them when it starts.
const scriptsEnv = "PENSTOCK_MUTANT_SCRIPTS"

// holds reports whether all that the mutant changes are scripts.
func (s *scripts) holds(m mutant) bool {
	return s != nil && !slices.ContainsFunc(m.edits, func(e edit) bool { return path.Dir(e.file) != s.dir })
}

// write puts the directory of scripts into dir, those that edits change as they make them.
func (s *scripts) write(root, dir string, edits []edit) error {
	files, err := changed(root, edits)
	if err != nil {
		return err
	}
	sources, err := filepath.Glob(filepath.Join(root, s.dir, "*.lua"))
	if err != nil {
		return err
	}
	to := filepath.Join(dir, path.Base(s.dir))
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, source := range sources {
		name := filepath.Base(source)
		text, ok := files[path.Join(s.dir, name)]
		if !ok {
			b, err := os.ReadFile(source)
			if err != nil {
				return err
			}
			text = string(b)
		}
		if err := os.WriteFile(filepath.Join(to, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// pattern is what -test.run takes to run the named tests and no others.
func pattern(tests []string) string {
	each := make([]string, len(tests))
	for i, name := range tests {
		parts := strings.Split(name, "/")
		for j, part := range parts {
			parts[j] = "^" + regexp.QuoteMeta(part) + "$"
		}
		each[i] = strings.Join(parts, "/")
	}
	return strings.Join(each, "|")
}

var result = regexp.MustCompile(`(?m)^\s*--- (PASS|FAIL): (\S+) \(`)

// results returns which tests passed, and which failed, as a test binary's output has them.
func results(output string) (passed, failed []string) {
	for _, m := range result.FindAllStringSubmatch(output, -1) {
		if m[1] == "PASS" {
			passed = append(passed, m[2])
		} else {
			failed = append(failed, m[2])
		}
	}
	return passed, failed
}

// killers returns which of the tests failed in a run that ended with err and
// printed output. An error says why the run proves nothing; none of both: the mutant lives.
func killers(tests []string, output string, err error) ([]string, error) {
	switch {
	case strings.Contains(output, "panic: test timed out after"):
		return nil, fmt.Errorf("its tests hang")
	case strings.Contains(output, "no Redis for"):
		return nil, fmt.Errorf("its tests had no Redis")
	case err == nil:
		return nil, nil
	}
	_, failed := results(output)
	var by []string
	for _, name := range failed {
		within := func(other string) bool { return name == other || strings.HasPrefix(name, other+"/") }
		inner := func(other string) bool { return strings.HasPrefix(other, name+"/") }
		if slices.ContainsFunc(tests, within) && !slices.ContainsFunc(failed, inner) {
			by = append(by, name)
		}
	}
	if len(by) == 0 {
		return nil, fmt.Errorf("its tests ended without one that failed: %w", err)
	}
	slices.Sort(by)
	return by, nil
}
