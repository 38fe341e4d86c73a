package main

import (
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock-go/penstock/scheduler"
)

// logger writes the log of a program that runs for long to standard error, as JSON with --json.
func (a *app) logger(level slog.Level) *slog.Logger {
	opt := &slog.HandlerOptions{Level: level}
	if a.json {
		return slog.New(slog.NewJSONHandler(a.err, opt))
	}
	return slog.New(slog.NewTextHandler(a.err, opt))
}

func (a *app) schedulerCommand() *cobra.Command {
	var once, verbose bool
	var file string
	cmd := &cobra.Command{
		Use:   "scheduler",
		Short: "Promote deferred jobs, fire cron schedules, and keep streams tidy",
		Long: `Promote the deferred and retrying jobs of all streams as they become due; publish the
jobs of cron schedules, those of a YAML file, which is read again when it changes, and
those kept in Redis (penstock schedule add); and keep the streams tidy: every
PENSTOCK_UPKEEP each stream is looked at. What all groups of an events stream are done
with is trimmed (penstock stream set --retention), consumers of dead workers are removed
where no worker is left to do it, dead letters older than PENSTOCK_KEEP_DEAD are
deleted, and the IDs of jobs that are gone are freed. What a person should look at is
logged: jobs that nobody reads, workers that died with jobs and have no successor,
groups that keep a stream from being trimmed.

Any number of schedulers may run at the same time, and any of them may be killed: a job
is promoted once, and each tick of a schedule is published once. SIGTERM or Ctrl-C ends it.
While Redis is away it waits.`,
		Example: `  penstock scheduler
  penstock scheduler --schedules schedules.yaml
  penstock scheduler --once    # promote and publish what is due now, do upkeep, and exit`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			cfg, err := a.settings(ctx)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("schedules") {
				cfg.Scheduler.SchedulesFile = file
			}
			rdb, err := a.client(ctx)
			if err != nil {
				return err
			}
			defer rdb.Close()
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			cfg.Scheduler.Logger = a.logger(level)
			s, err := scheduler.New(rdb, cfg.Scheduler)
			if err != nil {
				return err
			}
			if err := s.ReadSchedules(); err != nil {
				return usageError{scheduleFaults(err)}
			}
			if !once {
				return s.Run(ctx)
			}
			ctx, cancel := a.requestContext(ctx)
			defer cancel()
			n, err := s.Once(ctx)
			if perr := a.printOnce(n, s.Fired(), s.Upkeep()); perr != nil {
				return perr
			}
			return err
		},
	}
	cmd.Flags().StringVar(&file, "schedules", "", "YAML `FILE` of cron schedules (default: PENSTOCK_SCHEDULES_FILE)")
	cmd.Flags().BoolVar(&once, "once", false, "promote and publish what is due now, do upkeep, and exit")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}

// printOnce says what a scheduler did that ran once.
func (a *app) printOnce(promoted, fired int64, u scheduler.Upkeep) error {
	if a.json {
		return a.printJSON(struct {
			Promoted int64            `json:"promoted"`
			Fired    int64            `json:"fired"`
			Upkeep   scheduler.Upkeep `json:"upkeep"`
		}{promoted, fired, u})
	}
	if err := a.printf("promoted %s, fired %s\n", plural(promoted, "job"), plural(fired, "tick")); err != nil {
		return err
	}
	if u.Passes == 0 {
		return nil
	}
	var done []string
	for _, did := range []struct {
		n    int64
		what string
	}{{u.Trimmed, "entries trimmed"}, {u.Reaped, "dead consumers removed"}, {u.Expired, "dead letters expired"}, {u.Freed, "IDs of jobs that are gone freed"}} {
		if did.n > 0 {
			done = append(done, count(did.n)+" "+did.what)
		}
	}
	if len(done) == 0 {
		done = []string{"nothing to do"}
	}
	if err := a.printf("upkeep of %s: %s\n", plural(u.Passes, "stream"), strings.Join(done, ", ")); err != nil {
		return err
	}
	for _, f := range u.Findings {
		where := f.Stream
		if f.Group != "" {
			where += "/" + f.Group
		}
		what := string(f.Kind)
		if f.Jobs > 0 {
			what += ", " + plural(f.Jobs, "job")
		}
		if err := a.printf("  %s  %s: %s\n", safe(where), what, safe(f.Advice)); err != nil {
			return err
		}
	}
	return nil
}
