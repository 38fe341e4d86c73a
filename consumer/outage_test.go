package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// behindProxy returns a direct client, and one whose connections pass a proxy that the test can break.
func behindProxy(t *testing.T) (direct, proxied *redis.Client, proxy *redistest.Proxy) {
	t.Helper()
	direct = redistest.Client(t)
	proxy = redistest.NewProxy(t, redistest.Options(t).Addr)
	proxied = redistest.Connect(t, &redis.Options{Addr: proxy.Addr()}) // go-redis's own defaults, retries included
	return direct, proxied, proxy
}

// TestLostReadGoesBack: entries whose delivery was lost with XREADGROUP's answer run all the same, once, and it costs no try.
func TestLostReadGoesBack(t *testing.T) {
	t.Parallel()
	direct, proxied, proxy := behindProxy(t)
	s := newStream(t, direct, stream.Config{})
	through, err := stream.New(proxied, s.Name(), stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker(t, quick(), through)
	var book ledger
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
		book.add(fmt.Sprint(job.Data))
		if job.Attempt != 1 {
			t.Errorf("job %d is in attempt %d, want 1", job.Data, job.Attempt)
		}
		return nil
	})
	run(t, w)
	redistest.Wait(t, "the worker", func() bool { return w.Health().Ready })
	const n = 100
	for i := range n {
		if i%25 == 0 {
			proxy.LoseReplies("XREADGROUP", 1)
		}
		publish(t, s, ping.Job(i))
	}
	redistest.Wait(t, "all jobs", func() bool { return book.total() >= n })
	idle(t, s)
	if proxy.Lost() == 0 {
		t.Fatal("no reply was lost: this proves nothing")
	}
	for i := range n {
		if runs := book.of(fmt.Sprint(i)); runs != 1 {
			t.Errorf("job %d ran %d times, want once", i, runs)
		}
	}
	redistest.Wait(t, "the last answers", func() bool { return w.Stats().Completed >= n }) // Redis knows before the worker does
	if got := w.Stats(); got.Completed != n || got.Retried+got.Dead+got.Reclaimed != 0 {
		t.Errorf("stats = %+v, want %d completed and no more", got, n)
	}
}

// TestLostSettleIsRepeated: an answer to a settling script that is lost changes nothing twice.
func TestLostSettleIsRepeated(t *testing.T) {
	t.Parallel()
	direct, proxied, proxy := behindProxy(t)
	s := newStream(t, direct, stream.Config{})
	through, err := stream.New(proxied, s.Name(), stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker(t, quick(), through)
	var book ledger
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
		if book.add(fmt.Sprint(job.Data)); job.Data%3 == 0 && job.Attempt == 1 {
			return errors.New("once more")
		}
		if job.Data%10 == 7 {
			return consumer.Permanent(errors.New("never"))
		}
		return nil
	})
	run(t, w)
	redistest.Wait(t, "the worker", func() bool { return w.Health().Ready })
	const n = 60
	for i := range n {
		lost := proxy.Lost()
		if i%6 == 0 {
			proxy.LoseReplies("EVAL", 1)
		}
		job := ping.Job(i)
		if i%2 == 0 {
			job.ID = fmt.Sprintf("job-%d", i)
		}
		publish(t, s, job)
		redistest.Wait(t, "the job's run", func() bool { return book.of(fmt.Sprint(i)) > 0 })
		if i%6 == 0 {
			redistest.Wait(t, "a lost reply", func() bool { return proxy.Lost() > lost })
		}
	}
	idle(t, s)
	for i := range n {
		want := 1
		if i%3 == 0 {
			want = 2
		}
		if runs := book.of(fmt.Sprint(i)); runs != want {
			t.Errorf("job %d ran %d times, want %d", i, runs, want)
		}
	}
	deadLetters(t, s, n/10)
	redistest.Wait(t, "the ends whose answers were lost to be believed", func() bool { got := w.Stats(); return got.Completed+got.Retried+got.Dead >= n+n/3 })
	if got := w.Stats(); got.Completed != n-n/10 || got.Retried != n/3 || got.Dead != n/10 {
		t.Errorf("stats = %+v, want %d completed, %d retried, %d dead", got, n-n/10, n/3, n/10)
	}
}

// TestConnectionsKilled: whatever connection dies at whatever moment, every job ends once.
func TestConnectionsKilled(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var book ledger
	var workers []*consumer.Worker
	for range 2 {
		w := newWorker(t, quick(), s)
		consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
			if book.add(fmt.Sprint(job.Data)); job.Data%7 == 0 && job.Attempt == 1 {
				return errors.New("once more")
			}
			return nil
		})
		run(t, w)
		workers = append(workers, w)
	}
	killer := redistest.Connect(t, &redis.Options{Addr: server.Addr(), MaxRetries: -1})
	const n = 4000
	for i := 0; i < n; i += 200 {
		jobs := many(200)
		for k := range jobs {
			jobs[k] = ping.Job(i + k)
			jobs[k].ID = fmt.Sprintf("job-%d", i+k) // so that a killed publish can be repeated
		}
		publish(t, s, jobs...)
		killer.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes")
		if i%1000 == 0 {
			killer.ScriptFlush(t.Context())
		}
	}
	redistest.Wait(t, "all jobs", func() bool {
		done := int64(0)
		for _, w := range workers {
			done += w.Stats().Completed
		}
		return done >= n
	})
	idle(t, s)
	for i := range n {
		want := 1
		if i%7 == 0 {
			want = 2
		}
		if runs := book.of(fmt.Sprint(i)); runs != want {
			t.Errorf("job %d ran %d times, want %d", i, runs, want)
		}
	}
}

// TestRedisRestarts: the worker goes on when its server is back, and finishes what it held.
func TestRedisRestarts(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker(t, quick(), s)
	release := make(chan struct{})
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { <-release; return nil })
	run(t, w)
	publish(t, s, ping.Job(1))
	redistest.Wait(t, "the job to run", func() bool { return len(w.Running()) == 1 })
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	close(release)
	redistest.Wait(t, "the trouble to be seen", func() bool { return w.Health().Problem != nil })
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, "the job to be settled", func() bool { return w.Stats().Completed == 1 })
	publish(t, s, ping.Job(2))
	redistest.Wait(t, "the next job", func() bool { return w.Stats().Completed == 2 })
	redistest.Wait(t, "good health", func() bool { return w.Health().Ready })
}

// TestAtMaxmemory: a full Redis refuses publishers, but what is there is worked off.
func TestAtMaxmemory(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	// The group must exist before the memory is gone.
	if _, err := s.Create(t.Context(), stream.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	first := newWorker(t, quick(), s)
	stop := run(t, first)
	redistest.Wait(t, "the group", func() bool { return first.Health().Ready })
	_ = stop()
	again, err := stream.New(rdb, "orders", stream.Config{}) // as a new process would, which has registered nothing yet
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker(t, quick(), again)
	const n = 50
	for i := range n {
		publish(t, s, ping.Job(i))
	}
	rdb.ConfigSet(t.Context(), "maxmemory", "1")
	if _, err := s.Publish(t.Context(), ping.Job(0)); !errors.Is(err, stream.ErrStreamFull) {
		t.Errorf("publish at maxmemory: %v, want ErrStreamFull", err)
	}
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
		if job.Attempt == 1 && job.Data%5 == 0 {
			return errors.New("once more")
		}
		if job.Data%5 == 1 {
			return consumer.Permanent(errors.New("never"))
		}
		return nil
	})
	run(t, w)
	redistest.Wait(t, "all jobs to end", func() bool {
		got := w.Stats()
		return got.Completed == n*4/5 && got.Dead == n/5 && got.Retried == n/5
	})
}

func TestIdleWorkerIsQuiet(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	s, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker(t, quick(), s)
	run(t, w)
	redistest.Wait(t, "the worker", func() bool { return w.Health().Ready })
	commands := func() (n int64) {
		for _, line := range strings.Split(rdb.Info(t.Context(), "stats").Val(), "\r\n") {
			if _, err := fmt.Sscanf(line, "total_commands_processed:%d", &n); err == nil {
				return n
			}
		}
		t.Fatal("INFO has no total_commands_processed")
		return 0
	}
	time.Sleep(time.Second) // for what starting costs
	before, start := commands(), time.Now()
	time.Sleep(4 * time.Second)
	rate := float64(commands()-before-1) / time.Since(start).Seconds()
	if rate > 1 {
		t.Errorf("an idle worker sends %.1f commands a second, want at most 1", rate)
	}
}

// TestLostPublishIsNoDuplicate: a publisher whose answer was lost repeats itself, and hears
// that its job was stored, whatever a worker has done with the job meanwhile.
func TestLostPublishIsNoDuplicate(t *testing.T) {
	t.Parallel()
	direct, proxied, proxy := behindProxy(t)
	s := newStream(t, direct, stream.Config{})
	through, err := stream.New(proxied, s.Name(), stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := quick()
	cfg.Backoff.Delay = time.Hour
	w := newWorker(t, cfg, s)
	w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
		switch d.Type {
		case "retries":
			return errors.New("once more")
		case "dies":
			return consumer.Permanent(errors.New("never"))
		}
		return nil
	})
	run(t, w)
	redistest.Wait(t, "the worker", func() bool { return w.Health().Ready })
	publish(t, through, stream.Job{Type: "completes", ID: "first"}) // the server knows the script from here on
	redistest.Wait(t, "the first job", func() bool { return w.Stats().Completed == 1 })
	for i, typ := range []string{"completes", "retries", "dies"} {
		job := stream.Job{Type: typ, ID: "mine-" + typ}
		proxy.LoseReplies(job.ID, 1)
		receipt, err := through.Publish(t.Context(), job)
		if err != nil || receipt.Duplicate || receipt.ID != job.ID {
			t.Errorf("%s: %+v, %v; want no duplicate", typ, receipt, err)
		}
		if proxy.Lost() != i+1 {
			t.Fatalf("%d replies were lost: this proves nothing", proxy.Lost())
		}
		redistest.Wait(t, "the job's run", func() bool {
			got := w.Stats()
			return got.Completed+got.Retried+got.Dead == int64(i+2)
		})
		again, err := s.Publish(t.Context(), job)
		if err != nil || !again.Duplicate {
			t.Errorf("%s, by somebody else: %+v, %v; want a duplicate", typ, again, err)
		}
	}
}
