package bench

import (
	"encoding/json"
	"slices"
	"testing"
	"time"
)

func TestSummarize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values                   []float64
		median, min, q1, q3, max float64
	}{
		{nil, 0, 0, 0, 0, 0},
		{[]float64{4}, 4, 4, 4, 4, 4},
		{[]float64{3, 1}, 2, 1, 1.5, 2.5, 3},
		{[]float64{9, 1, 5}, 5, 1, 3, 7, 9},
		{[]float64{4, 1, 3, 2}, 2.5, 1, 1.75, 3.25, 4},
		{[]float64{7, 1, 2, 6, 3, 5, 1000}, 5, 1, 2.5, 6.5, 1000}, // one that is far off moves nothing but the maximum
	} {
		before := slices.Clone(c.values)
		s := Summarize(c.values)
		if s.Median != c.median || s.Min != c.min || s.Q1 != c.q1 || s.Q3 != c.q3 || s.Max != c.max || !slices.Equal(s.Samples, before) {
			t.Errorf("Summarize(%v) = %+v", before, s)
		}
		if !slices.Equal(c.values, before) {
			t.Errorf("Summarize sorts its argument: %v, before %v", c.values, before)
		}
	}
}

// The ratio of pairs is the same however the machine's speed changes; the ratio of medians is not.
func TestRatiosOfPairs(t *testing.T) {
	t.Parallel()
	yardstick := []float64{100, 400, 200, 50, 1000}
	values := make([]float64, len(yardstick))
	for i, v := range yardstick {
		values[i] = v * 0.8
	}
	values[1], values[2] = 100, 20 // two samples that were disturbed
	r := Summarize(Ratios(values, yardstick))
	if r.Median != 0.8 || r.Min != 0.1 || r.Max != 0.8 {
		t.Errorf("ratios %+v", r)
	}
	if got := Summarize(values).Median / Summarize(yardstick).Median; got == 0.8 {
		t.Errorf("the ratio of medians is %v too: this proves nothing", got)
	}
	if r := Ratios([]float64{1, 2, 3}, []float64{0, 4}); !slices.Equal(r, []float64{0.5}) {
		t.Errorf("a yardstick of zero, and one that is shorter: %v", r)
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	for p, want := range map[float64]time.Duration{0: 1, 1: 1, 50: 50, 99: 99, 99.5: 100, 100: 100} {
		if got := Percentile(hundred, p); got != want {
			t.Errorf("percentile %v of 1 to 100 is %d, want %d", p, got, want)
		}
	}
	if Percentile(nil, 50) != 0 || Percentile([]time.Duration{7}, 99) != 7 {
		t.Error("percentiles of none and of one")
	}
}

func TestUnits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		unit Unit
		v    float64
		want string
	}{
		{JobsPerSecond, 1_234_567.4, "1,234,567/s"}, {JobsPerSecond, 12, "12/s"}, {JobsPerSecond, 999.6, "1,000/s"},
		{CommandsPerSecond, 0.2, "0.20/s"},
		{SecondsPerJob, 0.00000293, "2.93µs"}, {Seconds, 0.000213, "0.21ms"}, {Seconds, 0, "0s"}, {Seconds, -0.00002, "-0.02ms"}, {Seconds, 2.5, "2.5s"},
		{Bytes, 135, "135 B"}, {Bytes, 2_500_000, "2,500 KB"}, {Bytes, 140e6, "140 MB"}, {Bytes, 9e9, "9,000 MB"}, {Bytes, 90e9, "90 GB"},
	} {
		if got := c.unit.Format(c.v); got != c.want {
			t.Errorf("%v %s is written %q, want %q", c.v, c.unit, got, c.want)
		}
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		unit          Unit
		target        Target
		value, ratio  float64
		text, verdict string
	}{
		{JobsPerSecond, Target{Ratio: true, AtLeast: true, Bound: 0.85}, 1, 0.85, "≥ 0.85", "ok"},
		{JobsPerSecond, Target{Ratio: true, AtLeast: true, Bound: 0.85}, 1e6, 0.84, "≥ 0.85", "below"},
		{Seconds, Target{Ratio: true, Bound: 1.3}, 5, 1.2, "≤ 1.3", "ok"},
		{Seconds, Target{Ratio: true, Bound: 1.3}, 0, 1.4, "≤ 1.3", "above"},
		{Seconds, Target{Bound: 0.001}, 0.0009, 9, "≤ 1ms", "ok"},
		{Seconds, Target{Bound: 0.005}, 0.006, 0, "≤ 5ms", "above"},
		{Bytes, Target{Bound: 2e6}, 1e6, 0, "≤ 2,000 KB", "ok"},
		{Seconds, Target{AtLeast: true}, 0.0001, 0, "≥ 0s", "ok"},
		{Seconds, Target{AtLeast: true}, -0.0001, 0, "≥ 0s", "below"},
		{CommandsPerSecond, Target{Bound: 0.2}, 0.3, 0, "≤ 0.2/s", "above"},
	} {
		m := measurement{
			c:       Case{Yardstick: &Contender{Name: "y"}},
			samples: [][]Sample{{{Value: c.value}}, {{Value: c.value}}},
		}
		one := c.value / c.ratio
		m.yardstick = [][]Sample{{{Value: one}}, {{Value: one}}}
		if c.ratio == 0 {
			m.c.Yardstick = nil
		}
		f := Figure{Name: "f", Unit: c.unit, Of: func(s Sample) float64 { return s.Value }, Target: &c.target}
		if c.target.Ratio && c.value == 0 {
			m.samples[0][0].Value, m.yardstick[0][0].Value = c.ratio, 1
		}
		row := m.row(0, Contender{Name: Penstock}, f)
		if row.TargetText() != c.text || row.Verdict() != c.verdict {
			t.Errorf("%+v with %v, %v: %q %q, want %q %q", c.target, c.value, c.ratio, row.TargetText(), row.Verdict(), c.text, c.verdict)
		}
		if row := m.row(1, Contender{Name: "other"}, f); row.Target != nil || row.Verdict() != "" || row.TargetText() != "" {
			t.Errorf("another contender has a target: %+v", row)
		}
	}
	if _, err := json.Marshal(Row{Yardstick: &Yardstick{}}); err != nil {
		t.Error(err)
	}
}

func TestRequestsPerSecond(t *testing.T) {
	t.Parallel()
	for out, want := range map[string]float64{
		"\"test\",\"rps\",\"avg_latency_ms\"\n\"XREADGROUP GROUP g c COUNT 200 STREAMS s >\",\"2500.50\",\"0.7\"\n": 2500.5,
		"\"XREADGROUP GROUP g c\",\"2500.50\"\n": 2500.5, // before 7.0
		"":                                       0,
		"Could not connect to Redis at 127.0.0.1:1: refused\n": 0,
		"\"test\",\"rps\"\n": 0,
		"\"test\",\"rps\"\n\"XREADGROUP\",\"0.00\",\"0.7\"\n": 0,
	} {
		got, err := requestsPerSecond([]byte(out))
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %v, %v, want %v", out, got, err, want)
		}
	}
}

func TestNumberOfPayload(t *testing.T) {
	t.Parallel()
	for _, size := range []int{minPayload, 97, 5000} {
		h := &Harness{cfg: Config{Payload: size}}
		for _, i := range []int{0, 7, 123_456} {
			if data := h.Payload(i); len(data) != size || Number(data) != i {
				t.Errorf("payload %d of %d bytes is %q", i, size, data)
			}
		}
	}
	for _, data := range []string{"", "1", "x000000000"} {
		if n := Number([]byte(data)); n != -1 {
			t.Errorf("%q has number %d", data, n)
		}
	}
}
