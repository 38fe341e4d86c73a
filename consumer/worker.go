package consumer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// Worker runs the jobs of one group over one or more streams. Make it with
// New, give it handlers, and call Run once.
type Worker struct {
	group   string
	cfg     Config
	name    string
	log     *slog.Logger
	rdb     redis.UniversalClient
	sources []*source

	mu         sync.Mutex
	started    bool
	routes     map[string]*route
	middleware []Middleware

	policy  policy
	unit    int64 // what one job that is no part of a batch weighs
	slots   []*slot
	lives   sync.WaitGroup // slots
	ready   readyQueue     // read, not started
	done    chan *task     // ended, not yet so in Redis
	drain   chan struct{}  // closed: settle what is in done, then stop
	drainBy atomic.Int64   // unix ns: by then, when Redis is away
	gone    chan struct{}  // closed: nobody settles any more
	abort   chan struct{}  // closed: running handlers are told to stop
	root    context.Context

	readers   []*reader
	stopping  atomic.Bool  // nothing starts any more
	load      atomic.Int64 // weight of all that is read and not ended
	spare     atomic.Int64 // tokens in ready whose jobs a batch has taken
	pace      pace
	reports   *reporter
	suspected chan struct{} // capacity 1: there may be suspects to run
	hints     chan hint     // of jobs that were cancelled
	stopped   chan struct{} // closed: stopping is set

	counts  counters
	settled atomic.Int64 // unix ns
	opened  atomic.Bool
	opening outage    // the streams can't be opened now
	writes  outage    // or the ends of jobs written
	starts  outage    // or unique keys looked at
	refused outage    // Redis takes the ends of some jobs not, as when a key has another type
	records time.Time // when it was logged last that it takes records not; the settler's alone
}

// New returns a worker of group over streams; earlier streams are served
// first. All streams must share one client. It does no input or output, and
// reports every fault at once.
func New(group string, cfg Config, streams ...*stream.Stream) (*Worker, error) {
	var errs []error
	if err := engine.CheckGroup(group); err != nil {
		errs = append(errs, fmt.Errorf("%w: %w", stream.ErrInvalid, err))
	}
	if err := cfg.Validate(); err != nil {
		errs = append(errs, err)
	}
	if len(streams) == 0 {
		errs = append(errs, fmt.Errorf("%w: a worker needs at least one stream", stream.ErrInvalid))
	}
	seen := make(map[string]bool)
	for _, s := range streams {
		switch {
		case s == nil:
			errs = append(errs, fmt.Errorf("%w: a stream is nil", stream.ErrInvalid))
			continue
		case seen[s.Name()]:
			errs = append(errs, fmt.Errorf("%w: stream %s is given twice", stream.ErrInvalid, s.Name()))
		case streams[0] != nil && s.Client() != streams[0].Client():
			errs = append(errs, fmt.Errorf("%w: stream %s has another client than %s: a worker uses one", stream.ErrInvalid, s.Name(), streams[0].Name()))
		}
		seen[s.Name()] = true
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	cfg = cfg.WithDefaults()
	w := &Worker{
		group:  group,
		cfg:    cfg,
		name:   consumerName(cfg.Name),
		rdb:    streams[0].Client(),
		routes: make(map[string]*route),
		policy: policy{timeout: max(cfg.Timeout, 0), maxTries: cfg.MaxTries, backoff: cfg.Backoff, keep: cfg.keeping()},
		drain:  make(chan struct{}),

		reports:   newReporter(),
		suspected: make(chan struct{}, 1),
		hints:     make(chan hint, hintsAtOnce),
		stopped:   make(chan struct{}),

		gone:  make(chan struct{}),
		abort: make(chan struct{}),
		done:  make(chan *task, engine.SettleMax),
	}
	w.log = cfg.Logger.With("group", group, "consumer", w.name)
	for i, s := range streams {
		w.sources = append(w.sources, &source{stream: s, keys: engine.NewKeys(s.Name()), rank: i, beats: newBeats(), reports: w.reports})
	}
	return w, nil
}

// consumerName is unique: two workers under one name would take each other's deliveries for their own.
func consumerName(name string) string {
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "worker"
		}
		name = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return name + "-" + hex.EncodeToString(b[:])
}

// Name of this worker among the group's consumers.
func (w *Worker) Name() string { return w.name }

// stuckAfter is how long Run waits, after the grace period, for handlers that were told to stop.
const stuckAfter = 3 * time.Second

// settleAfter is how long Run tries to write the last ends of jobs while Redis is away, and leaveTimeout how long
// it tries to leave its groups: with Config.Grace they stay below the 30 s after which Kubernetes kills.
const (
	settleAfter  = 2 * time.Second
	leaveTimeout = time.Second
)

// Run works until ctx ends, then stops reading, hands back what has not
// started, lets handlers finish within Config.Grace, ends the contexts of the
// others with ErrStopping and hands their jobs back. It returns nil after that;
// *StuckError when a handler did not return; and another error when it could
// not begin: ErrKind, ErrDenied and the like. While Redis is away it waits.
func (w *Worker) Run(ctx context.Context) error {
	w.mu.Lock()
	if w.started {
		w.mu.Unlock()
		return errors.New("penstock: a worker runs only once")
	}
	w.started = true
	w.prepare(ctx)
	w.mu.Unlock()

	if err := w.openAll(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	w.log.Info("worker started", "streams", len(w.sources), "max_jobs", w.cfg.MaxJobs)

	stop := context.AfterFunc(ctx, func() {
		w.stopping.Store(true)
		close(w.stopped)
	})
	defer stop()
	var settler, shedding, upkeep, readers sync.WaitGroup
	settler.Go(w.settle)
	for _, s := range w.slots {
		w.lives.Go(func() { w.serve(s) })
	}
	shedding.Go(func() { w.shedding(ctx) })
	for _, src := range w.sources {
		upkeep.Go(func() { w.keepLeases(src) })
	}
	upkeep.Go(func() { w.heartbeat(ctx) })
	upkeep.Go(w.watch)
	upkeep.Go(w.obey)
	upkeep.Go(w.report)
	hearing, deaf := context.WithCancel(w.root) // what runs until the end of the grace period can be cancelled until then
	defer deaf()
	upkeep.Go(func() { w.promoter().Run(hearing) })
	for _, r := range w.readers {
		readers.Go(func() { r.run(ctx) })
	}

	readers.Go(func() { w.readSuspects(ctx) })

	<-ctx.Done()
	grace := time.AfterFunc(w.cfg.Grace, w.abortRuns) // whatever readers, which may wait for a dead Redis, still do
	readers.Wait()
	shedding.Wait() // it hands back too, so it has to end before the settler
	w.endSweeps()
	w.handBackQueue()
	w.ready.close() // the slots end when their jobs do
	err := w.waitForHandlers()
	deaf()
	grace.Stop()
	w.drainBy.Store(time.Now().Add(settleAfter).UnixNano())
	close(w.drain)
	settler.Wait()
	close(w.gone)
	upkeep.Wait()
	w.leave(ctx)
	w.log.Info("worker stopped", "stats", w.Stats())
	return err
}

// prepare puts the middleware around the handlers and makes the slots; w.mu is held.
func (w *Worker) prepare(ctx context.Context) {
	w.root = context.WithoutCancel(ctx) // handlers outlive ctx by the grace period
	largest := int64(1)
	for _, r := range w.routes {
		largest = max(largest, int64(r.size))
	}
	w.unit = largest
	for name, r := range w.routes {
		r.policy = w.policy.with(w.cfg.Types[name])
		r.weight = w.unit / max(int64(r.size), 1)
		for i := len(w.middleware) - 1; i >= 0 && r.handle != nil; i-- {
			r.handle = w.middleware[i](r.handle)
		}
	}
	w.readers = w.makeReaders()
	w.slots = make([]*slot, w.cfg.MaxJobs)
	for i := range w.slots {
		w.slots[i] = &slot{root: w.label(w.root, i), wait: make(chan struct{}, 1)}
	}
}

// promoter brings this group's own retries back when they are due, so that none waits for a scheduler.
func (w *Worker) promoter() *engine.Promoter {
	slots := make([]engine.Slot, 0, len(w.sources))
	ours := make(map[string]bool)
	for _, src := range w.sources {
		src.mu.Lock()
		slot := engine.RetryingSlot(src.group)
		src.mu.Unlock()
		slots = append(slots, slot)
		ours[slot.Set] = true
	}
	return &engine.Promoter{
		Client: w.rdb,
		Slots:  func(context.Context) ([]engine.Slot, error) { return slots, nil },
		Known:  func(set string) bool { return ours[set] },
		Poll:   w.cfg.PollDelay,
		Logger: w.log,
		Said:   w.said,
		Missed: w.missed,
	}
}

// endSweeps waits for a sweep under way, whose jobs the settler has to send on, for lastLook at most.
func (w *Worker) endSweeps() {
	by := time.Now().Add(lastLook)
	for _, src := range w.sources {
		for !src.sweeping.TryLock() && time.Now().Before(by) {
			time.Sleep(unblockEach)
		}
	}
}

// abortRuns ends the contexts of all handlers: the grace period is over.
func (w *Worker) abortRuns() {
	close(w.abort)
	for _, s := range w.slots {
		s.cancelRun(ErrStopping)
	}
}

// waitForHandlers waits for the slots to end; for stuckAfter at most once the handlers were told to stop.
func (w *Worker) waitForHandlers() error {
	ended := make(chan struct{})
	go func() { // ends with the handlers; only a stuck one, which nobody can end, keeps it
		w.lives.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-w.abort:
	}
	last := time.NewTimer(stuckAfter)
	defer last.Stop()
	select {
	case <-ended:
		return nil
	case <-last.C:
	}
	stuck := &StuckError{}
	var slots []*slot
	for _, s := range w.slots {
		s.mu.Lock()
		for _, t := range s.tasks {
			stuck.Jobs = append(stuck.Jobs, t.describe())
		}
		if len(s.tasks) > 0 {
			slots = append(slots, s)
		}
		s.mu.Unlock()
	}
	if len(stuck.Jobs) == 0 {
		return nil // the last one returned just now
	}
	w.logStuck("a handler ignores the end of its context, and the worker ends without it", slots)
	return stuck
}

// leave takes this consumer off the groups where it holds nothing any more.
func (w *Worker) leave(ctx context.Context) {
	if err := w.writes.cause(); err != nil {
		w.log.Warn("the consumer stays behind in its groups", "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	for _, src := range w.sources {
		if _, err := engine.LeaveCall(src.keys, src.group, w.group, w.name, time.Time{}).Run(ctx, w.rdb); err != nil {
			w.log.Warn("the consumer stays behind in its group", "stream", src.stream.Name(), "err", err)
			return
		}
	}
}
