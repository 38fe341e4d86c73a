package env

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/penstock-go/penstock/stream"
)

// format writes a list of faults as a table of name, value and hint; one
// variable that is not set takes a sentence of its own.
func format(errs []error) string {
	if len(errs) == 1 {
		if f, ok := errors.AsType[*stream.ConfigError](errs[0]); ok && f.Value == "" {
			return fmt.Sprintf("%s is not set\n  %s", name(f), f.Hint)
		}
	}
	var b strings.Builder
	if len(errs) == 1 {
		b.WriteString("1 setting is wrong")
	} else {
		fmt.Fprintf(&b, "%d settings are wrong", len(errs))
	}
	var names, values int
	for _, err := range errs {
		if f, ok := errors.AsType[*stream.ConfigError](err); ok {
			names, values = max(names, utf8.RuneCountInString(name(f))), max(values, utf8.RuneCountInString(value(f)))
		}
	}
	for _, err := range errs {
		if f, ok := errors.AsType[*stream.ConfigError](err); ok {
			fmt.Fprintf(&b, "\n  %-*s  %-*s  %s", names, name(f), values, value(f), f.Hint)
		} else {
			fmt.Fprintf(&b, "\n  %s", err)
		}
	}
	return b.String()
}

// maxShown is how much of a value is shown: enough to recognize it.
const maxShown = 60

func name(f *stream.ConfigError) string {
	if f.Env == "" {
		return f.Field
	}
	return f.Env
}

func value(f *stream.ConfigError) string {
	if f.Value == "" {
		return "(not set)"
	}
	v := f.Value
	if strings.IndexFunc(v, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
		v = strconv.Quote(v)
	}
	if utf8.RuneCountInString(v) > maxShown {
		v = string([]rune(v)[:maxShown-1]) + "…"
	}
	return v
}
