package engine

import "math"

// Step says why a job moves on, which decides what is counted.
type Step int

// The steps of Moved.
const (
	StepPark    Step = iota // snoozed, or dead without a failed run
	StepFail                // a run ended in an error
	StepBounce              // nobody here can handle it
	StepPause               // a kill switch puts it off
	StepRelease             // handed back
	StepReclaim             // its lease ran out
	StepRedrive             // a dead letter begins anew
)

// Moved returns the opts with which a job goes on: each move adds to its part of the fence, which never falls.
func (o Opts) Moved(step Step) Opts {
	o.Moves = more(o.Moves)
	switch step {
	case StepFail:
		o.Errors = more(o.Errors)
	case StepReclaim:
		o.Crashes = more(o.Crashes)
	case StepBounce:
		o.Bounces = more(o.Bounces)
	case StepPause:
		o.Pauses = more(o.Pauses)
	case StepRedrive:
		o.Errors, o.Crashes, o.Expires = 0, 0, 0
	}
	if step != StepBounce && step != StepRelease && step != StepReclaim {
		o.Bounces, o.BouncedAt = 0, 0 // somebody could handle it
		if step != StepPause {
			o.Pauses = 0
		}
	}
	return o
}

// more counts one up, no further than what the wire format takes: a forged counter must not make a job unreadable.
func more[T int | int64](n T) T { return min(n+1, math.MaxInt32) }
