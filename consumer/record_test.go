package consumer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

type sum struct {
	Total int `json:"total"`
}

var (
	add    = stream.Type[[]int]{Name: "add"}
	echo   = stream.Type[[]byte]{Name: "echo"}
	silent = stream.Type[int]{Name: "silent"}
)

// adder handles add, echo and silent.
func adder(t *testing.T, cfg consumer.Config, s *stream.Stream) *consumer.Worker {
	w := newWorker(t, cfg, s)
	consumer.HandleResult(w, add, func(_ context.Context, job *consumer.Job[[]int]) (sum, error) {
		if job.Attempt < len(job.Data) && job.Data[0] < 0 {
			return sum{}, errors.New("negative")
		}
		total := 0
		for _, n := range job.Data {
			total += n
		}
		return sum{total}, nil
	})
	consumer.HandleResult(w, echo, func(_ context.Context, job *consumer.Job[[]byte]) ([]byte, error) { return job.Data, nil })
	consumer.Handle(w, silent, func(context.Context, *consumer.Job[int]) error { return nil })
	return w
}

func with(job stream.Job, change func(*stream.Job)) stream.Job {
	change(&job)
	return job
}

// TestResultsAreKept: of plain jobs, of jobs with IDs, of retried and deferred ones, byte for byte.
func TestResultsAreKept(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	run(t, adder(t, quick(), s))
	ids := publish(t, s, add.Job([]int{1, 2}), with(add.Job([]int{3}), func(j *stream.Job) { j.ID = "chosen" }), add.Job([]int{-1, 2}), echo.Job([]byte("\x00\n\xff")), echo.Job(nil))
	for i, want := range map[int]int{0: 3, 1: 3, 2: 1} {
		if r, err := stream.Result[sum](t.Context(), s, ids[i].ID); err != nil || r.Total != want {
			t.Errorf("job %d: %+v, %v, want %d", i, r, err, want)
		}
	}
	for i, want := range map[int]string{3: "\x00\n\xff", 4: ""} {
		if r, err := stream.Result[[]byte](t.Context(), s, ids[i].ID); err != nil || string(r) != want {
			t.Errorf("job %d: %q, %v, want %q", i, r, err, want)
		}
	}
	info, err := s.Get(t.Context(), ids[2].ID)
	if err != nil || info.State != stream.Completed || info.Type != "add" || info.Attempt != 2 || info.MaxTries != 3 || info.Worker == "" ||
		len(info.History) != 1 || info.Err != "" || info.Finished.Before(info.Started) || info.Started.Before(info.Published) || info.Published.IsZero() {
		t.Errorf("the record of a retried job: %+v, %v", info, err)
	}
	if r := publish(t, s, with(add.Job(nil), func(j *stream.Job) { j.ID = "chosen" }))[0]; !r.Duplicate || r.State != stream.Completed {
		t.Errorf("an ID on record: %+v, want it taken", r)
	}
}

// TestWhatIsKept, for how long, by the settings of worker, type and job.
func TestWhatIsKept(t *testing.T) {
	t.Parallel()
	keep := func(d time.Duration) func(*stream.Job) { return func(j *stream.Job) { j.KeepResult = d } }
	const hour, none = time.Hour, consumer.None
	for name, tc := range map[string]struct {
		cfg  consumer.Config
		job  stream.Job
		want time.Duration // 0: no record
	}{
		"result":                  {consumer.Config{}, add.Job(nil), hour},
		"result, all":             {consumer.Config{KeepStatus: consumer.KeepAll}, add.Job(nil), hour},
		"result, no status":       {consumer.Config{KeepStatus: consumer.KeepNone}, add.Job(nil), hour},
		"result, off":             {consumer.Config{KeepResult: none, KeepStatus: consumer.KeepAll}, add.Job(nil), 0},
		"result, of the worker":   {consumer.Config{KeepResult: 5 * hour}, add.Job(nil), 5 * hour},
		"result, of the type":     {consumer.Config{Types: map[string]consumer.TypeConfig{"add": {KeepResult: 2 * hour}}}, add.Job(nil), 2 * hour},
		"result, off by type":     {consumer.Config{Types: map[string]consumer.TypeConfig{"add": {KeepResult: none}}}, add.Job(nil), 0},
		"result, of the job":      {consumer.Config{Types: map[string]consumer.TypeConfig{"add": {KeepResult: none}}}, with(add.Job(nil), keep(3*hour)), 3 * hour},
		"result, off by job":      {consumer.Config{KeepStatus: consumer.KeepAll}, with(add.Job(nil), keep(none)), 0},
		"nothing":                 {consumer.Config{}, silent.Job(1), 0},
		"nothing, all":            {consumer.Config{KeepStatus: consumer.KeepAll}, silent.Job(1), hour},
		"nothing, all and off":    {consumer.Config{KeepStatus: consumer.KeepAll, KeepResult: none}, silent.Job(1), 0},
		"nothing, for the job":    {consumer.Config{}, with(silent.Job(1), keep(2*hour)), 2 * hour},
		"nothing, for the type":   {consumer.Config{Types: map[string]consumer.TypeConfig{"silent": {KeepResult: 2 * hour}}}, silent.Job(1), 2 * hour},
		"nothing, with an ID":     {consumer.Config{}, with(silent.Job(1), func(j *stream.Job) { j.ID = "chosen" }), time.Minute},
		"nothing, all with an ID": {consumer.Config{KeepStatus: consumer.KeepAll}, with(silent.Job(1), func(j *stream.Job) { j.ID = "chosen" }), hour},
		"short, with an ID":       {consumer.Config{KeepResult: time.Second}, with(add.Job(nil), func(j *stream.Job) { j.ID = "chosen" }), time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := redistest.Client(t)
			s := newStream(t, rdb, stream.Config{})
			w := adder(t, tc.cfg, s)
			stop := run(t, w)
			id := publish(t, s, tc.job)[0].ID
			redistest.Wait(t, "the job", func() bool { return w.Stats().Completed == 1 })
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			ttl := rdb.PTTL(t.Context(), engine.NewKeys(s.Name()).Job(id)).Val()
			if tc.want == 0 && ttl != -2 || tc.want > 0 && (ttl > tc.want || ttl < tc.want-tc.want/2) {
				t.Errorf("its record is kept for %s, want %s", ttl, tc.want)
			}
			info, err := s.Get(t.Context(), id)
			if tc.want == 0 != errors.Is(err, stream.ErrNotFound) || err == nil && (info.State != stream.Completed || (info.Result != nil) != (tc.job.Type == "add")) {
				t.Errorf("%+v, %v", info, err)
			}
		})
	}
}

// TestRecordsExpire: then nothing is left, and the ID is free.
func TestRecordsExpire(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	cfg := quick()
	cfg.KeepResult = 50 * time.Millisecond
	w := adder(t, cfg, s)
	run(t, w)
	id := publish(t, s, add.Job(nil))[0].ID
	redistest.Wait(t, "its end", func() bool { return w.Stats().Completed == 1 })
	redistest.Wait(t, "the record to go", func() bool {
		_, err := s.Get(t.Context(), id)
		return errors.Is(err, stream.ErrNotFound)
	})
}

// TestResultsThatCannotBeKept: too large, or of a type that the codec does not take. To run again would help neither.
func TestResultsThatCannotBeKept(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	cfg := quick()
	cfg.MaxResult = 100
	w := newWorker(t, cfg, s)
	consumer.HandleResult(w, echo, func(_ context.Context, job *consumer.Job[[]byte]) ([]byte, error) { return job.Data, nil })
	consumer.HandleResult(w, silent, func(context.Context, *consumer.Job[int]) (func(), error) { return func() {}, nil })
	consumer.HandleResult(w, add, func(context.Context, *consumer.Job[[]int]) (panics, error) { return panics{}, nil })
	run(t, w)
	ids := publish(t, s, echo.Job(make([]byte, 100)), echo.Job(make([]byte, 101)), silent.Job(1), add.Job(nil))
	if r, err := stream.Result[[]byte](t.Context(), s, ids[0].ID); err != nil || len(r) != 100 {
		t.Errorf("as large as it may be: %d, %v", len(r), err)
	}
	for i, want := range map[int]string{1: "result is too large: 101 bytes, at most 100", 2: "cannot be encoded", 3: "cannot be encoded"} {
		_, err := stream.Result[[]byte](t.Context(), s, ids[i].ID)
		if failed, ok := errors.AsType[*stream.JobError](err); !ok || failed.Info.Reason != "permanent" || failed.Info.Attempt != 1 || !strings.Contains(failed.Info.Err, want) {
			t.Errorf("job %d: %v, want it dead since its %s", i, err, want)
		}
	}
}

type panics struct{}

func (panics) MarshalJSON() ([]byte, error) { panic("no") }

// TestResultIsTheSuccess: what a handler returned is not kept when the run did not complete the job.
func TestResultIsTheSuccess(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	w := adder(t, quick(), s)
	w.Use(func(next consumer.Handler) consumer.Handler {
		return func(ctx context.Context, d *consumer.Delivery) error {
			if err := next(ctx, d); d.Attempt > 1 {
				return err
			}
			return errors.New("not this time")
		}
	})
	run(t, w)
	id := publish(t, s, echo.Job([]byte("r")))[0].ID
	if r, err := stream.Result[[]byte](t.Context(), s, id); err != nil || string(r) != "r" {
		t.Errorf("%q, %v", r, err)
	}
	if info, err := s.Get(t.Context(), id); err != nil || info.Attempt != 2 {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestRecordRefused: a key of another type where a record is to be keeps no job from ending, nor its neighbours' records.
func TestRecordRefused(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	var jobs []stream.Job
	for i := range 10 {
		jobs = append(jobs, with(echo.Job([]byte("r")), func(j *stream.Job) { j.ID = fmt.Sprint("j", i) }))
	}
	publish(t, s, jobs...)
	bad := engine.NewKeys(s.Name()).Job("j5")
	rdb.HSet(t.Context(), bad, "state", "completed")
	w := adder(t, quick(), s)
	run(t, w)
	redistest.Wait(t, "all", func() bool { return w.Stats().Completed == 10 })
	for i := range 10 {
		info, err := s.Get(t.Context(), fmt.Sprint("j", i))
		if i == 5 && !errors.Is(err, stream.ErrNotFound) || i != 5 && (err != nil || string(info.Result) != "r") {
			t.Errorf("j%d: %+v, %v", i, info, err)
		}
	}
	if rdb.Type(t.Context(), bad).Val() != "hash" {
		t.Error("a key of somebody else's was overwritten")
	}
}

// TestResultsOfEvents: each group keeps its own.
func TestResultsOfEvents(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{Kind: stream.KindEvents})
	for _, name := range []string{"a", "b"} {
		w, err := consumer.New(name, quick(), s)
		if err != nil {
			t.Fatal(err)
		}
		consumer.HandleResult(w, echo, func(_ context.Context, d *consumer.Job[[]byte]) (string, error) { return d.Group, nil })
		run(t, w)
	}
	for _, id := range []string{"", "chosen"} {
		r := publish(t, s, with(echo.Job(nil), func(j *stream.Job) { j.ID = id }))[0]
		info, err := s.Wait(t.Context(), r.ID)
		if err != nil || string(info.Groups["a"].Result) != `"a"` || string(info.Groups["b"].Result) != `"b"` || info.Result != nil {
			t.Errorf("%+v, %v", info, err)
		}
	}
}

// TestRunningIsTold: heartbeats say what runs, and since when.
func TestRunningIsTold(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	w := newWorker(t, quick(), s)
	block := make(chan struct{})
	consumer.Handle(w, silent, func(context.Context, *consumer.Job[int]) error { <-block; return nil })
	run(t, w)
	defer close(block)
	id := publish(t, s, with(silent.Job(1), func(j *stream.Job) { j.ID = `odd"gone":7,"at":1` }))[0].ID
	redistest.Wait(t, "the job", func() bool { return w.Stats().Started == 1 })
	var info stream.Info
	redistest.Wait(t, "a heartbeat", func() bool {
		consumer.Heartbeat(w)
		var err error
		info, err = s.Get(t.Context(), id)
		return err == nil && !info.Started.IsZero()
	})
	if info.State != stream.Active || time.Since(info.Started) > time.Minute || info.Worker == "" {
		t.Errorf("%+v", info)
	}
	for _, row := range rdb.HGetAll(t.Context(), key(s, "workers")).Val() {
		if !json.Valid([]byte(row)) || !strings.HasPrefix(row, `{"at":1`) {
			t.Errorf("the row %s", row)
		}
	}
}

// TestLostAnswerOfResults: the end is written again, and the record is still the first one's.
func TestLostAnswerOfResults(t *testing.T) {
	t.Parallel()
	direct := redistest.Client(t)
	opt := redistest.Options(t)
	proxy := redistest.NewProxy(t, opt.Addr)
	opt.Addr, opt.ReadTimeout = proxy.Addr(), 100*time.Millisecond
	opt.MaxRetries = -1
	rdb := redistest.Connect(t, opt)
	s := newStream(t, rdb, stream.Config{})
	near, err := stream.New(direct, s.Name(), stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := adder(t, quick(), s)
	run(t, w)
	redistest.Wait(t, "the worker", func() bool { return direct.Exists(t.Context(), key(s, "config")).Val() == 1 })
	proxy.LoseReplies("completed", 1) // the state, in the call of the script
	id := publish(t, near, echo.Job([]byte("r")))[0].ID
	redistest.Wait(t, "its end", func() bool { return w.Stats().Completed == 1 })
	if info, err := near.Get(t.Context(), id); err != nil || string(info.Result) != "r" || proxy.Lost() != 1 {
		t.Errorf("%+v, %v, %d answers lost", info, err, proxy.Lost())
	}
}
