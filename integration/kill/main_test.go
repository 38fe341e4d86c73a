//go:build unix

package kill_test

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock-go/penstock/integration/kill"
)

// defaultFor is as long as it takes for each kind of fault to happen, whatever the seed.
const defaultFor = 75 * time.Second

var (
	forFlag      = flag.Duration("for", defaultFor, "how long TestKill strikes")
	seedFlag     = flag.Uint64("seed", 0, "of TestKill's plan and load (default: a new one)")
	rateFlag     = flag.Int("rate", 18, "jobs per second that TestKill publishes")
	penstockFlag = flag.String("penstock", "", "the program to test (default: built from this source)")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(withPrograms{m}) }

// programs are built once, when the first test asks.
var programs struct {
	once              sync.Once
	dir               string
	penstock, handler string
	err               error
}

type withPrograms struct{ m *testing.M }

func (w withPrograms) Run() int {
	code := w.m.Run()
	if programs.dir != "" {
		_ = os.RemoveAll(programs.dir)
	}
	return code
}

func build(t *testing.T) (penstock, handler string) {
	t.Helper()
	programs.once.Do(func() { programs.err = buildAll() })
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return programs.penstock, programs.handler
}

func buildAll() error {
	var err error
	if programs.dir, err = os.MkdirTemp("", "penstock-kill-"); err != nil {
		return err
	}
	programs.handler = filepath.Join(programs.dir, "handler")
	if err := goBuild(".", programs.handler, "./handler"); err != nil {
		return err
	}
	if programs.penstock = *penstockFlag; programs.penstock != "" {
		programs.penstock, err = filepath.Abs(programs.penstock)
		return err
	}
	programs.penstock = filepath.Join(programs.dir, "penstock")
	return goBuild("../..", programs.penstock, "./cmd/penstock")
}

func goBuild(dir, out, pkg string) error {
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, text)
	}
	return nil
}

func freshSeed() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:])                          // never fails (crypto/rand)
	return 1 + binary.LittleEndian.Uint64(b[:])>>40 // short enough to type
}

// start starts a driver whose logs are the test's artifacts, and closes it at the test's end.
func start(t *testing.T, cfg kill.Config) *kill.Driver {
	t.Helper()
	cfg.Dir, cfg.Logf = t.ArtifactDir(), t.Logf
	d, err := kill.Start(t.Context(), cfg)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// balance stops the fleet and fails the test with a report when the books do not balance.
func balance(t *testing.T, d *kill.Driver, drained error, title string) kill.Books {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	defer cancel()
	books, err := d.Finish(ctx)
	findings := kill.Check(books)
	t.Log(books.Summary())
	if err := errors.Join(drained, err); err != nil {
		t.Errorf("%s: %v", title, err)
	}
	if len(findings) > 0 {
		t.Errorf("%s\n%s", title, kill.Report{Books: books, Findings: findings, Logs: t.ArtifactDir()})
	}
	return books
}

// environment of the workers, with rules that follow from it.
func environment(lease, grace time.Duration) (map[string]string, kill.Rules) {
	return map[string]string{
			"PENSTOCK_LEASE": lease.String(), "PENSTOCK_GRACE": grace.String(), "PENSTOCK_MAX_JOBS": "10",
			"PENSTOCK_MAX_TRIES": "3", "PENSTOCK_MAX_CRASHES": "3", "PENSTOCK_RETRY_DELAY": "200ms", "PENSTOCK_RETRY_FACTOR": "1",
		}, kill.Rules{
			Lease: lease, Grace: grace, MaxTries: 3, MaxCrashes: 3,
		}
}
