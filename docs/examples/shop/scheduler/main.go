// Command scheduler promotes the jobs of every stream that were published for
// later. `penstock scheduler` does the same.
package main

import (
	"context"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream/env"
	"github.com/penstock-go/penstock/stream/redisenv"
)

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	var cfg scheduler.Config
	if err := env.Process(ctx, &cfg); err != nil {
		return err
	}
	cfg.Logger = slog.Default()
	rdb, err := redisenv.New(ctx)
	if err != nil {
		return err
	}
	defer rdb.Close()
	s, err := scheduler.New(rdb, cfg)
	if err != nil {
		return err
	}
	return s.Run(ctx) // any number of them may run
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
