package servers

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
)

// Links are one client's connections to the servers with data. They pass
// everything on until told otherwise. Its connections to Sentinels are not among them.
type Links struct {
	proxies map[string]*redistest.Proxy // by the address of the server behind it
	down    atomic.Bool
}

// Linked returns a client like that of Client, whose connections the test can break.
func (s *Server) Linked(t testing.TB) (redis.UniversalClient, *Links) {
	t.Helper()
	l := &Links{proxies: make(map[string]*redistest.Proxy)}
	for _, n := range s.nodes {
		l.proxies[n.addr()] = redistest.NewProxy(t, n.addr())
	}
	return s.ClientFor(t, redis.UniversalOptions{Dialer: l.dial}), l
}

func (l *Links) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if p := l.proxies[addr]; p != nil {
		if l.down.Load() {
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		addr = p.Addr()
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// Hang keeps and accepts connections, and passes nothing on.
func (l *Links) Hang() {
	for _, p := range l.proxies {
		p.Hang()
	}
}

// Refuse resets all connections and refuses new ones.
func (l *Links) Refuse() {
	l.down.Store(true)
	l.Cut()
}

// Cut resets all connections; new ones are as before.
func (l *Links) Cut() {
	for _, p := range l.proxies {
		p.Cut()
	}
}

// Mend undoes Hang and Refuse; what was under way arrives.
func (l *Links) Mend(t testing.TB) {
	t.Helper()
	l.down.Store(false)
	for _, p := range l.proxies {
		if err := p.Forward(); err != nil {
			t.Fatal(err)
		}
	}
}

// LoseReplies lets the next n requests that contain match (as "XADD"; case
// matters not) to each server through, swallows what it answers, and resets the connection.
func (l *Links) LoseReplies(match string, n int) {
	for _, p := range l.proxies {
		p.LoseReplies(match, n)
	}
}

// Lost is how many requests lost their replies.
func (l *Links) Lost() (n int) {
	for _, p := range l.proxies {
		n += p.Lost()
	}
	return n
}
