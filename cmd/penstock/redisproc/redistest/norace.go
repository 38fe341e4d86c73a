//go:build !race

package redistest

import "time"

// Race is whether the race detector is on.
const Race = false

// AtMost is how long something may take that has to be done within d: five times as long under the race detector.
func AtMost(d time.Duration) time.Duration { return d }
