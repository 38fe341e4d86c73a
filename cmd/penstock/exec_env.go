package main

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/telemetry"
)

const (
	jobPrefix    = "PENSTOCK_JOB_"
	headerPrefix = jobPrefix + "HEADER_"
	timeLayout   = "2006-01-02T15:04:05.000Z07:00"
)

// baseEnv is the worker's environment without what is not the commands'
// business: how to reach Redis, and the worker's own settings. extra is
// NAME=VALUE, or the NAME of a variable to pass on all the same.
func baseEnv(vars variables, extra []string) ([]string, error) {
	var env []string
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		switch {
		case strings.HasPrefix(name, "REDIS_"), strings.HasPrefix(name, ownPrefix), name == "TRACEPARENT", name == "TRACESTATE":
		default:
			env = append(env, name+"="+vars[name])
		}
	}
	for _, kv := range extra {
		name, _, given := strings.Cut(kv, "=")
		switch value, ok := vars[name]; {
		case name == "" || strings.ContainsRune(kv, 0):
			return nil, usagef("--env %q is neither NAME nor NAME=VALUE", kv)
		case given:
		case !ok:
			return nil, usagef("--env %s: there is no such variable", name)
		default:
			kv += "=" + value
		}
		env = append(env, kv)
	}
	return env, nil
}

// jobEnv is what a command learns of its job, besides the data.
func jobEnv(ctx context.Context, d *consumer.Delivery) []string {
	traceparent, tracestate := telemetry.Inject(ctx)
	env := []string{
		jobPrefix + "ID=" + clean(d.ID),
		jobPrefix + "TYPE=" + clean(d.Type),
		jobPrefix + "STREAM=" + d.Stream,
		jobPrefix + "GROUP=" + d.Group,
		jobPrefix + "ATTEMPT=" + strconv.Itoa(d.Attempt),
		jobPrefix + "MAX_TRIES=" + strconv.Itoa(d.MaxTries),
		jobPrefix + "FENCE=" + strconv.FormatInt(d.Fence, 10),
		jobPrefix + "PUBLISHED=" + moment(d.Published),
		jobPrefix + "DUE=" + moment(d.Due),
	}
	if traceparent != "" {
		env = append(env, "TRACEPARENT="+traceparent)
	}
	if tracestate != "" {
		env = append(env, "TRACESTATE="+clean(tracestate))
	}
	for _, name := range slices.Sorted(maps.Keys(d.Header)) { // sorted: of two that become one variable, the same one wins
		env = append(env, headerPrefix+variable(name)+"="+clean(d.Header[name]))
	}
	if d.Fields != nil { // what is not UTF-8 there is replaced: JSON can't hold it
		fields, err := json.Marshal(d.Fields)
		if err != nil {
			panic("penstock: strings cannot be encoded: " + err.Error())
		}
		env = append(env, jobPrefix+"FIELDS="+string(fields))
	}
	return env
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(timeLayout)
}

// variable makes a part of a variable's name of a header's: order-id is ORDER_ID.
func variable(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
}

// clean puts U+FFFD in the place of NUL, which no environment can hold: cutting
// the value off there would turn it into another one.
func clean(s string) string { return strings.ReplaceAll(s, "\x00", "\uFFFD") }
