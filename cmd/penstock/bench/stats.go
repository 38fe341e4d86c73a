package bench

import (
	"math"
	"slices"
	"time"
)

// Summary of the values of several samples.
type Summary struct {
	Median  float64   `json:"median"`
	Min     float64   `json:"min"`
	Q1      float64   `json:"q1"` // a quarter is below
	Q3      float64   `json:"q3"` // a quarter is above
	Max     float64   `json:"max"`
	Samples []float64 `json:"samples"` // in the order in which they were measured
}

// Summarize says how values lie. Of none it is zero.
func Summarize(values []float64) Summary {
	if len(values) == 0 {
		return Summary{}
	}
	sorted := slices.Sorted(slices.Values(values))
	return Summary{
		Median: quantile(sorted, 0.5), Q1: quantile(sorted, 0.25), Q3: quantile(sorted, 0.75),
		Min: sorted[0], Max: sorted[len(sorted)-1], Samples: slices.Clone(values),
	}
}

// quantile of sorted values, between the two nearest.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(math.Floor(at))
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (sorted[high]-sorted[low])*(at-float64(low))
}

// Ratios of each pair of values measured one after the other. A pair whose second is zero has none.
func Ratios(values, yardstick []float64) []float64 {
	var ratios []float64
	for i := range min(len(values), len(yardstick)) {
		if yardstick[i] != 0 {
			ratios = append(ratios, values[i]/yardstick[i])
		}
	}
	return ratios
}

// Percentile is the smallest of sorted latencies that is not exceeded by p
// percent of them: one that was measured, not one in between.
func Percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}
