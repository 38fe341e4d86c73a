//go:build race

package redistest

import "time"

// Race is whether the race detector is on. It makes a test's own code many times slower and finds in a sample of
// cases what it finds in all of them: the whole runs without it.
const Race = true

// AtMost is how long something may take that has to be done within d: five times as long under the race detector.
func AtMost(d time.Duration) time.Duration { return 5 * d }
