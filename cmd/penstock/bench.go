package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/redis/go-redis/v9"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
	"github.com/penstock-go/penstock/cmd/penstock/redisproc"
	"github.com/penstock-go/penstock/stream"
)

// benchOptions are the flags of bench.
type benchOptions struct {
	bench.Config
	rate   rate
	groups []string
	svg    string
	yes    bool
	named  bool // --redis
}

func (a *app) benchCommand() *cobra.Command {
	var opt benchOptions
	opt.Config = opt.WithDefaults()
	opt.rate = rate(opt.Rate)
	cmd := &cobra.Command{
		Use:   "bench [drain|publish|latency|deferred|idle|memory]…",
		Short: "Measure what this Redis and this machine can do",
		Long: `Measure Penstock beside what Redis and go-redis can do with nothing around them.

  drain     one worker with a handler that does nothing works off a backlog, from
            the start of the first job to when Redis knows that the last is done;
            beside two readers that do XREADGROUP COUNT 200, XACK and XDEL
  publish   one and more callers, and slices of 1,000; beside as many callers
            of XADD, and pipelines of 1,000
  latency   from the call of Publish to the start of the handler, at --rate;
            beside XADD to the answer of a blocked XREADGROUP
  deferred  how late jobs start that are due at 100/s; one that starts early
            fails the run
  idle      commands per second that Redis executes for a worker and for a
            scheduler with nothing to do, those of their scripts included
  memory    of a waiting job in Redis; beside an entry added by XADD

Both sides take turns, and RATIO is the median of the ratios of such pairs, with
the lowest and the highest. TARGET is what Penstock is held to on an idle machine
with the default flags. Other load on the machine spoils the numbers.

The Redis is the one of --redis or REDIS_URL. Without, one is started for the run, in
memory only. Its keys begin with a random prefix, penstock-bench-…, and are gone at the
end and after Ctrl-C, with their names in penstock:streams. Scripts stay in Redis's
script cache, and wake-ups are published as always; nothing else is left.
Redis is kept as busy as it can be meanwhile: on one that others use they will notice,
and replicas and the append-only file get all of it.`,
		Example: "  penstock bench\n  penstock bench drain latency --svg bench.svg\n  penstock bench publish --callers 1,16 --payload 1000 --json | jq '.rows[] | {name, ratio: .yardstick.ratio.median}'",
		RunE: func(cmd *cobra.Command, list []string) error {
			opt.groups = list
			opt.Rate = float64(opt.rate)
			opt.named = cmd.Flags().Changed("redis")
			if err := opt.check(); err != nil {
				return err
			}
			return a.bench(cmd.Context(), opt)
		},
		ValidArgs: bench.Groups(),
	}
	flags := cmd.Flags()
	flags.DurationVar(&opt.Duration, "duration", opt.Duration, "how long one sample takes; of latency and deferred three times, of idle thirty times as long")
	flags.IntVar(&opt.Pairs, "pairs", opt.Pairs, "how often each of both sides is measured")
	flags.Var(&opt.rate, "rate", "jobs per second that the latency is measured at, as in 500/s")
	flags.IntVar(&opt.Payload, "payload", opt.Payload, "size of a job's data, in bytes")
	flags.IntSliceVar(&opt.MaxJobs, "max-jobs", opt.MaxJobs, "handlers at once of the worker that drains, one row each")
	flags.IntVar(&opt.Streams, "streams", opt.Streams, "how many streams one worker drains, or waits for when idle")
	flags.IntSliceVar(&opt.Callers, "callers", opt.Callers, "callers that publish at once, one row each")
	flags.StringVar(&opt.svg, "svg", "", "draw the latencies and the throughput over time into `FILE`, as SVG")
	flags.BoolVar(&opt.yes, "yes", false, "do not ask, although the Redis is not empty, has replicas or streams of Penstock")
	return cmd
}

var benchFlags = map[string]string{
	"Duration": "--duration", "Pairs": "--pairs", "Rate": "--rate", "Payload": "--payload", "MaxJobs": "--max-jobs", "Streams": "--streams", "Callers": "--callers",
}

// check reports every fault of the arguments and flags, each by its name.
func (o *benchOptions) check() error {
	var faults []string
	for _, name := range o.groups {
		if !slices.Contains(bench.Groups(), name) {
			faults = append(faults, fmt.Sprintf("%q is none of %s", name, strings.Join(bench.Groups(), ", ")))
		}
	}
	// a zero is a fault here, where it would be the default there
	for flag, zero := range map[string]bool{
		"--duration": o.Duration == 0, "--pairs": o.Pairs == 0, "--rate": o.Rate == 0, "--payload": o.Payload == 0, "--streams": o.Streams == 0,
	} {
		if zero {
			faults = append(faults, flag+" must not be 0")
		}
	}
	var list *multierror.Error
	if err := o.Validate(); errors.As(err, &list) {
		for _, e := range list.Errors {
			if fault, ok := errors.AsType[*stream.ConfigError](e); ok {
				faults = append(faults, fmt.Sprintf("%s %s %s", benchFlags[fault.Field], fault.Value, fault.Hint))
			}
		}
	}
	for flag, n := range map[string][]int{"--max-jobs": o.MaxJobs, "--callers": o.Callers} {
		if len(n) == 0 {
			faults = append(faults, flag+" must not be empty")
		}
	}
	if o.svg != "" && len(o.groups) > 0 && !slices.ContainsFunc(o.groups, func(g string) bool { return g == "latency" || g == "drain" || g == "publish" }) {
		faults = append(faults, "--svg shows latency, drain or publish, and none of them is asked for")
	}
	if len(faults) > 0 {
		slices.Sort(faults)
		return usagef("%s", strings.Join(faults, "\n  "))
	}
	return nil
}

// bench measures, and says what came of it, also when it was not all.
func (a *app) bench(ctx context.Context, opt benchOptions) (err error) {
	picture, err := openPicture(opt.svg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, picture.close()) }()
	rdb, own, stop, err := a.benchRedis(ctx, opt)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	opt.Client, opt.Own = rdb, own
	progress, done := a.benchProgress()
	opt.Progress = progress
	h, err := bench.New(opt.Config)
	if err != nil {
		return err
	}
	cases, err := h.Cases(opt.groups...)
	if err != nil {
		return err
	}
	if ok, err := a.mayBench(ctx, h, cases, opt.yes); err != nil || !ok {
		return err
	}
	report, err := h.Run(ctx, cases)
	report.Environment.Penstock = thisBuild().String()
	done()
	return errors.Join(err, h.Close(ctx), picture.draw(report), a.printBench(report))
}

// benchPicture is the file of --svg, or nil.
type benchPicture struct {
	file  *os.File
	fresh bool // made by us, and nothing in it
}

// openPicture finds out that a file can't be written before the work is done.
func openPicture(name string) (*benchPicture, error) {
	if name == "" {
		return nil, nil
	}
	_, err := os.Stat(name)
	fresh := errors.Is(err, fs.ErrNotExist)
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // a picture for everybody
	if err != nil {
		return nil, usagef("--svg: %w", err)
	}
	return &benchPicture{file, fresh}, nil
}

// draw writes the picture when there is something in it.
func (p *benchPicture) draw(report *bench.Report) error {
	if p == nil {
		return nil
	}
	var svg bytes.Buffer
	err := report.Picture(&svg)
	if errors.Is(err, bench.ErrNothingToShow) {
		return nil // that it failed or was stopped is said already
	}
	if info, serr := p.file.Stat(); err == nil && serr == nil && info.Mode().IsRegular() {
		err = p.file.Truncate(0)
	}
	if err == nil {
		p.fresh = false
		_, err = p.file.Write(svg.Bytes())
	}
	if err != nil {
		return fmt.Errorf("--svg: %w", err)
	}
	return nil
}

func (p *benchPicture) close() error {
	if p == nil {
		return nil
	}
	err := p.file.Close()
	if p.fresh {
		err = errors.Join(err, os.Remove(p.file.Name()))
	}
	return err
}

// benchTimeout is for machines that stall under the load: go-redis would send again what is only slow.
const benchTimeout = 30 * time.Second

// benchRedis connects to the Redis that was named, by a pool that has a
// connection for each caller, or starts one.
func (a *app) benchRedis(ctx context.Context, opt benchOptions) (rdb redis.UniversalClient, own bool, stop func() error, err error) {
	pool := max(slices.Max(opt.Callers), 64) + 16
	if url := strings.TrimSpace(a.variables()[redisURL]); url != "" || opt.named {
		if rdb, err = a.client(ctx); err != nil { // it says what is wrong with the URL as it was given
			return nil, false, nil, err
		}
		if err := rdb.Close(); err != nil {
			return nil, false, nil, err
		}
		larger := &app{env: maps.Clone(a.variables())}
		larger.env[redisURL] = withOptions(url, "pool_size="+strconv.Itoa(pool), "read_timeout="+benchTimeout.String(), "write_timeout="+benchTimeout.String())
		if rdb, err = larger.client(ctx); err != nil {
			return nil, false, nil, err
		}
		return rdb, false, rdb.Close, nil
	}
	path, err := redisproc.Find()
	if errors.Is(err, redisproc.ErrNotFound) {
		return nil, false, nil, errors.New("REDIS_URL is not set, and there is no redis-server or valkey-server to start: " +
			"install one (Debian: apt-get install redis-server, macOS: brew install redis), or name a Redis with --redis.\n" +
			"  The embedded Redis of penstock dev is none to measure")
	}
	if err != nil {
		return nil, false, nil, err
	}
	dir, remove, err := devFolder()
	if err != nil {
		return nil, false, nil, err
	}
	server, err := redisproc.Start(ctx, redisproc.Config{Dir: dir, Path: path})
	if err != nil {
		return nil, false, nil, errors.Join(err, remove())
	}
	client := redis.NewClient(&redis.Options{
		Addr: server.Addr(), ContextTimeoutEnabled: true, PoolSize: pool, ReadTimeout: benchTimeout, WriteTimeout: benchTimeout,
	})
	return client, true, func() error { return errors.Join(client.Close(), server.Stop(), remove()) }, nil
}

// withOptions adds options of go-redis to a URL that has them not.
func withOptions(url string, options ...string) string {
	sign := "?"
	if strings.Contains(url, "?") {
		sign = "&"
	}
	for _, option := range options {
		if name, _, _ := strings.Cut(option, "="); !strings.Contains(url, name+"=") {
			url += sign + option
			sign = "&"
		}
	}
	return url
}

// mayBench says what the run will do to a Redis, and asks where there is something to lose.
func (a *app) mayBench(ctx context.Context, h *bench.Harness, cases []bench.Case, yes bool) (bool, error) {
	rctx, cancel := a.requestContext(ctx)
	defer cancel()
	s, err := h.Survey(rctx, cases)
	if errors.Is(err, bench.ErrNoRoom) {
		return false, fmt.Errorf("%w\n  a shorter --duration or a smaller --payload needs less", err)
	}
	if err != nil {
		return false, err
	}
	fmt.Fprintf(a.err, "this takes up to %s of Redis's memory at a time\n", bench.Bytes.Format(float64(s.Need)))
	if h.Config().Own || s.Empty() {
		return true, nil
	}
	fmt.Fprintf(a.err, "note: this Redis is in use: %s\n  it will be kept as busy as it can be; the keys of this run, %s…, are removed at its end\n",
		strings.Join(whatIsThere(s), ", "), bench.Prefix)
	switch {
	case yes:
		return true, nil
	case a.interactive() && terminal(a.err):
		ok, err := a.confirm(ctx, "measure on it?")
		if err == nil && !ok {
			err = errors.New("nothing was measured")
		}
		return ok, err
	case len(s.Streams) > 0:
		return false, usagef("streams of Penstock are here (%s), and their workers would feel it: say --yes to measure all the same", groupList(s.Streams, ", "))
	}
	return true, nil
}

func whatIsThere(s bench.Survey) []string {
	var list []string
	add := func(n int64, noun string) {
		if n > 0 {
			list = append(list, plural(n, noun))
		}
	}
	add(s.Keys, "key")
	if n := len(s.Streams); n > 0 {
		list = append(list, plural(int64(n), "stream")+" of Penstock")
	}
	add(s.Replicas, "replica")
	if s.AppendOnly {
		list = append(list, "an append-only file")
	}
	return list
}

// benchProgress shows a bar on a terminal, and nothing elsewhere.
func (a *app) benchProgress() (func(bench.Step), func()) {
	if !terminal(a.err) {
		return func(bench.Step) {}, func() {}
	}
	var bar *progressbar.ProgressBar
	show := func(s bench.Step) {
		if bar == nil { // not while a question is asked
			bar = progressbar.NewOptions(s.Of,
				progressbar.OptionSetWriter(a.err),
				progressbar.OptionShowCount(),
				progressbar.OptionSetWidth(24),
				progressbar.OptionSetRenderBlankState(true),
				progressbar.OptionClearOnFinish(),
			)
		}
		bar.Describe(fmt.Sprintf("%-40s", s.Case+": "+s.Contender))
		_ = bar.Set(s.Done) // to a terminal: that it is gone is found out elsewhere
	}
	return show, func() {
		if bar != nil {
			_ = bar.Clear()
		}
	}
}

func (a *app) printBench(r *bench.Report) error {
	if a.json {
		return a.printJSON(r)
	}
	if len(r.Rows) == 0 {
		return nil
	}
	if err := a.printf("%s\n", benchEnvironment(r)); err != nil {
		return err
	}
	rows := make([][]string, len(r.Rows))
	for i, row := range r.Rows {
		rows[i] = benchRow(row)
	}
	if err := a.table([]string{"ROW", "PENSTOCK", "YARDSTICK", "RATIO", "TARGET"}, rows); err != nil {
		return err
	}
	for _, note := range r.Notes {
		if err := a.printf("note: %s\n", safe(note)); err != nil {
			return err
		}
	}
	return nil
}

// benchEnvironment is what numbers depend on, in three lines.
func benchEnvironment(r *bench.Report) string {
	e, s := r.Environment, r.Settings
	machine := fmt.Sprintf("machine  %s, %s, %s", safe(e.CPU), plural(int64(e.Cores), "core"), e.OS)
	if e.Load > 0 {
		machine += fmt.Sprintf(", load %.1f before the run", e.Load)
		if e.Load > float64(e.Cores)/2 {
			machine += ": too busy for numbers to rely on"
		}
	}
	whose := ""
	if e.Own {
		whose = ", started for this run, in memory"
	}
	return fmt.Sprintf("%s\nsoftware Go %s, go-redis %s, %s (%s, %s%s)\nsamples  %s of each side, %s each, of jobs with %s",
		machine, e.Go, e.GoRedis, safe(e.Server), e.Topology, e.Connection, whose,
		count(int64(s.Pairs)), time.Duration(s.DurationMS*float64(time.Millisecond)), plural(int64(s.Payload), "byte"))
}

func benchRow(row bench.Row) []string {
	name, beside, ratio, target := row.Name, "–", "–", "–"
	if row.Contender != bench.Penstock {
		name += ", " + row.Contender
	}
	if y := row.Yardstick; y != nil {
		beside = row.Unit.Format(y.Value.Median)
		ratio = factor(y.Ratio.Median)
		if len(y.Ratio.Samples) > 1 {
			ratio += fmt.Sprintf(" (%s–%s)", factor(y.Ratio.Min), factor(y.Ratio.Max))
		}
	}
	if text := row.TargetText(); text != "" {
		target = text + "  " + row.Verdict()
	}
	return []string{name, row.Unit.Format(row.Value.Median), beside, ratio, target}
}

// factor writes a ratio with two places after the point.
func factor(f float64) string {
	return strconv.FormatFloat(math.Round(f*100)/100, 'f', 2, 64)
}
