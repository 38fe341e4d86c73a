package engine

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Class says what an error of Redis means for whoever called.
type Class int

// The classes of Classify.
const (
	OK          Class = iota
	Refused           // the server answered no: nothing was stored, and asking again will not help
	Busy              // the server cannot now (loading, failing over, a slot migrating): nothing was stored
	Full              // maxmemory is reached: nothing was stored
	Denied            // wrong password or missing rights
	NoGroup           // the group or its stream is gone
	NoScript          // the server does not know the script: nothing ran
	Unreachable       // nothing was sent
	Lost              // sent, and the answer never came: it may have happened
)

// Classify is the one place that tells Redis's errors apart. It matches
// prefixes of the server's answers only, since texts differ between servers.
func Classify(err error) Class {
	if err == nil || err == redis.Nil { //nolint:errorlint // wrapped, it is a sentinel's answer that it knows no such master
		return OK
	}
	if text := err.Error(); strings.Contains(text, "all sentinels specified") || strings.Contains(text, "no sentinels configured") {
		return Unreachable // go-redis wraps what the sentinels answered: that is not the master's word, and there is no type to tell it by
	}
	var reply redis.Error
	if errors.As(err, &reply) {
		return classifyReply(reply.Error())
	}
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.Is(err, redis.ErrClosed), errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted), errors.As(err, &dns):
		return Unreachable
	case errors.As(err, &op) && op.Op == "dial":
		return Unreachable
	case errors.Is(err, errNotSent):
		return Unreachable
	}
	return Lost
}

// classes are matched in order: the first prefix that fits decides.
var classes = []struct {
	prefix string
	class  Class
}{
	{"NOSCRIPT", NoScript},
	{"NOGROUP", NoGroup},
	{"UNBLOCKED", NoGroup},
	{"OOM", Full},
	{"LOADING", Busy}, {"READONLY", Busy}, {"MASTERDOWN", Busy}, {"CLUSTERDOWN", Busy}, {"TRYAGAIN", Busy}, {"MOVED", Busy},
	{"ASK", Busy}, {"BUSY ", Busy}, {"NOREPLICAS", Busy}, {"MISCONF", Busy}, {"ERR max number of clients", Busy}, {"UNKILLABLE", Busy},
	{"WRONGPASS", Denied}, {"NOAUTH", Denied}, {"NOPERM", Denied}, {"ERR invalid password", Denied}, {"ERR Client sent AUTH", Denied}, {"ERR Protocol error: unauthenticated", Denied},
}

func classifyReply(text string) Class {
	for _, c := range classes {
		if strings.HasPrefix(text, c.prefix) {
			return c.class
		}
	}
	return Refused
}

var errNotSent = errors.New("the context ended before anything was sent")

// checkContext reports a context that ended before a command was sent, as Unreachable.
func checkContext(ctx context.Context) error {
	if ctx.Err() != nil {
		return NotSent(context.Cause(ctx))
	}
	return nil
}

// NotSent marks an error as one before which nothing was sent.
func NotSent(err error) error { return errors.Join(errNotSent, err) }
