package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// Prefix of every key of every run.
const Prefix = "penstock-bench-"

// Config of a Harness. The zero value is the default of everything but Client.
type Config struct {
	// Client of the Redis to measure. It is not closed. Its pool should have a connection for each caller. Required.
	Client redis.UniversalClient
	// Own says that nobody else uses this Redis.
	Own bool
	// Duration of one sample; of latency and deferred three times, of idle thirty times as long. Default: 1 s.
	Duration time.Duration
	// Pairs of contender and yardstick. Default: 7.
	Pairs int
	// Rate is how many jobs per second the latency is measured at. Default: 500.
	Rate float64
	// Payload is the size of a job's data in bytes. Default: 97.
	Payload int
	// MaxJobs of the workers that drain, one case each. Default: 100 and 10.
	MaxJobs []int
	// Streams that one worker drains or waits for. Default: 1.
	Streams int
	// Callers that publish at once, one case each. Default: 1, 8 and 64.
	Callers []int
	// Progress is told what runs, before each sample. Default: nobody is told.
	Progress func(Step)
}

// Step is how far a run is.
type Step struct {
	Case, Contender string
	Done, Of        int // samples
}

// Limits of Config.
const (
	minPayload  = 10 // room for the number of a job
	maxPayload  = stream.DefaultMaxPayload
	minDuration = 20 * time.Millisecond
	maxDuration = 10 * time.Minute
	maxRate     = 100_000
	maxStreams  = 1000
	maxCallers  = 10_000
	maxMaxJobs  = 100_000
	maxPairs    = 1000
)

// WithDefaults returns the config with every zero field at its default.
func (c Config) WithDefaults() Config {
	if c.Duration == 0 {
		c.Duration = time.Second
	}
	if c.Pairs == 0 {
		c.Pairs = 7
	}
	if c.Rate == 0 {
		c.Rate = 500
	}
	if c.Payload == 0 {
		c.Payload = 97
	}
	if len(c.MaxJobs) == 0 {
		c.MaxJobs = []int{100, 10}
	}
	if c.Streams == 0 {
		c.Streams = 1
	}
	if len(c.Callers) == 0 {
		c.Callers = []int{1, 8, 64}
	}
	if c.Progress == nil {
		c.Progress = func(Step) {}
	}
	return c
}

// Validate reports every fault at once: a *multierror.Error of *stream.ConfigError, or nil. Zero fields have none.
func (c Config) Validate() error {
	var errs *multierror.Error
	between := func(field string, ok bool, value, low, high any) {
		if !ok {
			errs = multierror.Append(errs, &stream.ConfigError{Field: field, Value: fmt.Sprint(value), Hint: fmt.Sprintf("must be between %v and %v", low, high)})
		}
	}
	within := func(field string, n, low, high int) { between(field, n == 0 || n >= low && n <= high, n, low, high) }
	all := func(field string, list []int, high int) {
		bad := slices.IndexFunc(list, func(n int) bool { return n < 1 || n > high })
		if bad >= 0 {
			between(field, false, list[bad], 1, high)
		}
	}
	between("Duration", c.Duration == 0 || c.Duration >= minDuration && c.Duration <= maxDuration, c.Duration, minDuration, maxDuration)
	within("Pairs", c.Pairs, 1, maxPairs)
	between("Rate", c.Rate == 0 || c.Rate >= 1 && c.Rate <= maxRate, strconv.FormatFloat(c.Rate, 'f', -1, 64), 1, maxRate)
	within("Payload", c.Payload, minPayload, maxPayload)
	all("MaxJobs", c.MaxJobs, maxMaxJobs)
	within("Streams", c.Streams, 1, maxStreams)
	all("Callers", c.Callers, maxCallers)
	return errs.ErrorOrNil()
}

// Harness measures on one Redis, under names of its own. One thing at a time; contenders may call Name and Payload.
type Harness struct {
	cfg    Config
	rdb    redis.UniversalClient
	prefix string
	data   []byte // of a job whose number does not matter

	names atomic.Int64
}

// New returns a harness. It does no input or output, and reports every fault at once.
func New(cfg Config) (*Harness, error) {
	if err := errors.Join(stream.CheckClient(cfg.Client), cfg.Validate()); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	h := &Harness{cfg: cfg, rdb: cfg.Client, prefix: Prefix + strings.ToLower(rand.Text()[:8])}
	h.data = h.Payload(0)
	return h, nil
}

// Config the harness was made with, and the defaults.
func (h *Harness) Config() Config { return h.cfg }

// Name returns one that was not used before, for a stream or any key. Close removes the keys whose names contain it.
func (h *Harness) Name() string {
	return h.prefix + "-" + strconv.FormatInt(h.names.Add(1), 10)
}

// Payload returns the data of job i, which begins with its number.
func (h *Harness) Payload(i int) []byte {
	data := make([]byte, h.cfg.Payload)
	copy(data, fmt.Sprintf("%0*d", minPayload, i))
	for i := minPayload; i < len(data); i++ {
		data[i] = 'a' + byte(i%26)
	}
	return data
}

// Number of the job that has this data, or -1.
func Number(data []byte) int {
	if len(data) < minPayload {
		return -1
	}
	n, err := strconv.Atoi(string(data[:minPayload]))
	if err != nil {
		return -1
	}
	return n
}

const (
	group     = "bench"
	typeName  = "bench"
	askFor    = 30 * time.Second // the longest that one request may take: a machine under load may stall
	stalled   = 30 * time.Second // so long without anything done, and a sample is given up
	cleanFor  = 2 * time.Minute
	pauseFor  = time.Millisecond
	scanCount = 5000
)

// jobType of all jobs. Payloads go as they are.
var jobType = stream.Type[[]byte]{Name: typeName}

// newStream returns a stream of the harness that drop removes, declared as a queue.
func (h *Harness) newStream(ctx context.Context) (*stream.Stream, error) {
	s, err := stream.New(h.rdb, h.Name(), stream.Config{Kind: stream.KindQueue, PublishTimeout: askFor})
	if err != nil {
		return nil, err
	}
	if _, err := s.Create(ctx, stream.CreateOptions{}); err != nil {
		return nil, err
	}
	return s, nil
}

// drop removes the keys that streams have at the end of a sample. It works when ctx has ended, too.
func (h *Harness) drop(ctx context.Context, names ...string) error {
	return h.dropJobs(ctx, nil, names...)
}

// dropJobs also removes what is left of jobs that had an ID.
func (h *Harness) dropJobs(ctx context.Context, ids []string, names ...string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askFor)
	defer cancel()
	for _, name := range names {
		pipe := h.rdb.Pipeline()
		for _, key := range ownKeys(name) {
			pipe.Del(ctx, key) // not UNLINK: its work would go on into the next sample
		}
		pipe.SRem(ctx, engine.RegistryKey, name)
		for _, id := range ids {
			pipe.Del(ctx, engine.NewKeys(name).Job(id))
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return fmt.Errorf("remove the keys of %s: %w", name, err)
		}
	}
	return nil
}

func ownKeys(name string) []string {
	k := engine.NewKeys(name)
	g := k.Group(group, false)
	return []string{k.Stream, k.Config, k.IDs, k.Scheduled, k.ScheduledJobs,
		g.Redelivery, g.Suspects, g.Retrying, g.RetryingJobs, g.Dead, g.Gate, g.Lease, g.Workers}
}

// Close removes every key of the harness that is left, wherever it was
// stopped, and its names from the registry of streams.
func (h *Harness) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanFor)
	defer cancel()
	remove := func(ctx context.Context, node redis.Cmdable) error {
		for cursor := uint64(0); ; {
			keys, next, err := node.Scan(ctx, cursor, "*"+h.prefix+"*", scanCount).Result()
			if err != nil {
				return err
			}
			for _, key := range keys { // one by one: they are few, and of many slots
				if err := h.rdb.Unlink(ctx, key).Err(); err != nil {
					return err
				}
			}
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	err := h.masters(ctx, remove)
	names, listed := stream.Names(ctx, h.rdb)
	err = errors.Join(err, listed)
	for _, name := range names {
		if strings.HasPrefix(name, h.prefix) {
			err = errors.Join(err, h.rdb.SRem(ctx, engine.RegistryKey, name).Err())
		}
	}
	if err != nil {
		return fmt.Errorf("remove what is left of this run, keys like *%s*: %w", h.prefix, err)
	}
	return nil
}

// masters calls f with each node that takes writes, one at a time.
func (h *Harness) masters(ctx context.Context, f func(context.Context, redis.Cmdable) error) error {
	cluster, ok := h.rdb.(*redis.ClusterClient)
	if !ok {
		return f(ctx, h.rdb)
	}
	var mu sync.Mutex
	return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		return f(ctx, node)
	})
}

// node that holds a key.
func (h *Harness) node(ctx context.Context, key string) (redis.Cmdable, error) {
	if cluster, ok := h.rdb.(*redis.ClusterClient); ok {
		return cluster.MasterForKey(ctx, key)
	}
	return h.rdb, nil
}

// scheduler of the harness's streams. A whole one would serve every stream of
// this Redis, and what is not ours must be left alone.
func (h *Harness) scheduler(streams ...*stream.Stream) (func(context.Context) error, error) {
	if h.cfg.Own {
		s, err := scheduler.New(h.rdb, scheduler.Config{})
		if err != nil {
			return nil, err
		}
		return s.Run, nil
	}
	cfg := scheduler.Config{}.WithDefaults()
	p := &engine.Promoter{Client: h.rdb, Poll: cfg.PollDelay, Logger: cfg.Logger,
		Known: func(string) bool { return false },
		Slots: func(ctx context.Context) ([]engine.Slot, error) {
			var slots []engine.Slot
			for _, s := range streams {
				list, err := s.Slots(ctx)
				if err != nil {
					return nil, err
				}
				slots = append(slots, list...)
			}
			return slots, nil
		}}
	return func(ctx context.Context) error { p.Run(ctx); return nil }, nil
}
