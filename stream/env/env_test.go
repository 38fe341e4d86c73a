package env_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/sethvargo/go-envconfig"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/env"
)

type vars map[string]string

func (v vars) process(t *testing.T, targets ...any) error {
	t.Helper()
	return env.ProcessFrom(t.Context(), envconfig.MapLookuper(v), targets...)
}

func TestProcess(t *testing.T) {
	t.Parallel()
	var cfg consumer.Config
	cfg.Grace = time.Second // set by the program: stays
	err := vars{
		"PENSTOCK_MAX_JOBS":     "010",
		"PENSTOCK_JOB_TIMEOUT":  " off ",
		"PENSTOCK_KEEP_RESULT":  "90s",
		"PENSTOCK_MAX_TRIES":    "",
		"PENSTOCK_RETRY_FACTOR": "1.5",
		"PENSTOCK_RETRY_DELAY":  "1m",
		"PENSTOCK_GRACE":        "9s",
	}.process(t, &cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := consumer.Config{
		MaxJobs: 10, Timeout: stream.None, KeepResult: 90 * time.Second, Grace: time.Second,
		Backoff: stream.Backoff{Delay: time.Minute, Factor: 1.5},
	}
	if cfg.MaxJobs != want.MaxJobs || cfg.Timeout != want.Timeout || cfg.KeepResult != want.KeepResult ||
		cfg.MaxTries != 0 || cfg.Backoff != want.Backoff || cfg.Grace != want.Grace {
		t.Errorf("config = %+v\nwant     %+v", cfg, want)
	}
}

// The tags alone must do for programs that call go-envconfig themselves.
func TestTagsAlone(t *testing.T) {
	t.Parallel()
	var cfg consumer.Config
	err := envconfig.ProcessWith(t.Context(), &envconfig.Config{Target: &cfg, Lookuper: envconfig.MapLookuper(map[string]string{
		"PENSTOCK_MAX_JOBS": "7", "PENSTOCK_JOB_TIMEOUT": "300s", "PENSTOCK_RETRY_FACTOR": "1",
	})})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.MaxJobs != 7 || cfg.Timeout != 5*time.Minute || cfg.Backoff.Factor != 1 {
		t.Errorf("config = %+v", cfg)
	}
	var (
		st stream.Config
		sc scheduler.Config
	)
	for _, target := range []any{&st, &sc} {
		err := envconfig.ProcessWith(t.Context(), &envconfig.Config{Target: target, Lookuper: envconfig.MapLookuper(nil)})
		if err != nil {
			t.Fatal(err)
		}
	}
	if cfg.Logger != nil || st.Logger != nil || sc.Logger != nil {
		t.Error("a logger without a handler was made")
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, value, want string }{
		{"PENSTOCK_MAX_JOBS", "0", "must be at least 1"},
		{"PENSTOCK_MAX_JOBS", "-3", "must be at least 1"},
		{"PENSTOCK_MAX_JOBS", "many", "must be a whole number"},
		{"PENSTOCK_MAX_JOBS", "1.5", "must be a whole number"},
		{"PENSTOCK_MAX_JOBS", "99999999999999999999", "is too large"},
		{"PENSTOCK_MAX_JOBS", "200000", "must be between 1 and 100000"},
		{"PENSTOCK_MAX_JOBS", "off", "must be a whole number"},
		{"PENSTOCK_JOB_TIMEOUT", "300", `needs a unit: 300s, 300m, or "off"`},
		{"PENSTOCK_JOB_TIMEOUT", "0", `ambiguous: write "off" for no limit`},
		{"PENSTOCK_JOB_TIMEOUT", "0s", `ambiguous: write "off" for no limit`},
		{"PENSTOCK_JOB_TIMEOUT", "-1ns", `must be positive, or "off"`},
		{"PENSTOCK_KEEP_RESULT", "0", `ambiguous: write "off" to keep no results`},
		{"PENSTOCK_GRACE", "off", "must be a duration, such as 500ms, 90s, 5m or 1h30m"},
		{"PENSTOCK_GRACE", "0", "must be positive"},
		{"PENSTOCK_GRACE", "NaN", "must be a duration"},
		{"PENSTOCK_POLL_DELAY", "1ms", "must be at least 10ms"},
		{"PENSTOCK_RETRY_FACTOR", "Inf", "must be a number"},
		{"PENSTOCK_RETRY_FACTOR", "0.5", "must be between 1"},
		{"PENSTOCK_RETRY_FACTOR", "0", "ambiguous: write 1 for a fixed delay"},
		{"PENSTOCK_RETRY_JITTER", "0", `ambiguous: write "off" for no jitter`},
	} {
		err := vars{test.name: test.value}.process(t, new(consumer.Config))
		if err == nil {
			t.Errorf("%s=%s is accepted", test.name, test.value)
			continue
		}
		var list *multierror.Error
		if !errors.As(err, &list) || len(list.Errors) != 1 {
			t.Errorf("%s=%s: error %#v is not one fault", test.name, test.value, err)
			continue
		}
		fault, ok := errors.AsType[*stream.ConfigError](list.Errors[0])
		if !ok || fault.Env != test.name || fault.Value != test.value || !strings.HasPrefix(fault.Hint, test.want) {
			t.Errorf("%s=%s: fault %+v, want the hint %q", test.name, test.value, fault, test.want)
		}
		if !errors.Is(err, stream.ErrInvalid) {
			t.Errorf("%s=%s: the fault is no ErrInvalid", test.name, test.value)
		}
	}
}

// Whatever is wrong, parsed or validated, in whichever struct, comes at once.
func TestFaultsComeTogether(t *testing.T) {
	t.Parallel()
	err := vars{
		"PENSTOCK_MAX_JOBS":    "0",
		"PENSTOCK_GRACE":       "soon\nish",
		"PENSTOCK_POLL_DELAY":  "1ms",
		"PENSTOCK_KIND":        strings.Repeat("queue", 50),
		"PENSTOCK_MAX_PAYLOAD": "1GB",
	}.process(t, new(consumer.Config), new(stream.Config), new(consumer.Config))
	want := `5 settings are wrong
  PENSTOCK_MAX_JOBS     0                                                             must be at least 1
  PENSTOCK_GRACE        "soon\nish"                                                   must be a duration, such as 500ms, 90s, 5m or 1h30m
  PENSTOCK_POLL_DELAY   1ms                                                           must be at least 10ms
  PENSTOCK_MAX_PAYLOAD  1GB                                                           must be a whole number
  PENSTOCK_KIND         queuequeuequeuequeuequeuequeuequeuequeuequeuequeuequeuequeu…  must be queue or events`
	if err == nil || err.Error() != want {
		t.Errorf("error:\n%v\nwant:\n%s", err, want)
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	var cfg struct {
		Token int `env:"TOKEN" secret:"true"`
	}
	err := vars{"TOKEN": "hunter2"}.process(t, &cfg)
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), env.Hidden) {
		t.Errorf("error = %v", err)
	}
}

func TestNoStruct(t *testing.T) {
	t.Parallel()
	for _, target := range []any{nil, consumer.Config{}, new(int)} {
		if err := (vars{}).process(t, target); err == nil {
			t.Errorf("%T is accepted", target)
		}
	}
}
