package consumer_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc"
	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// scene is a worker of a queue and an events stream on a server of its own,
// with jobs in every place where a job can be, for a test to meddle with:
//
//	run-ok, run-again, run-dead   running, until released; they complete, fail once, and are given up
//	wait-…, chosen                waiting, without and with an ID
//	back                          waiting in redelivery
//	suspect-…                     in suspects
//	parked                        retrying, not due before hurry
//	later                         scheduled, not due before hurry
//	died                          dead
type scene struct {
	t       *testing.T
	server  *redisproc.Server
	rdb     *redis.Client
	streams []*stream.Stream
	w       *consumer.Worker
	exited  chan error
	release chan struct{}
	ending  atomic.Bool // the test is over: runs may end as they like
	logs    logBook

	runs, ended ledger
	mu          sync.Mutex
	may         map[string]bool // jobs that the meddler took away, as "stream/name"
	again       map[string]bool // jobs that the meddler sent round again
}

const sceneSlots = 6 // all taken by what runs

var errOnce = errors.New("once more")

func newScene(t *testing.T) *scene {
	t.Helper()
	m := idleScene(t)
	m.fill()
	return m
}

// idleScene is one without jobs.
func idleScene(t *testing.T) *scene {
	t.Helper()
	m := &scene{t: t, server: redistest.Server(t), release: make(chan struct{}), exited: make(chan error, 1), may: make(map[string]bool), again: make(map[string]bool)}
	m.rdb = redistest.Connect(t, &redis.Options{Addr: m.server.Addr()})
	cfg := leased()
	cfg.MaxJobs = sceneSlots
	cfg.Backoff.Delay = 10 * time.Millisecond
	cfg.Logger = slog.New(&m.logs)
	for name, kind := range map[string]stream.Kind{"orders": stream.KindQueue, "news": stream.KindEvents} {
		s, err := stream.New(m.rdb, name, stream.Config{Kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		create(t, s)
		m.streams = append(m.streams, s)
	}
	slices.SortFunc(m.streams, func(a, b *stream.Stream) int { return strings.Compare(b.Name(), a.Name()) })
	m.w = newWorker(t, cfg, m.streams...)
	m.w.HandleOther(m.handle)
	m.start()
	redistest.Wait(t, "the worker", func() bool { return m.w.Health().Ready })
	return m
}

// start runs the worker, and what a scheduler would do beside it.
func (m *scene) start() {
	ctx, cancel := context.WithCancel(context.Background())
	p := &engine.Promoter{Client: m.rdb, Poll: 500 * time.Millisecond, Logger: slog.New(&m.logs), Slots: func(ctx context.Context) ([]engine.Slot, error) {
		var slots []engine.Slot
		var errs []error
		for _, s := range m.streams {
			of, err := s.Slots(ctx)
			slots, errs = append(slots, of...), append(errs, err)
		}
		return slots, errors.Join(errs...)
	}}
	var both sync.WaitGroup
	both.Go(func() { m.exited <- m.w.Run(ctx) })
	both.Go(func() { p.Run(ctx) })
	m.t.Cleanup(func() {
		if m.t.Failed() {
			m.t.Logf("%+v\n%s", m.w.Stats(), strings.Join(m.logs.with(""), "\n"))
		}
		m.ending.Store(true)
		m.free()
		cancel()
		both.Wait()
	})
}

func (m *scene) free() {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.release:
	default:
		close(m.release)
	}
}

func (m *scene) handle(ctx context.Context, d *consumer.Delivery) error {
	name := d.Stream + "/" + d.Type
	n := m.runs.add(name)
	if strings.HasPrefix(d.Type, "run-") && n == 1 {
		select {
		case <-m.release:
		case <-ctx.Done():
			if !m.ending.Load() {
				m.t.Errorf("the run of %s was ended: %v", name, context.Cause(ctx))
			}
			return ctx.Err()
		}
	}
	switch {
	case n == 1 && d.Type == "run-again":
		return errOnce
	case n == 1 && d.Type == "parked":
		return consumer.RetryAfter(errOnce, time.Hour)
	case n == 1 && d.Type == "back", d.Type == "died", d.Type == "run-dead":
		return consumer.Permanent(errors.New("never"))
	}
	m.ended.add(name)
	return nil
}

// runsOf is how often a job runs when nobody meddles.
func runsOf(name string) int {
	switch {
	case strings.HasSuffix(name, "/run-again"), strings.HasSuffix(name, "/parked"), strings.HasSuffix(name, "/back"):
		return 2
	}
	return 1
}

var sceneJobs = []string{"run-ok", "run-again", "run-dead", "wait-0", "wait-1", "wait-2", "chosen", "back", "suspect-0", "suspect-1", "parked", "later", "died"}

func (m *scene) publish(s *stream.Stream, names ...string) {
	m.t.Helper()
	for _, name := range names {
		job := stream.Job{Type: name}
		switch name {
		case "chosen":
			job.ID = name
		case "later":
			job.Delay = time.Hour
		}
		if r, err := s.Publish(m.t.Context(), job); err != nil || r.Duplicate {
			m.t.Fatalf("publish %s to %s: %+v, %v", name, s.Name(), r, err)
		}
	}
}

// fill puts jobs everywhere.
func (m *scene) fill() {
	t := m.t
	for _, s := range m.streams {
		m.publish(s, "parked", "died", "back", "later")
	}
	redistest.Wait(t, "dead letters and retries", func() bool { got := m.w.Stats(); return got.Dead == 4 && got.Retried == 2 })
	for _, s := range m.streams {
		m.publish(s, "run-ok", "run-again", "run-dead")
	}
	redistest.Wait(t, "running jobs", func() bool { return len(m.w.Running()) == sceneSlots })
	for _, s := range m.streams {
		m.publish(s, "wait-0", "wait-1", "wait-2", "chosen")
		letters, _, err := s.Group(group).Dead(t.Context(), stream.DeadFilter{Type: "back"}, stream.Page{})
		if err != nil || len(letters) != 1 {
			t.Fatal(letters, err)
		}
		if n, err := s.Group(group).Redrive(t.Context(), stream.DeadFilter{IDs: []string{letters[0].ID}}, stream.RedriveOptions{}); err != nil || n.Moved != 1 {
			t.Fatal(n, err)
		}
		for _, name := range []string{"suspect-0", "suspect-1"} {
			err := m.rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: key(s, "suspects"), Values: []any{"type", name, "data", "", "traceparent", "", "opts", `{"id":"` + name + `","cr":1}`}}).Err()
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// taken notes jobs that the meddler takes away, so that nobody waits for them.
func (m *scene) taken(s *stream.Stream, names ...string) {
	for _, name := range names {
		m.may[s.Name()+"/"+name] = true
	}
}

// unread deletes a stream or some of it, and returns the jobs that nobody had read.
func (m *scene) unread(s *stream.Stream, key string, meddle func(redis.Pipeliner)) []string {
	m.t.Helper()
	var all *redis.XMessageSliceCmd
	var held *redis.XPendingExtCmd
	_, err := m.rdb.TxPipelined(m.t.Context(), func(pipe redis.Pipeliner) error {
		all = pipe.XRange(m.t.Context(), key, "-", "+")
		held = pipe.XPendingExt(m.t.Context(), &redis.XPendingExtArgs{Stream: key, Group: group, Start: "-", End: "+", Count: 1000})
		meddle(pipe)
		return nil
	})
	if err != nil && engine.Classify(err) != engine.NoGroup {
		m.t.Fatal(err)
	}
	var names []string
	for _, e := range all.Val() {
		pending := slices.ContainsFunc(held.Val(), func(p redis.XPendingExt) bool { return p.ID == e.ID })
		if typ, _ := e.Values["type"].(string); !pending {
			names = append(names, typ)
		}
	}
	return names
}
