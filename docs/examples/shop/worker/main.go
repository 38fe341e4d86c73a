// Command worker writes the invoices of orders that were paid.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/docs/examples/shop/jobs"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/env"
	"github.com/penstock-go/penstock/stream/redisenv"
)

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	var cfg consumer.Config
	if err := env.Process(ctx, &cfg); err != nil { // PENSTOCK_MAX_JOBS and the rest
		return err
	}
	cfg.Logger = slog.Default()
	rdb, err := redisenv.New(ctx)
	if err != nil {
		return err
	}
	defer rdb.Close()
	orders, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		return err
	}

	w, err := consumer.New("billing", cfg, orders)
	if err != nil {
		return err
	}
	consumer.Handle(w, jobs.OrderPaid, func(ctx context.Context, job *consumer.Job[jobs.Paid]) error {
		job.Logf("invoice over %d cents", job.Data.Cents) // as penstock job log shows it
		err := invoice(ctx, job.Data.Order, job.Data.Cents)
		switch {
		case errors.Is(err, errNoSuchOrder):
			return consumer.Permanent(err) // to the dead letters: no further try can help
		case errors.Is(err, errBusy):
			return consumer.RetryAfter(err, time.Second)
		}
		return err // nil completes the job; any other error backs off and tries again
	})
	return w.Run(ctx) // SIGTERM: stops reading, hands back, lets handlers finish, returns nil
}

var (
	errNoSuchOrder = errors.New("no such order")
	errBusy        = errors.New("the printer is busy")
)

// invoice stands for the work.
func invoice(_ context.Context, order, cents int64) error {
	if order <= 0 {
		return errNoSuchOrder
	}
	_, err := fmt.Printf("order %d: invoice over %d.%02d\n", order, cents/100, cents%100)
	return err
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
