package consumer_test

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// Receipt is what the handler of OrderPaid returns.
type Receipt struct {
	Invoice string `json:"invoice"`
}

// What a handler returns is kept for KeepResult, and whoever has the job's ID can wait for it.
func ExampleHandleResult() {
	orders, done := shop()
	defer done()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	w, err := consumer.New("billing", consumer.Config{}, orders)
	if err != nil {
		fmt.Println(err)
		return
	}
	consumer.HandleResult(w, OrderPaid, func(_ context.Context, job *consumer.Job[Paid]) (Receipt, error) {
		return Receipt{Invoice: fmt.Sprint("R-", job.Data.Order)}, nil
	})
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()

	published, err := orders.Publish(ctx, OrderPaid.Job(Paid{Order: 7}))
	if err != nil {
		fmt.Println(err)
		return
	}
	receipt, err := stream.Result[Receipt](ctx, orders, published.ID) // waits; a job that failed is a *stream.JobError
	fmt.Println(receipt.Invoice, err)
	info, err := orders.Get(ctx, published.ID)
	fmt.Println(info.State, info.Attempt, err)

	stop()
	fmt.Println(<-ended)
	// Output:
	// R-7 <nil>
	// completed 1 <nil>
	// <nil>
}
