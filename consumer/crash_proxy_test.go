package consumer_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// crashPoint is a place in the course of the commands that one client sends:
// before the first one with this label that follows on the step-th command
// that moved a job, or after one, when Redis has executed it and its answer
// was not seen. Commands that move nothing are repeated at any pace (a read
// that brings nothing, a heartbeat), so their number would name no place.
type crashPoint struct {
	before bool
	step   int
	label  string
	moved  bool // after: what Redis answered is that something moved
	lives  bool // only this one command fails, and the client lives on
}

// kind of the point, for counting.
func (p crashPoint) kind() (n int) {
	if !p.before {
		n++
	}
	if p.lives {
		n += 2
	}
	return n
}

func (p crashPoint) String() string {
	what, when := "dies", "after"
	if p.lives {
		what = "fails"
	}
	if p.before {
		when = "before"
	}
	s := fmt.Sprintf("%s %s %s of step %d", what, when, p.label, p.step)
	if p.moved {
		s += " that moved"
	}
	return s
}

// mortal stands between a client and Redis, sees every command on every one
// of the client's connections, and is killed at a crash point: from then on nothing that
// the client is asked to send reaches Redis. Without a point it only keeps a record.
//
// It is no hook: go-redis leaves a client's hooks out of what WithTimeout makes of it, which is what readers use.
type mortal struct {
	names map[string]string // of scripts, by hash and by source
	short func(string) string
	still *standstill
	loops sync.WaitGroup

	mu      sync.Mutex
	quiet   sync.Cond // flying has changed
	point   *crashPoint
	struck  bool // the point was reached
	dead    bool
	gone    chan struct{} // closed: dead
	conns   map[*mortalConn]bool
	flying  int // commands on the wire that do not block
	step    int // commands that moved a job
	trace   []crashPoint
	sent    map[string]int // commands, by name
	ended   int64          // jobs that its scripts completed
	strange []string       // commands nobody expects
}

func newMortal(names map[string]string, short func(string) string, point *crashPoint, still *standstill) *mortal {
	m := &mortal{names: names, short: short, point: point, still: still, gone: make(chan struct{}), conns: make(map[*mortalConn]bool), sent: make(map[string]int)}
	m.quiet.L = &m.mu
	return m
}

// kill ends the client as SIGKILL ends its process: what is on the wire has been sent.
func (m *mortal) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.die()
}

func (m *mortal) die() {
	if m.dead {
		return
	}
	m.dead = true
	close(m.gone)
	for c := range m.conns {
		_ = c.inner.Close()
	}
}

// bury waits until nothing of a dead client is on the wire, and closes its connections.
func (m *mortal) bury() {
	m.settled()
	m.mu.Lock()
	for c := range m.conns {
		_ = c.server.Close()
	}
	m.mu.Unlock()
	m.loops.Wait()
}

// settled waits until no command is on the wire but reads that block.
func (m *mortal) settled() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.flying > 0 {
		m.quiet.Wait()
	}
}

// do runs f unless the client is dead, and reports whether it did.
func (m *mortal) do(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dead {
		f()
	}
	return !m.dead
}

// completed is how many jobs its scripts have completed.
func (m *mortal) completed() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ended
}

// points are all that its record tells of, up to now.
func (m *mortal) points() []crashPoint {
	m.mu.Lock()
	defer m.mu.Unlock()
	var points []crashPoint
	for _, p := range m.trace {
		if !slices.Contains(points, p) {
			points = append(points, p)
		}
	}
	return points
}

// mortalConn is a client's end of a connection.
type mortalConn struct {
	net.Conn          // the client's end of a pipe
	inner    net.Conn // the other end
	server   net.Conn
	m        *mortal
}

// Close lets go of the server too, but not for the dead: bury does that when what they sent was executed.
func (c *mortalConn) Close() error {
	_ = c.inner.Close()
	c.m.do(func() { _ = c.server.Close() })
	return c.Conn.Close()
}

// dial is the client's dialer.
func (m *mortal) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	outer, inner := net.Pipe()
	c := &mortalConn{Conn: outer, inner: inner, m: m}
	if !m.do(func() {}) {
		return outer, inner.Close() // not an error: go-redis logs those
	}
	var err error
	if c.server, err = new(net.Dialer).DialContext(ctx, network, addr); err != nil {
		return nil, err
	}
	if !m.do(func() { m.conns[c] = true; m.loops.Go(c.serve) }) {
		_ = inner.Close()
		_ = c.server.Close()
	}
	return c, nil
}

// serve passes one command at a time on, and its answer back: a process may die when a part of a pipeline is out.
func (c *mortalConn) serve() {
	requests, replies := bufio.NewReaderSize(c.inner, 1<<20), bufio.NewReader(c.server) // a pipe takes no more than is read of it, and answers are written meanwhile
	defer func() {
		c.m.mu.Lock()
		delete(c.m.conns, c)
		c.m.mu.Unlock()
		_ = c.inner.Close()
		_ = c.server.Close()
	}()
	for {
		var raw bytes.Buffer
		v, err := readFrame(requests, &raw)
		if err != nil {
			return
		}
		args := texts(v)
		if strings.EqualFold(args[0], "SUBSCRIBE") { // it changes nothing, and answers come unasked from here on
			c.m.loops.Go(func() { _, _ = io.Copy(c.inner, replies); _ = c.inner.Close() })
			_, _ = c.server.Write(raw.Bytes())
			_, _ = io.Copy(c.server, requests)
			return
		}
		label, blocks := c.m.label(args)
		if !c.m.leaves(args, label, blocks) {
			return
		}
		asked := time.Now()
		_, err = c.server.Write(raw.Bytes())
		raw.Reset()
		for push := true; push && err == nil; {
			kind, _ := replies.Peek(1)
			push = bytes.Equal(kind, []byte(">"))
			v, err = readFrame(replies, &raw)
		}
		if blocks {
			asked = time.Now()
		}
		if !c.m.arrives(args, v, err, label, blocks) {
			return
		}
		if _, err := c.inner.Write(raw.Bytes()); err != nil {
			return
		}
		c.m.still.look(asked)
	}
}

// standstill knows when this machine stood still for so long that a lease suffers.
type standstill struct{ last atomic.Int64 }

const (
	stillAfter = lease / 4
	stillEvery = lease / 20
)

func newStandstill(t *testing.T) *standstill {
	s := &standstill{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(stillEvery)
		defer tick.Stop()
		for before := time.Now(); ; before = time.Now() {
			select {
			case <-tick.C:
				s.look(before)
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s
}

// look notes a standstill when something that takes no time began long ago.
func (s *standstill) look(began time.Time) {
	if now := time.Now(); now.Sub(began) > stillAfter {
		s.last.Store(now.UnixNano())
	}
}

// leaves decides whether a command is sent.
func (m *mortal) leaves(args []string, label string, blocks bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return false
	}
	if !blocks {
		m.flying++
	}
	if label == "" {
		return true // the client library's own greeting
	}
	here := crashPoint{before: true, step: m.step, label: label}
	if m.strikes(here) {
		m.land(blocks)
		return false
	}
	m.trace = append(m.trace, here)
	m.sent[strings.ToUpper(args[0])]++
	return true
}

// land notes that a command is not on the wire any more.
func (m *mortal) land(blocks bool) {
	if !blocks {
		m.flying--
		m.quiet.Broadcast()
	}
}

// arrives decides whether an answer is seen.
func (m *mortal) arrives(args []string, v any, err error, label string, blocks bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.land(blocks)
	if err != nil || label == "" {
		return err == nil && !m.dead
	}
	here := crashPoint{step: m.step, label: label, moved: m.look(args, v, label)}
	if here.moved {
		m.step++
	}
	if m.dead || m.strikes(here) {
		return false
	}
	m.trace = append(m.trace, here)
	return true
}

// strikes is asked once for each place, and is true at the crash point.
func (m *mortal) strikes(here crashPoint) bool {
	if m.point == nil || m.struck {
		return false
	}
	want := *m.point
	want.lives = false
	if want != here {
		return false
	}
	m.struck = true
	if !m.point.lives {
		m.die()
	}
	return true
}
