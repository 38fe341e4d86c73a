package stream_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc"
	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// sentinel starts one that watches no master, and returns its address.
func sentinel(t *testing.T) string {
	t.Helper()
	program, err := redisproc.Find()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	_ = l.Close()
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("port %d\nbind 127.0.0.1\ndir %s\n", addr.Port, filepath.Dir(conf))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, program, conf, "--sentinel")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait()
	})
	rdb := redistest.Connect(t, &redis.Options{Addr: addr.String(), MaxRetries: -1})
	redistest.Wait(t, "the sentinel", func() bool { return rdb.Ping(t.Context()).Err() == nil })
	return addr.String()
}

// TestSentinelThatKnowsNoMaster: its answer is redis.Nil inside an error of
// go-redis, and must not be taken for a job that was stored.
func TestSentinelThatKnowsNoMaster(t *testing.T) { // not parallel: its port must not be one that another test's proxy gave up for a moment
	rdb := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "nomaster", SentinelAddrs: []string{sentinel(t)}, MaxRetries: -1, DialTimeout: time.Second})
	t.Cleanup(func() { _ = rdb.Close() })
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for name, job := range map[string]stream.Job{
		"plain":    {Type: "ping"},
		"an ID":    {Type: "ping", ID: "x"},
		"deferred": {Type: "ping", Delay: time.Minute},
	} {
		if receipt, err := s.Publish(ctx, job); !errors.Is(err, stream.ErrUnavailable) {
			t.Errorf("%s: %+v, %v; want ErrUnavailable", name, receipt, err)
		}
		receipts, err := s.PublishAll(ctx, []stream.Job{job, job})
		if err == nil {
			t.Errorf("%s: PublishAll says that %+v were stored", name, receipts)
		}
	}
	if _, err := stream.Names(ctx, rdb); !errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("Names: %v, want ErrUnavailable", err)
	}
}

func TestWrappedNilIsNoAnswer(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		fmt.Errorf("redis: all sentinels specified in configuration are unreachable: %w", errors.Join(redis.Nil)),
		fmt.Errorf("redis: all sentinels specified in configuration are unreachable: %w", errors.Join(redis.Nil, errors.New("dial"))),
	} {
		if class := engine.Classify(err); class != engine.Unreachable {
			t.Errorf("%v is of class %d, want Unreachable", err, class)
		}
	}
	if engine.Classify(redis.Nil) != engine.OK || engine.Classify(fmt.Errorf("x: %w", redis.Nil)) == engine.OK {
		t.Error("redis.Nil is an answer, and only when it is bare")
	}
}
