package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// devOptions are the flags of dev, and what tests change.
type devOptions struct {
	jobs      int
	rate      float64
	seed      uint64
	workers   int
	maxJobs   int
	keep      bool
	countFile string
	logFile   string
	verbose   bool
	embedded  bool
	stall     time.Duration

	yours    bool          // --redis
	grace    time.Duration // of the workers
	maxDelay time.Duration // of deferred jobs
}

const (
	devRate     = 300.0
	devRateMost = 2000.0
	devSpread   = 10 // seconds over which --jobs are published
)

func (a *app) devCommand() *cobra.Command {
	opt := devOptions{grace: 2 * time.Second, maxDelay: mostDelay}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Try it: Redis, workers, scheduler and load in one process",
		Long: `Try Penstock: a Redis, two workers, a scheduler and a publisher of all kinds of
jobs, in one process, with nothing to set up.

The jobs are quick and slow, deferred, failing once, twice or always, panicking,
snoozing, and published twice. The redis-server (or valkey-server) that is
installed runs on a loopback port with its data in a private folder; without
one an embedded Redis in memory takes its place. Both are gone afterwards.

Without --jobs it goes on until Ctrl-C. With --jobs it ends when all of them
are settled, and its exit status is 0 only if everything adds up: each job
ended where it must, its handler ran as often as it must, and nothing is left
in Redis but the dead letters. What the engine says is checked against what
the handlers saw.

With --redis it runs on your Redis, on streams of its own that it removes.`,
		Example: "  penstock dev\n  penstock dev --jobs 5000\n  penstock dev --jobs 5000 --json | jq .ok\n  penstock dev --jobs 500 --redis redis://localhost:6379/0",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			opt.yours = cmd.Flags().Changed("redis")
			if err := opt.check(cmd.Flags().Changed); err != nil {
				return err
			}
			return a.dev(cmd.Context(), opt)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&opt.jobs, "jobs", 0, "publish so many jobs, and end when all are settled (default: until Ctrl-C)")
	flags.Float64Var(&opt.rate, "rate", 0, "jobs published per second (default 300; with --jobs so many that it takes ten seconds)")
	flags.Uint64Var(&opt.seed, "seed", 1, "the same seed makes the same jobs")
	flags.IntVar(&opt.workers, "workers", 2, "how many workers")
	flags.IntVar(&opt.maxJobs, "max-jobs", 10, "handlers at once, of each worker")
	flags.BoolVar(&opt.keep, "keep", false, "leave the data in place at the end")
	flags.StringVar(&opt.countFile, "count-file", "", "append a line to `FILE` for each run of a handler: stream, job, attempt, outcome")
	flags.StringVar(&opt.logFile, "log-file", "", "write the engine's log to `FILE`, each job included")
	flags.BoolVarP(&opt.verbose, "verbose", "v", false, "write the engine's log to standard error")
	flags.BoolVar(&opt.embedded, "embedded", false, "take the embedded Redis even where a server is installed")
	flags.DurationVar(&opt.stall, "stall", time.Minute, "give up when nothing has happened for so long")
	for _, hidden := range []string{"embedded", "stall"} {
		_ = flags.MarkHidden(hidden) // fails for unknown names only
	}
	return cmd
}

// check reports every fault of the flags, and fills in the rate.
func (o *devOptions) check(set func(string) bool) error {
	var faults []string
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, text)
		}
	}
	fault(set("jobs") && o.jobs < 1, "--jobs must be at least 1")
	fault(set("rate") && !(o.rate > 0 && o.rate <= 1e6), "--rate must be more than 0, and at most 1000000")
	fault(o.workers < 1 || o.workers > 100, "--workers must be between 1 and 100")
	fault(o.maxJobs < 1 || o.maxJobs > 10_000, "--max-jobs must be between 1 and 10000")
	fault(o.stall <= 0, "--stall must be positive")
	fault(o.yours && o.embedded, "--embedded and --redis exclude each other")
	if len(faults) > 0 {
		return usagef("%s", strings.Join(faults, "\n  "))
	}
	if !set("rate") {
		o.rate = math.Min(math.Max(devRate, float64(o.jobs)/devSpread), devRateMost)
	}
	return nil
}

// dev runs the load, and says what came of it.
func (a *app) dev(ctx context.Context, opt devOptions) (err error) {
	s := &devSession{app: a, opt: opt, mix: devMix{opt.seed, opt.maxDelay}, ledger: newDevLedger(), tally: &logTally{}}
	closeFiles, err := s.openFiles()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeFiles()) }()
	if s.redis, err = a.devRedis(ctx, opt); err != nil {
		return stoppedEarly(ctx, opt, err)
	}
	report, took, err := s.run(ctx)
	if report == nil {
		err = stoppedEarly(ctx, opt, err)
	}
	if stop := s.redis.stop(); stop != nil {
		err = errors.Join(err, fmt.Errorf("stop redis: %w", stop))
	}
	if report != nil {
		err = errors.Join(err, s.finish(*report, took))
	}
	return errors.Join(err, s.runs.failed())
}

// stoppedEarly turns the error of a start that Ctrl-C cut short into one that says so, or nil where nothing was to be settled.
func stoppedEarly(ctx context.Context, opt devOptions, err error) error {
	switch {
	case ctx.Err() == nil:
		return err
	case opt.jobs == 0:
		return nil
	default:
		return errors.New("stopped before it had begun")
	}
}

// openFiles opens the files of --log-file and --count-file, and makes the logger.
func (s *devSession) openFiles() (closeAll func() error, err error) {
	var files []*os.File
	closeAll = func() error {
		var errs []error
		for _, f := range files {
			errs = append(errs, f.Close())
		}
		return errors.Join(errs...)
	}
	open := func(path string) (io.Writer, error) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, usageError{err}
		}
		files = append(files, f)
		return f, nil
	}
	next := slog.DiscardHandler
	if s.opt.verbose {
		next = slog.NewTextHandler(s.app.err, nil)
	}
	if s.opt.logFile != "" {
		w, err := open(s.opt.logFile)
		if err != nil {
			return nil, err
		}
		file := slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})
		next = slog.NewMultiHandler(next, file)
	}
	if s.opt.countFile != "" {
		if s.runs.w, err = open(s.opt.countFile); err != nil {
			return nil, errors.Join(err, closeAll())
		}
	}
	s.log = slog.New(devLog{next, s.tally})
	return closeAll, nil
}
