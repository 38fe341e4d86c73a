package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
)

const duePerSecond = 100

func (h *Harness) deferredCases() []Case {
	name := fmt.Sprintf("deferred, %d due/s", duePerSecond)
	n := h.fit(max(int(duePerSecond*h.cfg.Duration.Seconds()*longer), 1))
	return []Case{{
		Group: "deferred", Name: name, Jobs: n, bytes: h.jobBytes() + deferredKeys,
		Contenders: []Contender{{Penstock, h.deferred}},
		Figures: []Figure{
			{Name: name + ", p50", Unit: Seconds, Of: percentile(50), Target: &Target{Bound: 0.001}},
			{Name: name + ", p99", Unit: Seconds, Of: percentile(99), Target: &Target{Bound: 0.005}},
			{Name: name + ", earliest", Unit: Seconds, Of: percentile(0), Target: &Target{AtLeast: true}},
		},
	}}
}

// ErrEarly is a deferred job that started before it was due.
var ErrEarly = errors.New("a deferred job started before it was due")

// errTooSoon means that jobs were due before all were stored, so that nothing was proven.
var errTooSoon = errors.New("the first job was due before all were published")

// deferred is how late the handlers of deferred jobs start, by Redis's clock. One that starts early is an error.
func (h *Harness) deferred(ctx context.Context, n int) (Sample, error) {
	for ahead := 500*time.Millisecond + time.Duration(n)*time.Millisecond/2; ; ahead *= 4 {
		s, err := h.deferredAhead(ctx, n, ahead)
		if !errors.Is(err, errTooSoon) || ahead > time.Minute {
			return s, err
		}
	}
}

// deferredAhead publishes so long before the first is due.
func (h *Harness) deferredAhead(ctx context.Context, n int, ahead time.Duration) (s Sample, err error) {
	st, err := h.newStream(ctx)
	if err != nil {
		return s, err
	}
	var ids []string
	defer func() { err = errors.Join(err, h.dropJobs(ctx, ids, st.Name())) }()
	promote, err := h.scheduler(st)
	if err != nil {
		return s, err
	}
	pctx, stopPromoting := context.WithCancel(ctx)
	var promoting sync.WaitGroup
	defer promoting.Wait()
	defer stopPromoting()
	promoting.Go(func() { _ = promote(pctx) }) // nil, always

	clock, err := h.readClock(ctx, st.Name())
	if err != nil {
		return s, err
	}
	first := clock.now().Add(ahead).Truncate(time.Millisecond)
	late := LateTrips(first, n)
	stop, err := h.work(ctx, func(data []byte) { late.ArrivedLate(data, clock.now()) }, st)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if ids, err = h.defers(ctx, st, late, n); err != nil {
		return s, err
	}
	if clock.now().After(first) {
		return s, fmt.Errorf("%w, %s ahead", errTooSoon, ahead)
	}
	if err := late.Wait(ctx); err != nil {
		return s, err
	}
	s = Sample{Jobs: n, Took: clock.now().Sub(first), Latencies: late.Durations()}
	return s, clock.check(s.Latencies[0])
}

// defers publishes n jobs, each to start when it is due.
func (h *Harness) defers(ctx context.Context, st *stream.Stream, late *Trips, n int) ([]string, error) {
	jobs := make([]stream.Job, n)
	for i := range jobs {
		jobs[i] = stream.Job{Type: typeName, Data: h.Payload(i), At: late.Due(i)}
	}
	receipts, err := st.PublishAll(ctx, jobs)
	ids := make([]string, 0, n)
	for _, r := range receipts {
		ids = append(ids, r.ID)
	}
	return ids, err
}

// LateTrips returns n jobs that are due at 100 in a second, from first on: ArrivedLate counts from when a job was due.
func LateTrips(first time.Time, n int) *Trips {
	t := NewTrips(n)
	t.base = first
	for i := range t.sent {
		t.sent[i].Store(int64(time.Duration(i) * time.Second / duePerSecond))
	}
	return t
}

// Due is when a job of LateTrips is.
func (t *Trips) Due(i int) time.Time { return t.base.Add(time.Duration(t.sent[i].Load())) }

// ArrivedLate is Arrived for jobs that may arrive before they are due; now is by the clock that decides.
func (t *Trips) ArrivedLate(data []byte, now time.Time) {
	i := Number(data)
	if i < 0 || i >= len(t.took) {
		t.foreign.Add(1)
		return
	}
	late := int64(now.Sub(t.base)) - t.sent[i].Load()
	if late == 0 {
		late = 1 // 0 is: not arrived
	}
	if t.took[i].CompareAndSwap(0, late) && t.left.Add(-1) == 0 {
		close(t.arrive)
	}
}

// redisClock is Redis's, as well as it can be told from here.
type redisClock struct {
	ahead time.Duration // of ours
	err   time.Duration // by how much that may be wrong
}

const clockTries = 30

// readClock asks the server that holds key; the quickest answer tells best.
func (h *Harness) readClock(ctx context.Context, key string) (redisClock, error) {
	node, err := h.node(ctx, key)
	if err != nil {
		return redisClock{}, err
	}
	best := redisClock{err: time.Hour}
	for range clockTries {
		c, err := askClock(ctx, node)
		if err != nil {
			return best, fmt.Errorf("read redis's clock: %w", err)
		}
		if c.err < best.err {
			best = c
		}
	}
	return best, nil
}

func askClock(ctx context.Context, node redis.Cmdable) (redisClock, error) {
	before := time.Now()
	there, err := node.Time(ctx).Result()
	half := time.Since(before) / 2
	return redisClock{there.Sub(before.Add(half)), half}, err
}

func (c redisClock) now() time.Time { return time.Now().Add(c.ahead) }

// slack is what clocks drift apart within a sample.
const slack = 100 * time.Microsecond

func (c redisClock) check(earliest time.Duration) error {
	if earliest < -(c.err + slack) {
		return fmt.Errorf("%w: by %s", ErrEarly, -earliest)
	}
	return nil
}
