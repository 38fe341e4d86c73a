package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// Config of a Scheduler. The zero value is the default of everything.
type Config struct {
	// PollDelay is how often due jobs are looked for while Redis's wake-up channel is down. Default: 500 ms.
	PollDelay time.Duration `env:"PENSTOCK_POLL_DELAY"`
	// Logger. Default: discard.
	Logger *slog.Logger `env:",noinit"`
}

const (
	defaultPollDelay = 500 * time.Millisecond
	minPollDelay     = 10 * time.Millisecond
)

// WithDefaults returns the config with every zero field at its default.
func (c Config) WithDefaults() Config {
	if c.PollDelay == 0 {
		c.PollDelay = defaultPollDelay
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate reports every fault at once, as a *multierror.Error of *stream.ConfigError, or nil.
func (c Config) Validate() error {
	var errs *multierror.Error
	if c.PollDelay != 0 && c.PollDelay < minPollDelay {
		errs = multierror.Append(errs, &stream.ConfigError{
			Field: "PollDelay", Env: "PENSTOCK_POLL_DELAY", Value: c.PollDelay.String(), Hint: "must be at least " + minPollDelay.String(),
		})
	}
	return errs.ErrorOrNil()
}

// Scheduler promotes due jobs. Make it with New and call Run once.
type Scheduler struct {
	rdb      redis.UniversalClient
	cfg      Config
	started  atomic.Bool
	promoter engine.Promoter

	mu    sync.Mutex
	known map[string][]engine.Slot // of each stream, as last found
}

// New returns a scheduler for all streams that rdb's Redis knows. It does no
// input or output. A *redis.Ring is refused with stream.ErrUnsupportedClient.
func New(rdb redis.UniversalClient, cfg Config) (*Scheduler, error) {
	var errs []error
	if err := stream.CheckClient(rdb); err != nil {
		errs = append(errs, err)
	}
	if err := cfg.Validate(); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	s := &Scheduler{rdb: rdb, cfg: cfg.WithDefaults()}
	s.promoter = engine.Promoter{Client: rdb, Slots: s.slots, Poll: s.cfg.PollDelay, Logger: s.cfg.Logger}
	return s, nil
}

// Run promotes until ctx ends, and returns nil then. While Redis is away it
// waits; it never ends because of it.
func (s *Scheduler) Run(ctx context.Context) error {
	if s.started.Swap(true) {
		return errors.New("penstock: a scheduler runs only once")
	}
	s.cfg.Logger.Info("scheduler started")
	s.promoter.Run(ctx)
	s.cfg.Logger.Info("scheduler stopped", "promoted", s.Promoted())
	return nil
}

// Promoted is how many jobs this scheduler has promoted. It may be called at any time.
func (s *Scheduler) Promoted() int64 { return s.promoter.Moved() }

// Once promotes what is due now on all streams, and returns how many jobs that
// were. An error of one stream keeps none of the others back.
func (s *Scheduler) Once(ctx context.Context) (int64, error) {
	slots, err := s.slots(ctx)
	if err != nil && len(slots) == 0 {
		return 0, err
	}
	before := s.Promoted()
	errs := []error{err}
	for _, slot := range slots {
		errs = append(errs, s.promoter.Empty(ctx, slot))
	}
	return s.Promoted() - before, errors.Join(errs...)
}

// slots lists the sorted sets of every stream in the registry. A name that can't be a stream's is passed over. When a
// stream cannot be asked now, the sets it had before are listed, and the error comes with them.
func (s *Scheduler) slots(ctx context.Context) ([]engine.Slot, error) {
	names, err := stream.Names(ctx, s.rdb)
	if err != nil {
		return nil, fmt.Errorf("find the streams: %w", err)
	}
	s.mu.Lock()
	before := s.known
	s.mu.Unlock()
	known := make(map[string][]engine.Slot, len(names))
	var slots []engine.Slot
	var first error
	failed := 0
	for _, name := range names {
		st, err := stream.New(s.rdb, name, stream.Config{})
		if err != nil {
			s.cfg.Logger.Debug("a name in the registry is no stream's", "err", err)
			continue
		}
		list, err := st.Slots(ctx)
		switch {
		case err == nil:
		case engine.OneSet(err): // the other streams go on
			s.cfg.Logger.Error("the due jobs of a stream cannot be found", "stream", name, "err", err)
			continue
		case engine.Everywhere(s.rdb, err):
			return nil, err
		default:
			if list = before[name]; list == nil {
				list = []engine.Slot{engine.ScheduledSlot(engine.NewKeys(name))}
			}
			failed++
			first = cmp.Or(first, err)
		}
		known[name] = list
		slots = append(slots, list...)
	}
	s.mu.Lock()
	s.known = known
	s.mu.Unlock()
	if failed > 1 {
		first = fmt.Errorf("%w, and %d streams more", first, failed-1)
	}
	return slots, first
}
