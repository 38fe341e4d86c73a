package scheduler_test

import (
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
)

// A schedule says when by a cron expression, an interval or sets of fields, in a time zone of its own.
func ExampleSchedule() {
	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379"}) // validating needs no server
	defer rdb.Close()
	reports, err := stream.New(rdb, "reports", stream.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, s := range []scheduler.Schedule{
		{Name: "cleanup", Cron: "0 3 * * *", Stream: reports, Job: stream.Job{Type: "sessions.cleanup"}},
		{Name: "poll", Every: 90 * time.Second, Stream: reports, Job: stream.Job{Type: "poll"}},
		{
			Name: "weekly", Fields: scheduler.Fields{Weekday: []string{"mon"}, Hour: []int{9}}, Zone: "Europe/Berlin",
			Overlap: scheduler.OverlapSkip, Stream: reports, Job: stream.Job{Type: "report.build", MaxTries: 5},
		},
		{Name: "never", Cron: "0 0 30 2 *", Jitter: -1, Stream: reports, Job: stream.Job{Type: "t"}},
	} {
		if err := s.Validate(); err != nil {
			fmt.Println(err)
			continue
		}
		for tick := range s.Ticks(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)) {
			fmt.Println(s.Name, tick)
			break
		}
	}
	// Output:
	// cleanup 2026-03-02 03:00:00 +0000 UTC
	// poll 2026-03-01 12:01:30 +0000 UTC
	// weekly 2026-03-02 09:00:00 +0100 CET
	// 1 error occurred:
	// 	* schedule never: Jitter is -1ns: must be positive, at most 24h
}

// Where clocks jump forward, a time that is skipped comes at the instant of the jump; where they go back, a time that
// happens twice comes the first time.
func ExampleSchedule_Ticks() {
	s := scheduler.Schedule{Name: "nightly", Cron: "30 2 * * *", Zone: "Europe/Berlin"}
	for _, day := range []time.Time{time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC), time.Date(2026, 10, 24, 12, 0, 0, 0, time.UTC)} {
		n := 0
		for tick := range s.Ticks(day) {
			if fmt.Println(tick); n == 1 {
				break
			}
			n++
		}
	}
	// Output:
	// 2026-03-29 03:00:00 +0200 CEST
	// 2026-03-30 02:30:00 +0200 CEST
	// 2026-10-25 02:30:00 +0200 CEST
	// 2026-10-26 02:30:00 +0100 CET
}

// All that is wrong with a file is said at once, by line and key.
func ExampleParseFile() {
	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
	defer rdb.Close()
	open := func(name string) (*stream.Stream, error) { return stream.New(rdb, name, stream.Config{}) }
	_, err := scheduler.ParseFile([]byte(`
schedules:
  - name: cleanup
    stream: reports
    type: sessions.cleanup
    cron: "0 25 * * *"
  - name: poll
    stream: reports
    type: poll
    every: 90
    timezone: Europe/Berlin
`), open)
	fmt.Println(err)
	// Output:
	// 3 errors occurred:
	// 	* line 6: schedule cleanup: cron is "0 25 * * *": hour end of range (25) above maximum (23): "25"
	// 	* line 10: schedule poll: every: must be a positive duration such as 5m, not 90
	// 	* line 11: schedule poll: timezone: is not known: write zone
}
