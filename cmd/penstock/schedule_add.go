package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/penstock-go/penstock/scheduler"
)

// specFlags are the flags of `schedule add` by the keys of a schedule in text.
var specFlags = []struct {
	flag, key, about string
	check            func(string) error // what is wrong with the text, where that is known without the rest
}{
	{"cron", "cron", "when: a cron `EXPR` of five or six fields, or a name such as @daily", nil},
	{"every", "every", "when: each multiple of a `DURATION`, as in 90s", isDuration},
	{"zone", "zone", "time `ZONE` of the schedule, as in Europe/Berlin (default: UTC)", nil},
	{"jitter", "jitter", "publish each tick up to a `DURATION` later", isDuration},
	{"start", "start", "no tick before this `TIME`, as in 2006-01-02T15:04:05Z", isTime},
	{"end", "end", "no tick after this `TIME`", isTime},
	{"overlap", "overlap", "`WHAT` happens while the last job is unfinished: allow or skip (default: allow)", nil},
	{"missed", "missed", "`WHAT` happens to missed ticks, as in skip, \"once within 1h\" or \"all limit 50\" (default: once)", isMissed},
	{"delay", "delay", "the job runs a `DURATION` after its tick", isDuration},
	{"expires-in", "expires_in", "dead-letter the job when it has not started a `DURATION` after its tick", isDuration},
	{"job-timeout", "timeout", "how long one run may take, a `DURATION` or off (default: the worker's)", isDuration},
	{"keep-result", "keep_result", "how long the record of the job is kept, a `DURATION` or off (default: the worker's)", isDuration},
	{"unique", "unique", "`KEY` that only one job at a time has", nil},
	{"unique-until", "unique_until", "when the key is free again: done, started, or after a `DURATION` (default: done)", nil},
	{"on-conflict", "on_conflict", "`WHAT` happens when another job has the key: keep, replace or coalesce (default: keep)", nil},
}

func isDuration(text string) error { return new(scheduler.Duration).UnmarshalText([]byte(text)) }
func isMissed(text string) error   { return new(scheduler.Missed).UnmarshalText([]byte(text)) }

func isTime(text string) error {
	if text == "" {
		return errors.New("is empty")
	}
	_, err := parseTime(text)
	return err
}

// fieldFlags are those that take several numbers.
var fieldFlags = []string{"month", "day", "hour", "minute", "second"}

func (a *app) scheduleAddCommand(open opener) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add NAME STREAM TYPE [DATA|-|@FILE] --cron EXPR | --every DURATION | --hour N…",
		Short: "Make a schedule, or change one",
		Long: `Make a schedule that is kept in Redis, or give one of that name other settings: all of them,
those of flags that are not given too. It is in force from now on; ticks before are not made up for.

Its job is published at each tick, with the data DATA, standard input with -, or a file with @FILE.
When is told by --cron, by --every, or by --month, --day, --weekday, --hour, --minute and --second,
of which all that are given must match; one that is finer than the finest given is 0.`,
		Example: `  penstock schedule add cleanup reports sessions.cleanup --cron '0 3 * * *'
  penstock schedule add weekday-report reports report.build '{"day":"today"}' \
    --weekday mon,tue,wed,thu,fri --hour 9 --zone Europe/Berlin --overlap skip
  penstock schedule add poll pings poll --every 90s --jitter 10s --expires-in 1m`,
		Args: args(cobra.RangeArgs(3, 4)),
		RunE: func(cmd *cobra.Command, list []string) error {
			spec, err := specOf(cmd.Flags(), list)
			if err != nil {
				return usageError{err}
			}
			if len(list) > 3 {
				if spec.DataBase64, err = a.data(cmd.Context(), list[3]); err != nil {
					return err
				}
			}
			return open(cmd.Context(), func(ctx context.Context, store *scheduler.Store, streams scheduler.Opener) error {
				sc, err := spec.Schedule(streams)
				if err != nil {
					return usageError{scheduleFaults(err)}
				}
				if err := store.Put(ctx, sc); err != nil {
					return err
				}
				s, err := store.Show(ctx, sc.Name)
				switch {
				case err != nil:
					return err
				case a.json:
					return a.printJSON(scheduleObject(s))
				}
				return a.printf("%s  %s  next %s\n", safe(sc.Name), a.color(green, "kept"), nextLine(s, time.Now()))
			})
		},
	}
	flags := cmd.Flags()
	for _, f := range specFlags {
		flags.String(f.flag, "", f.about)
	}
	for _, name := range fieldFlags {
		flags.IntSlice(name, nil, "when: a `LIST` of "+name+"s, as in 0,30")
	}
	flags.StringSlice("weekday", nil, "when: a `LIST` of weekdays by name, as in mon,fri")
	flags.Int("max-tries", 0, "how many runs may end in an error (default: the worker's)")
	flags.Bool("unique-by-data", false, "only one job of this type and data at a time")
	flags.StringArray("header", nil, "`NAME=VALUE` that travels with the job; can be repeated")
	flags.SortFlags = false
	return cmd
}

func nextLine(s scheduler.Status, now time.Time) string {
	if s.Next.IsZero() {
		return nextText(s, now)
	}
	return tickLine(s.Schedule, s.Next, now)
}

// specOf is the schedule in text that the flags and arguments say.
func specOf(flags *pflag.FlagSet, list []string) (scheduler.Spec, error) {
	keys := map[string]any{"name": list[0], "stream": list[1], "type": list[2]}
	var errs []error
	for _, f := range specFlags {
		if !flags.Changed(f.flag) {
			continue
		}
		text, _ := flags.GetString(f.flag)
		if f.check != nil {
			if err := f.check(text); err != nil {
				errs = append(errs, fmt.Errorf("--%s %w", f.flag, err))
			}
		}
		keys[f.key] = text
	}
	for _, name := range fieldFlags {
		if flags.Changed(name) {
			keys[name], _ = flags.GetIntSlice(name)
		}
	}
	if flags.Changed("weekday") {
		keys["weekday"], _ = flags.GetStringSlice("weekday")
	}
	if flags.Changed("max-tries") {
		n, _ := flags.GetInt("max-tries")
		if n < 1 {
			errs = append(errs, errors.New("--max-tries must be at least 1"))
		}
		keys["max_tries"] = n
	}
	if flags.Changed("unique-by-data") {
		keys["unique_by_data"], _ = flags.GetBool("unique-by-data")
	}
	headers, _ := flags.GetStringArray("header")
	header, err := parseHeader(headers)
	if err != nil {
		errs = append(errs, fmt.Errorf("--header %w", err))
	}
	if err := oneLine(errs); err != nil {
		return scheduler.Spec{}, err
	}
	if header != nil {
		keys["header"] = header
	}
	text, err := json.Marshal(keys)
	if err != nil {
		return scheduler.Spec{}, err
	}
	return scheduler.ParseSpec(text)
}
