package stream_test

import (
	"errors"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/penstock-go/penstock"

// TestBorders checks what each package of the library imports, directly or
// through others. The linter sees only direct imports, but all of ours.
func TestBorders(t *testing.T) {
	t.Parallel()
	core := []string{
		module + "/cmd",
		module + "/telemetry/export",
		"go.opentelemetry.io/otel/sdk",
		"github.com/spf13/cobra",
		"github.com/alicebob/miniredis",
		"github.com/go-analyze/charts",
		"testing",
	}
	const envconfig = "github.com/sethvargo/go-envconfig" // programs read the environment
	for name, others := range map[string][]string{
		"stream":          {module + "/consumer", module + "/scheduler", envconfig},
		"consumer":        {module + "/scheduler", envconfig},
		"scheduler":       {module + "/consumer", envconfig},
		"stream/env":      {module + "/consumer", module + "/scheduler"},
		"stream/redisenv": {module + "/consumer", module + "/scheduler"},
		"telemetry":       {module + "/stream", module + "/consumer", module + "/scheduler", envconfig, "github.com/redis/go-redis"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			importers := listDeps(t, name)
			for _, forbidden := range append(others, core...) {
				for path, importer := range importers {
					if path == forbidden || strings.HasPrefix(path, forbidden+"/") {
						t.Errorf("%s must not depend on %s, which %s imports", name, path, importer)
					}
				}
			}
		})
	}
}

// listDeps returns every package that the package in directory name of the
// module depends on, each with one that imports it.
func listDeps(t *testing.T, name string) map[string]string {
	t.Helper()
	// go test caches a pass by what the test itself opened, and go list is
	// another process: without this walk, a new import in consumer goes unseen.
	for _, dir := range []string{"stream", "consumer", "scheduler", "telemetry"} {
		err := filepath.WalkDir(filepath.Join("..", dir), func(_ string, _ fs.DirEntry, err error) error { return err })
		if err != nil {
			t.Fatalf("look for the packages: %v", err)
		}
	}

	pkg := module + "/" + name
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps",
		"-f", `{{.ImportPath}} {{len .GoFiles}} {{join .Imports " "}}`, pkg)
	out, err := cmd.Output()
	if err != nil {
		var stderr []byte
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			stderr = exit.Stderr
		}
		t.Fatalf("list the dependencies of %s: %v\n%s", pkg, err, stderr)
	}

	found := false
	importers := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if fields[0] == pkg {
			found = fields[1] != "0" // a directory with tests alone is listed too
		}
		for _, path := range fields[2:] {
			importers[path] = fields[0]
		}
	}
	if !found {
		t.Fatalf("package %s has no Go files besides tests, so its imports prove nothing", pkg)
	}
	return importers
}
