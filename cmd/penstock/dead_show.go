package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-go/penstock/stream"
)

func (a *app) deadShowCommand() *cobra.Command {
	var raw bool
	cmd := &cobra.Command{
		Use:   "show STREAM GROUP ID",
		Short: "Show one dead letter",
		Long: `Show all that is known of one dead letter. A payload is shown so that it can do
nothing to a terminal; --raw writes its bytes, and nothing else.`,
		Example: "  penstock dead show orders billing paid-9\n  penstock dead show orders billing paid-9 --raw > payload",
		Args:    args(cobra.ExactArgs(3)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if raw && a.json {
				return usagef("--raw and --json are both given: which one?")
			}
			return a.withGroup(cmd.Context(), list, func(ctx context.Context, _ *stream.Stream, g *stream.Group) error {
				letter, err := g.DeadLetter(ctx, list[2])
				switch {
				case err != nil:
					return err
				case raw:
					_, err := a.out.Write(letter.Payload)
					return err
				case a.json:
					return a.printJSON(newLetterJSON(letter))
				}
				return a.showDead(letter, time.Now())
			})
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "write the payload's bytes alone")
	return cmd
}

func (a *app) showDead(l stream.DeadLetter, now time.Time) error {
	var b strings.Builder
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-10s %s\n", name, value)
		}
	}
	row("job", a.color(bold, safe(l.ID)))
	row("type", safe(l.Type))
	row("reason", safe(l.Reason))
	row("error", indented(l.Error, 11))
	tries := strconv.Itoa(l.Attempt)
	if l.MaxTries > 0 {
		tries += " of " + strconv.Itoa(l.MaxTries)
	}
	if l.Crashes > 0 {
		tries += ", leases that ran out: " + strconv.Itoa(l.Crashes)
	}
	row("tries", tries)
	row("published", when(l.Published, now))
	row("died", when(l.Died, now))
	row("worker", safe(l.Worker))
	row("trace", safe(l.Traceparent))
	for i, name := range slices.Sorted(maps.Keys(l.Header)) {
		row(first(i, "headers"), safe(name)+" = "+safe(l.Header[name]))
	}
	for i, name := range slices.Sorted(maps.Keys(l.Fields)) {
		row(first(i, "fields"), cut(strconv.Quote(name)+" = "+strconv.Quote(l.Fields[name]), 200))
	}
	if _, err := a.out.Write([]byte(b.String())); err != nil {
		return err
	}
	if err := a.showAttempts(l.History, now); err != nil {
		return err
	}
	if err := a.printf("payload    %s\n", indented(payloadText(l.Payload), 0)); err != nil {
		return err
	}
	if l.Stack != "" {
		return a.printf("stack\n  %s\n", indented(strings.TrimSpace(l.Stack), 2))
	}
	return nil
}

func (a *app) showAttempts(history []stream.Attempt, now time.Time) error {
	if len(history) == 0 {
		return nil
	}
	if err := a.printf("attempts\n"); err != nil {
		return err
	}
	rows := make([][]string, len(history))
	for i, at := range history {
		started := "–"
		if at.Started.Unix() > 0 {
			started = clock(at.Started, now)
		}
		rows[i] = []string{strconv.Itoa(at.Attempt), at.Worker, started, short(at.Took), cut(at.Error, 100)}
	}
	return a.table([]string{"#", "WORKER", "STARTED", "TOOK", "ENDED"}, rows)
}

// first names the first of several rows.
func first(i int, name string) string {
	if i > 0 {
		return ""
	}
	return name
}

func when(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return clock(t, now) + " (" + ago(t, now) + ")"
}

// indented makes foreign text of several lines safe, and indents all but the first.
func indented(text string, by int) string {
	return strings.ReplaceAll(safeLines(text), "\n", "\n"+strings.Repeat(" ", by))
}

const payloadShown = 16 << 10

// payloadText is a payload for people: JSON with line breaks, anything else quoted.
func payloadText(p []byte) string {
	size := plural(int64(len(p)), "byte")
	if len(p) == 0 {
		return "empty"
	}
	kind, text := size, ""
	var pretty bytes.Buffer
	if json.Indent(&pretty, p, "  ", "  ") == nil {
		kind, text = "JSON, "+size, pretty.String()
		if len(text) > payloadShown {
			text = strings.ToValidUTF8(text[:payloadShown], "")
		}
	} else {
		text = strconv.Quote(string(p[:min(len(p), payloadShown)]))
	}
	if len(p) > payloadShown {
		text += "\n  … (--raw writes all of it)"
	}
	return kind + "\n  " + text
}
