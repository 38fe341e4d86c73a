package main

import (
	"log/slog"

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
	cmd := &cobra.Command{
		Use:   "scheduler",
		Short: "Promote deferred jobs as they become due",
		Long: `Promote the deferred and retrying jobs of all streams as they become due.

Any number of schedulers may run at the same time, and any of them may be killed: a job
is promoted once. SIGTERM or Ctrl-C ends it. While Redis is away it waits.`,
		Example: `  penstock scheduler
  penstock scheduler --once    # promote what is due now, and exit`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			cfg, err := a.settings(ctx)
			if err != nil {
				return err
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
			if !once {
				return s.Run(ctx)
			}
			ctx, cancel := a.requestContext(ctx)
			defer cancel()
			n, err := s.Once(ctx)
			if a.json {
				if perr := a.printJSON(map[string]int64{"promoted": n}); perr != nil {
					return perr
				}
			} else if perr := a.printf("promoted %s\n", plural(n, "job")); perr != nil {
				return perr
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "promote what is due now, and exit")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}
