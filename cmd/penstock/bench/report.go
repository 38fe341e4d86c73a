package bench

import (
	"math"
	"slices"
	"strconv"
	"time"
)

// Unit of a figure.
type Unit string

// The units there are.
const (
	JobsPerSecond     Unit = "jobs/s"
	CommandsPerSecond Unit = "commands/s"
	Seconds           Unit = "s"
	SecondsPerJob     Unit = "s/job"
	Bytes             Unit = "B"
)

// Format writes a value with its unit, for people.
func (u Unit) Format(v float64) string {
	switch u {
	case JobsPerSecond:
		return grouped(v) + "/s"
	case CommandsPerSecond:
		return strconv.FormatFloat(v, 'f', 2, 64) + "/s"
	case Seconds:
		if v != 0 && math.Abs(v) < 1 {
			return strconv.FormatFloat(v*1000, 'f', 2, 64) + "ms"
		}
		return strconv.FormatFloat(v, 'g', 3, 64) + "s"
	case SecondsPerJob:
		return strconv.FormatFloat(v*1e6, 'f', 2, 64) + "µs"
	default:
		for _, unit := range []string{"B", "KB", "MB"} {
			if v < 9999.5 || unit == "B" && v < 99_999.5 {
				return grouped(v) + " " + unit
			}
			v /= 1000
		}
		return grouped(v) + " GB"
	}
}

func grouped(v float64) string {
	s := strconv.FormatInt(int64(math.Round(v)), 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Report of a run.
type Report struct {
	Environment Environment `json:"environment"`
	Settings    Settings    `json:"settings"`
	Rows        []Row       `json:"rows"`
	Notes       []string    `json:"notes,omitempty"` // what else was found, and what was left out

	delays  *chartData // of the latency case, for the picture
	courses *chartData // of the first case that has them
}

// Settings are those of Config that numbers depend on.
type Settings struct {
	DurationMS float64 `json:"duration_ms"`
	Pairs      int     `json:"pairs"`
	Rate       float64 `json:"rate"`
	Payload    int     `json:"payload"`
	Streams    int     `json:"streams"`
}

func (h *Harness) settings() Settings {
	c := h.cfg
	return Settings{float64(c.Duration) / float64(time.Millisecond), c.Pairs, c.Rate, c.Payload, c.Streams}
}

// Row is one figure of one contender.
type Row struct {
	Group     string             `json:"group"`
	Name      string             `json:"name"`
	Contender string             `json:"contender"`
	Unit      Unit               `json:"unit"`
	Jobs      int                `json:"jobs"` // of a sample
	Value     Summary            `json:"value"`
	Yardstick *Yardstick         `json:"yardstick,omitempty"`
	Target    *Target            `json:"target,omitempty"`
	Met       *bool              `json:"met,omitempty"`      // whether the median keeps the target
	Commands  map[string]float64 `json:"commands,omitempty"` // per second, by name
}

// Yardstick of a row, and the ratio to it.
type Yardstick struct {
	Name      string  `json:"name"`
	Value     Summary `json:"value"`
	Ratio     Summary `json:"ratio"`            // of the pairs
	OfMedians float64 `json:"ratio_of_medians"` // what the ratio would be without pairing
}

// TargetText is the row's target for people, "" without one.
func (r Row) TargetText() string {
	if r.Target == nil {
		return ""
	}
	sign, text := "≤ ", ""
	if r.Target.AtLeast {
		sign = "≥ "
	}
	switch plain := strconv.FormatFloat(r.Target.Bound, 'g', -1, 64); {
	case r.Target.Ratio:
		text = plain
	case r.Unit == Seconds:
		text = time.Duration(r.Target.Bound * float64(time.Second)).String()
	case r.Unit == CommandsPerSecond:
		text = plain + "/s"
	default:
		text = r.Unit.Format(r.Target.Bound)
	}
	return sign + text
}

// Verdict on the row's target: ok, below, above, or "" without one.
func (r Row) Verdict() string {
	switch {
	case r.Met == nil:
		return ""
	case *r.Met:
		return "ok"
	case r.Target.AtLeast:
		return "below"
	default:
		return "above"
	}
}

// report adds what was measured.
func (m *measurement) report(r *Report) {
	for i, contender := range m.c.Contenders {
		for _, f := range m.c.Figures {
			r.Rows = append(r.Rows, m.row(i, contender, f))
		}
	}
	all := make([]series, 0, len(m.c.Contenders)+1)
	for i, contender := range m.c.Contenders {
		all = append(all, series{contender.Name, m.samples[i]})
	}
	if m.c.Yardstick != nil {
		all = append(all, series{m.c.Yardstick.Name, slices.Concat(m.yardstick...)})
	}
	data := &chartData{title: m.c.Name, series: all}
	if r.delays == nil && m.c.Group == "latency" {
		r.delays = data
	}
	if r.courses == nil && len(m.samples[0][0].Course) > 0 {
		r.courses = data
	}
}

func (m *measurement) row(i int, contender Contender, f Figure) Row {
	values := valuesOf(m.samples[i], f)
	row := Row{
		Group: m.c.Group, Name: f.Name, Contender: contender.Name, Unit: f.Unit, Value: Summarize(values),
		Jobs: m.samples[i][0].Jobs, Commands: m.samples[i][0].Commands,
	}
	judged := row.Value.Median
	if m.c.Yardstick != nil {
		beside := valuesOf(m.yardstick[i], f)
		y := &Yardstick{Name: m.c.Yardstick.Name, Value: Summarize(beside), Ratio: Summarize(Ratios(values, beside))}
		if y.Value.Median != 0 {
			y.OfMedians = row.Value.Median / y.Value.Median
		}
		row.Yardstick = y
	}
	if i > 0 || f.Target == nil {
		return row
	}
	if f.Target.Ratio {
		judged = row.Yardstick.Ratio.Median
	}
	met := f.Target.Met(judged)
	row.Target, row.Met = f.Target, &met
	return row
}

func valuesOf(samples []Sample, f Figure) []float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = f.Of(s)
	}
	return values
}

// series is what one side of a case measured.
type series struct {
	name    string
	samples []Sample
}

type chartData struct {
	title  string
	series []series
}
