package redistest

import (
	"bytes"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy stands between a client and a server, and breaks what passes. It forwards until told otherwise.
type Proxy struct {
	target, addr string
	wg           sync.WaitGroup

	mu       sync.Mutex
	moved    sync.Cond // hung or closed has changed
	hung     bool
	closed   bool
	listener net.Listener
	conns    map[net.Conn]bool
	clients  map[net.Conn]bool // false: cut off from its server, which does not know
	match    []byte
	lose     int
	lost     int
}

const anyPort = "127.0.0.1:0"

// lossQuiet is how long a connection whose replies are swallowed must be silent before it is reset.
const lossQuiet = 20 * time.Millisecond

// NewProxy returns a proxy to the server at target. It closes at the test's end.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p := &Proxy{target: target, addr: anyPort, conns: make(map[net.Conn]bool), clients: make(map[net.Conn]bool)}
	p.moved.L = &p.mu
	if err := p.listen(); err != nil {
		t.Fatalf("start a proxy: %v", err)
	}
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.Refuse()
		p.wg.Wait()
	})
	return p
}

// Addr to connect to in place of the server's.
func (p *Proxy) Addr() string { return p.addr }

// Forward undoes Refuse and Hang.
func (p *Proxy) Forward() error {
	p.mu.Lock()
	p.hung = false
	refused := p.listener == nil
	p.moved.Broadcast()
	p.mu.Unlock()
	if refused {
		return p.listen()
	}
	return nil
}

// Refuse resets all connections and refuses new ones.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	p.mu.Unlock()
	p.Cut()
}

// Hang keeps and accepts connections, and passes nothing on.
func (p *Proxy) Hang() {
	p.mu.Lock()
	p.hung = true
	p.mu.Unlock()
}

// Cut resets all connections; new ones are as before.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		reset(c)
	}
	p.moved.Broadcast()
}

// CutClients resets the clients' side of all connections and leaves the
// server's open, as a load balancer can: the server goes on as if they were there.
func (p *Proxy) CutClients() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.clients {
		p.clients[c] = false
		reset(c)
	}
}

// halfOpen reports whether a client was cut off by CutClients.
func (p *Proxy) halfOpen(client net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	whole, known := p.clients[client]
	return known && !whole
}

// LoseReplies lets the next n requests that contain match (as "XADD", "evalsha"; case matters not) through to the
// server, swallows what it answers, and then resets the connection.
func (p *Proxy) LoseReplies(match string, n int) {
	p.mu.Lock()
	p.match, p.lose = bytes.ToUpper([]byte(match)), n
	p.mu.Unlock()
}

// Lost is how many requests lost their replies.
func (p *Proxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

func (p *Proxy) listen() error {
	l, err := net.Listen("tcp", p.addr)
	for end := time.Now().Add(waitTimeout); err != nil && time.Now().Before(end); { // after Refuse the port may be in use for a moment
		time.Sleep(time.Millisecond)
		l, err = net.Listen("tcp", p.addr)
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	if p.listener = l; p.addr == anyPort {
		p.addr = l.Addr().String() // and stays: clients know it
	}
	p.mu.Unlock()
	p.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(conn) })
		}
	})
	return nil
}

func (p *Proxy) serve(client net.Conn) {
	defer reset(client)
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer reset(server)
	p.mu.Lock()
	refused := p.listener == nil
	p.conns[client], p.conns[server], p.clients[client] = true, true, true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, client)
		delete(p.clients, client)
		delete(p.conns, server)
		p.mu.Unlock()
	}()
	if refused {
		return // accepted just before
	}
	lossy := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { p.requests(client, server, lossy) })
	p.replies(client, server, lossy)
	reset(client)
	wg.Wait()
}

func (p *Proxy) requests(client, server net.Conn, lossy chan struct{}) {
	defer func() {
		if !p.halfOpen(client) {
			reset(server)
		}
	}()
	losing := false
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil || !p.pass() {
			return
		}
		if !losing && p.loses(buf[:n]) {
			losing = true
			close(lossy)
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (p *Proxy) replies(client, server net.Conn, lossy chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if err != nil || !p.pass() {
			return
		}
		select {
		case <-lossy:
			_ = server.SetReadDeadline(time.Now().Add(lossQuiet)) // the rest of a pipeline's answers
			continue
		default:
		}
		if p.halfOpen(client) {
			continue // nobody reads it
		}
		if _, err := client.Write(buf[:n]); err != nil && !p.halfOpen(client) {
			return
		}
	}
}

// pass waits while the proxy hangs, and reports whether it still lives.
func (p *Proxy) pass() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.hung && !p.closed {
		p.moved.Wait()
	}
	return !p.closed
}

func (p *Proxy) loses(request []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lose == 0 || !bytes.Contains(bytes.ToUpper(request), p.match) {
		return false
	}
	p.lose--
	p.lost++
	return true
}

func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close() // again and again: each side ends both
}
