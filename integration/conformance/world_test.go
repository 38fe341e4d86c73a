package conformance_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/integration/servers"
	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

const (
	group = "billing"
	// lease is the shortest there is.
	lease = 10 * time.Second
	// patience is for what takes a few leases when nothing is in its way; machines are shared.
	patience = 2 * time.Minute
)

// world is one setup: the tests' server, which none of them stalls, stops or
// fills, and servers of their own for those that do.
type world struct {
	setup  servers.Setup
	server *servers.Server
}

// own starts a server for one test to break.
func (w *world) own(t *testing.T, cfg servers.Config) *world {
	t.Helper()
	return &world{w.setup, servers.Start(t, w.setup, cfg)}
}

func (w *world) cluster() bool { return w.setup.Topology == servers.Cluster }

// name of a stream that is this test's alone.
func name(t *testing.T) string {
	parts := strings.Split(t.Name(), "/")
	return parts[len(parts)-1] + "-" + strings.ToLower(rand.Text()[:8])
}

// client for what the test itself does: a busy machine may take long to answer
// it, and a publish whose answer comes too late would be ambiguous. What is tested, workers above all, has clients with go-redis's own defaults.
func (w *world) client(t *testing.T) redis.UniversalClient {
	t.Helper()
	return w.server.ClientFor(t, redis.UniversalOptions{ReadTimeout: patience})
}

func patient(rdb redis.UniversalClient) bool {
	switch c := rdb.(type) {
	case *redis.Client:
		return c.Options().ReadTimeout == patience
	case *redis.ClusterClient:
		return c.Options().ReadTimeout == patience
	}
	return false
}

// stream on a client for the test's own use.
func (w *world) stream(t *testing.T, cfg stream.Config) *stream.Stream {
	t.Helper()
	return over(t, w.client(t), name(t), cfg)
}

// again is the stream on another such client.
func (w *world) again(t *testing.T, s *stream.Stream) *stream.Stream {
	t.Helper()
	return over(t, w.client(t), s.Name(), stream.Config{})
}

// over returns the stream called name on some client.
func over(t *testing.T, rdb redis.UniversalClient, name string, cfg stream.Config) *stream.Stream {
	t.Helper()
	cfg.PublishTimeout = patience
	s, err := stream.New(rdb, name, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// events is a stream that several groups may read.
var events = stream.Config{Kind: stream.KindEvents}

// number is a job with a number for its payload.
var number = stream.Type[int]{Name: "number"}

func numbers(from, to int) []stream.Job {
	jobs := make([]stream.Job, 0, to-from)
	for i := from; i < to; i++ {
		jobs = append(jobs, number.Job(i))
	}
	return jobs
}

// quick is a config with the shortest lease, whose retries are due at once.
func quick() consumer.Config {
	return consumer.Config{
		Lease:   lease,
		Grace:   5 * time.Second,
		Backoff: consumer.Backoff{Delay: time.Millisecond, Factor: 1, Jitter: -1},
	}
}

// worker of the group over streams: on their client, or, when that is the test's own, on one like any user's.
func (w *world) worker(t *testing.T, cfg consumer.Config, streams ...*stream.Stream) *consumer.Worker {
	t.Helper()
	return w.workerOf(t, group, cfg, streams...)
}

func (w *world) workerOf(t *testing.T, group string, cfg consumer.Config, streams ...*stream.Stream) *consumer.Worker {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(newLog(t), nil))
	}
	if patient(streams[0].Client()) {
		rdb := w.server.Client(t)
		streams = slices.Clone(streams)
		for i, s := range streams {
			streams[i] = over(t, rdb, s.Name(), stream.Config{Kind: s.Kind()})
		}
	}
	worker, err := consumer.New(group, cfg, streams...)
	if err != nil {
		t.Fatal(err)
	}
	return worker
}

// testLog shows a worker's log when its test fails.
type testLog struct {
	t     *testing.T
	mu    sync.Mutex
	lines []string
}

const logMax = 200

func newLog(t *testing.T) *testLog {
	l := &testLog{t: t}
	t.Cleanup(l.end)
	return l
}

// says reports whether the log has a line with that text.
func (l *testLog) says(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.lines, func(line string) bool { return strings.Contains(line, text) })
}

func (l *testLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines = append(l.lines, strings.TrimSpace(string(line))); len(l.lines) > logMax {
		l.lines = l.lines[1:]
	}
	return len(line), nil
}

func (l *testLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.t.Failed() {
		l.t.Logf("log of a worker:\n%s", strings.Join(l.lines, "\n"))
	}
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

// refused runs a worker that is not to start, and returns why.
func refused(t *testing.T, w *consumer.Worker) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return w.Run(ctx)
}

// schedule runs a scheduler until the test ends.
func schedule(t *testing.T, rdb redis.UniversalClient) {
	t.Helper()
	s, err := scheduler.New(rdb, scheduler.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the scheduler ended with %v", err)
		}
	})
}

func publish(t *testing.T, s *stream.Stream, jobs ...stream.Job) []stream.Receipt {
	t.Helper()
	receipts, err := s.PublishAll(t.Context(), jobs)
	if err != nil {
		t.Fatal(err)
	}
	return receipts
}

// insist publishes jobs that have IDs until they are stored, whatever stands in the way.
func insist(ctx context.Context, s *stream.Stream, jobs ...stream.Job) error {
	for end := time.Now().Add(patience); ; {
		receipts, err := s.PublishAll(ctx, jobs)
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not stored within %s: %w", patience, err)
		}
		left := jobs[:0:0]
		for i, r := range receipts {
			switch {
			case r.Err == nil:
			case errors.Is(r.Err, stream.ErrUnavailable), errors.Is(r.Err, stream.ErrAmbiguous):
				left = append(left, jobs[i])
			default:
				return r.Err
			}
		}
		jobs = left
	}
}

// wait returns when ok does, and fails the test when it has not in all patience.
func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s for this: %s", patience, what)
		}
	}
}

// receive waits for a value.
func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %s for this: %s", patience, what)
		panic("not reached")
	}
}

// pass lets time pass: for leases to run out there is nothing else to wait for.
func pass(d time.Duration) { <-time.After(d) }

func depths(t *testing.T, s *stream.Stream) (d stream.Depths) {
	t.Helper()
	wait(t, "the depths of the group", func() (ok bool) {
		var err error
		d, err = s.Group(group).Depths(t.Context())
		return err == nil
	})
	return d
}

// drained waits until the groups have nothing left to do.
func drained(t *testing.T, s *stream.Stream, groups ...string) {
	t.Helper()
	if len(groups) == 0 {
		groups = []string{group}
	}
	for _, g := range groups {
		var last stream.Depths
		var err error
		// Depths are not of one instant: a job that comes back between two of them is in neither. It is not so each time.
		for empty, end := 0, time.Now().Add(patience); empty < 3; time.Sleep(5 * time.Millisecond) {
			last, err = s.Group(g).Depths(t.Context())
			if empty++; err != nil || last.Waiting+last.Active+last.Retrying+last.Scheduled != 0 {
				empty = 0
			}
			if time.Now().After(end) {
				t.Fatalf("%s/%s still has work after %s: %+v, %v", s.Name(), g, patience, last, err)
			}
		}
	}
}

// dead waits until n jobs of a group are dead, and returns them.
func dead(t *testing.T, s *stream.Stream, group string, n int) []stream.DeadLetter {
	t.Helper()
	var letters []stream.DeadLetter
	wait(t, fmt.Sprintf("%d dead letters", n), func() bool {
		var err error
		letters, _, err = s.Group(group).Dead(t.Context(), stream.DeadFilter{}, stream.Page{Limit: 1000})
		return err == nil && len(letters) >= n
	})
	if len(letters) != n {
		t.Fatalf("%d dead letters, want %d: %+v", len(letters), n, letters)
	}
	return letters
}

// clean checks that nothing is left of a queue's jobs: the documented keys that
// may outlive them are empty, and the records of finished jobs go by themselves.
func (w *world) clean(t *testing.T, s *stream.Stream) {
	t.Helper()
	ctx := t.Context()
	var left []string
	prefix := "{" + s.Name() + "}:"
	for _, node := range w.server.Nodes(t) {
		for _, pattern := range []string{s.Name(), prefix + "*"} {
			for it := node.Scan(ctx, 0, pattern, 1000).Iterator(); it.Next(ctx); {
				key := it.Val()
				switch kind := node.Type(ctx, key).Val(); {
				case kind == "hash" && (key == prefix+"config" || key == prefix+"workers" || key == prefix+"ticks"):
				case kind == "stream":
					if n := node.XLen(ctx, key).Val(); n != 0 {
						left = append(left, fmt.Sprintf("%s (%d entries)", key, n))
					}
				case strings.HasPrefix(key, prefix+"job:"), strings.HasPrefix(key, prefix+"report:"), strings.HasPrefix(key, prefix+"once:"), strings.HasSuffix(key, ":sweep"), strings.HasSuffix(key, ":lease"), key == prefix+"upkeep":
					if node.TTL(ctx, key).Val() == -1 {
						left = append(left, key+" (for ever)")
					}
				case kind != "none":
					left = append(left, kind+" "+key)
				}
			}
		}
	}
	if len(left) > 0 {
		slices.Sort(left)
		t.Errorf("left over: %v", left)
	}
}

// killed makes the group, and has a consumer of a process that dies at once read up to n entries of one of the group's streams.
func killed(t *testing.T, rdb redis.UniversalClient, s *stream.Stream, key string, n int64) int {
	t.Helper()
	opened, err := engine.Open(t.Context(), rdb, engine.NewKeys(s.Name()), group, "", false)
	if err != nil || opened.Refusal != "" {
		t.Fatal(opened, err)
	}
	read, err := rdb.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: group, Consumer: "killed", Streams: []string{key, ">"}, Count: n, Block: -1}).Result()
	if errors.Is(err, redis.Nil) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return len(read[0].Messages)
}

// consumers of the group on one of its streams.
func consumers(t *testing.T, s *stream.Stream, key string) (names []string) {
	t.Helper()
	list, err := s.Client().XInfoConsumers(t.Context(), key, group).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		names = append(names, c.Name)
	}
	return names
}

// victim is a worker that can be killed as far as Redis and its group can
// tell: nothing of it reaches Redis any more, and what its handlers do has no effect.
type victim struct {
	*consumer.Worker
	links *servers.Links
	end   chan struct{} // closed at the test's end: its handlers may return

	mu    sync.Mutex
	dying bool
	done  int64
}

// victim of a stream; its handlers are registered by the caller.
func (w *world) victim(t *testing.T, cfg consumer.Config, name string) *victim {
	t.Helper()
	rdb, links := w.server.Linked(t)
	return &victim{Worker: w.worker(t, cfg, over(t, rdb, name, stream.Config{})), links: links, end: make(chan struct{})}
}

// run starts it; at the test's end it may reach Redis again, so that it stops like any other.
func (v *victim) run(t *testing.T) {
	t.Helper()
	stop := run(t, v.Worker)
	t.Cleanup(func() {
		close(v.end)
		v.links.Mend(t)
		_ = stop()
	})
}

// kill cuts it off from Redis for good.
func (v *victim) kill() { v.links.Hang() }

// over reports whether the test has ended.
func (v *victim) over() bool {
	select {
	case <-v.end:
		return true
	default:
		return false
	}
}

// completes reports whether the worker lives, and counts the job that is about to complete if so.
func (v *victim) completes() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.dying {
		v.done++
	}
	return !v.dying
}

// crash is what a handler does that kills its process: others that run there do not end.
// Those that have ended are in Redis: else they would run again, as after any crash at that moment.
func (v *victim) crash() {
	v.mu.Lock()
	v.dying = true
	done := v.done
	v.mu.Unlock()
	for v.Stats().Completed < done && !v.over() {
		pass(time.Millisecond)
	}
	v.kill()
	<-v.end
}

// ledger counts runs.
type ledger struct {
	mu   sync.Mutex
	runs map[string]int
}

func (l *ledger) add(what ...any) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.runs == nil {
		l.runs = make(map[string]int)
	}
	key := fmt.Sprint(what...)
	l.runs[key]++
	return l.runs[key]
}

func (l *ledger) of(what ...any) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.runs[fmt.Sprint(what...)]
}

func (l *ledger) total() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, runs := range l.runs {
		n += runs
	}
	return n
}

// want checks how often each of n numbered jobs ran.
func (l *ledger) want(t *testing.T, n int, runs func(i int) int) {
	t.Helper()
	bad := 0
	for i := range n {
		if got := l.of(i); got != runs(i) {
			if bad++; bad <= 10 {
				t.Errorf("job %d ran %d times, want %d", i, got, runs(i))
			}
		}
	}
	if bad > 10 {
		t.Errorf("%d jobs in all", bad)
	}
}

func once(int) int { return 1 }
