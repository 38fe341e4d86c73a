//go:build linux

package cron_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc"
	"github.com/penstock-go/penstock/integration/servers"
	"github.com/penstock-go/penstock/stream/engine"
)

// tick is one whose job is in the stream.
type tick struct {
	at, published time.Time
}

// published are the ticks of a server's stream, in its order, and what it has on record, both of one instant.
func published(ctx context.Context, rdb redis.UniversalClient) (ticks []tick, record engine.LastTick, err error) {
	pipe := rdb.TxPipeline()
	entries := pipe.XRange(ctx, tickStream, "-", "+")
	text := pipe.HGet(ctx, engine.NewKeys(tickStream).Ticks, "heart")
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, record, err
	}
	for _, e := range entries.Val() {
		opts, _ := e.Values["opts"].(string)
		o, err := engine.ParseOpts(opts)
		if err != nil {
			return nil, record, err
		}
		at, err := time.Parse(time.RFC3339, o.Header["penstock-tick"])
		if err != nil {
			return nil, record, err
		}
		ticks = append(ticks, tick{at, engine.EntryTime(e.ID)})
	}
	record, _ = engine.ReadLastTick(text.Val())
	return ticks, record, nil
}

func tickID(at time.Time) string { return "cron:heart:" + at.UTC().Format(time.RFC3339) }

// watcher sees what the servers have, and frees the ID of each job: what keeps a second one of its tick away is the record of ticks alone.
type watcher struct {
	rdb   redis.UniversalClient // of who is the master
	nodes []*redis.Client
	had   map[time.Time]bool // ticks that any server has had
}

func (w *watcher) look(ctx context.Context) []tick {
	for _, node := range w.nodes {
		ticks, _, _ := published(ctx, node) // one may be reading its data in
		for _, k := range ticks {
			w.had[k.at] = true
		}
	}
	ticks, _, err := published(ctx, w.rdb)
	if err != nil {
		return nil
	}
	keys := engine.NewKeys(tickStream)
	pipe := w.rdb.Pipeline()
	for _, k := range ticks {
		pipe.HDel(ctx, keys.IDs, tickID(k.at))
		pipe.Del(ctx, keys.Job(tickID(k.at)))
	}
	_, _ = pipe.Exec(ctx) // it is done again
	return ticks
}

// until waits for n ticks after a time.
func (w *watcher) until(t *testing.T, n int, after time.Time) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ticks := w.look(t.Context()); len(ticks) >= n && ticks[len(ticks)-n].at.After(after) {
			return
		}
	}
	t.Fatalf("there are no %d ticks after %s", n, after)
}

// TestFailover: Sentinels make the replica the master while three schedulers fire, and the one that leads leaves afterwards.
// The new master has each tick once. What the old one took until it was told is lost: a tick of that time is published
// again, or, where its publisher goes on and knows it as done, it is missing. None of any other time is.
func TestFailover(t *testing.T) {
	binary := build(t)
	redisServer, err := redisproc.Find()
	if err != nil {
		t.Fatal(err)
	}
	server := servers.Start(t, servers.Setup{Kind: servers.Kind{Name: "local", Program: redisServer}, Topology: servers.Sentinel}, servers.Config{})
	file := filepath.Join(t.TempDir(), "schedules.yaml")
	if err := os.WriteFile(file, []byte(schedules), 0o600); err != nil {
		t.Fatal(err)
	}
	all := make([]*program, schedulers)
	for i := range all {
		all[i] = start(t, binary, file, server.URL())
	}
	end := sync.OnceFunc(func() {
		for _, p := range all {
			p.kill()
		}
	})
	defer func() {
		end()
		for i, p := range all {
			if t.Failed() {
				t.Logf("scheduler %d:\n%s", i, p.text())
			}
		}
	}()
	w := &watcher{rdb: server.Client(t), nodes: server.All(t), had: make(map[time.Time]bool)}
	w.until(t, 2, time.Time{})

	began, moved := time.Now(), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-moved:
				return
			case <-time.After(10 * time.Millisecond):
				w.look(t.Context())
			}
		}
	})
	server.Failover(t)
	over := time.Now()
	close(moved)
	wg.Wait()
	w.until(t, 2, over)
	for _, p := range all {
		if p.leads() {
			if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			<-p.done
			break // who takes over is to stay
		}
	}
	w.until(t, 2, time.Now())
	end()

	if role, err := w.nodes[1].Do(t.Context(), "ROLE").Slice(); err != nil || role[0] != "master" {
		t.Fatalf("the replica is %v, %v, and was to become the master", role, err)
	}
	ticks, record, err := published(t.Context(), w.nodes[1])
	if err != nil {
		t.Fatal(err)
	}
	last := ticks[len(ticks)-1].at
	if !record.At.Equal(last) || record.Outcome != engine.TickPublished || record.Job != tickID(last) {
		t.Errorf("on record is %+v; the last job is of the tick %s", record, last)
	}
	latest, missing := time.Duration(0), 0
	for i, k := range ticks {
		late := k.published.Sub(k.at)
		if latest = max(latest, late); late < 0 {
			t.Errorf("the tick %s was early by %s", k.at, -late)
		}
		if i == 0 {
			continue
		}
		if !k.at.After(ticks[i-1].at) {
			t.Errorf("job %d is of the tick %s, behind one of %s", i, k.at, ticks[i-1].at)
		}
		for at := ticks[i-1].at.Add(time.Second); at.Before(k.at); at = at.Add(time.Second) {
			missing++
			if at.Before(began.Truncate(time.Second)) || at.After(over) {
				t.Errorf("the tick %s is missing; the failover was from %s to %s", at, began, over)
			}
		}
	}
	if latest > lateMax {
		t.Errorf("a tick was %s late", latest)
	}
	t.Logf("a failover of %s: %d ticks on the new master, each once; %d are missing of %d that a server has had; the latest came after %s",
		over.Sub(began).Round(time.Millisecond), len(ticks), missing, len(w.had), latest)
}
