// Command penstock runs, feeds, inspects and repairs Penstock's streams.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
	_ "time/tzdata" // schedules have time zones, and an image from scratch has none

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/heap"
)

func main() { os.Exit(run()) }

func run() int {
	floor := heap.Floor(os.LookupEnv)
	defer runtime.KeepAlive(floor)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, end := context.WithCancel(ctx)
	defer end()
	// From now on a second signal kills. Those of the first moment are one signal, and worker listens for itself by then.
	context.AfterFunc(ctx, func() {
		time.Sleep(sameStop)
		stop()
	})
	// A terminal that is closed sends several, and none of them may kill.
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		hangups := make(chan os.Signal, 1)
		signal.Notify(hangups, syscall.SIGHUP)
		go func() {
			<-hangups
			end()
		}()
	}
	// Nobody receives it, and it is not ignored, which commands of jobs would inherit. It can't
	// be the sign that output is closed: once it is asked for, connections to Redis and the
	// standard input of commands raise it too. An outlet tells by the error of its write.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	redis.SetLogger(quiet{})
	a := &app{in: os.Stdin, out: outlet{os.Stdout, end}, err: outlet{os.Stderr, end}, env: environment(os.Environ())}
	return a.run(ctx, os.Args[1:])
}

// outlet is standard output or error. When nobody reads it any more, the program ends in good order.
type outlet struct {
	file *os.File
	end  func()
}

var errClosedOutput = errors.New("standard output is closed")

func (o outlet) Write(p []byte) (int, error) {
	n, err := o.file.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		o.end()
		err = errClosedOutput
	}
	return n, err
}

// Fd lets terminal and the like look at the file.
func (o outlet) Fd() uintptr { return o.file.Fd() }

// quiet keeps go-redis from writing to standard error what the commands report themselves.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}
