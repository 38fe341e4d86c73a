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
	// Upkeep is how often each stream is looked after: dead consumers, trimming, what was left behind; None: never. Schedulers take turns. Default: 10 m.
	Upkeep time.Duration `env:"PENSTOCK_UPKEEP" off:"true" zero:"write \"off\" for no upkeep"`
	// KeepDead is how long dead letters are kept; None: for ever. Default: for ever.
	KeepDead time.Duration `env:"PENSTOCK_KEEP_DEAD" off:"true" zero:"write \"off\" to keep them for ever"`
	// SchedulesFile is a YAML file of cron schedules. It is read again when it changes. Default: none.
	SchedulesFile string `env:"PENSTOCK_SCHEDULES_FILE"`
	// Streams is how schedules from the file and from Redis publish: its MaxLen, MaxPayload and PublishTimeout. Default: as stream.Config says.
	Streams stream.Config
	// Logger. Default: discard.
	Logger *slog.Logger `env:",noinit"`
}

const (
	defaultPollDelay = 500 * time.Millisecond
	minPollDelay     = 10 * time.Millisecond
	defaultUpkeep    = 10 * time.Minute
	minUpkeep        = time.Second
	minKeepDead      = time.Minute
)

// WithDefaults returns the config with every zero field at its default.
func (c Config) WithDefaults() Config {
	if c.PollDelay == 0 {
		c.PollDelay = defaultPollDelay
	}
	if c.Upkeep == 0 {
		c.Upkeep = defaultUpkeep
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Streams.Logger == nil {
		c.Streams.Logger = c.Logger
	}
	c.Streams = c.Streams.WithDefaults()
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
	if c.Upkeep != 0 && c.Upkeep != stream.None && c.Upkeep < minUpkeep {
		errs = multierror.Append(errs, &stream.ConfigError{
			Field: "Upkeep", Env: "PENSTOCK_UPKEEP", Value: c.Upkeep.String(), Hint: "must be at least " + minUpkeep.String(),
		})
	}
	if c.KeepDead != 0 && c.KeepDead != stream.None && c.KeepDead < minKeepDead {
		errs = multierror.Append(errs, &stream.ConfigError{
			Field: "KeepDead", Env: "PENSTOCK_KEEP_DEAD", Value: c.KeepDead.String(), Hint: "must be at least " + minKeepDead.String(),
		})
	}
	if err := c.Streams.Validate(); err != nil {
		errs = multierror.Append(errs, err)
	}
	return errs.ErrorOrNil()
}

// Scheduler promotes due jobs, and fires cron schedules. Make it with New and call Run once.
type Scheduler struct {
	rdb      redis.UniversalClient
	cfg      Config
	started  atomic.Bool
	promoter engine.Promoter
	upkeep   upkeepState
	sources  *sources
	driver   *driver

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
	open := func(name string) (*stream.Stream, error) { return stream.New(rdb, name, s.cfg.Streams) }
	s.sources = newSources(open, s.cfg.SchedulesFile, s.cfg.Logger)
	s.driver = newDriver(rdb, s.sources, s.cfg.Logger)
	return s, nil
}

// Add takes in cron schedules of the program: all of them, or none. All faults are reported at once, each by schedule and
// field, as ErrInvalid. It may be called before Run and while it runs.
func (s *Scheduler) Add(schedules ...Schedule) error {
	if err := s.sources.add(schedules); err != nil {
		return err
	}
	s.driver.changed()
	return nil
}

// Store is where schedules are kept in Redis, to be changed while schedulers run.
func (s *Scheduler) Store() *Store { return &Store{s.rdb, s.sources} }

// ReadSchedules reads SchedulesFile, which Run and Once do by themselves: before, Store knows nothing of it.
func (s *Scheduler) ReadSchedules() error {
	_, err := s.sources.readFile()
	return err
}

// Run promotes and fires until ctx ends, and returns nil then. While Redis is away it waits; it never ends because of it. A
// SchedulesFile that is wrong when it begins is an error at once; later it is logged, and what it had before stays in force.
func (s *Scheduler) Run(ctx context.Context) error {
	if s.started.Swap(true) {
		return errors.New("penstock: a scheduler runs only once")
	}
	if err := s.ReadSchedules(); err != nil {
		return err
	}
	s.cfg.Logger.Info("scheduler started")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.startUpkeep(ctx)()
	var wg sync.WaitGroup
	wg.Go(func() { s.promoter.Run(ctx) })
	err := s.driver.run(ctx)
	cancel()
	wg.Wait()
	s.cfg.Logger.Info("scheduler stopped", "promoted", s.Promoted(), "fired", s.Fired())
	return err
}

// Fired is how many jobs of cron schedules this scheduler has published. It may be called at any time.
func (s *Scheduler) Fired() int64 { return s.driver.fired.Load() }

// Promoted is how many jobs this scheduler has promoted. It may be called at any time.
func (s *Scheduler) Promoted() int64 { return s.promoter.Moved() }

// Once promotes what is due now on all streams, and returns how many jobs that
// were; it publishes the ticks that are due now, which Fired counts; and it does upkeep of each stream, of which only Upkeep tells.
// An error of one stream or schedule keeps none of the others back.
func (s *Scheduler) Once(ctx context.Context) (int64, error) {
	if err := s.ReadSchedules(); err != nil {
		return 0, err
	}
	slots, err := s.slots(ctx)
	if err != nil && len(slots) == 0 {
		return 0, err
	}
	before := s.Promoted()
	errs := []error{err, s.driver.once(ctx)}
	for _, slot := range slots {
		errs = append(errs, s.promoter.Empty(ctx, slot))
	}
	errs = append(errs, s.upkeepOnce(ctx))
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
