package kill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/penstock-go/penstock/integration/kill/ledger"
	"github.com/penstock-go/penstock/stream"
)

// JobType is the type of every job.
const JobType = "work"

// Mix says which jobs are published: of so many jobs one is of this kind. Zero: none is.
type Mix struct {
	Events    int // on the events stream, else on the queue
	ID        int // with an ID of its own
	Delay     int // deferred, for up to MaxDelay
	Flaky     int // fails once or twice, then succeeds
	Doomed    int // fails always
	Permanent int // fails for good at once
	Long      int // runs for longer than a lease
	Stubborn  int // ignores SIGTERM, for some seconds
	MaxMillis int // how long an ordinary run takes at most
	MaxDelay  time.Duration
}

// Load publishes jobs from several goroutines, and records what it learns.
type Load struct {
	Ledger     *ledger.Ledger
	Queue      *stream.Stream
	Events     *stream.Stream // nil: none
	Seed       uint64
	Mix        Mix
	Lease      time.Duration
	Publishers int
	Every      time.Duration // one job of one publisher

	mu    sync.Mutex
	extra int // jobs of PublishNow so far
}

const (
	publishTimeout = 3 * time.Second
	publishPause   = 150 * time.Millisecond
	extraNumbers   = 1 << 40 // PublishNow counts from here
)

// Run publishes until ctx ends. Jobs under way are finished, within limit.
func (l *Load) Run(ctx context.Context, limit time.Duration) {
	var wg sync.WaitGroup
	for p := range l.Publishers {
		wg.Go(func() { l.publisher(ctx, p, limit) })
	}
	wg.Wait()
}

func (l *Load) publisher(ctx context.Context, number int, limit time.Duration) {
	random := rand.New(rand.NewPCG(l.Seed, uint64(number)+100)) //nolint:gosec // a small number
	tick := time.NewTicker(l.Every)
	defer tick.Stop()
	for n := number + 1; ; n += l.Publishers {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		work := l.work(random, n)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		l.publish(last, work)
		cancel()
	}
}

// PublishNow publishes a job at once, besides those of Run. It gives it a number, and returns it.
func (l *Load) PublishNow(ctx context.Context, work ledger.Work) int {
	l.mu.Lock()
	l.extra++
	work.N = extraNumbers + l.extra
	l.mu.Unlock()
	work.Stream = l.Queue.Name()
	l.publish(ctx, work)
	return work.N
}

// work decides what a job does.
func (l *Load) work(random *rand.Rand, n int) ledger.Work {
	one := func(of int) bool { return of > 0 && random.IntN(of) == 0 }
	w := ledger.Work{N: n, Stream: l.Queue.Name(), Millis: 5 + random.IntN(l.Mix.MaxMillis)}
	if l.Events != nil && one(l.Mix.Events) {
		w.Stream = l.Events.Name()
	}
	if one(l.Mix.ID) {
		w.ID = fmt.Sprintf("job-%d", n)
	}
	if one(l.Mix.Delay) {
		w.Delay = 50*time.Millisecond + time.Duration(random.Int64N(int64(l.Mix.MaxDelay)))
	}
	switch {
	case one(l.Mix.Flaky):
		w.Fails = 1 + random.IntN(2)
	case one(l.Mix.Doomed):
		w.Fails = 1000
	case one(l.Mix.Permanent):
		w.Permanent = true
	case one(l.Mix.Long):
		w.Millis = int((l.Lease + l.Lease/5 + time.Duration(random.Int64N(int64(l.Lease/2)))).Milliseconds())
	case one(l.Mix.Stubborn):
		w.Stubborn = true
		w.Millis = 3000 + random.IntN(5000)
	}
	return w
}

// publish does what a careful program does: again when nothing was stored, again
// when the answer was lost and the job has an ID, and not again when it has none.
func (l *Load) publish(ctx context.Context, w ledger.Work) {
	s := l.Queue
	if l.Events != nil && w.Stream == l.Events.Name() {
		s = l.Events
	}
	job := stream.Job{Type: JobType, Data: w, ID: w.ID, Delay: w.Delay}
	for try := 0; ; try++ {
		if try > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(publishPause):
			}
		}
		l.Ledger.Add(ledger.Record{What: ledger.Published, N: w.N, Work: &w})
		call, cancel := context.WithTimeout(ctx, publishTimeout)
		receipt, err := s.Publish(call, job)
		cancel()
		switch {
		case err == nil:
			r := ledger.Record{What: ledger.Acknowledged, N: w.N, ID: receipt.ID, Twice: receipt.Duplicate}
			if !receipt.Due.IsZero() {
				r.Due = l.Ledger.Since(receipt.Due)
			}
			l.Ledger.Add(r)
			return
		case errors.Is(err, stream.ErrAmbiguous):
			l.Ledger.Add(ledger.Record{What: ledger.Ambiguous, N: w.N, Text: err.Error()})
			if w.ID == "" {
				return
			}
		default:
			l.Ledger.Add(ledger.Record{What: ledger.Refused, N: w.N, Text: err.Error()})
		}
	}
}
