package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// cancelJob cancels a job, which must leave it in one of those states.
func cancelJob(t *testing.T, s *stream.Stream, id string, want ...stream.State) {
	t.Helper()
	state, err := s.Cancel(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range want {
		if state == w {
			return
		}
	}
	t.Fatalf("cancel %s: %s, want %s", id, state, want)
}

// becomes waits until a job is in that state.
func becomes(t *testing.T, s *stream.Stream, id string, want stream.State) (info stream.Info) {
	t.Helper()
	redistest.Wait(t, id+" to be "+string(want), func() (ok bool) {
		var err error
		info, err = s.Get(t.Context(), id)
		return err == nil && info.State == want
	})
	return info
}

// mute is the same stream by a user whose scripts can't announce anything.
func mute(t *testing.T, s *stream.Stream) *stream.Stream {
	t.Helper()
	user := s.Name()
	if err := s.Client().Do(t.Context(), "ACL", "SETUSER", user, "reset", "on", ">secret", "+@all", "~*", "resetchannels").Err(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Client().Do(context.Background(), "ACL", "DELUSER", user).Err() })
	opt := *redistest.Options(t)
	opt.Username, opt.Password = user, "secret"
	silent, err := stream.New(redistest.Connect(t, &opt), s.Name(), stream.Config{Kind: s.Kind()})
	if err != nil {
		t.Fatal(err)
	}
	return silent
}

// TestCancelRunning: the context ends with the cause, and whatever the handler says then, but for a success, the job is cancelled.
func TestCancelRunning(t *testing.T) {
	t.Parallel()
	answers := map[string]error{
		"the context's": context.Canceled, "its own": errors.New("broken off"), "permanent": consumer.Permanent(errors.New("no")),
		"snooze": consumer.Snooze(time.Millisecond), "retry": consumer.RetryAfter(errors.New("later"), 0), "panic": nil, "success": nil,
	}
	for name, answer := range answers {
		for _, lost := range []bool{false, true} {
			for _, kind := range []stream.Kind{stream.KindQueue, stream.KindEvents} {
				t.Run(fmt.Sprintf("%s, hint lost %v, %s", name, lost, kind), func(t *testing.T) {
					t.Parallel()
					s := newStream(t, redistest.Client(t), stream.Config{Kind: kind})
					by := s
					if lost {
						by = mute(t, s)
					}
					cfg := quick()
					if !lost {
						cfg.Lease = time.Hour // no heartbeat comes to the rescue
					}
					w := newWorker(t, cfg, s)
					causes, running := make(chan error, 10), make(chan string, 10)
					w.HandleOther(func(ctx context.Context, d *consumer.Delivery) error {
						running <- d.ID
						<-ctx.Done()
						causes <- context.Cause(ctx)
						if name == "panic" {
							panic("no")
						}
						return answer
					})
					run(t, w)
					publish(t, s, stream.Job{Type: "t", ID: "x", MaxTries: 5}, stream.Job{Type: "t", MaxTries: 5})
					for range 2 {
						id := <-running
						cancelJob(t, by, id, stream.Active)
						if lost {
							consumer.Heartbeat(w)
						}
						if err := <-causes; !errors.Is(err, consumer.ErrCancelled) {
							t.Errorf("the context ended with %v", err)
						}
						want := stream.Cancelled
						if name == "success" {
							want = stream.Completed
						}
						if want == stream.Completed && id != "x" || kind == stream.KindEvents && want == stream.Completed {
							redistest.Wait(t, "the success", func() bool { return w.Stats().Completed > 0 })
							continue
						}
						info := becomes(t, s, id, want)
						if in, ok := info.Groups[group]; ok {
							info = in
						}
						if want == stream.Cancelled && (info.Type != "t" || info.Worker != w.Name() || info.Started.IsZero() || info.Finished.IsZero() || (name == "its own") != (info.Err == "broken off")) {
							t.Errorf("its record: %+v", info)
						}
						cancelJob(t, s, id, want)
					}
					idle(t, s)
					redistest.Wait(t, "the ends to be counted", func() bool { st := w.Stats(); return st.Cancelled+st.Completed == 2 })
					if st := w.Stats(); st.Started != 2 || st.Cancelled+st.Completed != 2 || st.Retried+st.Snoozed+st.Dead != 0 {
						t.Errorf("%+v", st)
					}
					consumer.Heartbeat(w)
					if n := s.Client().Exists(t.Context(), key(s, "marks")).Val(); n != 0 {
						t.Error("marks are left behind")
					}
				})
			}
		}
	}
}

// TestCancelWhileStopping: a worker that waits for its last jobs hears at once that they are cancelled.
func TestCancelWhileStopping(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	cfg := quick()
	cfg.Lease, cfg.Grace = time.Hour, 10*time.Second // no heartbeat comes to the rescue
	w := newWorker(t, cfg, s)
	running, causes := make(chan struct{}), make(chan error, 2)
	w.HandleOther(func(ctx context.Context, _ *consumer.Delivery) error {
		running <- struct{}{}
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return ctx.Err()
	})
	stop := run(t, w)
	publish(t, s, stream.Job{Type: "t", ID: "x"}, stream.Job{Type: "u", ID: "y"})
	<-running
	<-running
	var ended sync.WaitGroup
	ended.Go(func() { _ = stop() })
	redistest.Wait(t, "the worker to stop", func() bool { return consumer.Stopping(w) })
	cancelJob(t, s, "x", stream.Active)
	becomes(t, s, "x", stream.Cancelled)
	addSwitch(t, s, stream.Switch{Action: stream.CancelJobs, Type: "u"})
	becomes(t, s, "y", stream.Cancelled)
	ended.Wait()
	for range 2 {
		if err := <-causes; !errors.Is(err, consumer.ErrCancelled) {
			t.Errorf("the context ended with %v", err)
		}
	}
}

// TestCancelQueued: what was read and has not started does not start.
func TestCancelQueued(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("hint lost %v", lost), func(t *testing.T) {
			t.Parallel()
			s := newStream(t, redistest.Client(t), stream.Config{})
			by := s
			if lost {
				by = mute(t, s)
			}
			cfg := quick()
			cfg.MaxJobs = 1
			w := newWorker(t, cfg, s)
			release := make(chan struct{})
			var book ledger
			w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
				if d.Type == "block" {
					<-release
				}
				book.add(d.ID)
				return nil
			})
			publish(t, s, stream.Job{Type: "block", ID: "block"}, stream.Job{Type: "t", ID: "x"}, stream.Job{Type: "t", ID: "y"})
			run(t, w)
			redistest.Wait(t, "the first to run", func() bool { return w.Health().Running == 1 })
			cancelJob(t, by, "x", stream.Active, stream.Cancelled) // what waits for too long is handed back
			if lost {
				consumer.Heartbeat(w)
			}
			close(release)
			becomes(t, s, "x", stream.Cancelled)
			idle(t, s)
			if book.of("x") != 0 || book.of("y") != 1 {
				t.Errorf("x ran %d times, y %d: %+v", book.of("x"), book.of("y"), w.Stats())
			}
		})
	}
}

// TestCancelOfTheDead: nobody runs a job again whose worker died after it was cancelled.
func TestCancelOfTheDead(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"chosen", ""} {
		t.Run("id "+id, func(t *testing.T) {
			t.Parallel()
			direct, proxied, proxy := behindProxy(t)
			s := newStream(t, direct, stream.Config{})
			far, err := stream.New(proxied, s.Name(), stream.Config{})
			if err != nil {
				t.Fatal(err)
			}
			cfg := quick()
			cfg.Lease, cfg.Grace = 2*time.Second, time.Millisecond
			running := make(chan string, 1)
			release := make(chan struct{})
			first := newWorker(t, cfg, far)
			first.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
				running <- d.ID
				<-release
				return nil // a late success
			})
			run(t, first)
			publish(t, s, stream.Job{Type: "t", ID: id})
			job := <-running
			proxy.Hang() // as far as others can see it is dead
			cancelJob(t, s, job, stream.Active)
			second := newWorker(t, cfg, s)
			second.HandleOther(func(context.Context, *consumer.Delivery) error {
				t.Error("it ran again")
				return nil
			})
			run(t, second)
			info := becomes(t, s, job, stream.Cancelled)
			if info.Worker != second.Name() || info.Finished.IsZero() {
				t.Errorf("%+v", info)
			}
			proxy.Cut()
			if err := proxy.Forward(); err != nil {
				t.Fatal(err)
			}
			close(release)
			redistest.Wait(t, "the late success to be dropped", func() bool { return first.Health().Running == 0 && first.Health().Problem == nil })
			if info := becomes(t, s, job, stream.Cancelled); info.Worker != second.Name() || first.Stats().Completed != 0 {
				t.Errorf("%+v, %+v", info, first.Stats())
			}
		})
	}
}

// TestCancelEvents: a group that has not come to an entry yet will not run it, even when its worker starts only then; others do.
func TestCancelEvents(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{Kind: stream.KindEvents})
	var runs [2]ledger
	start := func(i int, name string) *consumer.Worker {
		w, err := consumer.New(name, quick(), s)
		if err != nil {
			t.Fatal(err)
		}
		w.HandleOther(func(_ context.Context, d *consumer.Delivery) error { runs[i].add(d.ID); return nil })
		return w
	}
	stop := run(t, start(0, "a"))
	redistest.Wait(t, "the group", func() bool { _, err := s.Group("a").Depths(t.Context()); return err == nil })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	publish(t, s, stream.Job{Type: "t", ID: "x"}, stream.Job{Type: "t", ID: "y"}, stream.Job{Type: "t", ID: "z", Delay: time.Second})
	for id, want := range map[string]stream.State{"x": stream.Waiting, "z": stream.Scheduled} {
		if state, err := s.Group("a").Cancel(t.Context(), id); err != nil || state != want {
			t.Fatalf("%s: %s, %v", id, state, err)
		}
	}
	run(t, start(0, "a"))
	run(t, start(1, "b"))
	promote(t, s)
	redistest.Wait(t, "the jobs", func() bool { return runs[1].total() == 3 && runs[0].total() == 1 })
	for _, id := range []string{"x", "z"} {
		redistest.Wait(t, "the records", func() bool {
			info, err := s.Get(t.Context(), id)
			return err == nil && info.Groups["a"].State == stream.Cancelled && info.Groups["b"].State == stream.Completed
		})
	}
	if runs[0].of("y") != 1 {
		t.Errorf("a ran %v", runs[0].runs)
	}
}

// promote brings what is scheduled into the stream as it becomes due, until the test ends.
func promote(t *testing.T, s *stream.Stream) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_, _ = engine.Promote(ctx, s.Client(), engine.ScheduledSlot(engine.NewKeys(s.Name())), 100)
			time.Sleep(10 * time.Millisecond)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// TestCancelInABatch: one of a batch is cancelled and the others go on; the context ends when nobody needs the run any more.
func TestCancelInABatch(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	w := newWorker(t, quick(), s)
	running, checked := make(chan struct{}), make(chan struct{})
	consumer.HandleBatch(w, ping, 2, func(ctx context.Context, jobs []*consumer.Job[int]) []error {
		if len(jobs) != 2 {
			return []error{errors.New("alone")}
		}
		running <- struct{}{}
		select {
		case <-checked:
		case <-ctx.Done():
			t.Errorf("the batch ended with %v while one of its jobs went on", context.Cause(ctx))
		}
		<-ctx.Done()
		return []error{context.Cause(ctx), context.Cause(ctx)}
	})
	jobs := many(2)
	jobs[0].ID, jobs[1].ID = "x", "y"
	publish(t, s, jobs...)
	run(t, w)
	<-running
	cancelJob(t, s, "x", stream.Active)
	consumer.Heartbeat(w)
	close(checked)
	cancelJob(t, s, "y", stream.Active)
	becomes(t, s, "x", stream.Cancelled)
	becomes(t, s, "y", stream.Cancelled)
}

// TestCancelRaces: cancels meet completions, failures and hand-backs. Each job has exactly one end, and its record is of that.
func TestCancelRaces(t *testing.T) {
	t.Parallel()
	for _, ids := range []bool{true, false} {
		t.Run(fmt.Sprintf("ids %v", ids), func(t *testing.T) {
			t.Parallel()
			s := newStream(t, redistest.Client(t), stream.Config{})
			cfg := quick()
			cfg.MaxJobs, cfg.KeepStatus, cfg.MaxTries = 8, consumer.KeepAll, 1000
			var succeeded ledger
			var turn atomic.Int64
			start := func() (*consumer.Worker, func() error) {
				w := newWorker(t, cfg, s)
				w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
					switch turn.Add(1) % 4 {
					case 0:
						return errors.New("again")
					case 1:
						return consumer.Snooze(0)
					}
					succeeded.add(d.ID)
					return nil
				})
				return w, run(t, w)
			}
			jobs := make([]stream.Job, 600)
			for i := range jobs {
				jobs[i] = stream.Job{Type: "t"}
				if ids {
					jobs[i].ID = fmt.Sprint("job-", i)
				}
			}
			receipts := publish(t, s, jobs...)
			w1, stop := start()
			w2, _ := start()
			var wg sync.WaitGroup
			var removed atomic.Int64
			for n := range 4 {
				wg.Go(func() {
					for i := n; i < len(receipts); i += 4 {
						state, err := s.Cancel(t.Context(), receipts[len(receipts)-1-i].ID)
						if err != nil || state != stream.Cancelled && state != stream.Active && state != stream.Completed {
							t.Errorf("%s, %v", state, err)
						}
						if state == stream.Cancelled {
							removed.Add(1)
						}
					}
				})
			}
			wg.Wait()
			if err := stop(); err != nil {
				t.Error(err)
			}
			idle(t, s)
			cancelled, completed := int64(0), int64(0)
			for _, r := range receipts {
				info, err := s.Get(t.Context(), r.ID)
				switch {
				case err == nil && info.State == stream.Completed && succeeded.of(r.ID) == 1:
					completed++
				case err == nil && info.State == stream.Cancelled && succeeded.of(r.ID) == 0:
					cancelled++
				default:
					t.Errorf("%s: %+v, %v; it succeeded %d times", r.ID, info, err, succeeded.of(r.ID))
				}
			}
			a, b := w1.Stats(), w2.Stats()
			if a.Completed+b.Completed != completed || a.Cancelled+b.Cancelled > cancelled || a.Cancelled+b.Cancelled+removed.Load() < cancelled {
				t.Errorf("%d completed and %d cancelled, %d of them where they waited; the workers say %+v and %+v", completed, cancelled, removed.Load(), a, b)
			}
			if cancelled == 0 || completed == 0 {
				t.Errorf("%d cancelled, %d completed: this proves little", cancelled, completed)
			}
			if n := s.Client().HLen(t.Context(), key(s, "ids")).Val(); n != 0 {
				t.Errorf("%d IDs are left behind", n)
			}
		})
	}
}

// TestCancelledIDIsFree: the mark of a job that succeeded all the same is not for the next one that has its ID.
func TestCancelledIDIsFree(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	w := newWorker(t, quick(), s)
	running := make(chan struct{})
	release := make(chan error)
	w.HandleOther(func(ctx context.Context, _ *consumer.Delivery) error {
		running <- struct{}{}
		if err := <-release; err != nil {
			return err
		}
		return ctx.Err()
	})
	run(t, w)
	publish(t, s, stream.Job{Type: "t", ID: "chosen"})
	<-running
	silent := mute(t, s)
	cancelJob(t, silent, "chosen", stream.Active)
	release <- nil // before the worker hears of it
	idle(t, s)
	s.Client().Del(t.Context(), key(s, "record"))                                      // as after a minute
	s.Client().ZAdd(t.Context(), key(s, "marks"), redis.Z{Score: 1, Member: "chosen"}) // as before the heartbeat that found it
	publish(t, s, stream.Job{Type: "t", ID: "chosen"})
	<-running
	consumer.Heartbeat(w)
	release <- nil
	becomes(t, s, "chosen", stream.Completed)
}

// TestCancelledEventIsForgotten: the mark of a job whose worker dies as it ends is not for the next one that has its ID, whoever
// forgets marks with heartbeats.
func TestCancelledEventIsForgotten(t *testing.T) {
	t.Parallel()
	direct, proxied, proxy := behindProxy(t)
	s := newStream(t, direct, stream.Config{Kind: stream.KindEvents})
	far, err := stream.New(proxied, s.Name(), stream.Config{Kind: stream.KindEvents})
	if err != nil {
		t.Fatal(err)
	}
	cfg := quick()
	cfg.Lease = time.Hour
	running := make(chan struct{}, 2)
	first := newWorker(t, cfg, far)
	first.HandleOther(func(ctx context.Context, _ *consumer.Delivery) error {
		running <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	stop := run(t, first)
	for _, id := range []string{"warm", "x"} { // once it has heard of one, no heartbeat is on its way
		publish(t, s, stream.Job{Type: "t", ID: id})
		<-running
		cancelJob(t, s, id, stream.Active)
		becomes(t, s, id, stream.Cancelled)
		if id == "warm" {
			consumer.Heartbeat(first)
		}
	}
	proxy.Refuse()
	_ = stop()
	k := engine.NewKeys(s.Name())
	s.Client().XTrimMaxLen(t.Context(), s.Name(), 0)
	s.Client().Del(t.Context(), k.Group(group, true).Job("x"), k.Job("x")) // as after an hour
	if r := publish(t, s, stream.Job{Type: "t", ID: "x"})[0]; r.Duplicate {
		t.Fatalf("%+v", r)
	}
	second := newWorker(t, cfg, s)
	second.HandleOther(func(context.Context, *consumer.Delivery) error { running <- struct{}{}; return nil })
	run(t, second)
	redistest.Wait(t, "the next job to end", func() bool { n := second.Stats(); return n.Completed+n.Cancelled > 0 })
	if n := second.Stats(); n.Completed != 1 {
		t.Errorf("%+v", n)
	}
}

// TestCancelKeepNone: what is cancelled leaves nothing where nothing is kept, but for an ID that stays taken for a while.
func TestCancelKeepNone(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	cfg := quick()
	cfg.KeepStatus = consumer.KeepNone
	w := newWorker(t, cfg, s)
	running := make(chan string)
	w.HandleOther(func(ctx context.Context, d *consumer.Delivery) error {
		running <- d.ID
		<-ctx.Done()
		return ctx.Err()
	})
	run(t, w)
	publish(t, s, stream.Job{Type: "t"}, stream.Job{Type: "t", ID: "chosen"})
	for range 2 {
		id := <-running
		cancelJob(t, s, id, stream.Active)
		redistest.Wait(t, "its end", func() bool {
			_, err := s.Get(t.Context(), id)
			return errors.Is(err, stream.ErrNotFound) && id != "chosen" || err == nil && id == "chosen" && s.Client().PTTL(t.Context(), key(s, "record")).Val() > 0
		})
		if r := s.Client().Get(t.Context(), key(s, "record")).Val(); id == "chosen" && (!strings.HasPrefix(r, "cancelled ") || strings.Contains(r, "\n")) {
			t.Errorf("%q", r)
		}
	}
}

// TestCancelOnACluster: hints reach workers of all streams there.
func TestCancelOnACluster(t *testing.T) {
	t.Parallel()
	rdb, _ := redistest.Cluster(t)
	var streams []*stream.Stream
	for i := range 4 {
		s, err := stream.New(rdb, fmt.Sprintf("orders-%d", i), stream.Config{})
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	w := newWorker(t, quick(), streams...)
	running := make(chan string)
	w.HandleOther(func(ctx context.Context, d *consumer.Delivery) error {
		running <- d.Stream
		<-ctx.Done()
		return context.Cause(ctx)
	})
	run(t, w)
	for _, s := range streams {
		publish(t, s, stream.Job{Type: "t", ID: "x"}, stream.Job{Type: "t", ID: "later", Delay: time.Hour})
		<-running
		cancelJob(t, s, "x", stream.Active)
		becomes(t, s, "x", stream.Cancelled)
		cancelJob(t, s, "later", stream.Cancelled)
	}
}

// TestMarksOfAnotherType: somebody's key in place of the marks stops nothing.
func TestMarksOfAnotherType(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	s.Client().Set(t.Context(), key(s, "marks"), "x", 0)
	w := newWorker(t, quick(), s)
	var runs atomic.Int64
	w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
		if runs.Add(1); d.Attempt == 1 {
			return errors.New("once more")
		}
		return nil
	})
	run(t, w)
	publish(t, s, stream.Job{Type: "t", ID: "x"})
	redistest.Wait(t, "two runs", func() bool { return runs.Load() == 2 })
	idle(t, s)
	if _, err := s.Cancel(t.Context(), "x"); err == nil || !strings.HasPrefix(err.Error(), "cancel job x of ") {
		t.Errorf("cancel: %v", err)
	}
	var serverErr redis.Error
	if _, err := s.Cancel(t.Context(), "x"); !errors.As(err, &serverErr) {
		t.Errorf("cancel: %v", err)
	}
}
