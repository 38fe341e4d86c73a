package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
	"github.com/penstock-go/penstock/cmd/penstock/heap"
	"github.com/penstock-go/penstock/cmd/penstock/redisproc"
)

func main() {
	floor := heap.Floor(os.LookupEnv) // as penstock itself
	defer runtime.KeepAlive(floor)
	if spec := os.Getenv(workerEnv); spec != "" {
		os.Exit(beWorker(spec))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := perf(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "perf:", err)
		os.Exit(1)
	}
}

// options are the arguments.
type options struct {
	groups []string
	args   []string // as they were given

	duration time.Duration
	pairs    int
	lease    time.Duration
	most     int
	full     bool
	drained  int
	due      int
	peers    string
	json     bool
	page     string
	from     string
}

const (
	growthGroup = "growth"
	mostDefault = 1 << 20
	mostFull    = 10_000_000
)

// groups there are: what package bench measures, what this program adds, and what grows.
func groups() []string {
	return slices.Concat(bench.Groups(), []string{"handover", "drained", "cron", growthGroup}, axisNames())
}

func parse(args []string, errOut io.Writer) (*options, error) {
	o := &options{args: args}
	fs := flag.NewFlagSet("perf", flag.ContinueOnError)
	fs.SetOutput(errOut)
	fs.DurationVar(&o.duration, "duration", time.Second, "how long one sample takes; of latency and deferred three times, of idle thirty times as long")
	fs.IntVar(&o.pairs, "pairs", 7, "how often each side is measured; half as often where something grows")
	fs.DurationVar(&o.lease, "lease", 30*time.Second, "of the workers that are killed")
	fs.IntVar(&o.most, "most", mostDefault, "the largest size of what grows")
	fs.BoolVar(&o.full, "full", false, "all sizes of what grows, up to 10 million, and 10 million jobs for the memory after a drain")
	fs.IntVar(&o.drained, "drained", 1_000_000, "jobs that are drained to see what memory is left")
	fs.IntVar(&o.due, "due", 50_000, "deferred jobs that are due within a second")
	fs.StringVar(&o.peers, "peers", "asynq,watermill,bullmq", "other engines to measure, or none")
	fs.BoolVar(&o.json, "json", false, "print JSON, with every sample")
	fs.StringVar(&o.page, "page", "", "write the report into the `FILE`, between its markers, and its numbers beside it as JSON")
	fs.StringVar(&o.from, "from", "", "measure nothing, and take the numbers that --page left in the `FILE`")
	fs.Usage = func() {
		fmt.Fprintf(errOut, "Usage: go -C integration run ./perf [flags] [%s]…\n\nMeasures all without one of these, and all that grows with growth.\n\n", strings.Join(groups(), "|"))
		fs.PrintDefaults()
	}
	for rest := args; ; {
		if err := fs.Parse(rest); err != nil {
			return nil, err
		}
		if rest = fs.Args(); len(rest) == 0 {
			break
		}
		if !slices.Contains(groups(), rest[0]) {
			return nil, fmt.Errorf("%q is none of %s", rest[0], strings.Join(groups(), ", "))
		}
		o.groups, rest = append(o.groups, rest[0]), rest[1:]
	}
	if o.full {
		o.most, o.drained = mostFull, mostFull
	}
	if o.most < 10 || o.drained < 1 || o.due < 1 {
		return nil, errors.New("--most must be at least 10, --drained and --due 1")
	}
	for _, name := range o.peerNames() {
		if !slices.Contains([]string{"asynq", "watermill", "bullmq"}, name) {
			return nil, fmt.Errorf("--peers: %q is none of asynq, watermill, bullmq", name)
		}
	}
	return o, nil
}

func (o *options) peerNames() []string {
	if o.peers == "" || o.peers == "none" {
		return nil
	}
	return strings.Split(o.peers, ",")
}

// wants reports whether a group is asked for.
func (o *options) wants(group string) bool {
	return len(o.groups) == 0 || slices.Contains(o.groups, group) || slices.Contains(axisNames(), group) && slices.Contains(o.groups, growthGroup)
}

// perf measures what args ask for. What was measured is written also when there is an error.
func perf(ctx context.Context, args []string, out, errOut io.Writer) error {
	o, err := parse(args, errOut)
	if err != nil {
		return err
	}
	if o.page != "" { // found out before the work is done
		if _, err := readPage(o.page); err != nil {
			return err
		}
	}
	var r *Report
	if o.from != "" {
		r, err = readReport(o.from)
	} else {
		r, err = measure(ctx, o, errOut)
	}
	switch {
	case r == nil:
		return err
	case o.page != "" && err != nil:
		return errors.Join(err, errors.New("not all was measured, so "+o.page+" is left as it was"), r.print(out))
	case o.page != "":
		return writePage(o.page, r)
	case o.json:
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return errors.Join(err, enc.Encode(r))
	default:
		return errors.Join(err, r.print(out))
	}
}

// askFor is for machines that stall under the load: go-redis would send again what is only slow.
const askFor = 30 * time.Second

// startRedis starts a server for this run.
func startRedis(ctx context.Context) (rdb *redis.Client, stop func() error, err error) {
	path, err := redisproc.Find()
	if errors.Is(err, redisproc.ErrNotFound) {
		return nil, nil, errors.New("there is no redis-server or valkey-server to measure: install one (Debian: apt-get install redis-server, macOS: brew install redis)")
	}
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "penstock-perf-")
	if err != nil {
		return nil, nil, err
	}
	server, err := redisproc.Start(ctx, redisproc.Config{Dir: filepath.Join(dir, "redis"), Path: path})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	// a hundred workers in this process take a connection each to wait on
	rdb = redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true, PoolSize: 512, ReadTimeout: askFor, WriteTimeout: askFor})
	return rdb, func() error { return errors.Join(rdb.Close(), server.Stop(), os.RemoveAll(dir)) }, nil
}

// measure returns a report with what was measured, and nil when nothing could be.
func measure(ctx context.Context, o *options, errOut io.Writer) (r *Report, err error) {
	rdb, stop, err := startRedis(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	begun := time.Now()
	p := &progress{out: errOut, live: terminal(errOut)}
	defer p.clear()
	cfg := bench.Config{Client: rdb, Own: true, Duration: o.duration, Pairs: o.pairs, Progress: p.step}
	h, err := bench.New(cfg)
	if err != nil {
		return nil, err
	}
	r = &Report{Command: strings.TrimSpace("go -C integration run ./perf " + strings.Join(o.args, " ")), Commit: commit(ctx)}
	err = errors.Join(r.table(ctx, o, h, rdb, p), h.Close(ctx))
	if ctx.Err() == nil {
		cfg.Pairs = max(o.pairs/2, 1)
		err = errors.Join(err, r.grow(ctx, o, &growth{rdb: rdb, cfg: cfg, max: o.most}, p))
	}
	r.Minutes = time.Since(begun).Minutes()
	return r, err
}

// table measures what has a row in the table, with the peers.
func (r *Report) table(ctx context.Context, o *options, h *bench.Harness, rdb *redis.Client, p *progress) (err error) {
	var cases []bench.Case
	for _, group := range bench.Groups() {
		if o.wants(group) {
			list, err := h.Cases(group)
			if err != nil {
				return err
			}
			cases = append(cases, list...)
		}
	}
	if o.wants("handover") {
		cases = append(cases, (&handover{h, rdb, o.lease}).cases()...)
	}
	if o.wants("drained") {
		cases = append(cases, (&drained{h, rdb, o.drained}).cases()...)
	}
	if o.wants("cron") {
		cases = append(cases, (&cron{h, rdb, o.due}).cases()...)
	}
	if slices.ContainsFunc(cases, func(c bench.Case) bool { return peersIn(c) }) {
		stop, err := r.invite(ctx, o, h, rdb, cases, p)
		if err != nil {
			return errors.Join(err, stop())
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	if _, err := h.Survey(ctx, cases); err != nil {
		return err
	}
	part, err := h.Run(ctx, cases)
	r.Environment, r.Settings, r.Rows, r.Notes = part.Environment, part.Settings, besideAsynq(part.Rows), append(r.Notes, part.Notes...)
	return err
}

// invite adds the peers to the cases, and says which are left out.
func (r *Report) invite(ctx context.Context, o *options, h *bench.Harness, rdb *redis.Client, cases []bench.Case, p *progress) (stop func() error, err error) {
	var closers []func() error
	stop = func() error {
		var errs []error
		for _, f := range closers {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	for _, name := range o.peerNames() {
		var peer *peer
		var node string
		switch name {
		case "asynq":
			peer = newAsynq(h, rdb)
		case "watermill":
			peer, err = newWatermill(h, rdb)
		case "bullmq":
			peer, node, err = newBullMQ(ctx, h, rdb, p.say)
		}
		if skipped, ok := errors.AsType[*left](err); ok {
			note := bullmqName + " is left out: " + skipped.why
			p.say(note)
			r.Notes, err = append(r.Notes, note), nil
			continue
		}
		if err != nil {
			return stop, err
		}
		closers = append(closers, peer.close)
		peer.join(cases)
		r.Versions = append(r.Versions, Version{peer.name, peer.version})
		if node != "" {
			r.Versions = append(r.Versions, Version{"Node", node})
		}
	}
	return stop, nil
}

// grow measures what grows.
func (r *Report) grow(ctx context.Context, o *options, g *growth, p *progress) error {
	var errs []error
	var wanted []axis
	for _, a := range axes() {
		if o.wants(a.name) {
			wanted = append(wanted, a)
			p.points += g.points(a)
		}
	}
	for _, a := range wanted {
		measured, err := g.measure(ctx, a, p.point)
		if len(measured.Points) > 0 {
			r.Growth = append(r.Growth, measured)
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	if r.Environment.Time.IsZero() {
		r.Environment, r.Settings = g.environment, g.settings
	}
	return errors.Join(errs...)
}
