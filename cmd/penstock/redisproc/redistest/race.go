//go:build race

package redistest

// Race is whether the race detector is on. It makes a test's own code many times slower and finds in a sample of
// cases what it finds in all of them: the whole runs without it.
const Race = true
