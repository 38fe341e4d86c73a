package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// runner builds and tests mutants of the module at root.
type runner struct {
	root, work string
	jobs       int
	timeout    time.Duration // of one run of tests
	scripts    *scripts      // nil: there are none
	out        io.Writer
	verbose    bool
}

// run tests the unchanged code, then each mutant, and reports those that no test kills as an error.
func (r *runner) run(ctx context.Context, list []mutant) error {
	start := time.Now()
	if err := r.baseline(ctx, list); err != nil {
		return err
	}
	var mu sync.Mutex
	var bad []string
	width := 0
	for _, m := range list {
		width = max(width, len(m.name))
	}
	r.each(len(list), func(i int) {
		m := list[i]
		o := r.try(ctx, m, filepath.Join(r.work, fmt.Sprint(i)))
		if ctx.Err() != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(r.out, "%-*s  %5.1fs + %4.1fs  %s\n", width, m.name, o.built.Seconds(), o.tested.Seconds(), o)
		switch {
		case o.err != nil || len(o.by) == 0:
			bad = append(bad, m.name)
			fmt.Fprintf(r.out, "  it breaks: %s (%s)\n%s", m.breaks, m.invariant, indent(o.output))
		case r.verbose:
			fmt.Fprint(r.out, indent(o.output))
		}
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	fmt.Fprintf(r.out, "%d of %d mutants killed in %.0fs\n", len(list)-len(bad), len(list), time.Since(start).Seconds())
	if len(bad) > 0 {
		slices.Sort(bad)
		return fmt.Errorf("not killed: %s", strings.Join(bad, ", "))
	}
	return nil
}

// each calls f for 0 to n-1, jobs at a time.
func (r *runner) each(n int, f func(int)) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(r.jobs, n) {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// baseline runs all chosen tests on the code as it is: each has to be there, and to pass.
func (r *runner) baseline(ctx context.Context, list []mutant) error {
	chosen := make(map[program][]string)
	for _, m := range list {
		p := r.programOf(m)
		chosen[p] = append(chosen[p], m.tests...)
	}
	dir := filepath.Join(r.work, "baseline")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for p, tests := range chosen {
		slices.Sort(tests)
		tests = slices.Compact(tests)
		start := time.Now()
		replaced := ""
		if p.scripts {
			var err error
			if replaced, err = overlay(r.root, dir, r.scripts.edits, nil); err != nil {
				return err
			}
			if err := r.scripts.write(r.root, dir, nil); err != nil {
				return err
			}
		}
		if output, err := r.build(ctx, p.pkg, replaced, r.binary(p)); err != nil {
			return fmt.Errorf("%s does not build without any change: %w\n%s", p, err, output)
		}
		output, err := r.test(ctx, p.pkg, r.binary(p), dir, tests, "-test.v")
		if err != nil {
			return fmt.Errorf("the tests of %s are red without any change: %w\n%s", p, err, output)
		}
		passed, _ := results(output)
		for _, name := range tests {
			if !slices.Contains(passed, name) {
				return fmt.Errorf("%s has no test %s, or it did not run", p, name)
			}
		}
		fmt.Fprintf(r.out, "%s without any change: %d tests passed (%.1fs)\n", p, len(tests), time.Since(start).Seconds())
	}
	return nil
}

// program is the test binary of a package; with scripts it reads those when it starts.
type program struct {
	pkg     string
	scripts bool
}

func (p program) String() string {
	if p.scripts {
		return p.pkg + ", scripts apart,"
	}
	return p.pkg
}

func (r *runner) programOf(m mutant) program { return program{m.pkg, r.scripts.holds(m)} }

func (r *runner) binary(p program) string {
	name := strings.ReplaceAll(p.pkg, "/", "_")
	if p.scripts {
		name += "_scripts"
	}
	return filepath.Join(r.work, name+".test")
}

// outcome is what became of a mutant: killed by some tests, or by none; or an error: nothing was proven.
type outcome struct {
	by            []string
	err           error
	output        string
	built, tested time.Duration
}

func (o outcome) String() string {
	switch {
	case o.err != nil:
		return "ERROR: " + o.err.Error()
	case len(o.by) == 0:
		return "SURVIVED"
	}
	return "killed by " + strings.Join(o.by, ", ")
}

// try makes one mutant in dir and runs its tests.
func (r *runner) try(ctx context.Context, m mutant, dir string) (o outcome) {
	if o.err = os.Mkdir(dir, 0o700); o.err != nil {
		return o
	}
	defer os.RemoveAll(dir) // a binary has 20 MB
	start := time.Now()
	bin := filepath.Join(dir, "mutant.test")
	if p := r.programOf(m); p.scripts {
		bin = r.binary(p)
		if o.err = r.scripts.write(r.root, dir, m.edits); o.err != nil {
			return o
		}
	} else {
		var replaced string
		var empty map[string]string
		if empty, o.err = needless(filepath.Join(r.root, m.pkg), m.tests); o.err != nil {
			return o
		}
		if replaced, o.err = overlay(r.root, dir, m.edits, empty); o.err != nil {
			return o
		}
		var err error
		if o.output, err = r.build(ctx, m.pkg, replaced, bin); err != nil {
			o.err = fmt.Errorf("it does not build: %w", err)
			return o
		}
	}
	o.built = time.Since(start)
	start = time.Now()
	output, err := r.test(ctx, m.pkg, bin, dir, m.tests, "-test.failfast")
	o.output = output
	o.tested = time.Since(start)
	o.by, o.err = killers(m.tests, o.output, err)
	return o
}

// build makes the package's test binary, with the files of an overlay in place of the real ones when there is one.
func (r *runner) build(ctx context.Context, pkg, replaced, bin string) (string, error) {
	args := []string{"test", "-c", "-o", bin, "-gcflags=-N -l", "-ldflags=-s -w"} // most of the time goes into compiling: as little as can be
	if replaced != "" {
		args = append(args, "-overlay", replaced)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./"+pkg)...)
	cmd.Dir = r.root
	return output(ctx, cmd)
}

// test runs tests of a binary once, in the package's directory as go test does. A binary that reads
// its scripts when it starts finds them in dir.
func (r *runner) test(ctx context.Context, pkg, bin, dir string, tests []string, flags ...string) (string, error) {
	args := append([]string{"-test.count=1", "-test.timeout=" + r.timeout.String(), "-test.run=" + pattern(tests)}, flags...)
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir = filepath.Join(r.root, pkg)
	cmd.Env = append(cmd.Environ(), scriptsEnv+"="+dir)
	return output(ctx, cmd)
}

// output runs a command and returns what it wrote.
func output(ctx context.Context, cmd *exec.Cmd) (string, error) {
	cmd.WaitDelay = 5 * time.Second // a server that a test left behind may keep the output open
	var buf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &buf
	err := cmd.Run()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = errors.Join(cause, err)
	}
	return buf.String(), err
}

// shown is how much of a test's output is worth showing: a hang comes with all stacks.
const shown = 60

func indent(output string) string {
	lines := strings.Split(strings.TrimRight(output, "\n"), "\n")
	if len(lines) > shown {
		lines = append(lines[:shown:shown], fmt.Sprintf("… and %d lines more", len(lines)-shown))
	}
	return "    " + strings.Join(lines, "\n    ") + "\n"
}
