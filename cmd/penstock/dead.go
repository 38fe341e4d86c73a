package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/penstock-go/penstock/stream"
)

func (a *app) deadCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead ls|show|redrive|purge",
		Short: "List, show, redrive and purge dead letters",
		Long: `List, show, redrive and purge the dead letters of a group: its jobs that failed
for the last time, expired, or could not be handled.`,
		Example: "  penstock dead ls orders billing\n  penstock dead redrive orders billing --error 503 --rate 50/s",
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.deadLsCommand(), a.deadShowCommand(), a.redriveCommand(), a.purgeCommand())
	return cmd
}

// deadFlags pick dead letters.
type deadFlags struct{ stream.DeadFilter }

func (f *deadFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.Type, "type", "", "those of this `TYPE`")
	flags.StringVar(&f.Error, "error", "", "those whose error contains this `TEXT`")
	flags.DurationVar(&f.OlderThan, "older", 0, "those that died longer ago than `AGE`, as in 24h")
	flags.DurationVar(&f.NewerThan, "newer", 0, "those that died more recently than `AGE`")
}

func (f *deadFlags) check() error {
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"older", f.OlderThan}, {"newer", f.NewerThan}} {
		if d.value < 0 {
			return usagef("--%s %s is negative", d.name, d.value)
		}
	}
	if f.NewerThan > 0 && f.OlderThan >= f.NewerThan {
		return usagef("nothing died both longer than %s and less than %s ago (--older, --newer)", f.OlderThan, f.NewerThan)
	}
	return nil
}

func (f *deadFlags) empty() bool { return len(f.parts()) == 0 }

// parts is the filter in words.
func (f *deadFlags) parts() []string {
	var parts []string
	if n := len(f.IDs); n > 3 {
		parts = append(parts, count(int64(n))+" IDs")
	} else {
		for _, id := range f.IDs {
			parts = append(parts, safe(id))
		}
	}
	if f.Type != "" {
		parts = append(parts, safe(f.Type))
	}
	if f.Error != "" {
		parts = append(parts, "error contains "+strconv.Quote(f.Error))
	}
	if f.OlderThan > 0 {
		parts = append(parts, "older than "+short(f.OlderThan))
	}
	if f.NewerThan > 0 {
		parts = append(parts, "newer than "+short(f.NewerThan))
	}
	return parts
}

// String is " (order.paid, older than 1h)", or empty.
func (f *deadFlags) String() string {
	if f.empty() {
		return ""
	}
	return " (" + strings.Join(f.parts(), ", ") + ")"
}

// withGroup calls f with a group of a stream.
func (a *app) withGroup(ctx context.Context, list []string, f func(context.Context, *stream.Stream, *stream.Group) error) error {
	return a.withStream(ctx, list[0], stream.Config{}, func(ctx context.Context, s *stream.Stream) error {
		return f(ctx, s, s.Group(list[1]))
	})
}

type deadList struct {
	deadFlags
	page stream.Page
	all  bool
}

func (a *app) deadLsCommand() *cobra.Command {
	var l deadList
	cmd := &cobra.Command{
		Use:   "ls STREAM GROUP",
		Short: "List dead letters, oldest first",
		Long: `List the dead letters of a group, oldest first and a page at a time. With --json,
one object a line; the "entry" of the last one is what --after takes.`,
		Example: `  penstock dead ls orders billing
  penstock dead ls orders billing --type order.paid --error 503 --newer 1h
  penstock dead ls orders billing --all --json | jq -r .error | sort | uniq -c`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if err := l.check(); err != nil {
				return err
			}
			if l.page.Limit < 1 {
				return usagef("--limit %d must be at least 1", l.page.Limit)
			}
			return a.withGroup(cmd.Context(), list, func(ctx context.Context, s *stream.Stream, g *stream.Group) error {
				return a.listDead(ctx, s, g, l)
			})
		},
	}
	l.register(cmd.Flags())
	cmd.Flags().IntVar(&l.page.Limit, "limit", 100, "how `MANY` at most")
	cmd.Flags().StringVar(&l.page.After, "after", "", "those after this `ENTRY`, as the page before said")
	cmd.Flags().BoolVar(&l.all, "all", false, "all of them, in place of a page")
	return cmd
}

func (a *app) listDead(ctx context.Context, s *stream.Stream, g *stream.Group, l deadList) error {
	var rows [][]string
	example, now := "", time.Now()
	page := l.page
	if l.all {
		page.Limit = 1000
	}
	for more := true; more; {
		letters, next, err := g.Dead(ctx, l.DeadFilter, page)
		if err != nil {
			return err
		}
		for _, letter := range letters {
			if a.json {
				if err := a.printJSON(newLetterJSON(letter)); err != nil {
					return err
				}
				continue
			}
			rows = append(rows, []string{letter.ID, letter.Type, tries(letter), ago(letter.Died, now), cut(reason(letter), 100)})
			example = letter.ID
			if len(rows) > 1 {
				example = rows[0][0]
			}
		}
		page.After = next
		more = l.all && next != ""
	}
	if a.json {
		return nil
	}
	depths, err := g.Depths(ctx)
	if err != nil {
		return err
	}
	where := safe(s.Name() + " " + g.Name())
	total := plural(depths.Dead, "dead letter")
	if len(rows) == 0 {
		switch {
		case depths.Dead == 0:
			return a.printf("no dead letters\n")
		case l.page.After != "":
			return a.printf("no more%s, of %s\n", l.String(), total)
		}
		return a.printf("none%s, of %s\n", l.String(), total)
	}
	if err := a.table([]string{"ID", "TYPE", "TRIES", "DIED", "REASON"}, rows); err != nil {
		return err
	}
	shown := int64(len(rows))
	switch {
	case page.After != "":
		return a.printf("%s%s, of %s.  go on with --after %s\n", count(shown), l.String(), total, page.After)
	case shown == depths.Dead:
		return a.printf("%s.  penstock dead show %s %s\n", total, where, safe(example))
	}
	return a.printf("%s%s, of %s.  penstock dead show %s %s\n", count(shown), l.String(), total, where, safe(example))
}

const reasonCrashed = "crashed"

// tries is how many of its runs a job has had.
func tries(l stream.DeadLetter) string {
	switch {
	case l.Reason == reasonCrashed:
		return "–"
	case l.Attempt == 0 || l.MaxTries == 0:
		return strconv.Itoa(l.Attempt)
	}
	return fmt.Sprintf("%d/%d", l.Attempt, l.MaxTries)
}

// reason says in a line why a job is dead.
func reason(l stream.DeadLetter) string {
	switch {
	case l.Reason == "failed" && l.Error != "":
		return l.Error
	case l.Error == "":
		return l.Reason
	}
	return l.Reason + ": " + l.Error
}

// letterJSON is a dead letter as --json writes it: a payload that is JSON stays readable.
type letterJSON struct {
	stream.DeadLetter
	Payload json.RawMessage `json:"payload,omitempty"`
	Base64  string          `json:"payload_base64,omitempty"`
	History []attemptJSON   `json:"history,omitempty"`
}

// attemptJSON is a stream.Attempt with the unit in the name of how long it took.
type attemptJSON struct {
	Attempt int       `json:"attempt"`
	Worker  string    `json:"worker,omitempty"`
	Started time.Time `json:"started,omitzero"`
	TookMS  int64     `json:"took_ms"`
	Error   string    `json:"error"`
}

func newLetterJSON(l stream.DeadLetter) letterJSON {
	j := letterJSON{DeadLetter: l}
	for _, at := range l.History {
		j.History = append(j.History, attemptJSON{at.Attempt, at.Worker, at.Started, at.Took.Milliseconds(), at.Error})
	}
	if json.Valid(l.Payload) {
		j.Payload = l.Payload
	} else {
		j.Base64 = base64.StdEncoding.EncodeToString(l.Payload)
	}
	return j
}
