package stream_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/penstock-go/penstock/stream"
)

// Only one job with the key at a time, from publishing until it is done.
func ExampleUnique() {
	rdb, stop := exampleRedis()
	defer stop()
	orders, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		log.Fatal(err)
	}

	job := OrderPaid.Job(Paid{Order: 7})
	job.Unique = stream.Unique{Key: "invoice-7"}
	for _, id := range []string{"first", "second"} {
		job.ID = id
		receipt, err := orders.Publish(context.Background(), job)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(receipt.ID, receipt.State, "duplicate:", receipt.Duplicate)
	}
	// Output:
	// first waiting duplicate: false
	// first waiting duplicate: true
}

// Debounce: the job runs once it has been quiet for five seconds, with the last data. When it has started, the next is a new one.
func ExampleUnique_debounce() {
	rdb, stop := exampleRedis()
	defer stop()
	search, err := stream.New(rdb, "search", stream.Config{})
	if err != nil {
		log.Fatal(err)
	}

	for _, text := range []string{"p", "pe", "penstock"} {
		receipt, err := search.Publish(context.Background(), stream.Job{
			Type: "page.index", Data: text, Delay: 5 * time.Second,
			Unique: stream.Unique{Key: "page-7", Until: stream.UntilStarted, OnConflict: stream.Replace},
		})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(receipt.State, "updated:", receipt.Updated)
	}
	// Output:
	// scheduled updated: false
	// scheduled updated: true
	// scheduled updated: true
}

// Throttle: at most one an hour, and the first of each hour runs at once.
func ExampleUnique_throttle() {
	rdb, stop := exampleRedis()
	defer stop()
	mails, err := stream.New(rdb, "mails", stream.Config{})
	if err != nil {
		log.Fatal(err)
	}

	for range 3 {
		receipt, err := mails.Publish(context.Background(), stream.Job{
			Type: "disk.full", Data: "db1",
			Unique: stream.Unique{ByData: true, For: time.Hour},
		})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("duplicate:", receipt.Duplicate)
	}
	// Output:
	// duplicate: false
	// duplicate: true
	// duplicate: true
}

// Coalesce: however often a page changes, one job indexes it at a time, and at most one more comes after it, with the latest data.
func ExampleUnique_coalesce() {
	rdb, stop := exampleRedis()
	defer stop()
	search, err := stream.New(rdb, "search", stream.Config{})
	if err != nil {
		log.Fatal(err)
	}

	for _, version := range []int{1, 2, 3} {
		receipt, err := search.Publish(context.Background(), stream.Job{
			Type: "page.index", Data: version,
			Unique: stream.Unique{Key: "page-7", OnConflict: stream.Coalesce},
		})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(receipt.State, "updated:", receipt.Updated)
	}
	// Output:
	// waiting updated: false
	// waiting updated: true
	// waiting updated: true
}
