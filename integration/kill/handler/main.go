// Command handler runs one job of the kill test: it reports its start to the
// ledger, does what the job's data says, and reports its end.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/penstock-go/penstock/integration/kill/ledger"
)

func main() {
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "handler:", err)
	}
	os.Exit(code)
}

const (
	exitFailed    = 1
	exitPermanent = 65
	exitStopped   = 75
)

func run() (int, error) {
	var work ledger.Work
	if err := json.NewDecoder(os.Stdin).Decode(&work); err != nil {
		return exitFailed, err
	}
	stop := make(chan os.Signal, 1)
	if work.Stubborn {
		signal.Ignore(syscall.SIGTERM)
	} else {
		signal.Notify(stop, syscall.SIGTERM)
	}
	attempt, err := strconv.Atoi(os.Getenv("PENSTOCK_JOB_ATTEMPT"))
	if err != nil {
		return exitFailed, err
	}
	fence, err := strconv.ParseInt(os.Getenv("PENSTOCK_JOB_FENCE"), 10, 64)
	if err != nil {
		return exitFailed, err
	}
	conn, err := net.Dial("unix", os.Getenv("KILL_SOCKET"))
	if err != nil {
		return exitFailed, err
	}
	defer conn.Close()
	answers := make(chan string)
	go func() {
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			answers <- lines.Text()
		}
		close(answers)
	}()
	// say returns when the ledger has it.
	say := func(v any) error {
		if err := json.NewEncoder(conn).Encode(v); err != nil {
			return err
		}
		if _, ok := <-answers; !ok {
			return net.ErrClosed
		}
		return nil
	}
	if err := say(ledger.Record{
		N: work.N, ID: os.Getenv("PENSTOCK_JOB_ID"), Stream: os.Getenv("PENSTOCK_JOB_STREAM"), Group: os.Getenv("PENSTOCK_JOB_GROUP"),
		Worker: os.Getenv("KILL_WORKER"), Attempt: attempt, Fence: fence, Pid: os.Getpid(),
	}); err != nil {
		return exitFailed, err
	}
	if work.Poison {
		if err := json.NewEncoder(conn).Encode(map[string]string{"kill": os.Getenv("KILL_WORKER")}); err != nil {
			return exitFailed, err
		}
	}
	result, code := ledger.OK, 0
	switch {
	case attempt <= work.Fails:
		result, code = ledger.Failed, exitFailed
	case work.Permanent:
		result, code = ledger.Permanent, exitPermanent
	}
	done := time.NewTimer(time.Duration(work.Millis) * time.Millisecond)
	select {
	case <-done.C:
	case <-stop:
		result, code = ledger.Interrupted, exitStopped
	case <-answers:
		return exitFailed, net.ErrClosed // nobody keeps the books any more
	}
	return code, say(map[string]string{"result": result})
}
