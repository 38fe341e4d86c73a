// Package ledger records what publishers and handlers saw of each job, in one
// order, outside of Redis. Handlers, which are processes of their own, report through a socket.
package ledger

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Ledger is an append-only list of records. Handlers report to it on a socket;
// it answers only when what they say is recorded. Its methods may be called concurrently.
type Ledger struct {
	listener net.Listener
	opened   time.Time
	kill     func(worker string)
	wg       sync.WaitGroup

	mu      sync.Mutex
	records []Record
	copyTo  *json.Encoder
	runs    int
	live    map[int]liveRun
	conns   map[net.Conn]bool
	err     error
}

type liveRun struct {
	worker  string
	process *os.Process
}

// Open listens on the unix socket at path. Every record is also written to w as a line of JSON.
// kill is called with the name of a worker that a handler wants dead.
func Open(path string, w io.Writer, kill func(worker string)) (*Ledger, error) {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the ledger: %w", err)
	}
	l := &Ledger{
		listener: listener, opened: time.Now(), kill: kill, copyTo: json.NewEncoder(w),
		live: make(map[int]liveRun), conns: make(map[net.Conn]bool),
	}
	l.wg.Go(l.accept)
	return l, nil
}

// Close ends the handlers that still run, and returns when none reports any more.
func (l *Ledger) Close() error {
	err := l.listener.Close()
	l.mu.Lock()
	for conn := range l.conns {
		_ = conn.Close() // a handler ends when its ledger does
	}
	l.mu.Unlock()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(err, l.err)
}

// Now is the time since the ledger was opened.
func (l *Ledger) Now() time.Duration { return time.Since(l.opened) }

// Since turns a time of the wall clock into one of the ledger's.
func (l *Ledger) Since(t time.Time) time.Duration { return t.Sub(l.opened.Round(0)) }

// Add writes a record and returns when it happened.
func (l *Ledger) Add(r Record) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.add(r)
}

func (l *Ledger) add(r Record) time.Duration {
	r.At = l.Now() // under the lock: records are in order of time
	l.records = append(l.records, r)
	l.err = errors.Join(l.err, l.copyTo.Encode(r))
	return r.At
}

// Records returns a copy of all records.
func (l *Ledger) Records() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Record(nil), l.records...)
}

// Count says how many records there are of each kind, and how many handlers run.
func (l *Ledger) Count() (counts map[What]int, running int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts = make(map[What]int)
	for _, r := range l.records {
		counts[r.What]++
	}
	return counts, len(l.live)
}

// Handlers returns the processes of a worker's handlers that run now.
func (l *Ledger) Handlers(worker string) []*os.Process {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []*os.Process
	for _, run := range l.live {
		if run.worker == worker {
			list = append(list, run.process)
		}
	}
	return list
}

func (l *Ledger) accept() {
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			return // closed
		}
		l.mu.Lock()
		l.conns[conn] = true
		l.mu.Unlock()
		l.wg.Go(func() {
			l.serve(conn)
			l.mu.Lock()
			delete(l.conns, conn)
			l.mu.Unlock()
			_ = conn.Close() // whatever it had to say was answered
		})
	}
}

// serve is one handler's connection: it says that it starts, then how it ends
// or that its worker is to be killed, each answered by a line.
func (l *Ledger) serve(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	var start Record
	if !next(lines, &start) {
		return // killed before it said anything: it has done nothing
	}
	process, err := os.FindProcess(start.Pid) // a handle on this very process, since it waits for the answer
	if err != nil {
		return
	}
	defer func() { _ = process.Release() }() // no more than a handle
	start.What = Started
	l.mu.Lock()
	l.runs++
	run := l.runs
	start.Run = run
	l.live[run] = liveRun{start.Worker, process}
	l.add(start)
	l.mu.Unlock()

	last := Record{What: Gone, N: start.N, Run: run}
	if _, err := io.WriteString(conn, "go\n"); err == nil {
		for last.What == Gone {
			var said struct{ Result, Kill string }
			if !next(lines, &said) {
				break
			}
			if said.Kill != "" {
				l.kill(said.Kill)
			} else {
				last.What, last.Result = Ended, said.Result
			}
		}
	}
	l.mu.Lock()
	delete(l.live, run)
	l.add(last)
	l.mu.Unlock()
	_, _ = io.WriteString(conn, "go\n") // to nobody, when it was killed
}

func next(lines *bufio.Scanner, v any) bool {
	return lines.Scan() && json.Unmarshal(lines.Bytes(), v) == nil
}
