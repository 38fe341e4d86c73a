package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/penstock-go/penstock/stream"
)

func (a *app) jobCancelCommand() *cobra.Command {
	var group string
	cmd := &cobra.Command{
		Use:   "cancel STREAM ID…",
		Short: "End jobs without success, wherever they are",
		Long: `End jobs without success, and say for each in which state it is now. What is
scheduled, waits or is retrying is gone at once. What runs stays active until its
handler has returned: its context ends, or its command gets SIGTERM. A handler that
succeeds all the same completes its job; a command that was told to stop does not.
What is cancelled is not retried, and what had ended before stays as it is.

On an events stream a job is cancelled in every group; --group does that for one.
The exit status is 1 when any of the jobs is not found; the others are cancelled
all the same.`,
		Example: "  penstock job cancel orders paid-7\n  penstock job cancel orders paid-7 paid-9 --json\n  penstock job cancel audit paid-7 --group mailer",
		Args:    args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.withStream(cmd.Context(), list[0], stream.Config{}, func(ctx context.Context, s *stream.Stream) error {
				return a.cancelJobs(ctx, s, group, list[1:])
			})
		},
	}
	cmd.Flags().StringVar(&group, "group", "", "in this `GROUP` alone, where the stream has several")
	return cmd
}

// cancelledJSON is one job as `job cancel --json` writes it.
type cancelledJSON struct {
	ID    string       `json:"id"`
	State stream.State `json:"state,omitempty"`
	Error string       `json:"error,omitempty"`
}

func (a *app) cancelJobs(ctx context.Context, s *stream.Stream, group string, ids []string) error {
	cancel := s.Cancel
	if group != "" {
		g := s.Group(group)
		if _, err := g.Depths(ctx); err != nil { // before anything is cancelled: is there such a group?
			return err
		}
		cancel = g.Cancel
	}
	var errs []error
	for _, id := range ids {
		state, err := cancel(ctx, id)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			err = noJob(s, id, err)
			errs = append(errs, err)
		}
		switch {
		case a.json:
			line := cancelledJSON{ID: id, State: state}
			if err != nil {
				line.Error = err.Error()
			}
			err = a.printJSON(line)
		case err == nil:
			err = a.printf("%s  %s\n", safe(id), cancelText(state))
		default:
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// cancelText says what a state means for a job that was just to be cancelled.
func cancelText(state stream.State) string {
	switch state {
	case stream.Cancelled:
		return string(state)
	case stream.Active:
		return fmt.Sprintf("%s, and told to stop", state)
	case stream.Waiting, stream.Scheduled: // of an events stream: the entry is other groups' too
		return fmt.Sprintf("%s, and will not run", state)
	default:
		return fmt.Sprintf("%s before, and stays so", state)
	}
}
