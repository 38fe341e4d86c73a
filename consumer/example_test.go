package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// shop is a stream in an in-memory Redis: enough for examples, and for nothing else.
func shop() (orders *stream.Stream, done func()) {
	server, err := miniredis.Run()
	if err != nil {
		panic(err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	orders, err = stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		panic(err)
	}
	return orders, func() { rdb.Close(); server.Close() }
}

type Paid struct {
	Order int64 `json:"order"`
}

var OrderPaid = stream.Type[Paid]{Name: "order.paid"}

// Whoever publishes and whoever handles share a Type, so the compiler checks
// that they mean the same payload.
func ExampleHandle() {
	orders, done := shop()
	defer done()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()

	if _, err := orders.Publish(ctx, OrderPaid.Job(Paid{Order: 7})); err != nil {
		fmt.Println(err)
	}

	w, err := consumer.New("billing", consumer.Config{}, orders)
	if err != nil {
		fmt.Println(err)
		return
	}
	consumer.Handle(w, OrderPaid, func(_ context.Context, job *consumer.Job[Paid]) error {
		fmt.Printf("%s: order %d, try %d of %d\n", job.Type, job.Data.Order, job.Attempt, job.MaxTries)
		stop() // a service would go on until SIGTERM
		return nil
	})
	fmt.Println(w.Run(ctx))
	// Output:
	// order.paid: order 7, try 1 of 3
	// <nil>
}

// A handler speaks by its error: Permanent ends the job as a dead letter,
// which can be read, and sent back once its cause is gone.
func ExamplePermanent() {
	orders, done := shop()
	defer done()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()

	job := OrderPaid.Job(Paid{Order: 404})
	job.ID = "paid-404"
	if _, err := orders.Publish(ctx, job); err != nil {
		fmt.Println(err)
	}

	w, err := consumer.New("billing", consumer.Config{}, orders)
	if err != nil {
		fmt.Println(err)
		return
	}
	consumer.Handle(w, OrderPaid, func(_ context.Context, job *consumer.Job[Paid]) error {
		stop()
		return consumer.Permanent(fmt.Errorf("there is no order %d", job.Data.Order))
	})
	if err := w.Run(ctx); err != nil {
		fmt.Println(err)
	}

	letter, err := orders.Group("billing").DeadLetter(context.Background(), "paid-404")
	fmt.Println(letter.ID, letter.Reason+":", letter.Error, err)
	// Output: paid-404 permanent: there is no order 404 <nil>
}

// RetryAfter says when a job that failed runs again, in place of the backoff;
// Snooze puts it off without counting a try.
func ExampleRetryAfter() {
	orders, done := shop()
	defer done()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()

	if _, err := orders.Publish(ctx, OrderPaid.Job(Paid{Order: 7})); err != nil {
		fmt.Println(err)
	}

	w, err := consumer.New("billing", consumer.Config{}, orders)
	if err != nil {
		fmt.Println(err)
		return
	}
	runs := 0
	consumer.Handle(w, OrderPaid, func(_ context.Context, job *consumer.Job[Paid]) error {
		runs++
		fmt.Printf("run %d is try %d\n", runs, job.Attempt)
		switch runs {
		case 1:
			return consumer.RetryAfter(errors.New("busy"), 10*time.Millisecond)
		case 2:
			return consumer.Snooze(10 * time.Millisecond)
		}
		stop()
		return nil
	})
	if err := w.Run(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// run 1 is try 1
	// run 2 is try 2
	// run 3 is try 2
}

// A handler that learns how much work there is can give itself more time: the
// deadline moves, while the context stays the same.
func ExampleDelivery_SetTimeout() {
	orders, done := shop()
	defer done()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()

	if _, err := orders.Publish(ctx, OrderPaid.Job(Paid{Order: 7})); err != nil {
		fmt.Println(err)
	}

	w, err := consumer.New("billing", consumer.Config{Timeout: time.Minute}, orders)
	if err != nil {
		fmt.Println(err)
		return
	}
	consumer.Handle(w, OrderPaid, func(ctx context.Context, job *consumer.Job[Paid]) error {
		left := func() time.Duration {
			deadline, _ := ctx.Deadline()
			return time.Until(deadline).Round(time.Minute)
		}
		fmt.Println(left())
		job.SetTimeout(time.Hour)
		fmt.Println(left())
		stop()
		return nil
	})
	if err := w.Run(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 1m0s
	// 1h0m0s
}

// A batch handler gets what has arrived, up to its size, and answers for each job.
func ExampleHandleBatch() {
	orders, done := shop()
	defer done()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()

	jobs := make([]stream.Job, 5)
	for i := range jobs {
		jobs[i] = OrderPaid.Job(Paid{Order: int64(i)})
	}
	if _, err := orders.PublishAll(ctx, jobs); err != nil {
		fmt.Println(err)
	}

	w, err := consumer.New("billing", consumer.Config{MaxJobs: 1}, orders)
	if err != nil {
		fmt.Println(err)
		return
	}
	total := 0
	consumer.HandleBatch(w, OrderPaid, 100, func(_ context.Context, jobs []*consumer.Job[Paid]) []error {
		if total += len(jobs); total == 5 {
			stop()
		}
		return nil // all of them succeeded
	})
	if err := w.Run(ctx); err != nil {
		fmt.Println(err)
	}
	fmt.Println(total, "jobs")
	// Output: 5 jobs
}

// Entries that another program has added with XADD are jobs too.
func ExampleWorker_HandleOther() {
	orders, done := shop()
	defer done()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()

	orders.Client().XAdd(ctx, &redis.XAddArgs{Stream: "orders", Values: []any{"sku", "A-1", "count", 3}})

	queue, err := stream.New(orders.Client(), "orders", stream.Config{Kind: stream.KindQueue}) // it is not ours: say what it is
	if err != nil {
		fmt.Println(err)
		return
	}
	w, err := consumer.New("billing", consumer.Config{}, queue)
	if err != nil {
		fmt.Println(err)
		return
	}
	w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
		fmt.Println(d.Fields["count"], "of", d.Fields["sku"])
		stop()
		return nil
	})
	if err := w.Run(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: 3 of A-1
}

// Middleware sees every run, and what its handler answered.
func ExampleWorker_Use() {
	orders, done := shop()
	defer done()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()

	if _, err := orders.Publish(ctx, OrderPaid.Job(Paid{Order: 7})); err != nil {
		fmt.Println(err)
	}

	w, err := consumer.New("billing", consumer.Config{}, orders)
	if err != nil {
		fmt.Println(err)
		return
	}
	w.Use(func(next consumer.Handler) consumer.Handler {
		return func(ctx context.Context, d *consumer.Delivery) error {
			fmt.Println("begin", d.Type)
			err := next(ctx, d)
			fmt.Println("end", d.Type, err)
			return err
		}
	})
	consumer.Handle(w, OrderPaid, func(context.Context, *consumer.Job[Paid]) error {
		stop()
		return nil
	})
	if err := w.Run(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// begin order.paid
	// end order.paid <nil>
}
