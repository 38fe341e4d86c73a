package stream

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/penstock-go/penstock/stream/engine"
)

// Kind says who reads a stream, and so when an entry may go.
type Kind string

// The kinds of streams.
const (
	KindAny    Kind = ""       // as the stream is declared; a new, empty one becomes a queue
	KindQueue  Kind = "queue"  // one group; entries are deleted as they complete
	KindEvents Kind = "events" // any number of groups, each gets every entry
)

// Defaults of Config.
const (
	DefaultMaxPayload     = 1 << 20
	DefaultPublishTimeout = 3 * time.Second
)

// Config of a Stream. The zero value is the default of everything.
type Config struct {
	// Kind of the stream. Publishers need none. Default: KindAny.
	Kind Kind `env:"PENSTOCK_KIND"`
	// MaxLen is the number of jobs above which Publish refuses with ErrStreamFull; the length is read at most
	// 100 ms stale. It counts what is in the stream, and for a deferred job what is scheduled too; retries don't
	// count. Default: no limit.
	MaxLen int64 `env:"PENSTOCK_MAX_LEN" zero:"leave it unset for no limit"`
	// MaxPayload is the size in bytes above which a payload is refused with ErrTooLarge. Default: 1 MiB.
	MaxPayload int `env:"PENSTOCK_MAX_PAYLOAD"`
	// Retention of an events stream, which Create and the workers that open it declare. Default: as declared.
	Retention Retention
	// PublishTimeout is how long a call may take whose context has no deadline. A server that hangs can cost up to the client's
	// ReadTimeout instead, unless the client has ContextTimeoutEnabled. Default: 3 s.
	PublishTimeout time.Duration `env:"PENSTOCK_PUBLISH_TIMEOUT"`
	// Codec of payloads. Default: JSON.
	Codec Codec
	// Logger. Default: discard.
	Logger *slog.Logger `env:",noinit"`
	// Tracer provider. Default: the global one.
	Tracer trace.TracerProvider
	// Meter provider. Default: the global one.
	Meter metric.MeterProvider
}

// WithDefaults returns the config with every zero field at its default.
func (c Config) WithDefaults() Config {
	if c.MaxPayload == 0 {
		c.MaxPayload = DefaultMaxPayload
	}
	if c.PublishTimeout == 0 {
		c.PublishTimeout = DefaultPublishTimeout
	}
	if c.Codec == nil {
		c.Codec = JSON
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate reports every fault at once: a *multierror.Error of *ConfigError, or nil.
func (c Config) Validate() error {
	var errs *multierror.Error
	fault := func(bad bool, field, env string, value any, hint string) {
		if bad {
			errs = multierror.Append(errs, &ConfigError{Field: field, Env: env, Value: fmt.Sprint(value), Hint: hint})
		}
	}
	fault(c.Kind != KindAny && c.Kind != KindQueue && c.Kind != KindEvents, "Kind", "PENSTOCK_KIND", c.Kind, "must be queue or events")
	fault(c.MaxLen < 0, "MaxLen", "PENSTOCK_MAX_LEN", c.MaxLen, "must be at least 1")
	fault(c.MaxPayload < 0 || c.MaxPayload > maxMaxPayload, "MaxPayload", "PENSTOCK_MAX_PAYLOAD", c.MaxPayload, "must be between 1 and 536870912 bytes, Redis's own limit")
	fault(c.Retention.Age < None || c.Retention.Age > maxRetention, "Retention.Age", "PENSTOCK_RETENTION_AGE", c.Retention.Age, "must be at least 1ms and at most 100 years")
	fault(c.Retention.Age > 0 && c.Retention.Age < time.Millisecond, "Retention.Age", "PENSTOCK_RETENTION_AGE", c.Retention.Age, "must be at least 1ms and at most 100 years")
	fault(c.Retention.Length < 0, "Retention.Length", "PENSTOCK_RETENTION_LENGTH", c.Retention.Length, "must be at least 1")
	fault(c.Retention.Age == None && c.Retention.Length > 0, "Retention.Length", "PENSTOCK_RETENTION_LENGTH", c.Retention.Length, "goes with no Age of none: leave that at zero")
	fault(c.PublishTimeout < 0, "PublishTimeout", "PENSTOCK_PUBLISH_TIMEOUT", c.PublishTimeout, "must be positive")
	return errs.ErrorOrNil()
}

const maxMaxPayload = 512 << 20

// Stream is a name and a client. Its methods may be called concurrently.
type Stream struct {
	rdb      redis.UniversalClient
	name     string
	cfg      Config
	keys     engine.Keys
	late     error // why a call without a deadline ended
	single   combiner
	scripted combiner

	mu        sync.Mutex
	length    int64 // as last read
	lengthAt  time.Time
	announced time.Time // when the name was last written to the registry
	groups    []string  // as Get or Cancel found them last; not to be changed
	events    bool      // as Cancel found the kind last

	waits   sync.Mutex
	lookout *lookout // nil: nobody waits
}

// New returns the stream called name. It does no input or output; every fault
// of the name, the client and the config is reported at once.
//
// A *redis.Ring is refused with ErrUnsupportedClient: it moves keys to another
// server when one is down, so jobs would be in two places.
func New(rdb redis.UniversalClient, name string, cfg Config) (*Stream, error) {
	var errs []error
	if err := CheckClient(rdb); err != nil {
		errs = append(errs, err)
	}
	if err := engine.CheckName(name); err != nil {
		errs = append(errs, fmt.Errorf("%w: %w", ErrInvalid, err))
	}
	if err := cfg.Validate(); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	cfg = cfg.WithDefaults()
	return &Stream{rdb: rdb, name: name, cfg: cfg, keys: engine.NewKeys(name), late: lateness(cfg.PublishTimeout), scripted: combiner{scripts: true}}, nil
}

// CheckClient says why a client cannot be used, with ErrUnsupportedClient, or nil.
func CheckClient(rdb redis.UniversalClient) error {
	switch c := rdb.(type) {
	case nil:
		return fmt.Errorf("%w: it is nil", ErrUnsupportedClient)
	case *redis.Client:
		if c == nil {
			return fmt.Errorf("%w: it is a nil *redis.Client", ErrUnsupportedClient)
		}
	case *redis.ClusterClient:
		if c == nil {
			return fmt.Errorf("%w: it is a nil *redis.ClusterClient", ErrUnsupportedClient)
		}
	case *redis.Ring:
		return fmt.Errorf("%w: *redis.Ring moves keys to other servers when one is down, and jobs would be in two places: use *redis.ClusterClient", ErrUnsupportedClient)
	}
	return nil
}

// Name of the stream: the key its entries are under.
func (s *Stream) Name() string { return s.name }

// Client is what the stream was made with.
func (s *Stream) Client() redis.UniversalClient { return s.rdb }

// Kind that was asked for in Config; the one in force is in Describe.
func (s *Stream) Kind() Kind { return s.cfg.Kind }

// Codec of the stream's payloads.
func (s *Stream) Codec() Codec { return s.cfg.Codec }

// MaxPayload is the size in bytes above which it refuses a payload.
func (s *Stream) MaxPayload() int { return s.cfg.MaxPayload }

// deadline gives ctx one when it has none.
func (s *Stream) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return withDeadline(ctx, s.cfg.PublishTimeout, s.late)
}

func withDeadline(ctx context.Context, timeout time.Duration, late error) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, timeout, late)
}

// lateness says why a call with that timeout ended.
func lateness(timeout time.Duration) error {
	return fmt.Errorf("no answer from redis within %s (PublishTimeout)", timeout)
}

// CreateOptions of Create.
type CreateOptions struct {
	// Force declares a stream that holds entries or groups Penstock did not make.
	Force bool
}

// Create declares the stream's kind (Config.Kind; KindAny makes a queue). It
// is not needed for new streams: the first worker does it. A kind that is
// declared already can't be changed, a foreign stream needs a kind, and one
// with groups that are not ours becomes a queue only by Force: ErrKind.
func (s *Stream) Create(ctx context.Context, opt CreateOptions) (Description, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	if s.cfg.Kind == KindQueue && !opt.Force {
		d, err := s.Describe(ctx)
		if err != nil {
			return d, err
		}
		if d.Kind == KindAny && len(d.Groups) > 0 {
			return d, s.Refused(engine.Opened{Refusal: "foreign", Groups: strings.Join(d.Groups, ", "), Entries: d.Entries})
		}
	}
	opened, err := engine.Open(ctx, s.rdb, s.keys, "", string(s.cfg.Kind), opt.Force)
	if err != nil {
		return Description{}, wrap("create "+s.name, err)
	}
	if opened.Refusal != "" {
		return Description{}, s.Refused(opened)
	}
	if err := s.DeclareRetention(ctx, Kind(opened.Kind)); err != nil {
		return Description{}, err
	}
	if err := s.Announce(ctx); err != nil {
		return Description{}, err
	}
	return s.Describe(ctx)
}

// Refused turns the refusal of a kind into an error that says what to do.
func (s *Stream) Refused(o engine.Opened) error {
	switch o.Refusal {
	case "format":
		return fmt.Errorf("%w: %s has format %s, this build knows %d: update it", ErrNewerFormat, s.name, o.Kind, engine.Format)
	case "kind":
		return fmt.Errorf("%w: %s is declared as %s, not %s", ErrKind, s.name, o.Kind, s.cfg.Kind)
	case "second":
		return fmt.Errorf("%w: %s is a queue and has a group already (%s): a second would lose what the first deletes; use an events stream", ErrKind, s.name, o.Groups)
	default:
		groups := "no group"
		if o.Groups != "" {
			groups = "groups: " + o.Groups
		}
		return fmt.Errorf("%w: %s already holds %d entries that Penstock did not make (%s): say whether it is a queue, whose entries are deleted as they complete, or an events stream", ErrKind, s.name, o.Entries, groups)
	}
}

// announceEvery is how often a publisher or worker writes the stream's name to the registry again: a flush loses it.
const announceEvery = 10 * time.Second

// Announce writes the stream's name to the registry, at most every ten
// seconds. Workers and publishers of deferred jobs call it, so that schedulers find the stream.
func (s *Stream) Announce(ctx context.Context) error {
	s.mu.Lock()
	fresh := time.Since(s.announced) < announceEvery
	s.mu.Unlock()
	if fresh {
		return nil
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	if err := s.rdb.SAdd(ctx, engine.RegistryKey, s.name).Err(); err != nil {
		return wrapRead("register "+s.name, err)
	}
	s.mu.Lock()
	s.announced = time.Now()
	s.mu.Unlock()
	return nil
}

// Names returns the streams in the registry, sorted: those that had a worker
// or a deferred job. It takes at most DefaultPublishTimeout when ctx has no deadline.
func Names(ctx context.Context, rdb redis.UniversalClient) ([]string, error) {
	ctx, cancel := withDeadline(ctx, DefaultPublishTimeout, lateness(DefaultPublishTimeout))
	defer cancel()
	names, err := rdb.SMembers(ctx, engine.RegistryKey).Result()
	if err != nil {
		return nil, wrapRead("list streams", err)
	}
	slices.Sort(names)
	return names, nil
}

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newID makes an ID that sorts by age: 48 bits of milliseconds, 72 random ones.
func newID() string {
	var b [15]byte
	binary.BigEndian.PutUint64(b[:], uint64(time.Now().UnixMilli())<<16) //nolint:gosec // after 1970
	_, _ = rand.Read(b[6:])                                              // never fails (crypto/rand)
	return idEncoding.EncodeToString(b[:])
}

// newNonce tells a repeat of our own call from somebody else's.
func newNonce() string {
	var b [5]byte
	_, _ = rand.Read(b[:])
	return idEncoding.EncodeToString(b[:])
}
