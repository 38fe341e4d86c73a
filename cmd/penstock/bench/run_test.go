package bench

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
)

// fake is a contender that does so many jobs in a second, and writes down that it ran.
func fake(name string, perSecond float64, log *[]string, sizes map[string][]int) Contender {
	return Contender{name, func(_ context.Context, n int) (Sample, error) {
		*log = append(*log, name)
		if sizes != nil {
			sizes[name] = append(sizes[name], n)
		}
		return Sample{Jobs: n, Took: time.Duration(float64(n) / perSecond * float64(time.Second))}, nil
	}}
}

func testHarness(t *testing.T, cfg Config) *Harness {
	t.Helper()
	cfg.Client = redistest.Client(t)
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return h
}

// Each contender is followed by a sample of the yardstick, so that both have the same machine.
func TestTurns(t *testing.T) {
	t.Parallel()
	var log []string
	var steps []Step
	h := testHarness(t, Config{Pairs: 3, Progress: func(s Step) { steps = append(steps, s) }})
	y := fake("y", 1000, &log, nil)
	c := Case{
		Group: "g", Name: "case", Most: 1_000_000, Yardstick: &y,
		Contenders: []Contender{fake(Penstock, 900, &log, nil), fake("other", 100, &log, nil)},
		Figures:    []Figure{{Name: "row", Unit: JobsPerSecond, Of: perSecond, Target: &Target{Ratio: true, AtLeast: true, Bound: 0.85}}},
	}
	r, err := h.Run(t.Context(), []Case{c})
	if err != nil {
		t.Fatal(err)
	}
	turn := []string{Penstock, "y", "other", "y"}
	want := slices.Concat(turn, turn, turn)
	if got := log[len(log)-len(want):]; !slices.Equal(got, want) {
		t.Errorf("they ran in the order %v", got)
	}
	if len(r.Rows) != 2 {
		t.Fatalf("%d rows", len(r.Rows))
	}
	first, second := r.Rows[0], r.Rows[1]
	if first.Contender != Penstock || first.Verdict() != "ok" || second.Contender != "other" || second.Verdict() != "" {
		t.Errorf("rows %+v and %+v", first, second)
	}
	for row, ratio := range map[*Row]float64{&first: 0.9, &second: 0.1} {
		if got := row.Yardstick.Ratio.Median; got < ratio-0.001 || got > ratio+0.001 || len(row.Yardstick.Ratio.Samples) != 3 {
			t.Errorf("%s: ratio %+v, want %v", row.Contender, row.Yardstick.Ratio, ratio)
		}
	}
	last := steps[len(steps)-1]
	if last.Of != 3+3*4 || last.Done != last.Of-1 || last.Case != "case" || last.Contender != "y" {
		t.Errorf("the last step is %+v of %d", last, len(steps))
	}
}

// Each side has as many jobs as take Duration, however slow it is, and no more than fit.
func TestSizes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		perSecond float64
		most      int
		low, high int // of the samples
	}{
		{350_000, 1_000_000, 340_000, 360_000},
		{13_000, 1_000_000, 12_500, 13_500},
		{120, 1_000_000, 110, 130},
		{2_000_000, 700_000, 700_000, 700_000},
		{350_000, 100, 100, 100},
	} {
		var log []string
		sizes := make(map[string][]int)
		h := &Harness{cfg: Config{Pairs: 2}.WithDefaults()}
		m := &measurement{h: h, steps: &stepper{tell: func(Step) {}}, c: Case{Most: c.most, Contenders: []Contender{fake("x", c.perSecond, &log, sizes)}}}
		if err := m.measure(t.Context()); err != nil {
			t.Fatal(err)
		}
		taken := sizes["x"][len(sizes["x"])-2:]
		for _, n := range taken {
			if n < c.low || n > c.high {
				t.Errorf("at %v/s a sample has %d jobs, want %d to %d (tries: %v)", c.perSecond, n, c.low, c.high, sizes["x"])
			}
		}
		for _, n := range sizes["x"] {
			if n > c.most || n < 1 {
				t.Errorf("at %v/s a try has %d jobs, %d are the most", c.perSecond, n, c.most)
			}
		}
	}
}

// What fails or is left out keeps nothing else back; the end of the context does.
func TestFailures(t *testing.T) {
	t.Parallel()
	h := testHarness(t, Config{Pairs: 1})
	var log []string
	one := func(name string, err error) Case {
		return Case{
			Name: name, Jobs: 5, Figures: []Figure{{Name: name, Unit: JobsPerSecond, Of: perSecond}},
			Contenders: []Contender{{name, func(context.Context, int) (Sample, error) {
				log = append(log, name)
				return Sample{Jobs: 5, Took: time.Second}, err
			}}},
		}
	}
	broken := errors.New("it is broken")
	r, err := h.Run(t.Context(), []Case{one("a", nil), one("b", broken), one("c", &Left{"it cannot be"}), one("d", nil)})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "b: b: it is broken") {
		t.Errorf("error %v", err)
	}
	if len(r.Rows) != 2 || r.Rows[1].Name != "d" || !slices.Equal(r.Notes, []string{"c is left out: it cannot be"}) {
		t.Errorf("rows %+v, notes %q", r.Rows, r.Notes)
	}

	log = nil
	ctx, cancel := context.WithCancel(t.Context())
	stops := one("b", nil)
	run := stops.Contenders[0].Run
	stops.Contenders[0].Run = func(ctx context.Context, n int) (Sample, error) {
		cancel()
		_, _ = run(ctx, n)
		return Sample{}, context.Cause(ctx)
	}
	r, err = h.Run(ctx, []Case{one("a", nil), stops, one("c", nil)})
	if !errors.Is(err, errStopped) || err.Error() != errStopped.Error() || len(r.Rows) != 1 || !slices.Equal(log, []string{"a", "b"}) {
		t.Errorf("%v, %d rows, ran %v", err, len(r.Rows), log)
	}
}

func TestTimed(t *testing.T) {
	t.Parallel()
	h := &Harness{cfg: Config{}.WithDefaults()}
	blocked := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	t.Run("steady", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var done atomic.Int64
			s, err := h.Timed(t.Context(), 1000, done.Load, func(ctx context.Context) error {
				for range 1000 {
					time.Sleep(time.Millisecond)
					done.Add(1)
				}
				<-ctx.Done() // as a worker
				return nil
			})
			if err != nil || s.PerSecond() < 995 || s.PerSecond() > 1000 {
				t.Errorf("%.1f/s, %v", s.PerSecond(), err)
			}
			if end := s.Course[len(s.Course)-1]; end.Jobs != 1000 || end.At != s.Took {
				t.Errorf("the course ends with %+v", end)
			}
			speeds := s.speeds(h.cfg.Duration / courseParts)
			if len(speeds) != courseParts || slices.Min(speeds) < 950 || slices.Max(speeds) > 1050 {
				t.Errorf("speeds %v", speeds)
			}
		})
	})
	t.Run("nothing happens", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			_, err := h.Timed(t.Context(), 10, func() int64 { return 3 }, blocked)
			if err == nil || !strings.Contains(err.Error(), "3 of 10 jobs are done") || time.Since(begun) < stalled || time.Since(begun) > stalled+time.Second {
				t.Errorf("after %s: %v", time.Since(begun), err)
			}
		})
	})
	t.Run("it ends too soon", func(t *testing.T) {
		t.Parallel()
		_, err := h.Timed(t.Context(), 10, func() int64 { return 9 }, func(context.Context) error { return nil })
		if err == nil || err.Error() != "it ended with 9 of 10 jobs done" {
			t.Error(err)
		}
	})
	t.Run("it fails", func(t *testing.T) {
		t.Parallel()
		broken := errors.New("it is broken")
		if _, err := h.Timed(t.Context(), 10, func() int64 { return 0 }, func(context.Context) error { return broken }); !errors.Is(err, broken) {
			t.Error(err)
		}
	})
	t.Run("it is stopped", func(t *testing.T) {
		t.Parallel()
		why := errors.New("by me")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		if _, err := h.Timed(ctx, 10, func() int64 { return 0 }, blocked); !errors.Is(err, why) {
			t.Error(err)
		}
	})
}

func TestStartsAt(t *testing.T) {
	t.Parallel()
	s := Sample{Jobs: 100, Took: time.Second, Course: []Mark{{300 * time.Millisecond, 0}, {600 * time.Millisecond, 40}, {time.Second, 100}}}
	s.StartsAt(500 * time.Millisecond)
	if s.PerSecond() != 200 || !slices.Equal(s.Course, []Mark{{100 * time.Millisecond, 40}, {500 * time.Millisecond, 100}}) {
		t.Errorf("%+v", s)
	}
}

// A job counts once, and from when it was due, however late its turn to be sent came.
func TestTrips(t *testing.T) {
	t.Parallel()
	h := &Harness{cfg: Config{Payload: minPayload}}
	trips := NewTrips(2)
	trips.sent[1].Store(int64(3 * time.Second))
	at := func(d time.Duration) time.Time { return trips.base.Add(d) }
	trips.arrivedAt(h.Payload(0), at(time.Second))
	trips.arrivedAt(h.Payload(0), at(9*time.Second)) // delivered again
	trips.ArrivedLate(h.Payload(1), at(2*time.Second))
	if got := trips.Durations(); !slices.Equal(got, []time.Duration{-time.Second, time.Second}) {
		t.Errorf("they took %v", got)
	}
	if err := trips.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	trips.arrivedAt([]byte("nonsense"), at(0))
	trips.arrivedAt(h.Payload(2), at(0))
	if err := trips.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "2 jobs arrived that were not sent") {
		t.Error(err)
	}
	if err := (redisClock{err: 50 * time.Microsecond}).check(-time.Second); !errors.Is(err, ErrEarly) || !strings.Contains(err.Error(), "by 1s") {
		t.Error(err)
	}
	if err := (redisClock{err: 50 * time.Microsecond}).check(-150 * time.Microsecond); err != nil {
		t.Errorf("within what the clock may be wrong: %v", err)
	}
}

func TestLateIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		trips := NewTrips(2)
		err := trips.Wait(t.Context())
		if err == nil || !strings.Contains(err.Error(), "2 of 2 jobs have not started") {
			t.Error(err)
		}
	})
}

// Each job is sent when it is time to, although those before have not returned.
func TestOpenLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &Harness{cfg: Config{Rate: 100, Payload: minPayload}}
		trips := NewTrips(50)
		begun := time.Now()
		s, err := h.Send(t.Context(), trips, func(_ context.Context, i int) error {
			if want := time.Duration(i) * 10 * time.Millisecond; time.Since(begun) != want {
				t.Errorf("job %d is sent after %s, want %s", i, time.Since(begun), want)
			}
			time.Sleep(300 * time.Millisecond)
			trips.Arrived(h.Payload(i))
			return nil
		})
		if err != nil || Percentile(s.Latencies, 0) != 300*time.Millisecond || Percentile(s.Latencies, 100) != 300*time.Millisecond {
			t.Errorf("%v, latencies %v", err, s.Latencies)
		}
		broken := errors.New("it is broken")
		if _, err := h.Send(t.Context(), NewTrips(50), func(context.Context, int) error { return broken }); !errors.Is(err, broken) {
			t.Error(err)
		}
	})
}
