package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// Left is the error of a case that cannot be measured here, and why; it is no failure.
type Left struct{ Why string }

func (l *Left) Error() string { return l.Why }

var errStopped = errors.New("stopped before all was measured")

// Run measures cases one after the other. The report has what was measured,
// also when there is an error: that of a case keeps none of the others back, the end of ctx does.
func (h *Harness) Run(ctx context.Context, cases []Case) (*Report, error) {
	r := &Report{Environment: h.environment(ctx), Settings: h.settings()}
	steps := &stepper{tell: h.cfg.Progress}
	for _, c := range cases {
		steps.of += h.samples(c)
	}
	drains := slices.ContainsFunc(cases, func(c Case) bool { return c.Group == "drain" })
	if drains {
		steps.of++
	}
	var errs []error
	for _, c := range cases {
		end := steps.done + h.samples(c)
		m := &measurement{h: h, c: c, steps: steps}
		err := m.measure(ctx)
		steps.done = end // whatever was left out
		if ctx.Err() != nil {
			return r, errors.Join(append(errs, errStopped)...)
		}
		if left, ok := errors.AsType[*Left](err); ok {
			r.Notes = append(r.Notes, c.Name+" is left out: "+left.Why)
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.Name, err))
			continue
		}
		m.report(r)
	}
	if drains {
		steps.step("reading alone", checkTool)
		r.Notes = append(r.Notes, h.crossCheck(ctx))
	}
	if ctx.Err() != nil {
		errs = append(errs, errStopped)
	}
	return r, errors.Join(errs...)
}

type stepper struct {
	tell     func(Step)
	done, of int
}

func (s *stepper) step(name, contender string) {
	s.tell(Step{Case: name, Contender: contender, Done: s.done, Of: s.of})
	s.done++
}

func (h *Harness) pairs(c Case) int {
	if c.Pairs > 0 {
		return c.Pairs
	}
	return h.cfg.Pairs
}

// samples that a case takes, each try of the size as one.
func (h *Harness) samples(c Case) int {
	n := h.pairs(c) * len(c.Contenders)
	if c.Yardstick != nil {
		n *= 2
	}
	if h.warm(c) {
		n += len(c.sides())
	}
	return n
}

// warm reports whether the contenders run once before they are measured.
func (h *Harness) warm(c Case) bool { return c.Jobs == 0 || h.pairs(c) > 1 }

// sides are the contenders and the yardstick.
func (c Case) sides() []Contender {
	sides := slices.Clone(c.Contenders)
	if c.Yardstick != nil {
		sides = append(sides, *c.Yardstick)
	}
	return sides
}

// measurement of one case.
type measurement struct {
	h     *Harness
	c     Case
	steps *stepper

	samples   [][]Sample // of each contender
	yardstick [][]Sample // those taken beside them
}

// measure lets each contender and the yardstick take turns.
func (m *measurement) measure(ctx context.Context) error {
	sides := m.c.sides()
	sizes := make([]int, len(sides))
	for i, side := range sides {
		sizes[i] = m.c.Jobs
		if !m.h.warm(m.c) {
			continue
		}
		m.steps.step(m.c.Name, side.Name)
		var err error
		if sizes[i], err = m.h.size(ctx, m.c, side); err != nil {
			return fmt.Errorf("%s: %w", side.Name, err)
		}
	}
	m.samples, m.yardstick = make([][]Sample, len(m.c.Contenders)), make([][]Sample, len(m.c.Contenders))
	take := func(side int) (Sample, error) {
		m.steps.step(m.c.Name, sides[side].Name)
		runtime.GC() // what the one before left is not this one's to pay for
		s, err := sides[side].Run(ctx, sizes[side])
		if err != nil {
			return s, fmt.Errorf("%s: %w", sides[side].Name, err)
		}
		return s, nil
	}
	for range m.h.pairs(m.c) {
		for i := range m.c.Contenders {
			s, err := take(i)
			if err != nil {
				return err
			}
			m.samples[i] = append(m.samples[i], s)
			if m.c.Yardstick == nil {
				continue
			}
			if s, err = take(len(sides) - 1); err != nil {
				return err
			}
			m.yardstick[i] = append(m.yardstick[i], s)
		}
	}
	return nil
}

// size finds how many jobs a sample of this contender should have. It warms up what there is to warm.
func (h *Harness) size(ctx context.Context, c Case, k Contender) (int, error) {
	if c.Jobs > 0 {
		_, err := k.Run(ctx, max(c.Jobs/10, 1))
		return c.Jobs, err
	}
	enough := h.cfg.Duration / 4
	for n := min(500, c.Most); ; {
		s, err := k.Run(ctx, n)
		if err != nil {
			return 0, err
		}
		took := max(s.Took, time.Microsecond)
		if took >= enough || n >= c.Most {
			return min(max(int(float64(n)*float64(h.cfg.Duration)/float64(took)), 1), c.Most), nil
		}
		// what a start costs makes small ones look slow: not too far at once
		n = min(int(float64(n)*min(max(1.5*float64(enough)/float64(took), 2), 10)), c.Most)
	}
}

const (
	tickEvery   = time.Millisecond
	courseParts = 25 // of a sample, for its course
)

// Timed runs work, and returns when it has done n jobs by what done counts; work is then told to end by its context.
// Whoever measures has the same ticks.
func (h *Harness) Timed(ctx context.Context, n int, done func() int64, work func(context.Context) error) (Sample, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := Sample{Jobs: n}
	every := max(h.cfg.Duration/courseParts, 2*tickEvery)
	ended := make(chan error, 1)
	begun := time.Now()
	go func() { ended <- work(ctx) }()
	finish := func(err error) (Sample, error) {
		if err = unlessStopped(err); err == nil {
			s.Course = append(s.Course, Mark{s.Took, int64(n)})
		}
		return s, err
	}
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	last, moved := int64(0), begun
	for {
		select {
		case err := <-ended:
			s.Took = time.Since(begun)
			if got := done(); err == nil && got != int64(n) {
				err = fmt.Errorf("it ended with %d of %d jobs done", got, n)
			}
			if ctx.Err() != nil {
				return s, context.Cause(ctx)
			}
			return finish(err)
		case <-tick.C:
		}
		now, got := time.Since(begun), done()
		switch {
		case got >= int64(n):
			s.Took = now
			stop()
			return finish(<-ended)
		case got > last:
			last, moved = got, begun.Add(now)
		case begun.Add(now).Sub(moved) > stalled:
			stop()
			return s, errors.Join(fmt.Errorf("nothing has happened for %s: %d of %d jobs are done", stalled, got, n), unlessStopped(<-ended))
		}
		if next := time.Duration(len(s.Course)+1) * every; now >= next {
			s.Course = append(s.Course, Mark{now, got})
		}
	}
}

// unlessStopped is err, or nil when it is the end of the context by which we stopped what had done its work.
func unlessStopped(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
