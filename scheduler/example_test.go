package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
)

// Schedules publish a job at each of their ticks, once, however many schedulers run.
func ExampleScheduler_Add() {
	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379"}) // nobody is asked here
	defer rdb.Close()
	reports, err := stream.New(rdb, "reports", stream.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := scheduler.New(rdb, scheduler.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = s.Add( // s is a *scheduler.Scheduler
		scheduler.Schedule{Name: "cleanup", Cron: "0 3 * * *", Stream: reports, Job: stream.Job{Type: "sessions.cleanup"}},
		scheduler.Schedule{
			Name: "weekday-report", Cron: "0 9 * * mon-fri", Zone: "Europe/Berlin", Overlap: scheduler.OverlapSkip,
			Stream: reports, Job: stream.Job{Type: "report.build", Data: "today"},
		},
	)
	fmt.Println(err)
	err = s.Add(scheduler.Schedule{Name: "cleanup", Cron: "0 4 * * *", Stream: reports, Job: stream.Job{Type: "sessions.cleanup"}})
	fmt.Println(errors.Is(err, stream.ErrInvalid))
	// Output:
	// <nil>
	// true
}

// A scheduler brings jobs that were published for later into their stream. It
// finds the streams by itself, and any number of schedulers may run.
func Example() {
	server, err := miniredis.Run()
	if err != nil {
		panic(err)
	}
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer rdb.Close()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()

	reports, err := stream.New(rdb, "reports", stream.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	receipt, err := reports.Publish(ctx, stream.Job{Type: "report.build", ID: "today", Delay: 50 * time.Millisecond})
	fmt.Println(receipt.ID, receipt.State, err)

	s, err := scheduler.New(rdb, scheduler.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() {
		for s.Promoted() == 0 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		stop() // a service would go on until SIGTERM
	}()
	fmt.Println(s.Run(ctx))
	fmt.Println(s.Promoted(), "promoted")
	// Output:
	// today scheduled <nil>
	// <nil>
	// 1 promoted
}
