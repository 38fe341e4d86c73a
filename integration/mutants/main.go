// Command mutants breaks the engine in one place at a time, and checks that a
// test of its own turns red each time: what no test would notice, the next
// change may break. Run it from the integration module:
//
//	go run ./mutants [-only regexp] [-v]
//
// A mutant is a row of the table in table.go: what it breaks, which promise of
// the design that is, one or more replacements in the product's sources, and the
// tests that have to notice. Each text that is replaced occurs exactly once in
// its file, or the run fails; and so does it when a chosen test is gone or red
// without any change. A mutant that does not build, or whose tests hang or end
// without one of them failing, is an error and no kill: nothing was proven.
//
// The sources stay as they are: the changed files go to a temporary directory,
// and `go test -overlay` puts them in place of the real ones, which holds for
// the embedded .lua files too. To save time, mutants of scripts alone share one
// build for each package, whose overlay has the engine read its scripts from a
// directory when it starts; their tests run once on unchanged scripts that way.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func main() {
	only := flag.String("only", "", "run the mutants whose names match this regular expression")
	verbose := flag.Bool("v", false, "show what the tests of killed mutants wrote")
	jobs := flag.Int("j", min(runtime.NumCPU()+1, 4), "how many mutants to build and test at a time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *only, *verbose, *jobs); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, verbose bool, jobs int) error {
	match, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	var chosen []mutant
	for _, m := range table {
		if match.MatchString(m.name) {
			chosen = append(chosen, m)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no mutant's name matches %q", only)
	}
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "penstock-mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	r := runner{root: root, work: work, jobs: max(jobs, 1), timeout: 90 * time.Second, scripts: &apart, out: os.Stdout, verbose: verbose}
	return r.run(ctx, chosen)
}

const module = "github.com/penstock-go/penstock"

// moduleRoot is the nearest directory above the working directory that holds the product's module.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module "+module+"\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no directory above this one holds the module %s", module)
		}
		dir = filepath.Dir(dir)
	}
}
