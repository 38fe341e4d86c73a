package servers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc"
)

// node is one process: a server or a Sentinel.
type node interface {
	addr() string
	pause(ctx context.Context) error  // as a frozen machine would be: connections stay open, nothing answers
	resume(ctx context.Context) error // undoes pause
	stop(ctx context.Context) error   // in good order
	kill(ctx context.Context) error   // as a crash would
	start(ctx context.Context) error  // again, where it was, with its data
	remove(ctx context.Context) error
}

// spec is what a node is to be.
type spec struct {
	args     []string // of the program
	sentinel string   // the text of its configuration; empty: it is a server
	mapped   bool     // in a container with a network of its own
	bus      *int     // of a Cluster's node: where launch writes the port on which the others meet it
}

// startTimeout is how long a node may take to answer: machines are shared.
const startTimeout = 30 * time.Second

// launch starts a node on a free port.
func launch(t testing.TB, kind Kind, s spec) (node, error) {
	t.Helper()
	var err error
	for range 3 { // a port is free until somebody else takes it
		port, s := freePort(), s
		if s.bus != nil {
			*s.bus = freePort()
			s.args = append(slices.Clone(s.args), "--cluster-port", strconv.Itoa(*s.bus))
		}
		var n node
		if kind.Program != "" {
			n, err = launchProcess(t, kind, s, port)
		} else {
			n, err = launchContainer(t, kind, s, port)
		}
		if err == nil {
			return n, nil
		}
	}
	return nil, err
}

// given are the ports that freePort has returned: until its server listens on it, one looks free.
var given sync.Map

// freePort is below those that the kernel gives to clients: one of them may
// have the port while its server is down. None is returned twice.
func freePort() int {
	for {
		port := 10_000 + rand.IntN(15_000)
		if _, twice := given.LoadOrStore(port, true); twice {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
}

// process is a node of this machine.
type process struct{ *redisproc.Server }

func launchProcess(t testing.TB, kind Kind, s spec, port int) (node, error) {
	t.Helper()
	program := kind.Program
	if s.sentinel != "" { // its configuration has to be the first argument
		dir := t.TempDir()
		conf, script := filepath.Join(dir, "sentinel.conf"), filepath.Join(dir, "sentinel")
		text := fmt.Sprintf("#!/bin/sh\nexec '%s' '%s' --sentinel \"$@\"\n", program, conf)
		if err := errors.Join(os.WriteFile(conf, []byte(s.sentinel), 0o600), os.WriteFile(script, []byte(text), 0o700)); err != nil { //nolint:gosec // it is to be run
			return nil, err
		}
		program = script
	}
	server, err := redisproc.Start(t.Context(), redisproc.Config{
		Dir: filepath.Join(t.TempDir(), "redis"), Path: program, Port: port, AppendOnly: s.sentinel == "", Args: s.args,
	})
	if err != nil {
		return nil, err
	}
	return process{server}, nil
}

func (p process) addr() string                    { return p.Addr() }
func (p process) pause(context.Context) error     { return p.Pause() }
func (p process) resume(context.Context) error    { return p.Resume() }
func (p process) stop(context.Context) error      { return p.Stop() }
func (p process) kill(context.Context) error      { return p.Kill() }
func (p process) remove(context.Context) error    { return p.Stop() }
func (p process) start(ctx context.Context) error { return p.Restart(ctx) }

// await returns when a node answers.
func await(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("no answer within %s", startTimeout))
	defer cancel()
	for {
		err := ping(ctx, addr)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", addr, context.Cause(ctx), err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// ping takes a connection of its own: a client logs each attempt that fails.
func ping(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	if err == nil && !strings.HasPrefix(string(buf[:n]), "+PONG") {
		err = errors.New(strings.TrimSpace(string(buf[:n])))
	}
	return err
}

// connect returns a client of one node, closed at the test's end.
func connect(t testing.TB, addr string) *redis.Client {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}
