package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/cobra"

	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/env"
)

func (a *app) scheduleCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "schedule ls|show|add|rm|pause|resume|run|next",
		Short: "List, make and change cron schedules",
		Long: `List, make and change cron schedules. What add makes is kept in Redis, and running schedulers
hear of each change at once. Schedules of a file (--schedules, PENSTOCK_SCHEDULES_FILE) are
shown and run, but changed in the file; those of a Go program are known to that program alone.`,
		Example: "  penstock schedule add cleanup reports sessions.cleanup --cron '0 3 * * *'\n  penstock schedule next cleanup",
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&file, "schedules", "", "YAML `FILE` of cron schedules (default: PENSTOCK_SCHEDULES_FILE)")
	open := func(ctx context.Context, f func(context.Context, *scheduler.Store, scheduler.Opener) error) error {
		return a.withSchedules(ctx, file, f)
	}
	cmd.AddCommand(a.scheduleLsCommand(open), a.scheduleShowCommand(open), a.scheduleAddCommand(open),
		a.scheduleChangeCommand(open, "rm", "removed", "Delete a schedule", "Delete a schedule. Jobs that it has published stay.", (*scheduler.Store).Remove),
		a.scheduleChangeCommand(open, "pause", "paused", "Stop a schedule until it is resumed", "Stop a schedule until it is resumed. Ticks that it has meanwhile are not made up for.", (*scheduler.Store).Pause),
		a.scheduleChangeCommand(open, "resume", "resumed", "Let a paused schedule go on", "Let a paused schedule go on from now.", (*scheduler.Store).Resume),
		a.scheduleRunCommand(open), a.scheduleNextCommand(open))
	return cmd
}

// opener calls f with the schedules of this Redis, and of a file.
type opener func(context.Context, func(context.Context, *scheduler.Store, scheduler.Opener) error) error

func (a *app) withSchedules(ctx context.Context, file string, f func(context.Context, *scheduler.Store, scheduler.Opener) error) error {
	var cfg settings
	if err := env.ProcessFrom(ctx, a.variables(), &cfg.Redis, &cfg.Scheduler); err != nil {
		return usageError{a.byFlag(err)}
	}
	if file != "" {
		cfg.Scheduler.SchedulesFile = file
	}
	rdb, err := cfg.Redis.Client()
	if err != nil {
		return usageError{a.byFlag(err)}
	}
	defer rdb.Close()
	cfg.Scheduler.Streams.PublishTimeout = a.timeout
	s, err := scheduler.New(rdb, cfg.Scheduler)
	if err != nil {
		return err
	}
	if err := s.ReadSchedules(); err != nil {
		return usageError{scheduleFaults(err)}
	}
	ctx, cancel := a.requestContext(ctx)
	defer cancel()
	return f(ctx, s.Store(), func(name string) (*stream.Stream, error) { return stream.New(rdb, name, cfg.Scheduler.Streams) })
}

// scheduleFaults lists what is wrong with schedules, a line each.
func scheduleFaults(err error) error {
	list, ok := errors.AsType[*multierror.Error](err)
	if !ok {
		return err
	}
	lines := make([]string, len(list.Errors))
	for i, fault := range list.Errors {
		lines[i] = "\n  " + fault.Error()
	}
	before, _, _ := strings.Cut(err.Error(), list.Error())
	return errors.New(before + plural(int64(len(lines)), "fault") + strings.Join(lines, ""))
}

// faultLine is scheduleFaults in one line.
func faultLine(err error) string {
	if list, ok := errors.AsType[*multierror.Error](err); ok {
		err = oneLine(list.Errors)
	}
	return err.Error()
}

// noSchedule says it in a person's words when there is no such schedule.
func noSchedule(name string, err error) error {
	if errors.Is(err, stream.ErrNotFound) {
		return fmt.Errorf("there is no schedule %s\n  penstock schedule ls shows those there are", name)
	}
	return err
}

// scheduleJSON is a schedule as --json writes it.
type scheduleJSON struct {
	Name string `json:"name"`
	scheduler.Status
	Spec  *scheduler.Spec `json:"spec,omitempty"`
	Error string          `json:"error,omitempty"`
}

func scheduleObject(s scheduler.Status) scheduleJSON {
	out := scheduleJSON{Name: s.Schedule.Name, Status: s}
	if s.Schedule.Stream != nil {
		if spec, err := scheduler.SpecOf(s.Schedule); err == nil {
			out.Spec = &spec
		}
	}
	if s.Err != nil {
		out.Error = faultLine(s.Err)
	}
	return out
}

func (a *app) scheduleLsCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List schedules with their last and next tick",
		Long: `List schedules with their last and next tick, and the state of the last job. With --json,
one object a line. One that is not in force is listed with the reason ("error" in JSON), and
the exit status is then 1.`,
		Example: "  penstock schedule ls\n  penstock schedule ls --json | jq -r 'select(.paused) | .name'",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return open(cmd.Context(), func(ctx context.Context, store *scheduler.Store, _ scheduler.Opener) error {
				list, err := store.List(ctx)
				if err != nil {
					return err
				}
				return a.listSchedules(list, time.Now())
			})
		},
	}
}

func (a *app) listSchedules(list []scheduler.Status, now time.Time) error {
	var failed error
	rows := make([][]string, 0, len(list))
	for _, s := range list {
		if s.Err != nil {
			failed = errReported
		}
		if a.json {
			if err := a.printJSON(scheduleObject(s)); err != nil {
				return err
			}
			continue
		}
		if s.Err != nil {
			rows = append(rows, []string{s.Schedule.Name, "error", "–", "–", "–", faultLine(s.Err)})
			continue
		}
		job := "–"
		if s.Job != "" {
			job = stateText(s.State)
		}
		rows = append(rows, []string{s.Schedule.Name, timing(s.Schedule), s.Schedule.Stream.Name(), lastText(s, now), nextText(s, now), job})
	}
	switch {
	case a.json:
		return failed
	case len(rows) == 0:
		return a.printf("no schedules yet: penstock schedule add NAME STREAM TYPE --cron '0 3 * * *'\n")
	}
	if err := a.table([]string{"NAME", "WHEN", "STREAM", "LAST", "NEXT", "LAST JOB"}, rows); err != nil {
		return err
	}
	return failed
}

func stateText(s stream.State) string {
	if s == "" {
		return "gone" // it has left no record
	}
	return string(s)
}

func lastText(s scheduler.Status, now time.Time) string {
	if s.Last.IsZero() {
		return "–"
	}
	text := ago(s.Last, now)
	if s.Outcome != "published" {
		text += ", " + outcomeText(s.Outcome)
	}
	return text
}

// outcomeText is what became of a tick, for people.
func outcomeText(outcome string) string {
	if outcome == "stands" {
		return "another job stands for it"
	}
	return outcome
}

func nextText(s scheduler.Status, now time.Time) string {
	switch {
	case s.Paused:
		return "paused"
	case s.Next.IsZero():
		return "never"
	}
	return ago(s.Next, now)
}

// timing is when a schedule fires, in short.
func timing(s scheduler.Schedule) string {
	var parts []string
	switch {
	case s.Cron != "":
		parts = append(parts, s.Cron)
	case s.Every > 0:
		parts = append(parts, "every "+short(s.Every))
	default:
		f := s.Fields
		for _, field := range []struct {
			name   string
			values []string
		}{
			{"month", texts(f.Month)}, {"day", texts(f.Day)}, {"weekday", f.Weekday}, {"hour", texts(f.Hour)}, {"minute", texts(f.Minute)}, {"second", texts(f.Second)},
		} {
			if len(field.values) > 0 {
				parts = append(parts, field.name+" "+strings.Join(field.values, ","))
			}
		}
	}
	if s.Zone != "" {
		parts = append(parts, s.Zone)
	}
	return strings.Join(parts, " ")
}

func texts(numbers []int) []string {
	out := make([]string, len(numbers))
	for i, n := range numbers {
		out[i] = strconv.Itoa(n)
	}
	return out
}

func (a *app) scheduleShowCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a schedule, its last and next tick, and its last job",
		Long:    "Show a schedule: when it fires, its last and next tick, its last job, and all its settings in text.",
		Example: "  penstock schedule show cleanup\n  penstock schedule show cleanup --json | jq .spec",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			return open(cmd.Context(), func(ctx context.Context, store *scheduler.Store, _ scheduler.Opener) error {
				s, err := store.Show(ctx, list[0])
				if err != nil {
					return noSchedule(list[0], err)
				}
				return a.showSchedule(s, time.Now())
			})
		},
	}
}

func (a *app) showSchedule(s scheduler.Status, now time.Time) error {
	if a.json {
		if err := a.printJSON(scheduleObject(s)); err != nil {
			return err
		}
		if s.Err != nil {
			return errReported
		}
		return nil
	}
	if s.Err != nil {
		return scheduleFaults(s.Err)
	}
	spec, err := scheduler.SpecOf(s.Schedule)
	if err != nil {
		return err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	in := "in force"
	if s.Paused {
		in = a.color(yellow, "paused")
	}
	lines := [][2]string{
		{"schedule", a.color(bold, safe(s.Schedule.Name)) + "  " + in + ", from " + safe(s.Origin)},
		{"when", safe(timing(s.Schedule))},
		{"publishes", safe(s.Schedule.Job.Type) + " to " + safe(s.Schedule.Stream.Name())},
	}
	if !s.Last.IsZero() {
		lines = append(lines, [2]string{"last", tickLine(s.Schedule, s.Last, now) + ", " + outcomeText(s.Outcome)})
	}
	if s.Job != "" {
		lines = append(lines, [2]string{"job", safe(s.Job) + "  " + stateText(s.State)})
	}
	if !s.Next.IsZero() {
		lines = append(lines, [2]string{"next", tickLine(s.Schedule, s.Next, now)})
	}
	lines = append(lines, [2]string{"spec", safe(string(text))})
	for _, l := range lines {
		if err := a.printf("%-9s  %s\n", l[0], l[1]); err != nil {
			return err
		}
	}
	return nil
}

// tickLine is a tick in the schedule's zone and in UTC, and how far it is away.
func tickLine(s scheduler.Schedule, tick, now time.Time) string {
	zone, err := time.LoadLocation(s.Zone) // "" is UTC
	if err != nil {
		zone = time.UTC
	}
	local, utc := tick.In(zone), tick.UTC()
	layout := "15:04"
	if tick.Second() != 0 {
		layout = time.TimeOnly
	}
	const day = "Mon 2006-01-02 "
	text := local.Format(day+layout) + " " + zone.String()
	if zone != time.UTC {
		other := utc.Format(layout)
		if utc.Day() != local.Day() {
			other = utc.Format(day + layout)
		}
		text += "   " + other + " UTC"
	}
	return text + "   " + ago(tick, now)
}

func (a *app) scheduleNextCommand(open opener) *cobra.Command {
	n := 5
	cmd := &cobra.Command{
		Use:     "next NAME",
		Short:   "Show the next ticks of a schedule, in its zone and in UTC",
		Long:    "Show the next ticks of a schedule, in its zone and in UTC. With --json, one object a line.",
		Example: "  penstock schedule next weekday-report -n 2",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if n < 1 || n > 1000 {
				return usagef("-n must be between 1 and 1000")
			}
			return open(cmd.Context(), func(ctx context.Context, store *scheduler.Store, _ scheduler.Opener) error {
				s, err := store.Show(ctx, list[0])
				if err != nil {
					return noSchedule(list[0], err)
				}
				if s.Err != nil {
					return scheduleFaults(s.Err)
				}
				return a.nextTicks(s, n, time.Now())
			})
		},
	}
	cmd.Flags().IntVarP(&n, "number", "n", n, "how many")
	return cmd
}

// tickJSON is one tick as `schedule next --json` writes it.
type tickJSON struct {
	Tick  time.Time `json:"tick"`
	Local time.Time `json:"local"`
}

func (a *app) nextTicks(s scheduler.Status, n int, now time.Time) error {
	if s.Paused && !a.json {
		if err := a.printf("%s is paused; it would fire at\n", safe(s.Schedule.Name)); err != nil {
			return err
		}
	}
	some := false
	for tick := range s.Schedule.Ticks(now) {
		var err error
		if a.json {
			err = a.printJSON(tickJSON{tick.UTC(), tick})
		} else {
			err = a.printf("%s\n", tickLine(s.Schedule, tick, now))
		}
		if err != nil {
			return err
		}
		some = true
		if n--; n == 0 {
			break
		}
	}
	if !some && !a.json {
		return a.printf("%s fires no more\n", safe(s.Schedule.Name))
	}
	return nil
}

// changedJSON is what became of a schedule, as --json writes it.
type changedJSON struct {
	Name string `json:"name"`
	Done string `json:"done"`
}

func (a *app) scheduleChangeCommand(open opener, verb, done, about, long string, change func(*scheduler.Store, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " NAME…",
		Short:   about,
		Long:    long,
		Example: "  penstock schedule " + verb + " cleanup",
		Args:    args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			return open(cmd.Context(), func(ctx context.Context, store *scheduler.Store, _ scheduler.Opener) error {
				var errs []error
				for _, name := range list {
					err := change(store, ctx, name)
					switch {
					case err != nil && ctx.Err() != nil:
						return err
					case err != nil:
						errs = append(errs, noSchedule(name, err))
						continue
					case a.json:
						err = a.printJSON(changedJSON{name, done})
					default:
						err = a.printf("%s  %s\n", safe(name), done)
					}
					if err != nil {
						return err
					}
				}
				return errors.Join(errs...)
			})
		},
	}
}

// runJSON is the job of `schedule run`, as --json writes it.
type runJSON struct {
	ID        string `json:"id"`
	Duplicate bool   `json:"duplicate"` // no job was stored: this one has the unique key
}

func (a *app) scheduleRunCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "run NAME",
		Short: "Publish a schedule's job now",
		Long: `Publish a schedule's job now, whether it is paused or not. Its ticks are as before; where they
are skipped while the last job is unfinished, this one is the last.`,
		Example: "  penstock schedule run cleanup",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			return open(cmd.Context(), func(ctx context.Context, store *scheduler.Store, _ scheduler.Opener) error {
				id, published, err := store.RunNow(ctx, list[0])
				switch {
				case err != nil:
					return explain(noSchedule(list[0], err), false)
				case a.json:
					return a.printJSON(runJSON{id, !published})
				case !published:
					return a.printf("%s  %s  stands: it has the job's unique key\n", safe(id), a.color(yellow, "duplicate"))
				}
				return a.printf("%s  published\n", safe(id))
			})
		},
	}
}
