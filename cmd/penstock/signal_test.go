//go:build unix

package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
)

// program is penstock as a process of its own, which can get signals.
func (c *cli) program(args ...string) (*exec.Cmd, *output) {
	c.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.CommandContext(c.t.Context(), self, args...)
	cmd.Env = []string{asProgram + "=1"}
	for name, value := range c.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var errs output
	cmd.Stderr = &errs
	return cmd, &errs
}

// ends waits for a process, and returns its exit status, or -1 when a signal ended it.
func ends(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	late := time.AfterFunc(15*time.Second, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	_ = cmd.Wait() // the state says it
	return cmd.ProcessState.ExitCode()
}

// TestHangup: a worker whose terminal is closed ends as with SIGTERM, and hears it more than once.
func TestHangup(t *testing.T) {
	t.Parallel()
	c := newCLI(t, "PENSTOCK_GRACE", "100ms")
	name, file := redistest.Name(t), filepath.Join(t.TempDir(), "runs")
	s := c.stream(name, stream.KindAny)
	if _, err := s.Publish(t.Context(), stream.Job{Type: "long", ID: "j"}); err != nil {
		t.Fatal(err)
	}
	cmd, errs := c.program("worker", name, "--env", "FILE="+file, "--", "sh", "-c", `echo started >> "$FILE"; sleep 300`)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the job has started", func() bool { _, err := os.Stat(file); return err == nil })
	for range 3 {
		_ = cmd.Process.Signal(syscall.SIGHUP)
		time.Sleep(time.Millisecond)
	}
	if status := ends(t, cmd); status != exitOK {
		t.Errorf("exit status %d\n%s", status, errs)
	}
	if d := c.depths(s, "default"); d.Waiting != 1 || d.Active+d.Retrying+d.Dead+d.Workers != 0 {
		t.Errorf("after the end: %+v, want the job waiting", d)
	}
}

// TestClosedOutput: penstock worker -v … 2>&1 | head -3
func TestClosedOutput(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	name := redistest.Name(t)
	s := c.stream(name, stream.KindAny)
	jobs := make([]stream.Job, 200)
	for i := range jobs {
		// nobody reads the data: that is no closed output
		jobs[i] = stream.Job{Type: "t", Data: strings.Repeat("x", 100_000)}
	}
	if _, err := s.PublishAll(t.Context(), jobs); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd, _ := c.program("worker", name, "-v", "--max-jobs", "2", "--", "sleep", "0.02")
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	lines := bufio.NewReader(r)
	for range 20 { // ten jobs and more: a signal of their pipes would have ended it
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	_ = r.Close()
	if status := ends(t, cmd); status < 0 {
		t.Errorf("a signal ended it: %s", cmd.ProcessState)
	}
	if d := c.depths(s, "default"); d.Active+d.Retrying+d.Dead+d.Workers != 0 || d.Waiting == 0 {
		t.Errorf("after the end: %+v, want none active, and some waiting", d)
	}
}

// TestPublishIsInterrupted: reading standard input or a FIFO is blind to a context.
func TestPublishIsInterrupted(t *testing.T) {
	t.Parallel()
	c, name := newCLI(t), redistest.Name(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"t", "-"}, {"t", "@" + fifo}, {"--ndjson", "@" + fifo}} {
		in, w := io.Pipe()
		defer w.Close()
		var out, errs output
		a := &app{in: in, out: &out, err: &errs, env: c.env}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		status := a.run(ctx, append([]string{"publish", name}, args...))
		cancel()
		if status != exitFailed || !strings.Contains(errs.String(), "interrupted, nothing was published") {
			t.Errorf("publish %q: exit status %d\n%s", args, status, errs.String())
		}
	}
	f, err := os.OpenFile(fifo, os.O_RDWR, 0) // lets go those that were left behind
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
}

// TestSecondSignalOfAProgram: worker hears it, though other commands would be killed by it.
func TestSecondSignalOfAProgram(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	name, file := redistest.Name(t), filepath.Join(t.TempDir(), "runs")
	s := c.stream(name, stream.KindAny)
	if _, err := s.Publish(t.Context(), stream.Job{Type: "long", ID: "j"}); err != nil {
		t.Fatal(err)
	}
	cmd, errs := c.program("worker", name, "--env", "FILE="+file, "--", "sh", "-c", `trap '' TERM; echo started >> "$FILE"; sleep 300`)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the job has started", func() bool { _, err := os.Stat(file); return err == nil })
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Process.Signal(syscall.SIGTERM) // of the first moment: one signal
	time.Sleep(sameStop + 500*time.Millisecond)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if status := ends(t, cmd); status != exitFailed || !strings.Contains(errs.String(), "stopped at once: 1 command killed") {
		t.Errorf("exit status %d\n%s", status, errs)
	}
	if d := c.depths(s, "default"); d.Active+d.Dead != 0 {
		t.Errorf("after the end: %+v, want the job back", d)
	}
}

// Ctrl-C ends a run, says what was measured, and leaves no key.
func TestBenchIsInterrupted(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	c := newCLI(t)
	cmd, out := c.program("bench", "--redis", server.URL(), "memory", "latency", "idle", "--duration", "300ms", "--pairs", "2")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, "the run is at work", func() bool { return rdb.DBSize(t.Context()).Val() > 2 })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if status := ends(t, cmd); status != exitFailed || !strings.Contains(out.String(), "penstock: stopped before all was measured\n") {
		t.Errorf("exit status %d: %s", status, out.String())
	}
	if keys := rdb.Keys(t.Context(), "*").Val(); len(keys) > 0 {
		t.Errorf("it leaves %q", keys)
	}
}
