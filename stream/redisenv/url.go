package redisenv

import (
	"errors"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/env"
)

// address is what a URL says.
type address struct {
	known    bool // the URL could be read
	tls      bool
	unix     bool
	sentinel bool
	cluster  bool

	user, password string
	addrs          []string
	master         string
	opts           *redis.Options // what follows the '?', and the database
}

// forms are the schemes that are understood.
const forms = "must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"

// parseURL reads a URL. What is wrong comes back as a hint without any part of
// the URL that may be secret: net/url's errors quote it, so it is taken apart
// here. (net/url would refuse several hosts as well.)
func parseURL(raw string) (address, string) {
	a := address{opts: &redis.Options{}}
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return a, forms
	}
	scheme, kind, _ := strings.Cut(strings.ToLower(scheme), "+")
	a.sentinel, a.cluster = kind == "sentinel", kind == "cluster"
	a.tls, a.unix = scheme == "rediss", scheme == "unix"
	if scheme != "redis" && !a.tls && !a.unix || kind != "" && !a.sentinel && !a.cluster || a.unix && kind != "" {
		return a, forms
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndex(rest, "@"); i > len(authority) && !a.unix {
		return a, "the password holds a '/' or a '?': write them as %2F and %3F"
	}
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		if hint := a.userinfo(authority[:i]); hint != "" {
			return a, hint
		}
		authority = authority[i+1:]
	}
	if strings.ContainsAny(query, "@#") || strings.Contains(rest, "#") {
		return a, "a '#', '?' or '@' in the password must be written as %23, %3F or %40"
	}
	if hint := a.place(authority, path); hint != "" {
		return a, hint
	}
	if hint := a.query(path, query); hint != "" {
		return a, hint
	}
	a.known = true
	return a, ""
}

func (a *address) userinfo(s string) string {
	user, password, _ := strings.Cut(s, ":")
	var err, err2 error
	a.user, err = url.PathUnescape(user)
	a.password, err2 = url.PathUnescape(password)
	if err != nil || err2 != nil {
		return "a '%' in the user or password must be written as %25"
	}
	return ""
}

// place reads the hosts, or the path of a socket.
func (a *address) place(authority, path string) string {
	if a.unix {
		if authority != "" || path == "" {
			return "names no absolute path of a socket: unix:///run/redis/redis.sock"
		}
		a.addrs = []string{"/" + path}
		return ""
	}
	port := "6379"
	if a.sentinel {
		port = "26379"
	}
	for host := range strings.SplitSeq(authority, ",") {
		addr, hint := hostPort(strings.TrimSpace(host), port)
		if hint != "" {
			return hint
		}
		a.addrs = append(a.addrs, addr)
	}
	if len(a.addrs) > 1 && !a.sentinel && !a.cluster {
		return "has several addresses: say redis+sentinel:// or redis+cluster://"
	}
	return ""
}

func hostPort(s, port string) (string, string) {
	host := s
	if h, p, err := net.SplitHostPort(s); err == nil {
		host, port = h, p
	} else if strings.Contains(s, ":") && !strings.HasPrefix(s, "[") {
		return "", "an address is not host:port; an IPv6 address goes in [ ]"
	}
	host = strings.Trim(host, "[]")
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", "a port must be a number between 1 and 65535"
	}
	if host == "" {
		host = "localhost"
	}
	return net.JoinHostPort(host, port), ""
}

// query reads the database and the options, with go-redis's own names.
func (a *address) query(path, query string) string {
	db := path
	if a.sentinel {
		var err error
		a.master, db, _ = strings.Cut(path, "/")
		if a.master, err = url.PathUnescape(a.master); a.master == "" || err != nil {
			return "names no master: redis+sentinel://host:26379/mymaster"
		}
	}
	if a.unix {
		db = ""
	}
	db = strings.TrimSuffix(db, "/")
	if n, err := strconv.Atoi(db); db != "" && (err != nil || n < 0) {
		return "the database after the last '/' must be a number"
	}
	if a.cluster && db != "" && db != "0" {
		return "a cluster has no databases: leave out what follows the last '/'"
	}
	scheme := "redis"
	if a.tls {
		scheme = "rediss"
	}
	opts, err := redis.ParseURL(scheme + "://localhost/" + db + "?" + query)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return "its options: " + strings.TrimPrefix(err.Error(), "redis: ")
	}
	a.opts = opts
	return ""
}

// options of go-redis. It picks the kind of client by them.
func (a *address) options() *redis.UniversalOptions {
	o := a.opts
	return &redis.UniversalOptions{
		Addrs: a.addrs, MasterName: a.master, IsClusterMode: a.cluster, DB: o.DB,
		Username: a.user, Password: a.password,
		Protocol: o.Protocol, ClientName: o.ClientName,
		MaxRetries: o.MaxRetries, MinRetryBackoff: o.MinRetryBackoff, MaxRetryBackoff: o.MaxRetryBackoff,
		DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout,
		PoolFIFO: o.PoolFIFO, PoolSize: o.PoolSize, PoolTimeout: o.PoolTimeout, MaxConcurrentDials: o.MaxConcurrentDials,
		MinIdleConns: o.MinIdleConns, MaxIdleConns: o.MaxIdleConns, MaxActiveConns: o.MaxActiveConns,
		ConnMaxIdleTime: o.ConnMaxIdleTime, ConnMaxLifetime: o.ConnMaxLifetime, ConnMaxLifetimeJitter: o.ConnMaxLifetimeJitter,
		PipelinePoolSize: o.PipelinePoolSize, PipelineReadBufferSize: o.PipelineReadBufferSize, PipelineWriteBufferSize: o.PipelineWriteBufferSize,
	}
}

var (
	bare   = regexp.MustCompile(`^[\w.-]*(:\d{1,5})?$`)
	secret = regexp.MustCompile(`(?i)([?&][^=&]*(?:pass|secret|token|auth|pwd)[^=&]*=)[^&]*`)
)

// Redact returns a URL without what may be secret in it. It works on what is
// no URL too, and then hides the more.
func Redact(raw string) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		if bare.MatchString(raw) && strings.ContainsAny(raw, ".:") {
			return raw
		}
		return env.Hidden
	}
	user := ""
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		name, _, hasPassword := strings.Cut(rest[:i], ":")
		if user = env.Hidden + "@"; hasPassword {
			user = name + ":" + user
		}
		rest = rest[i+1:]
	} else if _, hint := parseURL(raw); hint != "" && !plain(rest) {
		rest = env.Hidden // a password whose '@' is missing would stand here
	}
	return scheme + "://" + user + secret.ReplaceAllString(rest, "${1}"+env.Hidden)
}

// plain reports whether what follows a scheme is surely hosts and a path.
func plain(rest string) bool {
	rest, _, _ = strings.Cut(rest, "?")
	authority, _, _ := strings.Cut(rest, "/")
	for host := range strings.SplitSeq(authority, ",") {
		if !bare.MatchString(host) {
			return false
		}
	}
	return true
}
