//go:build !race

package redistest

// Race is whether the race detector is on.
const Race = false
