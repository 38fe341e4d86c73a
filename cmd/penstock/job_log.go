package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-go/penstock/stream"
)

// followEvery is how often it is looked what handlers say, which is how often workers say it.
const followEvery = 500 * time.Millisecond

func (a *app) jobLogCommand() *cobra.Command {
	var follow bool
	var group string
	cmd := &cobra.Command{
		Use:   "log STREAM ID",
		Short: "Show what handlers wrote about a job",
		Long: `Show the lines that the handlers of a job wrote about it (Delivery.Logf), each with
its time and the number of the run. The latest 200 are kept: for a day behind each
run while the job lives or when it is dead, else as long as its record. With
--json, one object a line. -f goes on until the job has ended, half a second behind.`,
		Example: "  penstock job log orders paid-7\n  penstock job log orders paid-7 -f",
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.withStream(cmd.Context(), list[0], stream.Config{}, func(ctx context.Context, s *stream.Stream) error {
				err := a.jobLog(ctx, s, group, list[1], follow)
				if follow && ctx.Err() != nil {
					return nil // Ctrl-C is how one ends it
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the job has ended")
	cmd.Flags().StringVar(&group, "group", "", "the `GROUP`, where the stream has several")
	return cmd
}

func (a *app) jobLog(ctx context.Context, s *stream.Stream, group, id string, follow bool) error {
	last := int64(0)
	for {
		// the job first: lines that are written before it ends are there when it has
		info, found := s.Get(ctx, id)
		if found != nil && !errors.Is(found, stream.ErrNotFound) {
			return found
		}
		lines, err := s.Log(ctx, group, id, last)
		switch {
		case found != nil && len(lines) == 0 && last == 0:
			return noJob(s, id, found)
		case err != nil:
			return err
		}
		if last, err = a.printLog(lines, last); err != nil {
			return err
		}
		if !follow || found != nil || ended(info, group) {
			if last == 0 && !a.json {
				return a.printf("nothing is written about job %s\n", safe(id))
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(followEvery):
		}
	}
}

// ended reports whether a job has, in a group when one was named.
func ended(info stream.Info, group string) bool {
	if in, ok := info.Groups[group]; ok {
		return in.Ended()
	}
	return info.Ended()
}

// printLog writes lines, and returns the number of the last.
func (a *app) printLog(lines []stream.LogLine, last int64) (int64, error) {
	now := time.Now()
	for _, l := range lines {
		var err error
		switch out := l.Number - last - 1; {
		case a.json:
			err = a.printJSON(l)
		default:
			if out > 0 {
				err = a.printf("%s\n", a.color(dim, "… "+plural(out, "line")+" left out"))
			}
			if err == nil {
				head := clock(l.At, now) + "  " + strconv.Itoa(l.Attempt) + "  "
				err = a.printf("%s%s\n", a.color(dim, head), indented(l.Text, len(head)))
			}
		}
		if err != nil {
			return last, err
		}
		last = l.Number
	}
	return last, nil
}

// progressText says how far a job is; "" when nothing is known of that.
func progressText(p stream.Progress, now time.Time) string {
	if p.At.IsZero() {
		return ""
	}
	text := strconv.Itoa(int(p.Fraction*100)) + " %"
	if p.Note != "" {
		text += "  " + safe(p.Note)
	}
	return text + " (" + ago(p.At, now) + ")"
}

// watchJob shows how a job gets on, in one line that is written over and over, until it is stopped, which takes the line away again.
func watchJob(ctx context.Context, w io.Writer, look func(context.Context) (stream.Info, error)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		shown := false
		for ctx.Err() == nil {
			if info, err := look(ctx); err == nil && ctx.Err() == nil {
				fmt.Fprint(w, "\r\x1b[K", cut(statusLine(info, time.Now()), 79))
				shown = true
			}
			select {
			case <-ctx.Done():
			case <-time.After(followEvery):
			}
		}
		if shown {
			fmt.Fprint(w, "\r\x1b[K")
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// statusLine is a job in one line.
func statusLine(info stream.Info, now time.Time) string {
	parts := []string{safe(info.ID), string(info.State)}
	if info.Attempt > 1 {
		parts = append(parts, "attempt "+strconv.Itoa(info.Attempt))
	}
	if info.State == stream.Retrying || info.State == stream.Scheduled {
		parts = append(parts, "due "+ago(info.Due, now))
	}
	if text := progressText(info.Progress, now); text != "" {
		parts = append(parts, text)
	}
	return strings.Join(parts, "  ")
}
