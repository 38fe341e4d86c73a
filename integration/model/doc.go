// Package model tests the transitions of DESIGN.md against a model: random
// interleavings of what publishers, workers, sweepers, schedulers, operators
// and accidents do, sent to a real Redis by the very calls that the product
// sends, and told to a plain model in memory. After every step all that Redis
// holds of the stream is read back and compared: each job is in exactly one
// place, moved only by who was entitled to, its counters and its field in ids
// are right, and its fence has grown with every delivery. At the end of a run
// everything is finished, and no key is left that should not be.
//
// The workers are simulated. Each believes what it was told, and may be wrong:
// it does not know that its lease has run out, gets no answer and repeats
// itself, settles one job twice, dies between any two steps. No time passes:
// the test makes entries idle and jobs due itself.
//
// TestModel runs for a minute, or until -rapid.checks runs are over when that
// is given; it prints the seed with which it began. To run it for hours:
//
//	go test -timeout=0 ./model -run=TestModel -rapid.checks=1000000
//
// and to repeat what failed, as rapid says, -rapid.seed or -rapid.failfile.
// -rapid.steps is how many steps a run has on average.
package model
