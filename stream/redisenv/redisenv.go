// Package redisenv makes the client of the Redis that the environment names:
// one node, Sentinel or Cluster, by TCP, TLS or a Unix socket.
package redisenv

import (
	"context"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sethvargo/go-envconfig"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/env"
)

// Config is where Redis is and how to get in.
type Config struct {
	// URL of Redis: redis://host:6379/0, rediss:// (TLS), unix:///path?db=0,
	// redis+sentinel://host:26379,host:26379/master/0 or redis+cluster://host:7000,host:7001, both with rediss+ too.
	// Options of go-redis may follow, such as ?pool_size=50&read_timeout=3s. Required.
	URL string `env:"REDIS_URL" secret:"url"`
	// Username of the ACL user, where the URL has none. Default: Redis's default user.
	Username string `env:"REDIS_USERNAME"`
	// Password, where the URL has none. Default: none.
	Password string `env:"REDIS_PASSWORD" secret:"true"`
	// PasswordFile is a file with the password; it is read again for each new connection, so that it can be changed. Default: none.
	PasswordFile string `env:"REDIS_PASSWORD_FILE"`
	// SentinelUsername is the ACL user at the sentinels themselves. Default: none.
	SentinelUsername string `env:"REDIS_SENTINEL_USERNAME"`
	// SentinelPassword is the password at the sentinels themselves. Default: none.
	SentinelPassword string `env:"REDIS_SENTINEL_PASSWORD" secret:"true"`
	// TLSCA is a file of PEM certificates that sign the server's. Default: the system's.
	TLSCA string `env:"REDIS_TLS_CA"`
	// TLSCert is a file with the client's own PEM certificate. Default: none.
	TLSCert string `env:"REDIS_TLS_CERT"`
	// TLSKey is a file with the key of TLSCert. Default: none.
	TLSKey string `env:"REDIS_TLS_KEY"`
	// TLSServerName is the name that the server's certificate must have. Default: the host that is connected to.
	TLSServerName string `env:"REDIS_TLS_SERVER_NAME"`
}

// New returns the client that REDIS_URL and the other variables of Config
// describe. It reads the files they name and connects to nothing. The error
// holds a *stream.ConfigError for everything that is wrong; none shows a password.
func New(ctx context.Context) (redis.UniversalClient, error) {
	return NewFrom(ctx, envconfig.OsLookuper())
}

// NewFrom is New with variables from anywhere.
func NewFrom(ctx context.Context, l envconfig.Lookuper) (redis.UniversalClient, error) {
	var cfg Config
	if err := env.ProcessFrom(ctx, l, &cfg); err != nil {
		return nil, err
	}
	return cfg.Client()
}

// Validate reports every fault at once, as *stream.ConfigError. It reads the files.
func (c Config) Validate() error {
	_, err := c.options()
	return err
}

// Client of the Redis described. The caller closes it.
func (c Config) Client() (redis.UniversalClient, error) {
	opt, err := c.options()
	if err != nil {
		return nil, err
	}
	return redis.NewUniversalClient(opt), nil
}

// notSet is what to do about the one thing that has no default.
const notSet = "set it, e.g. REDIS_URL=redis://localhost:6379/0, or run `penstock dev` to try Penstock without Redis"

const dialTimeout = 3 * time.Second

// options turns the config into go-redis's options.
func (c Config) options() (*redis.UniversalOptions, error) {
	f := &faults{}
	c.URL = strings.TrimSpace(c.URL) // secrets from files tend to end in a line break
	if c.URL == "" {
		f.add("REDIS_URL", "", notSet)
	}
	a, hint := parseURL(c.URL)
	if hint != "" && c.URL != "" {
		f.add("REDIS_URL", Redact(c.URL), hint)
	}
	opt := a.options()
	opt.ContextTimeoutEnabled = true // deadlines of contexts count
	if opt.DialTimeout == 0 {
		opt.DialTimeout = dialTimeout
	}
	c.credentials(opt, a, f)
	c.tls(opt, a, f)
	if err := env.Join(f.errs...); err != nil {
		return nil, err
	}
	return opt, nil
}

type faults struct{ errs []error }

func (f *faults) add(name, value, hint string) {
	f.errs = append(f.errs, &stream.ConfigError{Field: name, Env: name, Value: value, Hint: hint})
}
