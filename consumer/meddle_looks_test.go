package consumer_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// broken lets a lease pass, and looks that the worker goes on calmly meanwhile.
func (m *scene) broken() {
	m.t.Helper()
	before, lines, start := m.commands(), m.logs.total(), time.Now()
	select {
	case err := <-m.exited:
		m.t.Fatalf("the worker exited: %v", err)
	case <-time.After(lease):
	}
	// What spins sends thousands. With leases this short, heartbeats alone are ten a second.
	sent, took := m.commands()-before, time.Since(start)
	if float64(sent) > 60*took.Seconds() {
		m.t.Errorf("%d commands in %s", sent, took)
	}
	if n := m.logs.total() - lines; n > 30 {
		m.t.Errorf("%d lines were logged in %s, want few", n, took)
	}
}

// commands is how many the clients have sent, those in scripts and those of this test left out.
func (m *scene) commands() (n int64) {
	m.t.Helper()
	info, err := m.rdb.Info(m.t.Context(), "commandstats").Result()
	if err != nil {
		m.t.Fatal(err)
	}
	sent := []string{"eval", "evalsha", "xreadgroup", "hello", "subscribe", "client|setinfo", "client|info", "client|unblock", "client|kill", "client|maint_notifications", "xinfo|consumers", "ping"}
	for line := range strings.Lines(info) {
		name, stats, _ := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":")
		if !slices.Contains(sent, name) {
			continue
		}
		for field := range strings.SplitSeq(strings.TrimSpace(stats), ",") {
			var calls int64
			if _, err := fmt.Sscanf(field, "calls=%d", &calls); err == nil {
				n += calls
			} else if _, err := fmt.Sscanf(field, "rejected_calls=%d", &calls); err == nil {
				n += calls
			}
		}
	}
	return n
}

// hurry makes all that is parked or scheduled due.
func (m *scene) hurry() {
	for _, s := range m.streams {
		for _, name := range []string{"scheduled", "retrying"} {
			set := key(s, name)
			ids, err := m.rdb.ZRange(m.t.Context(), set, 0, -1).Result()
			if err != nil {
				m.t.Fatal(err)
			}
			for _, id := range ids {
				m.rdb.ZAddXX(m.t.Context(), set, redis.Z{Score: 1, Member: id})
			}
			m.rdb.Publish(m.t.Context(), engine.WakeChannel, "1 "+set)
		}
	}
}

// settled lets everything end, and checks that each job did that nobody took away, and how often it ran.
func (m *scene) settled() {
	t := m.t
	t.Helper()
	for _, s := range m.streams {
		redistest.Wait(t, "publishing to work again", func() bool {
			_, err := s.Publish(t.Context(), stream.Job{Type: "after"})
			return err == nil
		})
	}
	m.free()
	m.hurry()
	want := make(map[string]bool)
	for _, s := range m.streams {
		for _, name := range append([]string{"after"}, sceneJobs...) {
			if name := s.Name() + "/" + name; !m.may[name] {
				want[name] = true
			}
		}
	}
	var missing []string
	deadline := time.Now().Add(10 * time.Second)
	for {
		missing = nil
		dead := m.dead()
		for name := range want {
			if m.ended.of(name) == 0 && !dead[name] {
				missing = append(missing, name)
			}
		}
		if len(missing) == 0 || time.Now().After(deadline) {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		t.Errorf("these did not end: %v", missing)
	}
	left := ""
	for range 300 {
		left = ""
		for _, s := range m.streams {
			d, err := s.Group(group).Depths(t.Context())
			if err != nil || d.Waiting+d.Active+d.Scheduled+d.Retrying != 0 {
				left += fmt.Sprintf("%s: %+v %v; ", s.Name(), d, err)
			}
		}
		if left == "" {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	if left != "" {
		t.Errorf("left behind: %s", left)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if n, most := m.runs.of(name), runsOf(name); n > most && !m.again[name] && !strings.HasSuffix(name, "/after") {
			t.Errorf("%s ran %d times, want %d", name, n, most)
		}
	}
	redistest.Wait(t, "good health", func() bool { return m.w.Health().Ready })
}

// works checks that jobs of every fate come to their end, those of a killed worker included.
func (m *scene) works(except ...string) {
	t := m.t
	t.Helper()
	m.free()
	fates := map[string]int{"plain": 1, "chosen": 1, "run-again": 2, "back": 1, "late": 1, "killed-0": 1, "killed-1": 1}
	for _, name := range except {
		delete(fates, name)
	}
	for _, s := range m.streams {
		for name := range fates {
			job := stream.Job{Type: name}
			switch name {
			case "chosen":
				job.ID = name
			case "late":
				job.Delay = time.Millisecond
			case "killed-0", "killed-1":
				m.kill(s, name)
				continue
			}
			redistest.Wait(t, "publishing to work", func() bool {
				_, err := s.Publish(t.Context(), job)
				return err == nil
			})
		}
	}
	var missing []string
	for end := time.Now().Add(10 * time.Second); ; <-time.After(5 * time.Millisecond) {
		missing = nil
		dead := m.dead()
		for _, s := range m.streams {
			for name := range fates {
				if name = s.Name() + "/" + name; m.ended.of(name) == 0 && !dead[name] {
					missing = append(missing, name)
				}
			}
		}
		if len(missing) == 0 {
			break
		}
		if time.Now().After(end) {
			slices.Sort(missing)
			t.Errorf("these did not end: %v", missing)
			break
		}
	}
	for _, s := range m.streams {
		for name, n := range fates {
			if got := m.runs.of(s.Name() + "/" + name); got > n {
				t.Errorf("%s ran %d times, want %d", name, got, n)
			}
		}
	}
	redistest.Wait(t, "good health", func() bool { return m.w.Health().Ready })
}

// kill gives a job to a consumer that is never heard of again; killed-1 is its second.
func (m *scene) kill(s *stream.Stream, name string) {
	m.t.Helper()
	redistest.Wait(m.t, "the group", func() bool { return m.w.Health().Ready })
	opts := map[string]string{"killed-1": `{"cr":1}`}[name]
	redistest.Wait(m.t, "a job to be killed with its worker", func() bool {
		_, err := m.rdb.TxPipelined(m.t.Context(), func(pipe redis.Pipeliner) error {
			pipe.XAdd(m.t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []any{"type", name, "data", "", "traceparent", "", "opts", opts}})
			pipe.XReadGroup(m.t.Context(), &redis.XReadGroupArgs{Group: group, Consumer: "killed", Streams: []string{s.Name(), ">"}, Count: 1, Block: -1})
			return nil
		})
		return err == nil
	})
}

// dead names the dead letters.
func (m *scene) dead() map[string]bool {
	names := make(map[string]bool)
	for _, s := range m.streams {
		letters, _, err := s.Group(group).Dead(m.t.Context(), stream.DeadFilter{}, stream.Page{Limit: 1000})
		if err != nil {
			continue
		}
		for _, l := range letters {
			names[s.Name()+"/"+l.Type] = true
		}
	}
	return names
}

// logBook keeps what is logged at Info and above.
type logBook struct {
	mu    sync.Mutex
	lines []string
}

func (b *logBook) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (b *logBook) WithAttrs([]slog.Attr) slog.Handler           { return b }
func (b *logBook) WithGroup(string) slog.Handler                { return b }
func (b *logBook) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool { line += fmt.Sprintf(" %s=%v", a.Key, a.Value); return true })
	b.mu.Lock()
	b.lines = append(b.lines, line)
	b.mu.Unlock()
	return nil
}

func (b *logBook) total() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.lines)
}

// with lists the lines of one level that have all of some texts.
func (b *logBook) with(level string, texts ...string) (lines []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, line := range b.lines {
		ok := strings.HasPrefix(line, level)
		for _, text := range texts {
			ok = ok && strings.Contains(line, text)
		}
		if ok {
			lines = append(lines, line)
		}
	}
	return lines
}
