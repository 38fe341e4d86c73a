package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-go/penstock/stream"
)

func (a *app) jobMoveCommand() *cobra.Command {
	var now bool
	var at, group string
	var delay time.Duration
	cmd := &cobra.Command{
		Use:   "move STREAM ID --now | --at TIME | --delay DURATION",
		Short: "Give a job another time to run at",
		Long: `Give a job that is scheduled, or waits for its next try, another time to run at,
sooner or later. Nothing else of it changes. What runs or has ended can't be
moved; what is dead goes back with penstock job retry.`,
		Example: "  penstock job move orders paid-7 --now\n  penstock job move orders paid-7 --delay 1h\n  penstock job move orders paid-7 --at 2030-01-02T15:04:05Z",
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			given := 0
			for _, flag := range []string{"now", "at", "delay"} {
				if cmd.Flags().Changed(flag) {
					given++
				}
			}
			switch {
			case given != 1:
				return usagef("say when, once: --now, --at TIME or --delay DURATION")
			case cmd.Flags().Changed("delay") && delay <= 0:
				return usagef("--delay must be positive; --now is at once")
			case cmd.Flags().Changed("now") && !now:
				return usagef("--now=false is no time")
			case cmd.Flags().Changed("at") && at == "":
				return usagef("--at is empty")
			}
			to := stream.When{Delay: delay}
			var err error
			if to.At, err = parseTime(at); err != nil {
				return usagef("--at %w", err)
			}
			return a.withStream(cmd.Context(), list[0], stream.Config{}, func(ctx context.Context, s *stream.Stream) error {
				return a.moveJob(ctx, s, group, list[1], to)
			})
		},
	}
	cmd.Flags().BoolVar(&now, "now", false, "run it now")
	cmd.Flags().StringVar(&at, "at", "", "run it at this `TIME`, as in 2006-01-02T15:04:05Z")
	cmd.Flags().DurationVar(&delay, "delay", 0, "run it after so long from now, a `DURATION` as in 5m")
	cmd.Flags().StringVar(&group, "group", "", "the `GROUP`, where the stream has several and the job is retrying in one")
	return cmd
}

func (a *app) moveJob(ctx context.Context, s *stream.Stream, group, id string, to stream.When) error {
	due, err := s.Move(ctx, group, id, to)
	if err != nil {
		return noJob(s, id, err)
	}
	if a.json {
		return a.printJSON(struct {
			ID  string    `json:"id"`
			Due time.Time `json:"due"`
		}{id, due})
	}
	now := time.Now()
	if !due.After(now) {
		return a.printf("%s  due now\n", safe(id))
	}
	return a.printf("%s  due %s\n", safe(id), when(due, now))
}

func (a *app) jobRetryCommand() *cobra.Command {
	var group string
	cmd := &cobra.Command{
		Use:   "retry STREAM ID…",
		Short: "Run jobs again now that have failed",
		Long: `Run jobs again now: a dead one goes back to its group with new tries, one that
waits for its next try does not wait. What is scheduled has not failed: penstock
job move --now. The exit status is 1 when any of them can't be retried; the
others are all the same.`,
		Example: "  penstock job retry orders paid-7\n  penstock job retry audit paid-7 paid-9 --group mailer",
		Args:    args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.withStream(cmd.Context(), list[0], stream.Config{}, func(ctx context.Context, s *stream.Stream) error {
				return a.retryJobs(ctx, s, group, list[1:])
			})
		},
	}
	cmd.Flags().StringVar(&group, "group", "", "the `GROUP`, where the stream has several")
	return cmd
}

// retriedJSON is one job as `job retry --json` writes it.
type retriedJSON struct {
	ID    string       `json:"id"`
	Was   stream.State `json:"was,omitempty"`
	Error string       `json:"error,omitempty"`
}

func (a *app) retryJobs(ctx context.Context, s *stream.Stream, group string, ids []string) error {
	var errs []error
	for _, id := range ids {
		was, err := s.Retry(ctx, group, id)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			err = retryHint(ctx, s, id, noJob(s, id, err))
			errs = append(errs, err)
		}
		switch {
		case a.json:
			line := retriedJSON{ID: id, Was: was}
			if err != nil {
				line = retriedJSON{ID: id, Error: err.Error()}
			}
			err = a.printJSON(line)
		case err == nil:
			err = a.printf("%s  waiting, was %s\n", safe(id), was)
		default:
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// retryHint says what to do for a job that is scheduled.
func retryHint(ctx context.Context, s *stream.Stream, id string, err error) error {
	if !errors.Is(err, stream.ErrState) {
		return err
	}
	if info, lost := s.Get(ctx, id); lost != nil || info.State != stream.Scheduled {
		return err
	}
	return fmt.Errorf("job %s of %s is scheduled, and has not failed\n  to run it now: penstock job move %s %s --now", id, s.Name(), s.Name(), id)
}
