// Command penstock runs, feeds, inspects and repairs Penstock's streams.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/redis/go-redis/v9"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	redis.SetLogger(quiet{})
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: environment(os.Environ())}
	return a.run(ctx, os.Args[1:])
}

// quiet keeps go-redis from writing to standard error what the commands report themselves.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}
