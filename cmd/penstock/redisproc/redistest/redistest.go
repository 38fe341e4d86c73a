// Package redistest gives tests a real Redis: one for the whole test binary,
// started when the first test asks, or the one that PENSTOCK_TEST_REDIS names.
// A missing server fails the test; it never skips.
package redistest

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc"
)

// EnvURL names a Redis for tests to use in place of one of their own. They
// flush nothing there, and delete what they made.
const EnvURL = "PENSTOCK_TEST_REDIS"

const (
	registry    = "penstock:streams"
	waitTimeout = 30 * time.Second
)

var shared struct {
	once   sync.Once
	opt    *redis.Options
	server *redisproc.Server
	dir    string
	err    error
}

// Main runs a package's tests, stops the shared server, and fails when a goroutine is left:
//
//	func TestMain(m *testing.M) { redistest.Main(m) }
func Main(m *testing.M) {
	goleak.VerifyTestMain(withServer{m})
}

type withServer struct{ m *testing.M }

func (w withServer) Run() int {
	code := w.m.Run()
	if shared.server != nil {
		if err := shared.server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "redistest:", err)
		}
		_ = os.RemoveAll(shared.dir)
	}
	return code
}

// Options returns what connects to the shared server; the caller may change it.
func Options(t testing.TB) *redis.Options {
	t.Helper()
	shared.once.Do(func() { shared.err = startShared() })
	if shared.err != nil {
		t.Fatalf("no Redis for tests: %v", shared.err)
	}
	opt := *shared.opt
	return &opt
}

func startShared() error {
	if url := os.Getenv(EnvURL); url != "" {
		opt, err := redis.ParseURL(url)
		if err != nil {
			return fmt.Errorf("%s: %w", EnvURL, err)
		}
		shared.opt = opt
		return nil
	}
	dir, err := os.MkdirTemp("", "penstock-test-")
	if err != nil {
		return err
	}
	server, err := redisproc.Start(context.Background(), redisproc.Config{Dir: dir})
	if err != nil {
		_ = os.RemoveAll(dir)
		return err
	}
	shared.server, shared.dir = server, dir
	shared.opt = &redis.Options{Addr: server.Addr()}
	return nil
}

// Client returns a client of the shared server, with go-redis's own defaults. It is closed at the test's end.
func Client(t testing.TB) *redis.Client {
	t.Helper()
	return Connect(t, Options(t))
}

// Connect returns a client that is closed at the test's end.
func Connect(t testing.TB, opt *redis.Options) *redis.Client {
	t.Helper()
	rdb := redis.NewClient(opt)
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// Name returns the name of a stream that is this test's alone. Its keys on the
// shared server go at the test's end.
func Name(t testing.TB) string {
	t.Helper()
	opt := Options(t)
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, t.Name())
	name := "test-" + clean[:min(len(clean), 80)] + "-" + strings.ToLower(rand.Text()[:8])
	t.Cleanup(func() {
		rdb := redis.NewClient(opt)
		defer rdb.Close()
		if err := forget(context.WithoutCancel(t.Context()), rdb, name); err != nil {
			t.Errorf("delete the keys of %s: %v", name, err)
		}
	})
	return name
}

func forget(ctx context.Context, rdb *redis.Client, name string) error {
	keys, err := Keys(ctx, rdb, name)
	if err != nil {
		return err
	}
	if len(keys) > 0 {
		if err := rdb.Unlink(ctx, keys...).Err(); err != nil {
			return err
		}
	}
	return rdb.SRem(ctx, registry, name).Err()
}

// Keys returns the keys that belong to the stream called name.
func Keys(ctx context.Context, rdb *redis.Client, name string) ([]string, error) {
	var keys []string
	if n, err := rdb.Exists(ctx, name).Result(); err != nil {
		return nil, err
	} else if n > 0 {
		keys = append(keys, name)
	}
	for it := rdb.Scan(ctx, 0, "{"+name+"}:*", 1000).Iterator(); ; {
		if !it.Next(ctx) {
			return keys, it.Err()
		}
		keys = append(keys, it.Val())
	}
}

// Server starts a server for one test to break; args are more of its program's
// arguments. It keeps its data over a Restart.
func Server(t testing.TB, args ...string) *redisproc.Server {
	t.Helper()
	s, err := redisproc.Start(t.Context(), redisproc.Config{Dir: filepath.Join(t.TempDir(), "redis"), AppendOnly: true, Args: args})
	if err != nil {
		t.Fatalf("no Redis for this test: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Wait returns when ok does, and fails the test when it has not after half a minute.
func Wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(waitTimeout); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s for this: %s", waitTimeout, what)
		}
	}
}
