// Package env reads settings from environment variables into the Config
// structs of stream, consumer and scheduler, by the `env:"…"` tags of their fields.
//
// go-envconfig's own Process reads the same tags. Process here adds what tags
// alone can't say: every fault is reported at once, each by variable, value
// and hint; "off" is stream.None; and a 0 is refused where it would quietly
// mean the default.
package env

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/hashicorp/go-multierror"
	"github.com/sethvargo/go-envconfig"

	"github.com/penstock-go/penstock/stream"
)

// Process fills each target, a pointer to a struct, from the environment, and
// then calls its Validate method where it has one. A variable that is empty or
// unset leaves its field alone, and so does a field that is set already.
//
// The error is a *multierror.Error that holds a *stream.ConfigError for each
// variable that can't be used, and what Validate returned. Targets keep what
// could be read.
func Process(ctx context.Context, targets ...any) error {
	return ProcessFrom(ctx, envconfig.OsLookuper(), targets...)
}

// ProcessFrom is Process with variables from anywhere.
func ProcessFrom(ctx context.Context, l envconfig.Lookuper, targets ...any) error {
	var errs []error
	for _, target := range targets {
		v := reflect.ValueOf(target)
		if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
			return fmt.Errorf("env: target %T is no pointer to a struct", target)
		}
		vars := variables{good: make(map[string]string), written: make(map[string]string)}
		errs = append(errs, vars.read(l, v.Elem().Type())...)
		if err := envconfig.ProcessWith(ctx, &envconfig.Config{Target: target, Lookuper: envconfig.MapLookuper(vars.good)}); err != nil {
			errs = append(errs, err)
		}
		if c, ok := target.(interface{ Validate() error }); ok {
			errs = append(errs, vars.asWritten(c.Validate())...)
		}
	}
	return Join(errs...)
}

// variables that were read.
type variables struct {
	good    map[string]string // that can be used, in the form that go-envconfig reads
	written map[string]string // as they were written, without the secret ones
}

// read goes through the fields of a struct and those of its structs.
func (vars variables) read(l envconfig.Lookuper, t reflect.Type) []error {
	var errs []error
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("env"), ",")
		if name == "" && f.Type.Kind() == reflect.Struct {
			errs = append(errs, vars.read(l, f.Type)...)
		}
		if name == "" || name == "-" {
			continue
		}
		raw, _ := l.Lookup(name)
		value := strings.TrimSpace(raw)
		if value == "" {
			continue
		}
		shown := value
		if f.Type.Kind() == reflect.String {
			value = raw // blanks may be part of a password
		}
		if f.Tag.Get("secret") != "" {
			shown = Hidden
		} else {
			vars.written[name] = shown
		}
		good, hint := normal(f, value)
		if hint == "" {
			vars.good[name] = good
		} else {
			errs = append(errs, &stream.ConfigError{Field: f.Name, Env: name, Value: shown, Hint: hint})
		}
	}
	return errs
}

// asWritten puts what was written into the faults that Validate found: 90s, where it says 1m30s.
func (vars variables) asWritten(err error) []error {
	errs := flatten([]error{err})
	for i, err := range errs {
		if fault, ok := errors.AsType[*stream.ConfigError](err); ok && vars.written[fault.Env] != "" {
			fault := *fault
			fault.Value = vars.written[fault.Env]
			errs[i] = &fault
		}
	}
	return errs
}

// Hidden stands for a secret.
const Hidden = "xxxxx"

// Join makes one list of several errors, which may be lists themselves, or nil
// when there are none. Of several faults of one variable it keeps the first.
// The list is written as an aligned table.
func Join(errs ...error) error {
	var list *multierror.Error
	seen := make(map[string]bool)
	for _, err := range flatten(errs) {
		if fault, ok := errors.AsType[*stream.ConfigError](err); ok && fault.Env != "" {
			if seen[fault.Env] {
				continue
			}
			seen[fault.Env] = true
		}
		list = multierror.Append(list, err)
	}
	if list != nil {
		list.ErrorFormat = format
	}
	return list.ErrorOrNil()
}

func flatten(errs []error) []error {
	var flat []error
	for _, err := range errs {
		if err == nil {
			continue
		}
		if list, ok := err.(*multierror.Error); ok { //nolint:errorlint // a list that is wrapped is one error, with its wrapping
			flat = append(flat, flatten(list.Errors)...)
			continue
		}
		flat = append(flat, err)
	}
	return flat
}
