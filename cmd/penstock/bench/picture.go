package bench

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/go-analyze/charts"
)

// ErrNothingToShow means that no case of the run has what a picture shows.
var ErrNothingToShow = errors.New("there is nothing to show in a picture: it needs latency, drain or publish")

const (
	pictureWidth = 960
	chartHeight  = 380
	buckets      = 32
)

// Picture writes an SVG: how the latencies lie, and the speed over time, of Penstock, its yardstick and other contenders.
func (r *Report) Picture(w io.Writer) error {
	var draw []func(*charts.Painter) error
	if r.delays != nil {
		draw = append(draw, r.delays.histogram)
	}
	if r.courses != nil {
		draw = append(draw, func(p *charts.Painter) error {
			return r.courses.course(p, time.Duration(r.Settings.DurationMS*float64(time.Millisecond))/courseParts)
		})
	}
	if len(draw) == 0 {
		return ErrNothingToShow
	}
	p := charts.NewPainter(charts.PainterOptions{OutputFormat: charts.ChartOutputSVG, Width: pictureWidth, Height: chartHeight * len(draw)})
	p.FilledRect(0, 0, p.Width(), p.Height(), charts.ColorWhite, charts.ColorWhite, 0)
	for i, chart := range draw {
		box := charts.NewBox(20, chartHeight*i+15, pictureWidth-20, chartHeight*(i+1)-15)
		if err := chart(p.Child(charts.PainterBoxOption(box))); err != nil {
			return fmt.Errorf("draw the picture: %w", err)
		}
	}
	svg, err := p.Bytes()
	if err != nil {
		return fmt.Errorf("draw the picture: %w", err)
	}
	_, err = w.Write(svg)
	return err
}

func (d *chartData) names() []string {
	names := make([]string, len(d.series))
	for i, s := range d.series {
		names[i] = s.name
	}
	return names
}

// histogram draws what part of the jobs took how long.
func (d *chartData) histogram(p *charts.Painter) error {
	values, labels := d.bins()
	opt := charts.NewBarChartOptionWithData(values)
	opt.Title = title(d.title + ": % of jobs by ms from publishing to the start of the handler")
	opt.Legend = legend(d.names())
	opt.CategoryAxis = charts.CategoryAxisOption{Labels: labels, LabelCount: buckets / 2}
	opt.ValueAxis = []charts.ValueAxisOption{{Min: charts.Ptr(0.0), ValueFormatter: short}}
	return p.BarChart(opt)
}

// bins are of equal width on a logarithmic scale; the last ones hold all that took longer than 99.9 %.
func (d *chartData) bins() (values [][]float64, labels []string) {
	low, high := time.Duration(math.MaxInt64), time.Duration(0)
	for _, s := range d.series {
		for _, sample := range s.samples {
			low, high = min(low, Percentile(sample.Latencies, 0)), max(high, Percentile(sample.Latencies, 99.9))
		}
	}
	low = max(low, time.Microsecond)
	high = max(high, 2*low)
	width := math.Log(float64(high)/float64(low)) / buckets
	for i := range buckets {
		from := float64(low) * math.Exp(width*float64(i))
		labels = append(labels, strconv.FormatFloat(from/float64(time.Millisecond), 'g', 2, 64))
	}
	for _, s := range d.series {
		counts, all := make([]float64, buckets), 0.0
		for _, sample := range s.samples {
			for _, took := range sample.Latencies {
				bin := int(math.Log(max(float64(took)/float64(low), 1)) / width)
				counts[min(bin, buckets-1)]++
				all++
			}
		}
		for i := range counts {
			counts[i] *= 100 / max(all, 1)
		}
		values = append(values, counts)
	}
	return values, labels
}

// course draws the speed over time, the samples of each side one after the other.
func (d *chartData) course(p *charts.Painter, every time.Duration) error {
	var values [][]float64
	longest := 0
	for _, s := range d.series {
		var speeds []float64
		for _, sample := range s.samples {
			speeds = append(speeds, sample.speeds(every)...)
		}
		values, longest = append(values, speeds), max(longest, len(speeds))
	}
	for i := range values {
		for len(values[i]) < longest {
			values[i] = append(values[i], charts.GetNullValue())
		}
	}
	labels := make([]string, longest)
	for i := range labels {
		labels[i] = strconv.FormatFloat((time.Duration(i) * every).Seconds(), 'f', 1, 64)
	}
	opt := charts.NewLineChartOptionWithData(values)
	opt.Title = title(d.title + ": jobs per second, all samples one after the other, by seconds")
	opt.Legend = legend(d.names())
	opt.Symbol.Shape = charts.SymbolNone
	opt.LineStrokeWidth = 1.5
	opt.XAxis = charts.XAxisOption{Labels: labels, BoundaryGap: charts.Ptr(false), LabelCount: 15}
	opt.YAxis = []charts.YAxisOption{{Min: charts.Ptr(0.0), ValueFormatter: short}}
	return p.LineChart(opt)
}

// speeds is how many jobs per second were done in each part of the sample; a rest of less than half of one is left out.
func (s Sample) speeds(every time.Duration) []float64 {
	var speeds []float64
	var last Mark
	for _, m := range s.Course {
		if took := m.At - last.At; took >= every/2 {
			speeds = append(speeds, float64(m.Jobs-last.Jobs)/took.Seconds())
			last = m
		}
	}
	return speeds
}

func title(text string) charts.TitleOption {
	return charts.TitleOption{Text: text, FontStyle: charts.NewFontStyleWithSize(13)}
}

func legend(names []string) charts.LegendOption {
	return charts.LegendOption{SeriesNames: names, Offset: charts.OffsetStr{Top: charts.PositionBottom}}
}

// short writes an axis's number: 12, 340k.
func short(v float64) string { return charts.FormatValueHumanizeShort(v, 0, false) }
