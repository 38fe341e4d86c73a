package consumer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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

func logOf(t *testing.T, s *stream.Stream, id string) []string {
	t.Helper()
	lines, err := s.Log(t.Context(), group, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, l := range lines {
		if l.At.IsZero() || time.Since(l.At).Abs() > time.Minute {
			t.Errorf("line %d was written at %s", l.Number, l.At)
		}
		texts = append(texts, fmt.Sprintf("%d/%d %s", l.Number, l.Attempt, l.Text))
	}
	return texts
}

func reportKey(s *stream.Stream, id string) string {
	return engine.NewKeys(s.Name()).Group(group, s.Kind() == stream.KindEvents).Report(id)
}

// TestProgressIsFound by who looks the job up, in each state.
func TestProgressIsFound(t *testing.T) {
	t.Parallel()
	for _, kind := range []stream.Kind{stream.KindQueue, stream.KindEvents} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			rdb := redistest.Client(t)
			s := newStream(t, rdb, stream.Config{Kind: kind})
			cfg := quick()
			cfg.KeepStatus = consumer.KeepAll
			w := newWorker(t, cfg, s)
			gate := make(chan error)
			consumer.Handle(w, stream.Type[int]{Name: "steps"}, func(ctx context.Context, job *consumer.Job[int]) error {
				job.Logf("try %d", job.Attempt)
				if job.Attempt > 1 {
					if err := <-gate; err != nil {
						return err
					}
				}
				job.Progress(0.25*float64(job.Attempt), strings.Repeat("é", 200))
				job.Logf("half of %s\n", "it")
				select {
				case err := <-gate:
					job.Progress(7, "all")
					job.Logf("last words")
					return err
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			run(t, w)
			id := publish(t, s, stream.Job{Type: "steps", ID: "chosen", Data: 1, MaxTries: 2, Backoff: consumer.Backoff{Delay: time.Millisecond}})[0].ID
			progress := func(what string, ok func(stream.Info) bool) {
				t.Helper()
				redistest.Wait(t, what, func() bool {
					info, err := s.Get(t.Context(), id)
					return err == nil && ok(info)
				})
			}
			progress("the first progress", func(i stream.Info) bool {
				p := i.Progress
				return i.State == stream.Active && p.Fraction == 0.25 && p.Attempt == 1 && len(p.Note) <= 203 && strings.HasPrefix(p.Note, "éé") && time.Since(p.At).Abs() < time.Minute
			})
			gate <- errors.New("once more")
			progress("the second run, which has not said anything", func(i stream.Info) bool {
				return i.State == stream.Active && i.Attempt == 2 && i.Progress == stream.Progress{}
			})
			gate <- nil
			progress("the second progress", func(i stream.Info) bool { return i.State == stream.Active && i.Progress.Fraction == 0.5 })
			gate <- consumer.Permanent(errors.New("no more"))
			progress("the end", func(i stream.Info) bool {
				return i.State == stream.Dead && i.Progress.Fraction == 1 && i.Progress.Note == "all" && i.Progress.Attempt == 2
			})
			want := []string{"1/1 try 1", "2/1 half of it", "3/1 last words", "4/2 try 2", "5/2 half of it", "6/2 last words"}
			if got := logOf(t, s, id); !slices.Equal(got, want) {
				t.Errorf("log %q, want %q", got, want)
			}
			if lines, err := s.Log(t.Context(), "", id, 4); err != nil || len(lines) != 2 || lines[0].Number != 5 {
				t.Errorf("behind the fourth: %+v, %v", lines, err)
			}
			if ttl := rdb.PTTL(t.Context(), reportKey(s, id)).Val(); ttl < 23*time.Hour || ttl > 24*time.Hour {
				t.Errorf("the report of a dead letter stays for %s", ttl)
			}
		})
	}
}

// TestReportsOfShortJobs: what is said of jobs that end at once is written before their ends, and stays as long as the record.
func TestReportsOfShortJobs(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	consumer.Handle(w, stream.Type[string]{Name: "short"}, func(_ context.Context, job *consumer.Job[string]) error {
		switch job.Data {
		case "log":
			job.Logf("done")
		case "progress":
			job.Progress(1, "done")
		}
		return nil
	})
	consumer.HandleBatch(w, stream.Type[string]{Name: "batch"}, 10, func(_ context.Context, jobs []*consumer.Job[string]) []error {
		for _, job := range jobs {
			job.Logf("one of a batch: %s", job.Data)
		}
		return nil
	})
	keep := 2 * time.Hour
	receipts := publish(t, s,
		stream.Job{Type: "short", Data: "log"}, stream.Job{Type: "short", Data: "log", KeepResult: keep},
		stream.Job{Type: "short", Data: "progress"}, stream.Job{Type: "short", Data: "progress", KeepResult: keep}, stream.Job{Type: "short", Data: "nothing", KeepResult: keep},
		stream.Job{Type: "batch", Data: "a"}, stream.Job{Type: "batch", Data: "b"})
	run(t, w)
	idle(t, s)
	for i, want := range []struct {
		log  string
		said bool
		keep time.Duration
	}{{"1/1 done", false, time.Minute}, {"1/1 done", false, keep}, {"", false, 0}, {"", true, keep}, {"", false, 0}, {"1/1 one of a batch: a", false, time.Minute}, {"1/1 one of a batch: b", false, time.Minute}} {
		id := receipts[i].ID
		if got := strings.Join(logOf(t, s, id), ", "); got != want.log {
			t.Errorf("job %d: log %q, want %q", i, got, want.log)
		}
		ttl := rdb.PTTL(t.Context(), reportKey(s, id)).Val()
		if ttl > want.keep || want.keep > 0 && ttl < want.keep-30*time.Second {
			t.Errorf("job %d: its report stays for %s, want %s", i, ttl, want.keep)
		}
		if info, err := s.Get(t.Context(), id); (err == nil && info.Progress.Note == "done") != want.said {
			t.Errorf("job %d: %+v, %v", i, info.Progress, err)
		}
	}
}

// commands counts what a client sends, by the name of the command or script.
type commands struct {
	mu    sync.Mutex
	count map[string]int
}

func (c *commands) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *commands) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.add(cmd)
		return next(ctx, cmd)
	}
}

func (c *commands) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.add(cmds[0])
		return next(ctx, cmds)
	}
}

// add counts a command, or a pipeline by its first one, of scripts only reports.
func (c *commands) add(cmd redis.Cmder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, arg := range cmd.Args() {
		if s, ok := arg.(string); ok && strings.Contains(s, ":report:") {
			c.count["reports"]++
			return
		}
	}
	c.count["others"]++
}

func (c *commands) of(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count[what]
}

// TestReportsAreFew: however often handlers say something, there is one pipeline for all of them each half second, and one for what ends.
func TestReportsAreFew(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	sent := &commands{count: make(map[string]int)}
	rdb.AddHook(sent)
	s := newStream(t, rdb, stream.Config{})
	cfg := quick()
	cfg.MaxJobs = 20
	w := newWorker(t, cfg, s)
	release := make(chan struct{})
	var talked atomic.Int64
	consumer.Handle(w, stream.Type[int]{Name: "talks"}, func(_ context.Context, job *consumer.Job[int]) error {
		for i := 0; ; i++ {
			job.Progress(float64(i)/1e9, fmt.Sprint("step ", i))
			job.Logf("step %d", i)
			if i == 2*engine.ReportLines {
				talked.Add(1)
			}
			select {
			case <-release:
				job.Progress(0.5, "the last")
				return nil
			case <-time.After(time.Duration(i/(2*engine.ReportLines)) * time.Millisecond):
			}
		}
	})
	consumer.Handle(w, stream.Type[int]{Name: "silent"}, func(context.Context, *consumer.Job[int]) error { return nil })
	var jobs []stream.Job
	for range cfg.MaxJobs {
		jobs = append(jobs, stream.Job{Type: "talks", KeepResult: time.Hour})
	}
	began := time.Now()
	receipts := publish(t, s, jobs...)
	stop := run(t, w)
	redistest.Wait(t, "three reports", func() bool {
		return sent.of("reports") > 2 && talked.Load() == int64(cfg.MaxJobs) && time.Since(began) > 1500*time.Millisecond
	})
	close(release)
	idle(t, s)
	if n, most := sent.of("reports"), int(time.Since(began)/(500*time.Millisecond))+1+cfg.MaxJobs; n > most {
		t.Errorf("%d pipelines of reports in %s, at most %d were expected", n, time.Since(began), most)
	}
	for _, r := range receipts {
		if info, err := s.Get(t.Context(), r.ID); err != nil || info.Progress.Note != "the last" {
			t.Fatalf("%+v, %v", info.Progress, err)
		}
		if lines := logOf(t, s, r.ID); len(lines) != engine.ReportLines {
			t.Fatalf("%d lines", len(lines))
		}
	}
	before := sent.of("reports")
	publish(t, s, stream.Job{Type: "silent"}, stream.Job{Type: "silent", ID: "chosen"})
	idle(t, s)
	if err := stop(); err != nil || sent.of("reports") != before {
		t.Errorf("%v; jobs that say nothing had %d reports", err, sent.of("reports")-before)
	}
}

// TestReportsNeverHurt: a full Redis, or a key of another type in a report's place, keeps no job from ending, and is logged once.
func TestReportsNeverHurt(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	s := newStream(t, rdb, stream.Config{})
	var text logText
	cfg := quick()
	cfg.Logger = slog.New(slog.NewTextHandler(&text, nil))
	w := newWorker(t, cfg, s)
	begin, release := make(chan struct{}), make(chan struct{})
	consumer.Handle(w, stream.Type[int]{Name: "talks"}, func(_ context.Context, job *consumer.Job[int]) error {
		<-begin
		for i := range 3 {
			job.Progress(float64(i)/3, "")
			job.Logf("step %d", i)
		}
		<-release
		job.Logf("last")
		return nil
	})
	receipts := publish(t, s, stream.Job{Type: "talks", ID: "odd"}, stream.Job{Type: "talks", KeepResult: time.Hour})
	rdb.Set(t.Context(), reportKey(s, "odd"), "somebody else's", 0)
	run(t, w)
	redistest.Wait(t, "both to run", func() bool { return len(w.Running()) == 2 })
	if err := rdb.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	close(begin)
	redistest.Wait(t, "a word on the full Redis", func() bool { return strings.Contains(text.String(), "progress and logs of jobs cannot be written") })
	redistest.Wait(t, "a word on the odd key", func() bool { return strings.Contains(text.String(), "progress and log of a job cannot be written") })
	if err := rdb.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, "a report", func() bool { return len(logOf(t, s, receipts[1].ID)) == 3 })
	close(release)
	idle(t, s)
	if got := logOf(t, s, receipts[1].ID); len(got) != 4 {
		t.Errorf("log %q", got)
	}
	if rdb.Get(t.Context(), reportKey(s, "odd")).Val() != "somebody else's" {
		t.Error("a key of somebody else's was overwritten")
	}
	for _, what := range []string{"progress and logs of jobs cannot be written", "progress and log of a job cannot be written", "progress and logs of jobs are written again"} {
		if n := strings.Count(text.String(), what); n != 1 {
			t.Errorf("%q was logged %d times:\n%s", what, n, text.String())
		}
	}
}

// logText is what a logger wrote.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestLateWorkerSaysNothing: who lost the lease of a job must not overwrite what its new owner says.
func TestLateWorkerSaysNothing(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	steps := map[int]chan string{0: make(chan string), 1: make(chan string)} // by how often the job has moved
	w := newWorker(t, quick(), s)
	consumer.Handle(w, stream.Type[int]{Name: "talks"}, func(_ context.Context, job *consumer.Job[int]) error {
		moves := int(job.Fence & (1<<32 - 1))
		for note := range steps[moves] { // it ignores the end of its context
			job.Progress(0.5, note)
			job.Logf("run %d: %s", moves, note)
			steps[moves] <- ""
		}
		return nil
	})
	one, two := steps[0], steps[1]
	say := func(step chan string, note string) { step <- note; <-step }
	run(t, w)
	id := publish(t, s, stream.Job{Type: "talks", ID: "x", KeepResult: time.Hour})[0].ID
	say(one, "begun")
	note := func(want string) {
		t.Helper()
		redistest.Wait(t, "the note "+want, func() bool {
			info, err := s.Get(t.Context(), id)
			return err == nil && info.Progress.Note == want
		})
	}
	note("begun")
	// another worker takes it over, as a sweep does
	keys := engine.NewKeys(s.Name())
	g := keys.Group(group, false)
	entries, err := rdb.XRangeN(t.Context(), s.Name(), "-", "+", 1).Result()
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	rdb.XClaim(t.Context(), &redis.XClaimArgs{Stream: s.Name(), Group: group, Consumer: "sweeper", Messages: []string{entries[0].ID}})
	fields := entries[0].Values
	o, err := engine.ParseOpts(fields["opts"].(string))
	if err != nil {
		t.Fatal(err)
	}
	o = o.Moved(engine.StepReclaim)

	e := engine.Entry{Type: fields["type"].(string), Data: fields["data"].(string), Opts: o.String()}
	if v, err := engine.ReleaseCall(engine.Held{Key: s.Name(), Group: group, Consumer: "sweeper", Entry: entries[0].ID, Delete: true}, g, id, e).Run(t.Context(), rdb); err != nil || v == "" {
		t.Fatal(v, err)
	}
	say(one, "late") // the other has not said anything yet
	say(two, "anew")
	note("anew")
	say(one, "later still")
	close(two)
	redistest.Wait(t, "the end", func() bool {
		info, err := s.Get(t.Context(), id)
		return err == nil && info.State == stream.Completed
	})
	say(one, "too late")
	close(one)
	redistest.Wait(t, "the late worker to be done", func() bool { return len(w.Running()) == 0 })
	note("anew")
	if got, want := logOf(t, s, id), []string{"1/1 run 0: begun", "2/1 run 1: anew"}; !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
}
