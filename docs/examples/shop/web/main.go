// Command web publishes a job for each order that is paid: POST /paid with
// {"order": 7, "cents": 1999}.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/penstock-go/penstock/docs/examples/shop/jobs"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/redisenv"
)

type server struct{ orders *stream.Stream }

func (s *server) paid(w http.ResponseWriter, r *http.Request) {
	var paid jobs.Paid
	if err := json.NewDecoder(r.Body).Decode(&paid); err != nil {
		http.Error(w, "not an order", http.StatusBadRequest)
		return
	}
	job := jobs.OrderPaid.Job(paid)
	job.ID = fmt.Sprintf("paid-%d", paid.Order) // a second click stores nothing
	job.Delay = 200 * time.Millisecond

	receipt, err := s.orders.Publish(r.Context(), job)
	switch {
	case errors.Is(err, stream.ErrStreamFull), errors.Is(err, stream.ErrUnavailable), errors.Is(err, stream.ErrAmbiguous):
		w.Header().Set("Retry-After", "5") // the ID makes it safe to try again
		http.Error(w, "please try again", http.StatusServiceUnavailable)
	case err != nil:
		log.Print(err)
		http.Error(w, "internal error", http.StatusInternalServerError)
	default:
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, "job %s, duplicate %t\n", receipt.ID, receipt.Duplicate)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	rdb, err := redisenv.New(ctx) // REDIS_URL; connects to nothing yet
	if err != nil {
		return err
	}
	defer rdb.Close()
	orders, err := stream.New(rdb, "orders", stream.Config{})
	if err != nil {
		return err
	}

	s := &server{orders: orders}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /paid", s.paid)
	addr := "127.0.0.1:8080"
	if a := os.Getenv("SHOP_ADDR"); a != "" {
		addr = a
	}
	web := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stopped := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		stopped <- web.Shutdown(ctx)
	})
	if err := web.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped // requests under way still need rdb
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
