package scheduler

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/go-multierror"
	"github.com/netresearch/go-cron"
)

const maxCron = 512 // bytes of an expression

var cronFields = []string{"second", "minute", "hour", "day of month", "month", "day of week"}

// parseCron reads a cron expression. All that is wrong comes at once.
func parseCron(text string) (sets, error) {
	expr := strings.TrimSpace(text)
	name, _, _ := strings.Cut(expr, " ")
	switch {
	case len(text) > maxCron:
		return sets{}, fmt.Errorf("has %d bytes, at most %d are allowed", len(text), maxCron)
	case name == "@every":
		return sets{}, errors.New("@every is a schedule of its own: use Every, in a file every, instead of Cron")
	case name == "@reboot":
		return sets{}, errors.New("@reboot has no meaning where any number of schedulers run: publish the job")
	case strings.HasPrefix(name, "TZ=") || strings.HasPrefix(name, "CRON_TZ="):
		return sets{}, errors.New("the time zone has a place of its own: Zone")
	case strings.HasPrefix(name, "@"):
		full, ok := nicknames[strings.ToLower(expr)]
		if !ok {
			return sets{}, errors.New("must be one of @yearly, @annually, @monthly, @weekly, @daily, @midnight and @hourly")
		}
		expr = full
	}
	fields := strings.Fields(expr)
	switch len(fields) {
	case 5:
		fields = append([]string{"0"}, fields...)
	case 6:
	default:
		return sets{}, fmt.Errorf("has %d fields, it must have five (minute, hour, day of month, month, day of week), or six with seconds first", len(fields))
	}
	var s sets
	var week uint64
	var faults *multierror.Error
	for i, into := range []*uint64{&s.second, &s.minute, &s.hour, &s.day, &s.month, &week} {
		var err error
		if *into, err = parseCronField(i, fields[i]); err != nil {
			faults = multierror.Append(faults, fmt.Errorf("%s %w", cronFields[i], err))
		}
	}
	if faults != nil {
		return sets{}, errors.New(oneLine(faults.Errors))
	}
	s.setWeek(week)
	s.either = !star(fields[3]) && !star(fields[5])
	return s, nil
}

var nicknames = map[string]string{
	"@yearly":   "0 0 1 1 *",
	"@annually": "0 0 1 1 *",
	"@monthly":  "0 0 1 * *",
	"@weekly":   "0 0 * * 0",
	"@daily":    "0 0 * * *",
	"@midnight": "0 0 * * *",
	"@hourly":   "0 * * * *",
}

// star reports whether a field leaves its days open, by the rule of Vixie cron.
func star(field string) bool { return field[0] == '*' || field[0] == '?' }

var cronParser = cron.MustNewParser(cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

// parseCronField reads one field, the others being open.
func parseCronField(i int, field string) (uint64, error) {
	for part := range strings.SplitSeq(field, ",") {
		// The parser passes over empty parts and reads +5 as 5, and in a week that wraps around it counts sunday twice.
		span, _, step := strings.Cut(part, "/")
		low, high, ranged := strings.Cut(span, "-")
		switch {
		case part == "":
			return 0, fmt.Errorf("%q has an empty part", field)
		case strings.ContainsFunc(part, func(r rune) bool { return !strings.ContainsRune("*?/-", r) && !alphanumeric(r) }):
			return 0, fmt.Errorf("%q: only numbers, names, '*', '-', '/' and ',' are known here", part)
		case i == 5 && ranged && step && weekdayOf(low) > weekdayOf(high):
			return 0, fmt.Errorf("%q: a range around the end of the week takes no step: list the days", part)
		}
	}
	all := [6]string{"*", "*", "*", "*", "*", "*"}
	all[i] = field
	parsed, err := cronParser.Parse(strings.Join(all[:], " "))
	if err != nil {
		return 0, err
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return 0, fmt.Errorf("%q is not understood", field)
	}
	const values = 1<<60 - 1 // the parser marks '*' in a higher bit
	return [6]uint64{spec.Second, spec.Minute, spec.Hour, spec.Dom, spec.Month, spec.Dow}[i] & values, nil
}

// weekdayOf is the number of a weekday in a cron field; what is none is for the parser to say.
func weekdayOf(s string) int {
	for i, name := range weekdays {
		if strings.EqualFold(s, name) {
			return i
		}
	}
	if len(s) == 1 && s[0] >= '0' && s[0] <= '7' {
		return int(s[0] - '0')
	}
	return 0
}

func alphanumeric(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

// oneLine joins errors to one sentence.
func oneLine(errs []error) string {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}
