package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
)

// axis is one thing that grows, with what a job then costs, beside the same commands of Redis at the same size.
type axis struct {
	name  string
	what  string // is measured
	raw   string // is the yardstick
	sizes []int
	unit  func(size int) string
	// config of the harness of one size; nil: that of all.
	config func(cfg *bench.Config, size int)
	// build returns the case of one size, with contender, yardstick and Jobs, and what to call when it is over.
	build func(ctx context.Context, g *growth, h *bench.Harness, size int) (bench.Case, func(context.Context) error, error)
	// heap: the worker's memory is a figure too.
	heap bool
}

// growth measures axes.
type growth struct {
	rdb *redis.Client
	cfg bench.Config
	max int // the largest size

	environment bench.Environment // of the last
	settings    bench.Settings
}

func axes() []axis {
	return []axis{backlogAxis, scheduledAxis, consumersAxis, pendingAxis, streamsAxis, payloadAxis, groupsAxis}
}

func axisNames() []string {
	var names []string
	for _, a := range axes() {
		names = append(names, a.name)
	}
	return names
}

// Growth is what was measured along an axis.
type Growth struct {
	Axis   string  `json:"axis"`
	What   string  `json:"what"`
	Raw    string  `json:"raw"`
	Points []Point `json:"points"`
}

// Point is a size and what it costs. Its rows are of one contender and its yardstick.
type Point struct {
	Size int        `json:"size"`
	Text string     `json:"text"`           // the size, for people
	Cost bench.Row  `json:"cost"`           // of a job
	Heap *bench.Row `json:"heap,omitempty"` // the largest that it was, of worker and filler
}

func (g *growth) points(a axis) int { return len(g.sizes(a)) }

func (g *growth) sizes(a axis) []int {
	return slices.DeleteFunc(slices.Clone(a.sizes), func(n int) bool { return n > g.max })
}

// measure an axis, size by size. What is measured is returned with the error.
func (g *growth) measure(ctx context.Context, a axis, tell func(Point)) (Growth, error) {
	out := Growth{Axis: a.name, What: a.what, Raw: a.raw}
	for _, size := range g.sizes(a) {
		tell(Point{Size: size, Text: a.unit(size)})
		p, err := g.point(ctx, a, size)
		if err != nil {
			return out, fmt.Errorf("%s, %s: %w", a.name, a.unit(size), err)
		}
		out.Points = append(out.Points, p)
	}
	return out, nil
}

func (g *growth) point(ctx context.Context, a axis, size int) (p Point, err error) {
	cfg := g.cfg
	if a.config != nil {
		a.config(&cfg, size)
	}
	h, err := bench.New(cfg)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, h.Close(ctx)) }()
	c, done, err := a.build(ctx, g, h, size)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, done(context.WithoutCancel(ctx))) }()
	c.Group, c.Name, c.Most = "growth", a.name+", "+a.unit(size), c.Jobs
	c.Figures = []bench.Figure{{Name: c.Name, Unit: bench.SecondsPerJob, Of: secondsPerJob}}
	if a.heap {
		c.Figures = append(c.Figures, bench.Figure{Name: c.Name + ", heap", Unit: bench.Bytes, Of: func(s bench.Sample) float64 { return s.Value }})
	}
	if _, err := h.Survey(ctx, []bench.Case{c}); err != nil {
		return p, err
	}
	r, err := h.Run(ctx, []bench.Case{c})
	if err != nil {
		return p, err
	}
	g.environment, g.settings = r.Environment, r.Settings
	p = Point{Size: size, Text: a.unit(size), Cost: r.Rows[0]}
	if a.heap {
		p.Heap = &r.Rows[1]
	}
	return p, nil
}

func secondsPerJob(s bench.Sample) float64 { return s.Took.Seconds() / float64(s.Jobs) }

// flat is by how much more a job may cost and be called as cheap as before.
const flat = 1.2

// grown says how a point compares with the first: it costs as much, or grows as Redis's own cost does, or it grows.
func grown(first, p bench.Row) string {
	switch {
	case p.Value.Median <= flat*first.Value.Median:
		return "flat"
	case p.Yardstick.Ratio.Median <= flat*first.Yardstick.Ratio.Median:
		return "as Redis"
	default:
		return "grows"
	}
}

func nothing(context.Context) error { return nil }

// of says so many of a noun, whose plural has an s.
func of(noun string) func(int) string {
	return func(n int) string {
		if n == 1 {
			return "1 " + noun
		}
		return count(n) + " " + noun + "s"
	}
}

// so says so many of what has no plural.
func so(word string) func(int) string {
	return func(n int) string { return count(n) + " " + word }
}

// count writes a number with its thousands apart.
func count(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// repeated calls work often enough for a sample that is long enough to measure, and returns how long it took.
func repeated(ctx context.Context, times int, work func(context.Context) error) (time.Duration, error) {
	begun := time.Now()
	for range times {
		if err := work(ctx); err != nil {
			return 0, err
		}
	}
	return time.Since(begun), nil
}
