//go:build unix

package redisproc_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg redisproc.Config) (*redisproc.Server, *redis.Client) {
	t.Helper()
	cfg.Dir = filepath.Join(t.TempDir(), "redis")
	s, err := redisproc.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: s.Addr(), MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true})
	t.Cleanup(func() {
		_ = rdb.Close()
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s, rdb
}

func TestServerLives(t *testing.T) {
	t.Parallel()
	s, rdb := start(t, redisproc.Config{AppendOnly: true})
	ctx := t.Context()
	if err := rdb.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if s.Version() == "" || s.Pid() == 0 || !strings.HasPrefix(s.URL(), "redis://127.0.0.1:") {
		t.Errorf("version %q, pid %d, URL %q", s.Version(), s.Pid(), s.URL())
	}
	if got := rdb.ConfigGet(ctx, "bind").Val()["bind"]; got != "127.0.0.1" {
		t.Errorf("bind is %q: reachable from outside", got)
	}

	// paused: connected, silent
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := rdb.Ping(short).Err(); err == nil {
		t.Error("a paused server answers")
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if got := rdb.Get(ctx, "k").Val(); got != "v" {
		t.Errorf("after the pause k is %q", got)
	}

	// killed: gone at once, and back on its port with its data
	addr, pid, done := s.Addr(), s.Pid(), s.Done()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	<-done
	if err := rdb.Ping(ctx).Err(); err == nil {
		t.Error("a killed server answers")
	}
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if s.Addr() != addr || s.Pid() == pid {
		t.Errorf("restarted at %s with pid %d, was %s, %d", s.Addr(), s.Pid(), addr, pid)
	}
	if got := rdb.Get(ctx, "k").Val(); got != "v" {
		t.Errorf("after the restart k is %q", got)
	}

	// a paused server can be stopped, and stopping twice is fine
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

func TestStartSaysWhy(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o755); err != nil { //nolint:gosec // the point of the test
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cfg  redisproc.Config
		want string
	}{
		"open folder":  {redisproc.Config{Dir: open}, "chmod 700"},
		"no program":   {redisproc.Config{Path: "/nonexistent/redis-server"}, "no such file"},
		"bad argument": {redisproc.Config{Args: []string{"--no-such-setting", "1"}}, "ended at once"},
		"taken port":   {redisproc.Config{Port: taken.Addr().(*net.TCPAddr).Port}, "already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.cfg.Dir == "" {
				c.cfg.Dir = filepath.Join(t.TempDir(), "redis")
			}
			s, err := redisproc.Start(t.Context(), c.cfg)
			if err == nil {
				_ = s.Stop()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
		})
	}
}

// TestStrangerOnPort: another Redis on the port must not be taken for ours.
func TestStrangerOnPort(t *testing.T) {
	t.Parallel()
	other, _ := start(t, redisproc.Config{})
	_, port, _ := net.SplitHostPort(other.Addr())
	n, _ := strconv.Atoi(port)
	s, err := redisproc.Start(t.Context(), redisproc.Config{Dir: filepath.Join(t.TempDir(), "redis"), Port: n})
	if err == nil {
		_ = s.Stop()
		t.Fatal("it started on a port that another server has")
	}
}

func TestFind(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := redisproc.Find(); !errors.Is(err, redisproc.ErrNotFound) || !strings.Contains(err.Error(), "install") {
		t.Errorf("error %v does not say what to install", err)
	}
}
