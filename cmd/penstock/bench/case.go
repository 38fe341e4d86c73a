package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Contender is one way to do the work of a case.
type Contender struct {
	Name string
	// Run does it with n jobs, and removes what it made. It must return soon after ctx has ended, and can be called again.
	Run func(ctx context.Context, n int) (Sample, error)
}

// Sample is what one run of a contender gave; each case fills what its figures need.
type Sample struct {
	Jobs      int
	Took      time.Duration
	Course    []Mark             // how many jobs were done when
	Latencies []time.Duration    // sorted
	Value     float64            // what else there is to measure
	Commands  map[string]float64 // per second, by name
}

// Mark is how many jobs were done by then.
type Mark struct {
	At   time.Duration
	Jobs int64
}

// PerSecond is how many jobs were done in a second.
func (s Sample) PerSecond() float64 {
	if s.Took <= 0 {
		return 0
	}
	return float64(s.Jobs) / s.Took.Seconds()
}

// StartsAt leaves out what was before.
func (s *Sample) StartsAt(first time.Duration) {
	s.Took -= first
	course := s.Course[:0]
	for _, m := range s.Course {
		if m.At -= first; m.At > 0 {
			course = append(course, m)
		}
	}
	s.Course = course
}

// Case is one measurement.
type Case struct {
	Group string // what the command line calls it: drain, publish, latency, deferred, idle, memory
	Name  string
	// Jobs of a sample. 0: as many as take Config.Duration, of each contender, found by trying.
	Jobs int
	// Most jobs that a sample may have when Jobs is 0.
	Most int
	// Pairs of contender and yardstick. 0: as many as Config says.
	Pairs int
	// Contenders, each with a yardstick of its own: the targets are the first one's.
	Contenders []Contender
	// Yardstick to measure them by; nil: there is none.
	Yardstick *Contender
	// Figures to take from the samples: one row each.
	Figures []Figure

	bytes int64 // of Redis's memory for one job
}

// Figure is one number of a sample.
type Figure struct {
	Name   string
	Unit   Unit
	Of     func(Sample) float64
	Target *Target // of the first contender; nil: there is none
}

// Target is a bound that a median must keep.
type Target struct {
	Ratio   bool    `json:"ratio"`    // it is the ratio's; else the value's own
	AtLeast bool    `json:"at_least"` // else at most
	Bound   float64 `json:"bound"`
}

// Met reports whether a value or ratio keeps the bound.
func (t Target) Met(v float64) bool {
	if t.AtLeast {
		return v >= t.Bound
	}
	return v <= t.Bound
}

// Groups of cases, in the order in which they run.
func Groups() []string { return []string{"drain", "publish", "latency", "deferred", "idle", "memory"} }

// Cases returns those of some groups, or all, in the order of Groups.
func (h *Harness) Cases(groups ...string) ([]Case, error) {
	var errs []error
	for _, name := range groups {
		if !slices.Contains(Groups(), name) {
			errs = append(errs, fmt.Errorf("%q is none of %s", name, strings.Join(Groups(), ", ")))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var cases []Case
	for _, c := range slices.Concat(h.drainCases(), h.publishCases(), h.latencyCases(), h.deferredCases(), h.idleCases(), h.memoryCases()) {
		if len(groups) == 0 || slices.Contains(groups, c.Group) {
			cases = append(cases, c)
		}
	}
	return cases, nil
}

// Sizes of what a case may put into Redis.
const (
	mostMemory   = 512 << 20
	leastJobs    = 100
	entryBytes   = 200 // over the payload, and a tenth of that
	mostPerSec   = 700_000
	mostPerCall  = 200_000 // one caller, one job a call: far from it
	deferredKeys = 500     // more, of a deferred job
)

// most jobs of a sample that does at most so many in a second.
func (h *Harness) most(perSecond float64) int {
	return h.fit(int(perSecond * h.cfg.Duration.Seconds()))
}

// fit bounds a number of jobs by the memory that they may take.
func (h *Harness) fit(n int) int {
	return max(min(n, int(mostMemory/h.jobBytes())), leastJobs)
}

// jobBytes is what a waiting job takes at most.
func (h *Harness) jobBytes() int64 {
	return int64(h.cfg.Payload)*11/10 + entryBytes
}

func perSecond(s Sample) float64 { return s.PerSecond() }

func percentile(p float64) func(Sample) float64 {
	return func(s Sample) float64 { return Percentile(s.Latencies, p).Seconds() }
}
