package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/penstock-go/penstock/stream"
)

func (a *app) switchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "switch ls|add|rm",
		Short: "Kill switches: stop the jobs of a type, now",
		Long: `List, set and lift kill switches. One keeps workers from running the jobs of a
type, or those of them alone whose data has a value in a field, such as one
tenant's. It pauses them, so that they go on once it is lifted, or cancels them.
Workers obey within a second, or with their next heartbeat where Redis's message is
lost, and new ones before they start their first job.`,
		Example: "  penstock switch add orders mail.send --pause --for 1h --reason \"mail server is down\"\n  penstock switch ls orders\n  penstock switch rm orders 2b1f9a04",
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.switchLsCommand(), a.switchAddCommand(), a.switchRmCommand())
	return cmd
}

func (a *app) switchLsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls STREAM",
		Short: "List the kill switches of a stream",
		Long: `List the kill switches of a stream that hold, oldest first. With --json, one
object a line.`,
		Example: "  penstock switch ls orders\n  penstock switch ls orders --json | jq -r .id",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.withStream(cmd.Context(), list[0], stream.Config{}, a.listSwitches)
		},
	}
}

func (a *app) listSwitches(ctx context.Context, s *stream.Stream) error {
	switches, err := s.Switches(ctx)
	if err != nil {
		return err
	}
	if a.json {
		for _, sw := range switches {
			if err := a.printJSON(sw); err != nil {
				return err
			}
		}
		return nil
	}
	if len(switches) == 0 {
		return a.printf("no kill switches\n")
	}
	header, rows := switchTable(switches, time.Now(), a.width())
	return a.table(header, rows)
}

// switchTable is the switches as a table: what people wrote gives way, so that it is no wider than width where that can be.
func switchTable(switches []stream.Switch, now time.Time, width int) (header []string, rows [][]string) {
	const jobs, reason, leastCell = 2, 6, 10
	header = []string{"ID", "ACTION", "JOBS", "GROUP", "MADE", "ENDS", "REASON"}
	for _, sw := range switches {
		group, ends := sw.Group, "when lifted"
		if group == "" {
			group = "every"
		}
		if !sw.Expires.IsZero() {
			ends = ago(sw.Expires, now)
		}
		rows = append(rows, []string{sw.ID, string(sw.Action), safe(jobsOf(sw)), cut(safe(group), 16), ago(sw.Made, now), ends, safe(sw.Reason)})
	}
	left, widths := width-2*(len(header)-1), make([]int, len(header))
	for i, name := range header {
		widths[i] = utf8.RuneCountInString(name)
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
		if i != jobs && i != reason {
			left -= widths[i]
		}
	}
	forJobs := max(min(widths[jobs], left-min(widths[reason], left/2)), leastCell)
	for _, row := range rows {
		row[jobs], row[reason] = cut(row[jobs], forJobs), cut(row[reason], max(left-forJobs, leastCell))
	}
	return header, rows
}

// jobsOf says which jobs a switch is for.
func jobsOf(sw stream.Switch) string {
	if sw.Field == "" {
		return sw.Type
	}
	return fmt.Sprintf("%s with %s = %s", sw.Type, sw.Field, sw.Value)
}

func (a *app) switchAddCommand() *cobra.Command {
	var sw stream.Switch
	var pause, cancel, yes bool
	cmd := &cobra.Command{
		Use:   "add STREAM TYPE --pause|--cancel",
		Short: "Set a kill switch",
		Long: `Set a kill switch for the jobs of a type, or with --field and --value for those of
them in whose data, a JSON object, a member at its top has that value: a string, or
what is written there, such as 7 or true. One for the same jobs it replaces.

--pause puts jobs off when their turn comes: they lose no try, and go on within
seconds once the switch is lifted or over. Those that run go on. --cancel ends jobs
when their turn comes, and those that run: for good, so on a terminal it asks
first; --yes answers.`,
		Example: `  penstock switch add orders mail.send --pause --for 1h --reason "mail server is down"
  penstock switch add orders report.build --pause --field tenant --value acme
  penstock switch add audit import.csv --cancel --group billing`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			changed := cmd.Flags().Changed
			switch {
			case pause == cancel:
				return usagef("say what it does: --pause or --cancel")
			case changed("field") != changed("value"):
				return usagef("--field and --value go together")
			case changed("field") && sw.Field == "":
				return usagef("--field is empty")
			case changed("group") && sw.Group == "":
				return usagef("--group is empty")
			case changed("for") && sw.For <= 0:
				return usagef("--for %s must be positive; without it the switch holds until it is lifted", sw.For)
			}
			if sw.Type, sw.Action = list[1], stream.PauseJobs; cancel {
				sw.Action = stream.CancelJobs
			}
			return a.withStream(cmd.Context(), list[0], stream.Config{}, func(ctx context.Context, s *stream.Stream) error {
				return a.addSwitch(ctx, s, sw, yes)
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&pause, "pause", false, "put them off until it is lifted or over")
	flags.BoolVar(&cancel, "cancel", false, "end them as cancelled")
	flags.StringVar(&sw.Field, "field", "", "only jobs in whose data this `FIELD`")
	flags.StringVar(&sw.Value, "value", "", "has this `VALUE`")
	flags.StringVar(&sw.Group, "group", "", "in this `GROUP` alone, where the stream has several")
	flags.DurationVar(&sw.For, "for", 0, "how long it holds, a `DURATION` as in 1h (default: until it is lifted)")
	flags.StringVar(&sw.Reason, "reason", "", "`TEXT` for people: who set it, and why")
	flags.BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (a *app) addSwitch(ctx context.Context, s *stream.Stream, sw stream.Switch, yes bool) error {
	if sw.Action == stream.CancelJobs && !yes && a.interactive() {
		ok, err := a.confirm(ctx, "cancel jobs of "+safe(s.Name())+", those that run too: "+whichJobs(sw)+"?")
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("nothing was changed")
		}
	}
	set, err := s.AddSwitch(ctx, sw)
	if err != nil {
		return err
	}
	// In a hurry a wrong name would look like a stop. It may be right all the same: a switch can be set beforehand.
	if d, err := s.Describe(ctx); err == nil {
		switch {
		case d.Entries+d.Scheduled == 0 && len(d.Groups) == 0:
			fmt.Fprintf(a.err, "note: there is no stream %s yet; the switch holds once there is\n", safe(s.Name()))
		case sw.Group != "" && !slices.Contains(d.Groups, sw.Group):
			fmt.Fprintf(a.err, "note: %s has no group %s yet; the switch holds once it has\n", safe(s.Name()), safe(sw.Group))
		}
	}
	if a.json {
		return a.printJSON(set)
	}
	verb, until := "pauses", "until it is lifted"
	if set.Action == stream.CancelJobs {
		verb = "cancels"
	}
	if !set.Expires.IsZero() {
		now := time.Now()
		until = fmt.Sprintf("until %s (%s)", clock(set.Expires, now), ago(set.Expires, now))
	}
	return a.printf("%s  %s %s, %s\n  to lift it: penstock switch rm %s %s\n", set.ID, verb, whichJobs(set), until, safe(s.Name()), set.ID)
}

// whichJobs is jobsOf with the group, fit for a terminal.
func whichJobs(sw stream.Switch) string {
	if sw.Group == "" {
		return safe(jobsOf(sw))
	}
	return safe(jobsOf(sw)) + " in group " + safe(sw.Group)
}

func (a *app) switchRmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rm STREAM ID…",
		Short: "Lift kill switches",
		Long: `Lift kill switches by their IDs. What they had put off is due at once, and starts
within seconds. The exit status is 1 when there is none of an ID; the others are
lifted all the same.`,
		Example: "  penstock switch rm orders 2b1f9a04\n  penstock switch ls orders --json | jq -r .id | xargs penstock switch rm orders",
		Args:    args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.withStream(cmd.Context(), list[0], stream.Config{}, func(ctx context.Context, s *stream.Stream) error {
				return a.liftSwitches(ctx, s, list[1:])
			})
		},
	}
}

// liftedJSON is one switch as `switch rm --json` writes it.
type liftedJSON struct {
	ID     string `json:"id"`
	Lifted bool   `json:"lifted"`
	Error  string `json:"error,omitempty"`
}

func (a *app) liftSwitches(ctx context.Context, s *stream.Stream, ids []string) error {
	var errs []error
	for _, id := range ids {
		err := s.RemoveSwitch(ctx, id)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			err = noSwitch(ctx, s, id, err)
			errs = append(errs, err)
		}
		switch {
		case a.json:
			line := liftedJSON{ID: id, Lifted: err == nil}
			if err != nil {
				line.Error = err.Error()
			}
			err = a.printJSON(line)
		case err == nil:
			err = a.printf("%s  lifted\n", safe(id))
		default:
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// noSwitch says of a switch that was not found which there are.
func noSwitch(ctx context.Context, s *stream.Stream, id string, err error) error {
	if !errors.Is(err, stream.ErrNotFound) {
		return err
	}
	switches, lost := s.Switches(ctx)
	if lost != nil {
		return fmt.Errorf("no kill switch %s in %s", id, s.Name())
	}
	if len(switches) == 0 {
		return fmt.Errorf("no kill switch %s in %s: there are none", id, s.Name())
	}
	near, least := "", max(1, len(id)/4)+1
	all := make([]string, len(switches))
	for i, sw := range switches {
		all[i] = sw.ID
		if d := distance(id, sw.ID); d < least {
			near, least = sw.ID, d
		}
	}
	hint := ""
	if near != "" {
		hint = ": did you mean " + near + "?"
	}
	return fmt.Errorf("no kill switch %s in %s%s\n  there are: %s", id, s.Name(), hint, strings.Join(all, ", "))
}
