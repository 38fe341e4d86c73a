package main

import (
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/penstock-go/penstock/stream"
)

// devStep is what one run of a job of the load does.
type devStep uint8

const (
	stepOK devStep = iota
	stepFail
	stepPanic
	stepPermanent
	stepSnooze
	stepRetryAfter
)

// devKind is one kind of job in the load: its runs are fixed, so that what must come out can be computed.
type devKind struct {
	typ      string
	stream   int    // index in devStreams
	what     string // for people
	share    int    // of 1,000 jobs
	steps    []devStep
	slow     bool
	deferred bool
	chosen   bool // has an ID; every second one is published twice
}

// devStreams are the streams of the load, in the order in which they are served.
var devStreams = []string{"orders", "mail"}

const (
	devGroup   = "billing"
	devTries   = 3
	devDelay   = 400 * time.Millisecond // of the backoff
	devPause   = 300 * time.Millisecond // of Snooze and RetryAfter
	slowLeast  = 20 * time.Millisecond
	slowMost   = 300 * time.Millisecond
	leastDelay = 100 * time.Millisecond
	mostDelay  = 5 * time.Second
)

// devKinds make the load. The shares add up to 1,000.
var devKinds = []devKind{
	{typ: "order.placed", what: "quick", share: 616, steps: []devStep{stepOK}},
	{typ: "order.paid", what: "own ID, half sent twice", share: 80, steps: []devStep{stepOK}, chosen: true},
	{typ: "invoice.render", what: "slow, 20 to 300 ms", share: 60, steps: []devStep{stepOK}, slow: true},
	{typ: "card.charge", what: "fails twice, then works", share: 50, steps: []devStep{stepFail, stepFail, stepOK}},
	{typ: "card.refund", what: "panics, then works", share: 15, steps: []devStep{stepPanic, stepOK}},
	{typ: "stock.sync", what: "says when to try again", share: 15, steps: []devStep{stepRetryAfter, stepOK}},
	{typ: "payment.await", what: "snoozes, then works", share: 20, steps: []devStep{stepSnooze, stepOK}},
	{typ: "coupon.apply", what: "always fails", share: 12, steps: []devStep{stepFail, stepFail, stepFail}},
	{typ: "address.check", what: "fails for good at once", share: 12, steps: []devStep{stepPermanent}},
	{typ: "mail.receipt", stream: 1, what: "quick, second stream", share: 60, steps: []devStep{stepOK}},
	{typ: "mail.reminder", stream: 1, what: "deferred, 0.1 to 5 s", share: 60, steps: []devStep{stepOK}, deferred: true},
}

// dies reports whether the kind's jobs end as dead letters.
func (k *devKind) dies() bool { return k.steps[len(k.steps)-1] != stepOK }

// failures is how many runs of the first n end in an error.
func (k *devKind) failures(n int) int {
	failed := 0
	for _, s := range k.steps[:min(n, len(k.steps))] {
		if s != stepOK && s != stepSnooze {
			failed++
		}
	}
	return failed
}

// devOrder is the payload of every job.
type devOrder struct {
	Order    int    `json:"order"`
	Customer string `json:"customer"`
	Cents    int    `json:"cents"`
}

// devJob is one job of the load, made from the seed and its number alone.
type devJob struct {
	n     int
	kind  int
	order devOrder
	delay time.Duration // until it is due
	work  time.Duration // of a slow one
	twice bool
	id    string
}

// devMix makes jobs. The same seed makes the same jobs.
type devMix struct {
	seed     uint64
	maxDelay time.Duration
}

// job returns the nth job, from 0. The first few are one of each kind, so that a short run shows them all.
func (m devMix) job(n int) devJob {
	r := rand.New(rand.NewPCG(m.seed, uint64(n))) //nolint:gosec // a load that can be repeated
	j := devJob{n: n, kind: n}
	if n >= len(devKinds) {
		j.kind = pickKind(r.IntN(1000))
	}
	k := &devKinds[j.kind]
	j.order = devOrder{Order: n, Customer: customers[r.IntN(len(customers))], Cents: 100 + r.IntN(50_000)}
	if k.deferred {
		j.delay = leastDelay + time.Duration(r.Int64N(int64(max(m.maxDelay-leastDelay, 1))))
	}
	if k.slow {
		j.work = slowLeast + time.Duration(r.Int64N(int64(slowMost-slowLeast)))
	}
	if k.chosen {
		j.id = "paid-" + strconv.Itoa(n)
		j.twice = n < len(devKinds) || r.IntN(2) == 0
	}
	return j
}

func pickKind(at int) int {
	for i, k := range devKinds {
		if at -= k.share; at < 0 {
			return i
		}
	}
	return 0
}

var customers = []string{"Ada", "Boris", "Chidi", "Dora", "Emre", "Fatima", "Grace", "Hana", "Ines", "Jun"}

// publishable is the job as it is published.
func (j devJob) publishable() stream.Job {
	job := stream.Type[devOrder]{Name: devKinds[j.kind].typ}.Job(j.order)
	job.ID, job.Delay = j.id, j.delay
	return job
}
