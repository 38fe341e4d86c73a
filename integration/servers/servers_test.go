package servers_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/integration/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// TestServers does to each setup what the conformance suite relies on.
func TestServers(t *testing.T) {
	for _, setup := range servers.Matrix(t) {
		t.Run(setup.String(), func(t *testing.T) {
			start := time.Now()
			s := servers.Start(t, setup, servers.Config{DownAfter: time.Second, Replica: true, Args: []string{"--maxmemory", "64mb"}})
			t.Logf("started in %s", time.Since(start).Round(10*time.Millisecond))
			rdb := s.Client(t)
			ctx := t.Context()
			for i := range 30 {
				set(t, rdb, i)
			}
			for _, node := range s.Nodes(t) {
				if got := node.ConfigGet(ctx, "maxmemory").Val()["maxmemory"]; got != "67108864" {
					t.Errorf("maxmemory is %q: the arguments were not given on", got)
				}
			}

			s.Stall(t)
			short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
			impatient := s.ClientFor(t, redis.UniversalOptions{ContextTimeoutEnabled: true, MaxRetries: -1})
			if err := impatient.Get(short, key(0)).Err(); err == nil {
				t.Error("a stalled server answers")
			}
			s.Continue(t)
			check(t, rdb)

			s.Down(t)
			if err := impatient.Get(ctx, key(0)).Err(); err == nil {
				t.Error("a server that is down answers")
			}
			s.Up(t)
			check(t, rdb)

			linked, links := s.Linked(t)
			check(t, linked)
			links.Refuse()
			if err := linked.Get(ctx, key(0)).Err(); err == nil {
				t.Error("links that refuse pass something on")
			}
			links.Mend(t)
			check(t, linked)
			links.LoseReplies("incr", 1)
			once := incr{redis.NewIntCmd(ctx, "INCR", "n")}
			if err := linked.Process(ctx, once); err == nil || links.Lost() != 1 {
				t.Errorf("%v, %d replies were lost, want one", err, links.Lost())
			}
			if got := rdb.Get(ctx, "n").Val(); got != "1" {
				t.Errorf("INCR was done %q times, want once", got)
			}

			switch setup.Topology {
			case servers.Sentinel:
				s.Crash(t)
				check(t, rdb)
				s.Failover(t)
				check(t, rdb)
			case servers.Cluster:
				s.Failover(t)
				check(t, rdb)
				migrate(t, s, rdb)
			}
		})
	}
}

// incr is a command that go-redis does not send again.
type incr struct{ *redis.IntCmd }

func (incr) NoRetry() bool { return true }

// migrate moves a slot while it is asked for.
func migrate(t *testing.T, s *servers.Server, rdb redis.UniversalClient) {
	t.Helper()
	ctx := t.Context()
	for _, name := range []string{"a", "b"} {
		if err := rdb.Set(ctx, "{tag}"+name, 1, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	m := s.Migrate(t, "{tag}a")
	keys := m.Keys(10)
	if len(keys) != 2 {
		t.Fatalf("keys of the slot: %v, want two", keys)
	}
	m.Move(keys[0])
	if got := rdb.Get(ctx, keys[0]).Val(); got != "1" {
		t.Errorf("a key that has moved is %q", got)
	}
	patient, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if err := rdb.MGet(patient, "{tag}a", "{tag}b").Err(); err == nil {
		t.Error("a command for two keys, one of which has moved, was done")
	}
	m.Finish()
	if got := rdb.MGet(ctx, "{tag}a", "{tag}b").Val(); fmt.Sprint(got) != "[1 1]" {
		t.Errorf("after the move the keys are %v", got)
	}
	for _, class := range []string{"ASK", "TRYAGAIN", "MOVED"} {
		if errs := s.Errors(t); errs[class] == 0 {
			t.Errorf("no %s was answered: %v", class, errs)
		}
	}
}

func key(i int) string { return fmt.Sprintf("key-%d", i) }

func set(t *testing.T, rdb redis.UniversalClient, i int) {
	t.Helper()
	if err := rdb.Set(t.Context(), key(i), i, 0).Err(); err != nil {
		t.Fatal(err)
	}
}

// check waits until all keys are there.
func check(t *testing.T, rdb redis.UniversalClient) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		for i := range 30 {
			var got string
			if got, err = rdb.Get(t.Context(), key(i)).Result(); err == nil && got != fmt.Sprint(i) {
				err = fmt.Errorf("%s is %q", key(i), got)
			}
			if err != nil {
				break
			}
		}
		if err == nil {
			return
		}
	}
	t.Fatalf("the data are not all there: %v", err)
}

// TestMatrixSaysWhatIsMissing: a server or topology that is not to be had fails the test, and says why.
func TestMatrixSaysWhatIsMissing(t *testing.T) {
	for name, c := range map[string]struct{ servers, topologies, want string }{
		"unknown server":    {"redis:6.2", "", `unknown server "redis:6.2": it takes redis:7.0`},
		"unknown topology":  {"", "ring", `unknown topology "ring": it takes single`},
		"no such program":   {"redis:8.0=/nonexistent/redis-server", "", "no such file"},
		"not a server":      {"redis:8.0=/bin/true", "", "names no version"},
		"another version":   {"valkey:9=redis-server", "", "is version"},
		"local has no path": {"local=/bin/true", "", "unknown server"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(servers.EnvServers, c.servers)
			t.Setenv(servers.EnvTopologies, c.topologies)
			if c.servers == "" {
				t.Setenv(servers.EnvServers, "local")
			}
			got := failure(t, func(tb testing.TB) { servers.Matrix(tb) })
			if !strings.Contains(got, c.want) {
				t.Errorf("it says %q, want %q", got, c.want)
			}
		})
	}
}

func TestMatrixDefaults(t *testing.T) {
	t.Setenv(servers.EnvServers, " local , ")
	t.Setenv(servers.EnvTopologies, "single, cluster")
	var names []string
	for _, setup := range servers.Matrix(t) {
		names = append(names, setup.String())
	}
	if got := strings.Join(names, " "); got != "local/single local/cluster" {
		t.Errorf("setups: %s", got)
	}
}

// failure runs f and returns with what it failed.
func failure(t *testing.T, f func(testing.TB)) string {
	t.Helper()
	tb := &fatal{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(tb)
	}()
	<-done
	return tb.text
}

// fatal keeps what a test fails with.
type fatal struct {
	testing.TB
	text string
}

func (f *fatal) Fatalf(format string, args ...any) {
	f.text = fmt.Sprintf(format, args...)
	f.FailNow()
}

func (f *fatal) FailNow() { runtime.Goexit() }
