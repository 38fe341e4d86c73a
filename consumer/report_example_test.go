package consumer_test

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

type Import struct {
	Rows []string `json:"rows"`
}

var ImportRows = stream.Type[Import]{Name: "import"}

// load stands for the work.
func load(_ context.Context, row string) error {
	if row == "" {
		return consumer.Permanent(fmt.Errorf("it is empty"))
	}
	return nil
}

// What a handler says of its job is there for whoever looks it up, while it runs and afterwards.
func ExampleDelivery_Progress() {
	orders, done := shop()
	defer done()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	w, err := consumer.New("billing", consumer.Config{}, orders)
	if err != nil {
		fmt.Println(err)
		return
	}
	consumer.Handle(w, ImportRows, func(ctx context.Context, job *consumer.Job[Import]) error {
		rows := job.Data.Rows
		for i, row := range rows {
			job.SetTimeout(time.Minute) // for each row
			job.Progress(float64(i)/float64(len(rows)), row)
			if err := load(ctx, row); err != nil {
				job.Logf("row %d: %v", i, err)
				return err
			}
		}
		return nil
	})
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()

	published, err := orders.Publish(ctx, ImportRows.Job(Import{Rows: []string{"a", "b", "", "d"}}))
	if err != nil {
		fmt.Println(err)
		return
	}
	info, err := orders.Wait(ctx, published.ID)
	fmt.Printf("%s at %.0f %%: %s %v\n", info.State, 100*info.Progress.Fraction, info.Err, err)
	lines, err := orders.Log(ctx, "billing", published.ID, 0)
	fmt.Println(lines[0].Text, err)

	stop()
	fmt.Println(<-ended)
	// Output:
	// dead at 50 %: it is empty <nil>
	// row 2: it is empty <nil>
	// <nil>
}

// Two jobs that stand for one piece of work do it once.
func ExampleOnce() {
	orders, done := shop()
	defer done()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	w, err := consumer.New("billing", consumer.Config{}, orders)
	if err != nil {
		fmt.Println(err)
		return
	}
	w.Use(consumer.Once(consumer.RedisOnceStore(orders), consumer.OnceConfig{
		Key: func(d *consumer.Delivery) string { return d.Header["order"] }, // default: the job itself
	}))
	consumer.HandleResult(w, OrderPaid, func(_ context.Context, job *consumer.Job[Paid]) (string, error) {
		fmt.Println("paying order", job.Data.Order)
		return fmt.Sprint("R-", job.Data.Order), nil
	})
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()

	for range 2 {
		job := OrderPaid.Job(Paid{Order: 7})
		job.Header = map[string]string{"order": "7"}
		published, err := orders.Publish(ctx, job)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(stream.Result[string](ctx, orders, published.ID))
	}

	stop()
	fmt.Println(<-ended)
	// Output:
	// paying order 7
	// R-7 <nil>
	// R-7 <nil>
	// <nil>
}
