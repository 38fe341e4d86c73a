package scheduler_test

import (
	"context"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
)

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
