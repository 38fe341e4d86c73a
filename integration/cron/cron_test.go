//go:build linux

package cron_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc"
	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

const (
	schedulers = 3
	killEvery  = 3 * time.Second
	frozenFor  = 6 * time.Second // longer than a leader's lease
	lateMax    = 12 * time.Second
	tickStream = "beats"
)

var forFlag = flag.Duration("for", 25*time.Second, "how long TestEachTickOnce kills schedulers")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const schedules = `schedules:
  - name: heart
    stream: beats
    cron: "* * * * * *"
    type: beat
`

// rival is another program's file: whoever reads it has a lease of its own, and fires heart as well.
const rival = schedules + `
  - name: other
    stream: others
    every: 1s
    type: beat
`

// program is one scheduler.
type program struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

// leads reports whether its log says that it fires ticks.
func (p *program) leads() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := p.log.String()
	return strings.LastIndex(text, "this scheduler fires the ticks") > strings.LastIndex(text, "this scheduler fires no ticks")
}

func (p *program) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func start(t *testing.T, binary, file, url string) *program {
	t.Helper()
	p := &program{cmd: exec.Command(binary, "scheduler", "--schedules", file, "--json"), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "REDIS_URL="+url)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the kernel's signal at a parent's death is tied to the thread that forked
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *program) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// counter takes each job out of the stream, and all that could keep a second one of the same tick away but the record of ticks.
type counter struct {
	rdb  *redis.Client
	keys engine.Keys
	done map[string]bool // entries that were counted: deleting one may fail
	seen []string        // ticks, in the order of their jobs
	late []time.Duration // of each
}

func (c *counter) count(ctx context.Context) error {
	entries, err := c.rdb.XRange(ctx, tickStream, "-", "+").Result()
	if err != nil {
		return err
	}
	for _, e := range entries {
		text, _ := e.Values["opts"].(string)
		o, err := engine.ParseOpts(text)
		if err != nil {
			return err
		}
		tick := o.Header["penstock-tick"]
		at, err := time.Parse(time.RFC3339, tick)
		if err != nil || o.ID != "cron:heart:"+tick {
			return fmt.Errorf("entry %s: tick %q, ID %q", e.ID, tick, o.ID)
		}
		if !c.done[e.ID] {
			c.done[e.ID] = true
			c.seen, c.late = append(c.seen, tick), append(c.late, engine.EntryTime(e.ID).Sub(at))
		}
		pipe := c.rdb.TxPipeline()
		pipe.XDel(ctx, tickStream, e.ID)
		pipe.HDel(ctx, c.keys.IDs, o.ID)
		pipe.Del(ctx, c.keys.Job(o.ID))
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

// check fails the test unless there was one job for each second from the first to the last.
func (c *counter) check(t *testing.T, atLeast int) {
	t.Helper()
	if len(c.seen) < atLeast {
		t.Fatalf("%d ticks, want at least %d", len(c.seen), atLeast)
	}
	first, _ := time.Parse(time.RFC3339, c.seen[0])
	latest := time.Duration(0)
	for i, tick := range c.seen {
		if want := first.Add(time.Duration(i) * time.Second).Format(time.RFC3339); tick != want {
			t.Fatalf("job %d is of the tick %s, want %s: one was lost or came twice", i, tick, want)
		}
		if c.late[i] < 0 {
			t.Errorf("the tick %s was early by %s", tick, -c.late[i])
		}
		latest = max(latest, c.late[i])
	}
	t.Logf("%d ticks, each once; the latest by %s", len(c.seen), latest)
	if latest > lateMax {
		t.Errorf("a tick was %s late", latest)
	}
}

func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "penstock")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/penstock")
	cmd.Dir = "../.."
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	return binary
}

// TestEachTickOnce: three schedulers, of which one is killed every few seconds; the leader is frozen beyond its lease and goes
// on; a fourth leads beside them; Redis is killed and restarts from its append-only file. Every tick is published exactly once, the last of them too.
func TestEachTickOnce(t *testing.T) {
	binary := build(t)
	server, err := redisproc.Start(t.Context(), redisproc.Config{Dir: filepath.Join(t.TempDir(), "redis"), AppendOnly: true, Args: []string{"--appendfsync", "always"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}()
	file := filepath.Join(t.TempDir(), "schedules.yaml")
	if err := os.WriteFile(file, []byte(schedules), 0o600); err != nil {
		t.Fatal(err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer rdb.Close()
	all := make([]*program, schedulers)
	for i := range all {
		all[i] = start(t, binary, file, server.URL())
	}
	defer func() {
		for i, p := range all {
			p.kill()
			if t.Failed() {
				t.Logf("scheduler %d:\n%s", i, p.text())
			}
		}
	}()
	other := filepath.Join(t.TempDir(), "rival.yaml")
	if err := os.WriteFile(other, []byte(rival), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &counter{rdb: rdb, keys: engine.NewKeys(tickStream), done: make(map[string]bool)}
	began := time.Now()
	killed := began.Add(killEvery)
	stopAt, restartAt := began.Add(*forFlag/3), began.Add(*forFlag*3/4)
	var frozen, second *program // second leads too, from two thirds on
	defer func() {
		if second != nil {
			second.kill()
		}
	}()
	var thaw time.Time
	kills, stops, restarts := 0, 0, 0
	for time.Since(began) < *forFlag || frozen != nil {
		now := time.Now()
		switch {
		case frozen != nil && now.After(thaw):
			if err := frozen.cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			frozen = nil
		case stops == 0 && now.After(stopAt):
			for _, p := range all {
				if p.leads() {
					if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
						t.Fatal(err)
					}
					frozen, thaw = p, now.Add(frozenFor)
					stops++
					break
				}
			}
		case second == nil && now.After(began.Add(*forFlag*2/3)):
			second = start(t, binary, other, server.URL())
		case restarts == 0 && now.After(restartAt):
			restarts++
			if err := server.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		case now.After(killed):
			killed = now.Add(killEvery)
			i := rand.N(schedulers)
			if rand.N(2) == 0 { // the leader as often as all together
				for n, p := range all {
					if p.leads() {
						i = n
					}
				}
			}
			if all[i] == frozen {
				continue
			}
			kills++
			all[i].kill()
			all[i] = start(t, binary, file, server.URL())
		}
		if err := c.count(t.Context()); err != nil {
			t.Logf("count: %v", err) // Redis is away
		}
		time.Sleep(20 * time.Millisecond)
	}
	end := rdb.Time(t.Context()).Val()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err := c.count(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(c.seen); n > 0 && c.seen[n-1] > end.UTC().Format(time.RFC3339) {
			break
		}
	}
	t.Logf("%d kills, %d freezes, %d restarts of Redis", kills, stops, restarts)
	if kills < 3 || stops != 1 || restarts != 1 || second == nil || !second.leads() {
		t.Error("too little has happened: this proves nothing")
	}
	c.check(t, int(forFlag.Seconds())-6)
}

// TestTakeover: within 5 s of the leader's kill; at once when it is told to stop.
func TestTakeover(t *testing.T) {
	binary := build(t)
	server, err := redisproc.Start(t.Context(), redisproc.Config{Dir: filepath.Join(t.TempDir(), "redis")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}()
	file := filepath.Join(t.TempDir(), "schedules.yaml")
	if err := os.WriteFile(file, []byte(schedules), 0o600); err != nil {
		t.Fatal(err)
	}
	leader := func(of []*program) *program {
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			for _, p := range of {
				if p.leads() {
					return p
				}
			}
		}
		t.Fatal("nobody leads")
		return nil
	}
	all := make([]*program, schedulers)
	for i := range all {
		all[i] = start(t, binary, file, server.URL())
	}
	defer func() {
		for _, p := range all {
			p.kill()
		}
	}()
	left := all
	for _, c := range []struct {
		signal syscall.Signal
		within time.Duration
	}{{syscall.SIGTERM, time.Second}, {syscall.SIGKILL, 5 * time.Second}} {
		first := leader(left)
		time.Sleep(2 * time.Second) // the others wait for the lease by now
		var others []*program
		for _, p := range left {
			if p != first {
				others = append(others, p)
			}
		}
		stood := redistest.Standstill(t)
		told := time.Now()
		if err := first.cmd.Process.Signal(c.signal); err != nil {
			t.Fatal(err)
		}
		leader(others)
		took, still := time.Since(told), stood()
		t.Logf("after %s another leads within %s; the machine stood still for %s", c.signal, took.Round(time.Millisecond), still.Round(time.Millisecond))
		if took > c.within+still {
			t.Errorf("%s: another led after %s, want within %s", c.signal, took, c.within)
		}
		<-first.done
		left = others
	}
}
