package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// workerEnv makes this program a worker, to be killed by the process that started it.
const workerEnv = "PENSTOCK_PERF_WORKER"

const (
	groupName = "perf"
	heldLine  = "held" // what a worker says when it runs the job that it does not end
)

// jobType of the jobs of this program's own cases. Payloads are those of bench.Harness.
var jobType = stream.Type[[]byte]{Name: "perf"}

// workerSpec is what a worker process is to do.
type workerSpec struct {
	Addr   string        `json:"addr"`
	Stream string        `json:"stream"`
	Lease  time.Duration `json:"lease"`
	Quick  int           `json:"quick"` // jobs with a number below end soon; the others end with the worker
}

// beWorker runs a worker until SIGTERM, and returns the exit status.
func beWorker(text string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := runWorker(ctx, text, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runWorker(ctx context.Context, text string, out io.Writer) error {
	var spec workerSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	rdb := redis.NewClient(&redis.Options{Addr: spec.Addr, ContextTimeoutEnabled: true})
	defer rdb.Close()
	st, err := stream.New(rdb, spec.Stream, stream.Config{})
	if err != nil {
		return err
	}
	w, err := consumer.New(groupName, consumer.Config{MaxJobs: 1, Lease: spec.Lease, KeepResult: consumer.None, Timeout: consumer.None}, st)
	if err != nil {
		return err
	}
	consumer.Handle(w, jobType, func(ctx context.Context, job *consumer.Job[[]byte]) error {
		if bench.Number(job.Data) < spec.Quick {
			time.Sleep(time.Millisecond)
			return nil
		}
		if _, err := fmt.Fprintln(out, heldLine); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	return w.Run(ctx)
}

// process is a worker in a process of its own.
type process struct {
	cmd  *exec.Cmd
	out  *bufio.Reader
	said strings.Builder
}

func startWorker(spec workerSpec) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self)} //nolint:gosec // this program
	p.cmd.Env = append(os.Environ(), workerEnv+"="+string(text))
	p.cmd.Stderr = &p.said
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	return p, p.cmd.Start()
}

// held waits until the worker runs the job that it does not end.
func (p *process) held(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })
	defer stop()
	line, err := p.out.ReadString('\n')
	if err == nil && strings.TrimSpace(line) == heldLine {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	_ = p.cmd.Wait() // its output is complete then
	return errors.New("the worker process says " + line + p.said.String())
}

// kill ends it without a chance to do anything, if it has not ended yet.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // killed, or has ended
}
