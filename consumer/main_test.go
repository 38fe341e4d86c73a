package consumer_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

func TestMain(m *testing.M) { redistest.Main(m) }

const group = "billing"

// quick is a config whose retries are due at once.
func quick() consumer.Config {
	return consumer.Config{Backoff: consumer.Backoff{Delay: time.Millisecond, Factor: 1, Jitter: -1}, Grace: 5 * time.Second}
}

func newStream(t *testing.T, rdb redis.UniversalClient, cfg stream.Config) *stream.Stream {
	t.Helper()
	s, err := stream.New(rdb, redistest.Name(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newWorker(t *testing.T, cfg consumer.Config, streams ...*stream.Stream) *consumer.Worker {
	t.Helper()
	w, err := consumer.New(group, cfg, streams...)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// run starts a worker; stop ends it and returns what Run returned. It is stopped at the test's end at the latest.
func run(t *testing.T, w *consumer.Worker) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

func publish(t *testing.T, s *stream.Stream, jobs ...stream.Job) []stream.Receipt {
	t.Helper()
	receipts, err := s.PublishAll(t.Context(), jobs)
	if err != nil {
		t.Fatal(err)
	}
	return receipts
}

func depths(t *testing.T, s *stream.Stream) stream.Depths {
	t.Helper()
	d, err := s.Group(group).Depths(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// deadLetters waits until n jobs are dead, and returns them.
func deadLetters(t *testing.T, s *stream.Stream, n int) []stream.DeadLetter {
	t.Helper()
	var letters []stream.DeadLetter
	redistest.Wait(t, "dead letters", func() bool {
		var err error
		letters, _, err = s.Group(group).Dead(t.Context(), stream.DeadFilter{}, stream.Page{})
		return err == nil && len(letters) >= n
	})
	if len(letters) != n {
		t.Fatalf("%d dead letters, want %d: %+v", len(letters), n, letters)
	}
	return letters
}

// idle waits until the group has nothing left to do.
func idle(t *testing.T, s *stream.Stream) {
	t.Helper()
	redistest.Wait(t, "the group to be idle", func() bool {
		d, err := s.Group(group).Depths(t.Context())
		return err == nil && d.Waiting+d.Active+d.Retrying+d.Scheduled == 0
	})
}

// key is one of a stream's own, by its name in the table of docs/wire-format.md.
func key(s *stream.Stream, name string) string {
	keys := engine.NewKeys(s.Name())
	g := keys.Group(group, s.Kind() == stream.KindEvents)
	return map[string]string{
		"stream": s.Name(), "config": keys.Config, "ids": keys.IDs, "scheduled": keys.Scheduled, "scheduled:jobs": keys.ScheduledJobs,
		"redelivery": g.Redelivery, "suspects": g.Suspects, "retrying": g.Retrying, "retrying:jobs": g.RetryingJobs, "dead": g.Dead, "gate": g.Gate, "lease": g.Lease, "workers": g.Workers,
		"group ids": g.IDs, "marks": g.Marks, "switches": keys.Switches, "record": keys.Job("chosen"), "registry": engine.RegistryKey,
	}[name]
}

// ledger counts runs by job.
type ledger struct {
	mu   sync.Mutex
	runs map[string]int
}

func (l *ledger) add(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.runs == nil {
		l.runs = make(map[string]int)
	}
	l.runs[id]++
	return l.runs[id]
}

func (l *ledger) total() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, runs := range l.runs {
		n += runs
	}
	return n
}

func (l *ledger) of(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.runs[id]
}
