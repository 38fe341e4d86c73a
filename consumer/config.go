package consumer

import (
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/hashicorp/go-multierror"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/penstock-go/penstock/stream"
)

// None says "no limit" or "nothing kept" where a duration's zero value means
// the default; "off" in the environment.
const None = stream.None

// Backoff is the pause before a job that failed runs again.
type Backoff = stream.Backoff

// Config of a Worker. The zero value is the default of everything.
type Config struct {
	// MaxJobs is how many handlers run at once, all streams together. Default: 10.
	MaxJobs int `env:"PENSTOCK_MAX_JOBS"`
	// Timeout of one run; None: no limit. Default: 5 m.
	Timeout time.Duration `env:"PENSTOCK_JOB_TIMEOUT" off:"true" zero:"write \"off\" for no limit"`
	// MaxTries is how many runs may end in an error before the job is dead-lettered. Default: 3.
	MaxTries int `env:"PENSTOCK_MAX_TRIES"`
	// Backoff between tries. Default: {10 s, 2, 1 h, 0.1}.
	Backoff Backoff
	// KeepResult is how long the record of a finished job is kept, with what its handler returned; None: not at all. Default: 1 h.
	KeepResult time.Duration `env:"PENSTOCK_KEEP_RESULT" off:"true" zero:"write \"off\" to keep no results"`
	// KeepStatus is which jobs leave a record though their handlers return nothing: all, failed (those that did not
	// succeed) or none. Default: failed.
	KeepStatus KeepStatus `env:"PENSTOCK_KEEP_STATUS"`
	// MaxResult is the size in bytes above which what a handler returned is not kept, and the job is dead-lettered. Default: 1 MiB.
	MaxResult int `env:"PENSTOCK_MAX_RESULT"`
	// MaxCrashes is how many times the lease of a job may run out, as when its worker is killed, before it is
	// dead-lettered. Default: 3.
	MaxCrashes int `env:"PENSTOCK_MAX_CRASHES"`
	// Lease is how long a job stays a worker's that is not heard of any more. It is renewed every third of it, so
	// jobs may run for much longer. Default: 30 s.
	Lease time.Duration `env:"PENSTOCK_LEASE"`
	// Grace is how long running jobs may go on after the worker was told to stop. Default: 25 s.
	Grace time.Duration `env:"PENSTOCK_GRACE"`
	// UnknownType is how long a job that no handler here takes waits for a worker that does, before it is
	// dead-lettered. Default: 1 h.
	UnknownType time.Duration `env:"PENSTOCK_UNKNOWN_TYPE"`
	// PollDelay is how often due retries, cancels and kill switches are looked for while Redis's wake-up channel is down.
	// Default: 500 ms.
	PollDelay time.Duration `env:"PENSTOCK_POLL_DELAY"`
	// Name of this worker in Redis, in logs and in dead letters; something random is appended, since no two may
	// share one. Default: host name and process ID.
	Name string `env:"PENSTOCK_WORKER_NAME"`
	// Types overrides settings for types of jobs.
	Types map[string]TypeConfig
	// Logger. Default: discard.
	Logger *slog.Logger `env:",noinit"`
	// Tracer provider. Default: the global one.
	Tracer trace.TracerProvider
	// Meter provider. Default: the global one.
	Meter metric.MeterProvider
}

// TypeConfig overrides a worker's settings for one type of job; what is zero
// stays the worker's. A job's own settings win over both.
type TypeConfig struct {
	// Timeout of one run; None: no limit. Default: the worker's.
	Timeout time.Duration
	// KeepResult is how long the record of a finished job is kept, with what its handler returned; None: not at all. A
	// positive one holds for jobs that return nothing, too. Default: the worker's.
	KeepResult time.Duration
	// MaxTries is how many runs may end in an error. Default: the worker's.
	MaxTries int
	// Backoff between tries; a field left zero is the worker's. Default: the worker's.
	Backoff Backoff
}

const (
	maxMaxJobs   = 100_000
	maxMaxResult = 512 << 20
)

// ConfigError is one fault of a Config.
type ConfigError = stream.ConfigError

// Validate reports every fault at once: a *multierror.Error of *ConfigError, or nil.
func (c Config) Validate() error {
	var errs *multierror.Error
	fault := func(bad bool, field, env string, value any, hint string) {
		if bad {
			errs = multierror.Append(errs, &ConfigError{Field: field, Env: env, Value: fmt.Sprint(value), Hint: hint})
		}
	}
	fault(c.MaxJobs < 0 || c.MaxJobs > maxMaxJobs, "MaxJobs", "PENSTOCK_MAX_JOBS", c.MaxJobs, "must be between 1 and "+strconv.Itoa(maxMaxJobs))
	fault(c.Timeout < 0 && c.Timeout != None, "Timeout", "PENSTOCK_JOB_TIMEOUT", c.Timeout, `must be positive, or "off" for no limit`)
	fault(c.MaxTries < 0, "MaxTries", "PENSTOCK_MAX_TRIES", c.MaxTries, "must be at least 1")
	fault(c.KeepResult < 0 && c.KeepResult != None, "KeepResult", "PENSTOCK_KEEP_RESULT", c.KeepResult, `must be positive, or "off" to keep no results`)
	fault(c.KeepStatus != "" && c.KeepStatus != KeepAll && c.KeepStatus != KeepFailed && c.KeepStatus != KeepNone, "KeepStatus", "PENSTOCK_KEEP_STATUS", c.KeepStatus, "must be all, failed or none")
	fault(c.MaxResult < 0 || c.MaxResult > maxMaxResult, "MaxResult", "PENSTOCK_MAX_RESULT", c.MaxResult, "must be between 1 and 536870912 bytes, Redis's own limit")
	fault(c.MaxCrashes < 0, "MaxCrashes", "PENSTOCK_MAX_CRASHES", c.MaxCrashes, "must be at least 1")
	fault(c.Lease != 0 && c.Lease < minLease, "Lease", "PENSTOCK_LEASE", c.Lease, "must be at least "+minLease.String()+": it is renewed every third of it")
	fault(c.Lease > maxLease, "Lease", "PENSTOCK_LEASE", c.Lease, "must be at most "+maxLease.String())
	fault(c.Grace < 0, "Grace", "PENSTOCK_GRACE", c.Grace, "must be positive")
	fault(c.UnknownType < 0, "UnknownType", "PENSTOCK_UNKNOWN_TYPE", c.UnknownType, "must be positive")
	fault(c.PollDelay != 0 && c.PollDelay < minPollDelay, "PollDelay", "PENSTOCK_POLL_DELAY", c.PollDelay, "must be at least "+minPollDelay.String())
	fault(len(c.Name) > 128, "Name", "PENSTOCK_WORKER_NAME", strconv.Itoa(len(c.Name))+" bytes", "must have at most 128 bytes")
	checkBackoff(fault, "Backoff.", c.Backoff, true)
	for name, t := range c.Types {
		field := fmt.Sprintf("Types[%q].", name)
		fault(t.Timeout < 0 && t.Timeout != None, field+"Timeout", "", t.Timeout, "must be positive, or None")
		fault(t.KeepResult < 0 && t.KeepResult != None, field+"KeepResult", "", t.KeepResult, "must be positive, or None")
		fault(t.MaxTries < 0, field+"MaxTries", "", t.MaxTries, "must be at least 1")
		checkBackoff(fault, field+"Backoff.", t.Backoff, false)
	}
	return errs.ErrorOrNil()
}

const maxLease = time.Hour

// minLease is shorter in this package's own tests.
var minLease = 10 * time.Second

const minPollDelay = 10 * time.Millisecond

func checkBackoff(fault func(bool, string, string, any, string), field string, b Backoff, env bool) {
	name := func(s string) string {
		if env {
			return s
		}
		return ""
	}
	fault(b.Delay < 0, field+"Delay", name("PENSTOCK_RETRY_DELAY"), b.Delay, "must be positive")
	fault(b.Factor != 0 && (b.Factor < 1 || b.Factor > 100 || b.Factor != b.Factor), field+"Factor", name("PENSTOCK_RETRY_FACTOR"), b.Factor, "must be between 1, a fixed delay, and 100")
	fault(b.Max < 0, field+"Max", name("PENSTOCK_RETRY_MAX"), b.Max, "must be positive")
	fault(b.Jitter > 1 || b.Jitter != b.Jitter, field+"Jitter", name("PENSTOCK_RETRY_JITTER"), b.Jitter, "must be at most 1; negative is none")
}

// WithDefaults returns the config with every zero field at its default.
func (c Config) WithDefaults() Config {
	set(&c.MaxJobs, 10)
	set(&c.Timeout, 5*time.Minute)
	set(&c.MaxTries, 3)
	set(&c.KeepResult, time.Hour)
	set(&c.KeepStatus, KeepFailed)
	set(&c.MaxResult, 1<<20)
	set(&c.MaxCrashes, 3)
	set(&c.Lease, 30*time.Second)
	set(&c.Grace, 25*time.Second)
	set(&c.UnknownType, time.Hour)
	set(&c.PollDelay, 500*time.Millisecond)
	set(&c.Backoff.Delay, 10*time.Second)
	set(&c.Backoff.Factor, 2)
	set(&c.Backoff.Max, time.Hour)
	set(&c.Backoff.Jitter, 0.1)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// set gives a field its default when it is zero.
func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
