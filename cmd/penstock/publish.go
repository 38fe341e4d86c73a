package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/penstock-go/penstock/stream"
)

// publishFlags are the options of a job, and with NDJSON of every job whose line has none of its own.
type publishFlags struct {
	id, at, expires, timeout string
	unique, until, conflict  string
	byData                   bool
	delay                    time.Duration
	maxTries                 int
	header                   []string
	ndjson                   bool
}

func (a *app) publishCommand() *cobra.Command {
	var f publishFlags
	cmd := &cobra.Command{
		Use:   "publish STREAM TYPE [DATA|-|@FILE]",
		Short: "Publish a job, or one per line of NDJSON",
		Long: `Publish one job. Its data is DATA, standard input with -, or a file with @FILE, and goes
as it is, byte by byte; without any it is empty.

With --ndjson each line of standard input, or of @FILE, is a job: a JSON object with the keys
type, data, id, unique, delay, at, expires, max_tries, timeout and header, of which none must be
there: TYPE and the flags hold for lines without the key. A line that can't be published is reported
by its number, and the others are published all the same; the exit status is then 1.

A job with an ID is stored once while it lives: publishing it again stores nothing, tells how
the first one stands, and is no failure. The same goes for a unique key, which any job of the
stream may have: it is free again when its job is done, or as --unique-until says. What is
published meanwhile can also replace a scheduled job, or run once more behind it (coalesce).`,
		Example: `  penstock publish orders order.paid '{"order":7}'
  penstock publish orders order.paid '{"order":7}' --id paid-7 --delay 5m
  penstock publish search index '{"page":7}' --unique page-7 --on-conflict coalesce
  penstock publish images resize @photo.jpg --header width=800 --expires 1h
  jq -c '{type:"user.import", id:"user-\(.id)", data:.}' users.json | penstock publish users --ndjson`,
		Args: args(func(cmd *cobra.Command, list []string) error {
			if f.ndjson {
				return cobra.MinimumNArgs(1)(cmd, list) // publishLines knows what may follow
			}
			return cobra.RangeArgs(1, 3)(cmd, list)
		}),
		RunE: func(cmd *cobra.Command, list []string) error {
			job, err := f.job(cmd.Flags(), time.Now())
			if err != nil {
				return err
			}
			if f.ndjson {
				return a.publishLines(cmd.Context(), list, job)
			}
			if len(list) < 2 {
				return usagef("which type of job? penstock publish %s TYPE [DATA|-|@FILE], or one job a line with --ndjson", list[0])
			}
			job.Type = list[1]
			return a.publishOne(cmd.Context(), list, job)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.id, "id", "", "`ID` of the job: it is stored once while it lives")
	flags.StringVar(&f.unique, "unique", "", "`KEY` that only one job at a time has")
	flags.BoolVar(&f.byData, "unique-by-data", false, "only one job of this type and data at a time")
	flags.StringVar(&f.until, "unique-until", "", "when the key is free again: done, started, or after a `DURATION` (default: done)")
	flags.StringVar(&f.conflict, "on-conflict", "", "`WHAT` happens when another job has the key: keep, replace or coalesce (default: keep)")
	flags.DurationVar(&f.delay, "delay", 0, "run it after so long, as in 5m")
	flags.StringVar(&f.at, "at", "", "run it at this `TIME`, as in 2006-01-02T15:04:05Z")
	flags.StringVar(&f.expires, "expires", "", "dead-letter it when it has not started by this `TIME`, or after so long")
	flags.IntVar(&f.maxTries, "max-tries", 0, "how many runs may end in an error (default: the worker's)")
	flags.StringVar(&f.timeout, "job-timeout", "", "how long one run may take, a `DURATION` or off (default: the worker's)")
	flags.StringArrayVar(&f.header, "header", nil, "`NAME=VALUE` that travels with the job; can be repeated")
	flags.BoolVar(&f.ndjson, "ndjson", false, "read one job a line")
	return cmd
}

// job is what the flags say; all that is wrong with them comes at once.
func (f *publishFlags) job(set *pflag.FlagSet, now time.Time) (stream.Job, error) {
	job := stream.Job{ID: f.id, Delay: f.delay, MaxTries: f.maxTries}
	var errs []error
	check := func(flag string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s %w", flag, err))
		}
	}
	var err error
	job.At, err = parseTime(f.at)
	check("at", err)
	job.ExpiresAt, err = parseDeadline(f.expires, now)
	check("expires", err)
	job.Timeout, err = parseTimeout(f.timeout)
	check("job-timeout", err)
	job.Header, err = parseHeader(f.header)
	check("header", err)
	job.Unique = stream.Unique{Key: f.unique, ByData: f.byData, OnConflict: stream.OnConflict(f.conflict)}
	job.Unique.Until, job.Unique.For, err = parseUntil(f.until)
	check("unique-until", err)
	if set.Changed("delay") && f.delay <= 0 {
		check("delay", errors.New("must be positive"))
	}
	if set.Changed("max-tries") && f.maxTries < 1 {
		check("max-tries", errors.New("must be at least 1"))
	}
	if set.Changed("id") && f.ndjson {
		check("id", errors.New("is of one job: with --ndjson, write it into each line"))
	} else if set.Changed("id") && f.id == "" {
		check("id", errors.New("is empty"))
	}
	switch { // with NDJSON the key may be in the lines
	case set.Changed("unique") && f.ndjson:
		check("unique", errors.New("is of one job: with --ndjson, write it into each line"))
	case set.Changed("unique") && f.unique == "":
		check("unique", errors.New("is empty"))
	case f.unique == "" && !f.byData && !f.ndjson && f.until+f.conflict != "":
		check("unique", errors.New("KEY or --unique-by-data is missing: which key?"))
	}
	if f.delay > 0 && f.at != "" {
		check("delay", errors.New("and --at are both given: give one"))
	}
	if len(errs) > 0 {
		return job, usageError{oneLine(errs)}
	}
	return job, nil
}

// parseUntil reads when a unique key is free again.
func parseUntil(s string) (stream.Until, time.Duration, error) {
	if s == "" || s == string(stream.UntilDone) || s == string(stream.UntilStarted) {
		return stream.Until(s), 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return "", 0, fmt.Errorf("%q must be done, started, or a duration such as 10m", s)
	}
	return "", d, nil
}

// oneLine joins errors to one sentence, or to nil.
func oneLine(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	return errors.New(strings.Join(texts, "; "))
}

func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q is no time such as 2006-01-02T15:04:05Z", s)
	}
	return t, nil
}

// parseDeadline reads a time, or how far it is away.
func parseDeadline(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		if d <= 0 {
			return time.Time{}, fmt.Errorf("%q must be positive", s)
		}
		return now.Add(d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q is neither a duration such as 1h nor a time such as 2006-01-02T15:04:05Z", s)
	}
	return t, nil
}

func parseTimeout(s string) (time.Duration, error) {
	switch s {
	case "":
		return 0, nil
	case "off":
		return stream.None, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q must be a duration such as 90s, or off", s)
	}
	return d, nil
}

func parseHeader(list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	header := make(map[string]string, len(list))
	for _, kv := range list {
		name, value, ok := strings.Cut(kv, "=")
		if _, twice := header[name]; !ok || name == "" || twice {
			return nil, fmt.Errorf("%q must be NAME=VALUE, each name once", kv)
		}
		header[name] = value
	}
	return header, nil
}

// maxData is more than Redis takes: what is longer need not be read.
const maxData = 512<<20 + 1

// data reads the payload that an argument stands for.
func (a *app) data(ctx context.Context, arg string) ([]byte, error) {
	if arg != "-" && !strings.HasPrefix(arg, "@") {
		return []byte(arg), nil
	}
	in, err := a.source(ctx, arg)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	data, err := unlessDone(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(in, maxData)) })
	if err != nil {
		return nil, fmt.Errorf("read the data: %w", err)
	}
	return data, nil
}

// source opens standard input, "-", or a file, "@FILE".
func (a *app) source(ctx context.Context, arg string) (io.ReadCloser, error) {
	name, ok := strings.CutPrefix(arg, "@")
	if !ok {
		return io.NopCloser(a.in), nil
	}
	f, err := unlessDone(ctx, func() (*os.File, error) { return os.Open(name) }) // a FIFO opens when somebody writes
	switch {
	case errors.Is(err, errInterrupted):
		return nil, err
	case err != nil:
		return nil, usageError{err}
	}
	return f, nil
}

var errInterrupted = errors.New("interrupted, nothing was published")

// unlessDone waits for f, or for the end of ctx, to which opening and reading
// a terminal or a pipe are blind: f is left behind then, and the program ends.
func unlessDone[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, errInterrupted
	}
}

func (a *app) publishOne(ctx context.Context, list []string, job stream.Job) error {
	s, rdb, err := a.publisher(ctx, list[0])
	if err != nil {
		return err
	}
	defer rdb.Close()
	if len(list) > 2 {
		if job.Data, err = a.data(ctx, list[2]); err != nil {
			return err
		}
	}
	ctx, cancel := a.requestContext(ctx)
	defer cancel()
	receipt, err := s.Publish(ctx, job)
	if err != nil {
		return explain(err, job.ID != "")
	}
	if a.json {
		return a.printJSON(receipt)
	}
	return a.printf("%s\n", a.receipt(receipt, time.Now()))
}

// receipt is one line about a job that was published.
func (a *app) receipt(r stream.Receipt, now time.Time) string {
	id := safe(r.ID)
	switch {
	case r.Updated && !r.Due.IsZero():
		return fmt.Sprintf("%s  %s  stands as %s, due %s", id, a.color(green, "updated"), r.State, ago(r.Due, now))
	case r.Updated:
		return fmt.Sprintf("%s  %s  stands as %s", id, a.color(green, "updated"), r.State)
	case r.Duplicate && !r.Due.IsZero():
		return fmt.Sprintf("%s  %s  stands as %s, due %s", id, a.color(yellow, "duplicate"), r.State, ago(r.Due, now))
	case r.Duplicate:
		return fmt.Sprintf("%s  %s  stands as %s", id, a.color(yellow, "duplicate"), r.State)
	case !r.Due.IsZero():
		return fmt.Sprintf("%s  %s  due %s (%s)", id, a.color(green, string(r.State)), clock(r.Due, now), ago(r.Due, now))
	default:
		return fmt.Sprintf("%s  %s", id, a.color(green, string(r.State)))
	}
}

// explain adds to an error of publishing what can be done about it.
func explain(err error, hasID bool) error {
	hint := ""
	switch {
	case errors.Is(err, stream.ErrAmbiguous) && hasID:
		hint = "repeat the command: the ID makes that safe"
	case errors.Is(err, stream.ErrAmbiguous):
		hint = "repeating the command may store it twice; with an --id it would be safe"
	case errors.Is(err, stream.ErrUnavailable):
		hint = "nothing was stored; repeat the command when Redis is back"
	case errors.Is(err, stream.ErrStreamFull):
		hint = "nothing was stored; it has room again when workers have caught up"
	case errors.Is(err, stream.ErrTooLarge):
		hint = "store the data elsewhere and publish where it is, or raise PENSTOCK_MAX_PAYLOAD"
	case errors.Is(err, stream.ErrDenied):
		hint = "check the user and password, and the user's ACL"
	case errors.Is(err, stream.ErrInvalid):
		return usageError{err}
	}
	if hint == "" {
		return err
	}
	return fmt.Errorf("%w\n  %s", err, hint)
}
