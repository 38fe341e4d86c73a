package stream_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
)

// Paid is a payload.
type Paid struct {
	Order int64 `json:"order"`
	Cents int64 `json:"cents"`
}

// OrderPaid is declared once, and used by whoever publishes and whoever handles.
var OrderPaid = stream.Type[Paid]{Name: "order.paid"}

// exampleRedis stands for redis.NewClient with your own address.
func exampleRedis() (rdb *redis.Client, stop func()) {
	server, err := miniredis.Run()
	if err != nil {
		log.Fatal(err)
	}
	rdb = redis.NewClient(&redis.Options{Addr: server.Addr()})
	return rdb, func() {
		_ = rdb.Close()
		server.Close()
	}
}

func ExampleStream_Publish() {
	rdb, stop := exampleRedis()
	defer stop()
	orders, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		log.Fatal(err)
	}

	job := OrderPaid.Job(Paid{Order: 7, Cents: 1999})
	job.ID = "paid-7"             // while this job lives, publishing it again stores nothing
	job.Delay = 5 * time.Minute   // by Redis's clock
	job.Timeout = 2 * time.Minute // in place of the worker's own
	for range 2 {
		receipt, err := orders.Publish(context.Background(), job)
		switch {
		case errors.Is(err, stream.ErrAmbiguous), errors.Is(err, stream.ErrUnavailable), errors.Is(err, stream.ErrStreamFull):
			fmt.Println("try again later: with an ID that is safe")
		case err != nil:
			log.Fatal(err)
		default:
			fmt.Println(receipt.ID, receipt.State, "duplicate:", receipt.Duplicate)
		}
	}
	// Output:
	// paid-7 scheduled duplicate: false
	// paid-7 scheduled duplicate: true
}

func ExampleStream_PublishAll() {
	rdb, stop := exampleRedis()
	defer stop()
	orders, err := stream.New(rdb, "orders", stream.Config{MaxPayload: 100})
	if err != nil {
		log.Fatal(err)
	}

	receipts, err := orders.PublishAll(context.Background(), []stream.Job{
		OrderPaid.Job(Paid{Order: 1}),
		{Type: "thumbnail", Data: make([]byte, 1000)},
		{Type: "thumbnail", Data: []byte("raw bytes go as they are")},
	})
	fmt.Println(err)
	for _, r := range receipts {
		fmt.Println(r.State, r.Err)
	}
	// Output:
	// publish to orders: 1 of 3 jobs were not stored for certain: job 1: payload is too large: 1000 bytes, at most 100 are allowed (MaxPayload)
	// waiting <nil>
	//  payload is too large: 1000 bytes, at most 100 are allowed (MaxPayload)
	// waiting <nil>
}

func ExampleType() {
	// A type ties a name to a payload: the compiler checks both sides.
	job := OrderPaid.Job(Paid{Order: 7})
	fmt.Println(job.Type, job.Data)
	// Output: order.paid {7 0}
}

func ExampleNew() {
	// No input or output: a service starts while Redis is down.
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer rdb.Close()
	_, err := stream.New(rdb, "orders", stream.Config{})
	fmt.Println(err)
	_, err = stream.New(rdb, "my orders", stream.Config{})
	fmt.Println(err)
	// Output:
	// <nil>
	// invalid: stream name "my orders": spaces and control characters are not allowed
}
