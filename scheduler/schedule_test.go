package scheduler_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
)

func newOffline(t testing.TB, cfg stream.Config) *stream.Stream {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() { _ = rdb.Close() })
	s, err := stream.New(rdb, "orders", cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestValidate(t *testing.T) {
	t.Parallel()
	good := scheduler.Schedule{Name: "a", Cron: "@daily", Stream: newOffline(t, stream.Config{}), Job: stream.Job{Type: "t"}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		spoil func(*scheduler.Schedule)
		want  []string // Field, and what the hint begins with
	}{
		{"nothing given", func(s *scheduler.Schedule) { *s = scheduler.Schedule{} }, []string{
			"Name is missing", "Cron is missing: give Cron, Every or Fields", "Stream is missing", "Job.Type is empty",
		}},
		{"two forms", func(s *scheduler.Schedule) { s.Every = time.Second }, []string{"Cron give only one"}},
		{"long name", func(s *scheduler.Schedule) { s.Name = strings.Repeat("a", 65) }, []string{"Name has 65 bytes"}},
		{"name of no text", func(s *scheduler.Schedule) { s.Name = "\xff" }, []string{"Name must be valid UTF-8"}},
		{"spaces in the name", func(s *scheduler.Schedule) { s.Name = "a b" }, []string{"Name must not contain"}},
		{"often", func(s *scheduler.Schedule) { s.Cron, s.Every = "", time.Millisecond }, []string{"Every must be whole seconds"}},
		{"local", func(s *scheduler.Schedule) { s.Zone = "Local" }, []string{"Zone must be the name of a time zone"}},
		{"fields", func(s *scheduler.Schedule) {
			s.Cron, s.Fields = "", scheduler.Fields{Month: []int{13}, Day: []int{0}, Weekday: []string{"monday"}, Hour: []int{-1}, Minute: []int{60}, Second: []int{60}}
		}, []string{
			"Fields.Month must be between 1 and 12", "Fields.Day must be between 1 and 31", "Fields.Hour must be", "Fields.Minute must be", "Fields.Second must be",
			"Fields.Weekday must be one of mon",
		}},
		{"missed", func(s *scheduler.Schedule) {
			s.Missed = scheduler.Missed{Policy: "x", Within: time.Second, Limit: 1001}
		}, []string{
			"Missed.Policy must be", "Missed.Within must be between 1m and 8784h", "Missed.Limit must be between 1 and 1000", "Missed.Limit is for the policy all",
		}},
		{"jitter", func(s *scheduler.Schedule) { s.Jitter = -1 }, []string{"Jitter must be positive"}},
		{"overlap", func(s *scheduler.Schedule) { s.Overlap = "x" }, []string{"Overlap must be allow or skip"}},
		{"what follows from the tick", func(s *scheduler.Schedule) {
			s.Job.ID, s.Job.At, s.Job.ExpiresAt = "x", time.Unix(1e9, 0), time.Unix(1e9, 0)
		}, []string{"Job.ID is made of", "Job.At follows from", "Job.ExpiresAt use ExpiresIn"}},
		{"job options", func(s *scheduler.Schedule) {
			s.Job = stream.Job{
				Type: "", Delay: -1, MaxTries: -1, Timeout: -2, KeepResult: -2, Backoff: stream.Backoff{Factor: 0.5},
				Unique: stream.Unique{Key: "a b"}, Header: map[string]string{"a": "\xff"}, Data: make(chan int),
			}
		}, []string{
			"Job.Type is empty", "Job.Delay is negative", "Job.MaxTries is negative", "Job.Timeout is negative", "Job.Backoff Factor must be",
			"Job.KeepResult is negative", "Job.Unique Unique.Key", "Job.Header", "Job.Data cannot be encoded",
		}},
		{"expired before it is due", func(s *scheduler.Schedule) { s.Job.Delay, s.ExpiresIn = time.Hour, time.Minute }, []string{"ExpiresIn must be more than the job's delay"}},
		{"a key until done, of events", func(s *scheduler.Schedule) {
			s.Stream, s.Job.Unique.Key = newOffline(t, stream.Config{Kind: stream.KindEvents}), "k"
		}, []string{"Job.Unique on an events stream"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := good
			test.spoil(&s)
			err := s.Validate()
			list, ok := errors.AsType[*multierror.Error](err)
			if !ok {
				t.Fatalf("Validate = %v", err)
			}
			var got []string
			for _, err := range list.Errors {
				fault, ok := errors.AsType[*scheduler.Fault](err)
				if !ok || fault.Schedule != s.Name || !errors.Is(err, stream.ErrInvalid) {
					t.Fatalf("%#v is no fault of the schedule", err)
				}
				got = append(got, fault.Field+" "+fault.Hint)
			}
			if !slices.EqualFunc(got, test.want, strings.HasPrefix) {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

func TestCronFaults(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string]string{
		"* * * *":                               "has 4 fields",
		"* * * * * * *":                         "has 7 fields",
		"@reboot":                               "@reboot has no meaning",
		"@every 5m":                             "use Every",
		"@fortnightly":                          "must be one of @yearly",
		"TZ=UTC * * * * *":                      "Zone",
		"CRON_TZ=UTC * * * * *":                 "Zone",
		"60 * * * *":                            "minute",
		"* 24 * * *":                            "hour",
		"* * 0 * *":                             "day of month",
		"* * 32 * *":                            "day of month",
		"* * * 13 *":                            "month",
		"* * * * 8":                             "day of week",
		"* * * foo *":                           "month",
		"* * * * mond":                          "day of week",
		"60 * * * * *":                          "second",
		"*/0 * * * *":                           "minute",
		"*/61 * * * *":                          "minute",
		"1,,2 * * * *":                          "empty part",
		", * * * *":                             "empty part",
		"+5 * * * *":                            "only numbers",
		"-5 * * * *":                            "minute",
		"5- * * * *":                            "minute",
		"1-2-3 * * * *":                         "minute",
		"1/2/3 * * * *":                         "minute",
		"* * L * *":                             "day of month",
		"* * 15W * *":                           "day of month",
		"* * * * fri#2":                         "only numbers",
		"H * * * *":                             "minute",
		"* * * * fri-mon/2":                     "takes no step",
		"99999999999999999999 * * * *":          "minute",
		strings.Repeat("1,", 300) + "1 * * * *": "bytes",
		"0 0 30 feb *":                          "no such day",
		"0 0 31 4,6,9,11 *":                     "no such day",
	} {
		err := scheduler.Schedule{Name: "a", Cron: expr}.Validate()
		list, ok := errors.AsType[*multierror.Error](err)
		found := ok && slices.ContainsFunc(list.Errors, func(err error) bool {
			fault, ok := errors.AsType[*scheduler.Fault](err)
			return ok && fault.Field == "Cron" && strings.Contains(fault.Hint, want)
		})
		if !found {
			t.Errorf("%q: %v, want a fault of Cron with %q", expr, err, want)
		}
	}
}

// FuzzCron: what is taken has ticks, in order, at times whose second the schedule has; nothing panics or runs for long.
func FuzzCron(f *testing.F) {
	for _, expr := range []string{"* * * * *", "0,30 9-17/2 * jan-mar,12 mon-fri", "*/5 1 2 3 29 2 *", "@weekly", "0 0 29 2 *", "? ? ? ? ?", "1/2 22-3 25-5/3 nov-feb sat-sun"} {
		f.Add(expr, "Europe/Berlin", int64(1774747800))
	}
	f.Fuzz(func(t *testing.T, expr, zone string, after int64) {
		s := scheduler.Schedule{Name: "a", Cron: expr, Zone: zone}
		last := time.Unix(after, 0)
		n := 0
		for tick := range s.Ticks(last) {
			if !tick.After(last) || tick.Nanosecond() != 0 {
				t.Fatalf("%q in %q: %s follows %s", expr, zone, tick, last)
			}
			last = tick
			if n++; n == 50 {
				break
			}
		}
	})
}

// FuzzParseFile: nothing panics, and what is taken can be written as JSON and read again.
func FuzzParseFile(f *testing.F) {
	f.Add(everything)
	f.Add("schedules:\n  - &a {name: a, stream: s, type: t, every: 1s, data: [*a, !!binary aGk=, 0x1f, 1_000, .inf]}")
	open := opener(f)
	f.Fuzz(func(t *testing.T, file string) {
		list, err := scheduler.ParseFile([]byte(file), open)
		if err != nil && !errors.Is(err, stream.ErrInvalid) {
			t.Fatalf("%v is no ErrInvalid", err)
		}
		for _, s := range list {
			again := rewrite(t, s, open)
			if a, b := wire(t, again.Job.Data), wire(t, s.Job.Data); a != b {
				t.Fatalf("the payload %q is read again as %q", b, a)
			}
		}
	})
}

func FuzzParseSpec(f *testing.F) {
	f.Add(`{"name":"a","stream":"s","type":"t","every":"90s","missed":"all within 6h limit 3","retry_jitter":"off","data":{"a":"<"}}`)
	f.Add(`{"name":"a","stream":"s","type":"t","hour":[9],"weekday":["mon"],"timeout":"off","data_base64":"AAE="}`)
	open := opener(f)
	f.Fuzz(func(t *testing.T, text string) {
		spec, err := scheduler.ParseSpec([]byte(text))
		if err != nil {
			return
		}
		s, err := spec.Schedule(open)
		if err != nil {
			return
		}
		again := rewrite(t, s, open)
		if a, b := wire(t, again.Job.Data), wire(t, s.Job.Data); a != b {
			t.Fatalf("the payload %q is read again as %q", b, a)
		}
	})
}

// BenchmarkNext is the next tick of schedules near and far.
func BenchmarkNext(b *testing.B) {
	for name, s := range map[string]scheduler.Schedule{
		"every":        {Every: time.Minute},
		"minutely":     {Cron: "* * * * *"},
		"daily":        {Cron: "30 2 * * *"},
		"daily/Berlin": {Cron: "30 2 * * *", Zone: "Europe/Berlin"},
		"hours/Berlin": {Cron: "*/5 * * * *", Zone: "Europe/Berlin"},
		"leap/Berlin":  {Cron: "0 0 29 2 *", Zone: "Europe/Berlin"},
		"rare": {
			Zone:   "Europe/Berlin",
			Fields: scheduler.Fields{Month: []int{2}, Day: []int{29}, Weekday: []string{"mon"}},
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
			for b.Loop() {
				n := 0
				for range s.Ticks(from) {
					if n++; n == 100 {
						break
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/tick")
		})
	}
}
