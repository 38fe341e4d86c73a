package main

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/cobra"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/env"
	"github.com/penstock-go/penstock/stream/redisenv"
)

//go:generate go test -run=^TestSettingsAreCurrent$ -update .

// settingDoc is what is known of a setting without reading it. The list is made of the comments of the structs.
type settingDoc struct {
	Env     string
	Default string // for people
	Doc     string
	Secret  bool
}

// setting is one line of penstock config.
type setting struct {
	Name    string `json:"name"`
	Value   string `json:"value"` // "" where there is none
	Default string `json:"default"`
	Source  string `json:"source"` // environment, flag, default, wrong or unknown
	Doc     string `json:"doc"`
}

func (a *app) configCommand() *cobra.Command {
	var markdown bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show the effective settings",
		Long: `Show every setting: its value, its default, where the value comes from and what it is.

Settings are environment variables. Passwords are not shown. When some are wrong, all
of them are named and the exit status is 2.`,
		Example: `  penstock config
  PENSTOCK_MAX_JOBS=50 penstock config
  penstock config --json | jq -r 'select(.source == "environment") | .name'`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if markdown {
				return a.printf("%s", settingsMarkdown(settingDocs))
			}
			s, err := a.settings(cmd.Context())
			list, err := a.list(s, err)
			if perr := a.printSettings(list); perr != nil {
				return perr
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&markdown, "markdown", false, "write the documentation of the settings as a table in Markdown")
	_ = cmd.Flags().MarkHidden("markdown") // fails for a flag that does not exist
	return cmd
}

func (a *app) printSettings(list []setting) error {
	if a.json {
		for _, s := range list {
			if err := a.printJSON(s); err != nil {
				return err
			}
		}
		return nil
	}
	rows := make([][]string, len(list))
	for i, s := range list {
		value := s.Value
		if value == "" {
			value = "–"
		}
		rows[i] = []string{s.Name, cut(value, 44), s.Default, s.Source, cut(s.Doc, 72)}
	}
	return a.table([]string{"SETTING", "VALUE", "DEFAULT", "SOURCE", "WHAT IT IS"}, rows)
}

// list tells the value of each setting and where it comes from. Of what was
// wrong with the settings it leaves over what is to be reported: that REDIS_URL
// is not set can be seen.
func (a *app) list(s settings, err error) ([]setting, error) {
	wrong := make(map[string]string)
	var faults []error
	var all *multierror.Error
	errors.As(err, &all)
	for _, err := range all.WrappedErrors() {
		if fault, ok := errors.AsType[*stream.ConfigError](err); ok {
			name := fault.Env
			if name == redisFlag {
				name = redisURL
			}
			if wrong[name] = fault.Value; name == redisURL && fault.Value == "" {
				continue
			}
		}
		faults = append(faults, err)
	}
	if err = env.Join(faults...); err != nil {
		err = usageError{err}
	}

	s.Consumer, s.Stream, s.Scheduler = s.Consumer.WithDefaults(), s.Stream.WithDefaults(), s.Scheduler.WithDefaults()
	values := make(map[string]string)
	for _, target := range s.targets() {
		collect(reflect.ValueOf(target).Elem(), values)
	}
	list := make([]setting, len(settingDocs))
	for i, d := range settingDocs {
		set := setting{Name: d.Env, Value: values[d.Env], Default: d.Default, Source: "default", Doc: d.Doc}
		if strings.TrimSpace(a.env[d.Env]) != "" {
			set.Source = "environment"
		}
		if d.Env == "REDIS_URL" {
			if a.redis != "" {
				set.Source = "flag"
			}
			if set.Value != "" {
				set.Value = redisenv.Redact(set.Value)
			}
		} else if d.Secret && set.Value != "" {
			set.Value = env.Hidden
		}
		if value := wrong[d.Env]; value != "" {
			set.Value, set.Source = value, "wrong"
		}
		list[i] = set
	}
	for _, name := range a.unknown() {
		list = append(list, setting{Name: name, Value: "…", Source: "unknown", Doc: "No setting of this version"})
	}
	return list, err
}

// collect reads the fields with an env tag, as they would be written in the environment.
func collect(v reflect.Value, values map[string]string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("env"), ",")
		switch value := v.Field(i); {
		case name == "" && value.Kind() == reflect.Struct:
			collect(value, values)
		case name != "":
			values[name] = written(value, f.Tag.Get("off") != "")
		}
	}
}

func written(v reflect.Value, off bool) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		if off && x == stream.None {
			return "off"
		}
		if x == 0 {
			return "" // what has a default has it by now
		}
		return trimUnits(x.String())
	case float64:
		if off && x < 0 {
			return "off"
		}
		return strconv.FormatFloat(x, 'g', -1, 64)
	}
	if v.IsZero() {
		return ""
	}
	return fmt.Sprint(v.Interface())
}

// trimUnits writes 5m0s as 5m, and 1h0m0s as 1h.
func trimUnits(s string) string {
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// settingsMarkdown is the table of the README.
func settingsMarkdown(docs []settingDoc) string {
	var b strings.Builder
	b.WriteString("| Variable | Default | What it is |\n| --- | --- | --- |\n")
	cell := strings.NewReplacer("|", `\|`, "<", "&lt;")
	for _, d := range docs {
		fmt.Fprintf(&b, "| `%s` | %s | %s. |\n", d.Env, cell.Replace(d.Default), cell.Replace(d.Doc))
	}
	return b.String()
}
