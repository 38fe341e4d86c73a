package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-go/penstock/stream"
)

func (a *app) jobCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "job get|wait|cancel|retry|log|move|ls",
		Short: "Look up one job, wait for it, cancel, retry or move it, list jobs",
		Long: `Look up one job by its ID, wait for its end, read what its handlers wrote about
it, cancel it, run it again or at another time, and list jobs by their status.

The ID of a job that was published without one is that of its entry, such as
1726000000000-0. A job that has finished is found for as long as its record is
kept: one that returns something for PENSTOCK_KEEP_RESULT, one that returns
nothing only where PENSTOCK_KEEP_STATUS says so.`,
		Example: "  penstock job get orders paid-7\n  penstock job wait orders paid-7 --for 1m\n  penstock job ls orders --status active",
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.jobGetCommand(), a.jobWaitCommand(), a.jobCancelCommand(), a.jobRetryCommand(), a.jobLogCommand(), a.jobMoveCommand(), a.jobLsCommand())
	return cmd
}

func (a *app) jobGetCommand() *cobra.Command {
	var raw bool
	cmd := &cobra.Command{
		Use:   "get STREAM ID",
		Short: "Show what is known of a job",
		Long: `Show all that is known of a job, wherever it is. What it returned is shown so that
it can do nothing to a terminal; --raw writes its bytes, and nothing else.`,
		Example: "  penstock job get orders paid-7\n  penstock job get orders paid-7 --json | jq -r .state",
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if raw && a.json {
				return usagef("--raw and --json are both given: which one?")
			}
			return a.withStream(cmd.Context(), list[0], stream.Config{}, func(ctx context.Context, s *stream.Stream) error {
				info, err := s.Get(ctx, list[1])
				if err != nil {
					return noJob(s, list[1], err)
				}
				return a.showJob(info, raw)
			})
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "write what it returned alone")
	return cmd
}

func (a *app) jobWaitCommand() *cobra.Command {
	var raw bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "wait STREAM ID",
		Short: "Wait until a job has ended",
		Long: `Wait until a job has ended, and show what is known of it; on a terminal, how far
it is meanwhile. The exit status is 0 when it completed and 1 when it did not, or
when the time is over. On an events stream it has ended when it has in every group.`,
		Example: "  penstock job wait orders paid-7\n  penstock job wait orders paid-7 --for 30s --raw > result",
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if raw && a.json {
				return usagef("--raw and --json are both given: which one?")
			}
			if limit < 0 {
				return usagef("--for %s is negative", limit)
			}
			return a.withStream(cmd.Context(), list[0], stream.Config{}, func(ctx context.Context, s *stream.Stream) error {
				over := fmt.Errorf("it has not ended within %s (--for)", limit)
				if limit > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeoutCause(ctx, limit, over)
					defer cancel()
				}
				stop := func() {}
				if terminal(a.err) && terminal(a.out) && !raw && !a.json {
					stop = watchJob(ctx, a.err, func(ctx context.Context) (stream.Info, error) { return s.Get(ctx, list[1]) })
				}
				info, err := s.Wait(ctx, list[1])
				stop()
				if err != nil && errors.Is(context.Cause(ctx), over) && !errors.Is(err, over) { // in the middle of a look at Redis
					err = fmt.Errorf("%w: %w", over, err)
				}
				if err != nil {
					return noJob(s, list[1], err)
				}
				if err := a.showJob(info, raw && info.State == stream.Completed); err != nil {
					return err
				}
				if info.State != stream.Completed {
					return &stream.JobError{Info: info}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "write what it returned alone")
	cmd.Flags().DurationVar(&limit, "for", 0, "give up after `TIME`; 0: never")
	return cmd
}

// noJob says of a job that was not found what may have become of it.
func noJob(s *stream.Stream, id string, err error) error {
	if !errors.Is(err, stream.ErrNotFound) {
		return err
	}
	return fmt.Errorf("no job %s in %s\n  it may have finished: jobs that return nothing leave a record only with PENSTOCK_KEEP_STATUS=all,\n  and any record is kept for PENSTOCK_KEEP_RESULT", id, s.Name())
}

func (a *app) showJob(info stream.Info, raw bool) error {
	switch {
	case raw:
		_, err := a.out.Write(info.Result)
		return err
	case a.json:
		return a.printJSON(newInfoJSON(info))
	}
	now := time.Now()
	var b strings.Builder
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-10s %s\n", name, value)
		}
	}
	row("job", a.color(bold, safe(info.ID)))
	row("type", safe(info.Type))
	row("status", string(info.State))
	if info.Attempt > 0 {
		attempt := strconv.Itoa(info.Attempt)
		if info.MaxTries > 0 {
			attempt += " of " + strconv.Itoa(info.MaxTries)
		}
		if info.Crashes > 0 {
			attempt += ", leases that ran out: " + strconv.Itoa(info.Crashes)
		}
		row("attempt", attempt)
	}
	row("published", when(info.Published, now))
	switch {
	case info.State == stream.Retrying:
		row("next", when(info.Due, now))
		if info.Paused > 0 {
			row("paused", plural(int64(info.Paused), "time")+" by a kill switch; see penstock switch ls")
		}
	case !info.Due.Equal(info.Published):
		row("due", when(info.Due, now))
	}
	row("started", when(info.Started, now))
	finished := when(info.Finished, now)
	if !info.Started.IsZero() && !info.Finished.IsZero() {
		finished += ", took " + short(info.Finished.Sub(info.Started))
	}
	row("finished", finished)
	row("progress", progressText(info.Progress, now))
	row("worker", safe(info.Worker))
	row("reason", safe(info.Reason))
	row("error", indented(info.Err, 11))
	row("trace", safe(info.TraceID))
	for i, name := range slices.Sorted(maps.Keys(info.Groups)) {
		g := info.Groups[name]
		text := safe(name) + " " + string(g.State)
		if g.Err != "" {
			text += ": " + cut(safe(g.Err), 100)
		}
		row(first(i, "groups"), text)
	}
	if _, err := a.out.Write([]byte(b.String())); err != nil {
		return err
	}
	if err := a.showAttempts(info.History, now); err != nil {
		return err
	}
	if info.Result == nil {
		return nil
	}
	return a.printf("result     %s\n", indented(payloadText(info.Result), 0))
}

// infoJSON is a job as --json writes it: a result that is JSON stays readable.
type infoJSON struct {
	stream.Info
	Result  json.RawMessage     `json:"result,omitempty"`
	Base64  string              `json:"result_base64,omitempty"`
	History []attemptJSON       `json:"history,omitempty"`
	Groups  map[string]infoJSON `json:"groups,omitempty"`
}

func newInfoJSON(info stream.Info) infoJSON {
	j := infoJSON{Info: info}
	for _, at := range info.History {
		j.History = append(j.History, attemptJSON{at.Attempt, at.Worker, at.Started, at.Took.Milliseconds(), at.Error})
	}
	if json.Valid(info.Result) {
		j.Result = info.Result
	} else {
		j.Base64 = base64.StdEncoding.EncodeToString(info.Result)
	}
	for name, g := range info.Groups {
		if j.Groups == nil {
			j.Groups = make(map[string]infoJSON)
		}
		j.Groups[name] = newInfoJSON(g)
	}
	return j
}

func (a *app) jobLsCommand() *cobra.Command {
	var status, group string
	var page stream.Page
	cmd := &cobra.Command{
		Use:   "ls STREAM --status STATUS",
		Short: "List jobs by status, a page at a time",
		Long: `List the jobs of a group that are scheduled, waiting, active, retrying or dead,
a page at a time. With --json, one object a line. Finished jobs are not listed, as
nothing knows them all: look one up with penstock job get.`,
		Example: "  penstock job ls orders --status retrying\n  penstock job ls audit --group mailer --status waiting --limit 10",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if status == "" {
				return usagef("say which: --status scheduled, waiting, active, retrying or dead")
			}
			if page.Limit < 1 || page.Limit > maxJobsListed {
				return usagef("--limit %d must be between 1 and %d", page.Limit, maxJobsListed)
			}
			return a.withStream(cmd.Context(), list[0], stream.Config{}, func(ctx context.Context, s *stream.Stream) error {
				return a.listJobs(ctx, s, group, stream.State(status), page)
			})
		},
	}
	cmd.Flags().StringVar(&status, "status", "", "the `STATUS`: scheduled, waiting, active, retrying or dead")
	cmd.Flags().StringVar(&group, "group", "", "the `GROUP`, where the stream has several")
	cmd.Flags().IntVar(&page.Limit, "limit", 100, "how `MANY` at most")
	cmd.Flags().StringVar(&page.After, "after", "", "those behind this `PAGE`, as the page before said")
	return cmd
}

const maxJobsListed = 10_000

func (a *app) listJobs(ctx context.Context, s *stream.Stream, group string, state stream.State, page stream.Page) error {
	jobs, next, err := s.Jobs(ctx, group, state, page)
	if err != nil {
		return err
	}
	now := time.Now()
	var rows [][]string
	for _, info := range jobs {
		if a.json {
			if err := a.printJSON(newInfoJSON(info)); err != nil {
				return err
			}
			continue
		}
		attempt := strconv.Itoa(info.Attempt)
		if info.MaxTries > 0 {
			attempt += "/" + strconv.Itoa(info.MaxTries)
		}
		rows = append(rows, []string{info.ID, info.Type, attempt, ago(info.Published, now), ago(info.Due, now), info.Worker, cut(info.Err, 60)})
	}
	switch {
	case a.json:
		return nil
	case len(rows) == 0 && page.After != "":
		return a.printf("no more\n")
	case len(rows) == 0:
		return a.printf("no jobs are %s\n", state)
	}
	if err := a.table([]string{"ID", "TYPE", "ATTEMPT", "PUBLISHED", "DUE", "WORKER", "ERROR"}, rows); err != nil {
		return err
	}
	if next != "" {
		return a.printf("%s, and there are more.  go on with --after %q\n", plural(int64(len(rows)), "job"), next)
	}
	return nil
}
