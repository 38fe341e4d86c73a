package main

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/go-multierror"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/env"
	"github.com/penstock-go/penstock/stream/redisenv"
)

// variables are those of an environment; unlike go-envconfig's, they can be listed.
type variables map[string]string

func environment(environ []string) variables {
	vars := make(variables, len(environ))
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		vars[name] = value
	}
	return vars
}

// Lookup makes it an envconfig.Lookuper.
func (v variables) Lookup(name string) (string, bool) {
	value, ok := v[name]
	return value, ok
}

// settings are all that the environment can say.
type settings struct {
	Redis     redisenv.Config
	Stream    stream.Config
	Consumer  consumer.Config
	Scheduler scheduler.Config
}

func (s *settings) targets() []any {
	return []any{&s.Redis, &s.Consumer, &s.Stream, &s.Scheduler}
}

// settings reads all settings, for commands that run for long. The error names
// everything that is wrong, variables that look like misspelt settings included.
func (a *app) settings(ctx context.Context) (settings, error) {
	s := settings{}
	err := a.byFlag(env.Join(env.ProcessFrom(ctx, a.variables(), s.targets()...), a.misspelt()))
	if err != nil {
		return s, usageError{err}
	}
	return s, nil
}

// client returns the client of the Redis that --redis or REDIS_URL names. The caller closes it.
func (a *app) client(ctx context.Context) (redis.UniversalClient, error) {
	rdb, err := redisenv.NewFrom(ctx, a.variables())
	if err != nil {
		return nil, usageError{a.byFlag(err)}
	}
	return rdb, nil
}

// publisher returns a stream to publish to and the client that it uses, by the settings for that. The caller closes the client.
func (a *app) publisher(ctx context.Context, name string) (*stream.Stream, redis.UniversalClient, error) {
	var cfg settings
	if err := env.ProcessFrom(ctx, a.variables(), &cfg.Redis, &cfg.Stream); err != nil {
		return nil, nil, usageError{a.byFlag(err)}
	}
	rdb, err := cfg.Redis.Client()
	if err != nil {
		return nil, nil, usageError{a.byFlag(err)}
	}
	s, err := stream.New(rdb, name, cfg.Stream)
	if err != nil {
		_ = rdb.Close() // has done nothing yet
		return nil, nil, usageError{err}
	}
	return s, rdb, nil
}

// variables are the environment's, with --redis in place of REDIS_URL.
// Credentials in that URL take the place of the environment's too.
func (a *app) variables() variables {
	if a.redis == "" {
		return a.env
	}
	vars := maps.Clone(a.env)
	if vars == nil {
		vars = variables{}
	}
	vars["REDIS_URL"] = a.redis
	if strings.Contains(a.redis, "@") {
		for _, name := range []string{"REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_PASSWORD_FILE"} {
			delete(vars, name)
		}
	}
	return vars
}

const (
	redisFlag = "--redis"
	redisURL  = "REDIS_URL"
)

// byFlag makes errors about REDIS_URL name --redis where that was given in its place.
func (a *app) byFlag(err error) error {
	if a.redis == "" || err == nil {
		return err
	}
	var list *multierror.Error
	if !errors.As(err, &list) {
		list = &multierror.Error{Errors: []error{err}}
	}
	for _, e := range list.Errors {
		if fault, ok := errors.AsType[*stream.ConfigError](e); ok {
			if fault.Env == redisURL {
				fault.Field, fault.Env = redisFlag, redisFlag
			}
			fault.Hint = strings.ReplaceAll(fault.Hint, redisURL, redisFlag)
		}
	}
	return err
}

const ownPrefix = "PENSTOCK_"

// foreign are variables with our prefix that are no settings: those of tests,
// and what Kubernetes adds to each pod for services called penstock….
var foreign = regexp.MustCompile(`^PENSTOCK_TEST_|_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$`)

// unknown lists the variables with our prefix that are no settings.
func (a *app) unknown() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(a.env)) {
		known := slices.ContainsFunc(settingDocs, func(d settingDoc) bool { return d.Env == name })
		if strings.HasPrefix(name, ownPrefix) && !known && a.env[name] != "" && !foreign.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

// misspelt reports those that differ little from a setting. Others are none of
// our business: a newer version may know them.
func (a *app) misspelt() error {
	var errs []error
	for _, name := range a.unknown() {
		if near, d := nearest(name); d <= max(1, (len(name)-len(ownPrefix))/4) {
			// the value of what is no setting may be a secret
			errs = append(errs, &stream.ConfigError{Field: name, Env: name, Value: "…", Hint: "is no setting: did you mean " + near + "?"})
		}
	}
	return env.Join(errs...)
}

// nearest returns the setting that differs least from name, and by how many letters.
func nearest(name string) (string, int) {
	best, least := "", len(name)+1
	for _, s := range settingDocs {
		if d := distance(name, s.Env); d < least {
			best, least = s.Env, d
		}
	}
	return best, least
}

// distance is the number of letters to add, remove, replace or swap with their
// neighbour to make a into b.
func distance(a, b string) int {
	rows := [3][]int{}
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
	}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row := rows[(i+2)%3], rows[i%3], rows[(i+1)%3]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return rows[(len(a)+1)%3][len(b)]
}
