package main

import (
	"bufio"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
)

const bullmqName = "BullMQ"

//go:embed bullmq/bench.mjs bullmq/package.json
var bullmqFiles embed.FS

// bullmqPeer is BullMQ in a process of Node, which publishes and works, as this process does for the others.
type bullmqPeer struct {
	h          *bench.Harness
	host, port string
	cmd        *exec.Cmd
	in         io.WriteCloser
	out        *bufio.Reader
	said       strings.Builder // what it wrote to standard error
}

// request and answer are lines between this process and bench.mjs. Times are in milliseconds.
type request struct {
	Do        string  `json:"do"`
	Queue     string  `json:"queue,omitempty"`
	Host      string  `json:"host"`
	Port      int     `json:"port"`
	N         int     `json:"n"`
	Callers   int     `json:"callers,omitempty"`
	Payload   int     `json:"payload"`
	Rate      float64 `json:"rate,omitempty"`
	Ahead     float64 `json:"ahead,omitempty"`
	PerSecond float64 `json:"perSecond,omitempty"`
}

type answer struct {
	Error     string    `json:"error"`
	Took      float64   `json:"took"`
	Latencies []float64 `json:"latencies"`
	BullMQ    string    `json:"bullmq"`
	Node      string    `json:"node"`
}

// left says why a peer is not measured here; it is no failure.
type left struct{ why string }

func (l *left) Error() string { return l.why }

// newBullMQ installs BullMQ where it is not yet, and starts it. node is the version of the program that runs it.
func newBullMQ(ctx context.Context, h *bench.Harness, rdb *redis.Client, tell func(string)) (p *peer, node string, err error) {
	if os.Getenv("CI") == "true" {
		return nil, "", &left{"CI=true, where nothing is installed from npm"}
	}
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, "", &left{"there is no " + program + " here"}
		}
	}
	dir, err := installBullMQ(ctx, tell)
	if err != nil {
		return nil, "", &left{"npm could not install it: " + err.Error()}
	}
	b := &bullmqPeer{h: h, cmd: exec.Command("node", "bench.mjs")} //nolint:gosec // no input of anybody's
	if b.host, b.port, err = net.SplitHostPort(rdb.Options().Addr); err != nil {
		return nil, "", err
	}
	b.cmd.Dir, b.cmd.Stderr = dir, &b.said
	if b.in, err = b.cmd.StdinPipe(); err != nil {
		return nil, "", err
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	b.out = bufio.NewReader(out)
	if err := b.cmd.Start(); err != nil {
		return nil, "", err
	}
	versions, err := b.ask(ctx, request{Do: "versions"})
	if err != nil {
		return nil, "", errors.Join(err, b.close())
	}
	return &peer{
		name: bullmqName, version: versions.BullMQ,
		drain:    b.do(request{Do: "drain"}),
		publish:  b.do(request{Do: "publish", Callers: callers}),
		latency:  b.do(request{Do: "latency", Rate: h.Config().Rate}),
		deferred: b.do(request{Do: "deferred", PerSecond: 100}),
		close:    b.close,
	}, versions.Node, nil
}

// installBullMQ returns a folder of the user's cache with the script and what it needs.
func installBullMQ(ctx context.Context, tell func(string)) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	manifest, err := bullmqFiles.ReadFile("bullmq/package.json")
	if err != nil {
		return "", err
	}
	script, err := bullmqFiles.ReadFile("bullmq/bench.mjs")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "penstock-perf", "bullmq")
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // public code
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "bench.mjs"), script, 0o644); err != nil { //nolint:gosec // public code
		return "", err
	}
	// the manifest is written last, when all it names is there
	installed, err := os.ReadFile(filepath.Join(dir, "installed.json")) //nolint:gosec // a folder of ours
	if err == nil && slices.Equal(installed, manifest) {
		return dir, nil
	}
	tell("installing BullMQ by npm into " + dir)
	if err := os.WriteFile(filepath.Join(dir, "package.json"), manifest, 0o644); err != nil { //nolint:gosec // public code
		return "", err
	}
	cmd := exec.CommandContext(ctx, "npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts")
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, lastLine(said))
	}
	return dir, os.WriteFile(filepath.Join(dir, "installed.json"), manifest, 0o644) //nolint:gosec // public code
}

func lastLine(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// do measures by asking the process.
func (b *bullmqPeer) do(r request) run {
	return func(ctx context.Context, n int) (bench.Sample, error) {
		r := r
		r.Queue, r.N, r.Payload = b.h.Name(), n, b.h.Config().Payload
		r.Ahead = float64(aheadOf(n) / time.Millisecond)
		a, err := b.ask(ctx, r)
		if err != nil {
			return bench.Sample{}, err
		}
		s := bench.Sample{Jobs: n, Took: milliseconds(a.Took)}
		for _, ms := range a.Latencies {
			s.Latencies = append(s.Latencies, milliseconds(ms))
		}
		slices.Sort(s.Latencies)
		s.Course = []bench.Mark{{At: s.Took, Jobs: int64(n)}}
		return s, nil
	}
}

func milliseconds(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// ask sends a request and waits for its answer. The end of ctx ends the process.
func (b *bullmqPeer) ask(ctx context.Context, r request) (a answer, err error) {
	r.Host = b.host
	if r.Port, err = strconv.Atoi(b.port); err != nil {
		return a, err
	}
	line, err := json.Marshal(r)
	if err != nil {
		return a, err
	}
	stop := context.AfterFunc(ctx, func() { _ = b.cmd.Process.Kill() })
	defer stop()
	if _, err := b.in.Write(append(line, '\n')); err != nil {
		return a, b.explain(ctx, err)
	}
	text, err := b.out.ReadBytes('\n')
	if err != nil {
		return a, b.explain(ctx, err)
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return a, fmt.Errorf("bench.mjs answered %q: %w", text, err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

func (b *bullmqPeer) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	_ = b.cmd.Wait() // its output is complete then
	return fmt.Errorf("the process of Node has ended: %w: %s", err, b.said.String())
}

// close lets the process end by closing its input.
func (b *bullmqPeer) close() error {
	_ = b.in.Close()
	kill := time.AfterFunc(10*time.Second, func() { _ = b.cmd.Process.Kill() })
	defer kill.Stop()
	_ = b.cmd.Wait() // what it failed with is said by then
	return nil
}
