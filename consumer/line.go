package consumer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/engine"
)

const (
	// blockFor is how long a read waits when another connection can end it, blockBlind when none can.
	blockFor   = 3 * time.Second
	blockBlind = time.Second
	// replySlack is how much longer than its BLOCK a read may take: with it a stop waits for a Redis that hangs.
	replySlack  = 2 * time.Second
	unblockEach = 2 * time.Millisecond
	// controlTimeout bounds what is said about a connection on another one.
	controlTimeout = time.Second
)

// line is the connection that a reader blocks on, its own so that nothing
// else waits behind it.
type line struct {
	engine.Processor
	close   func() error
	control *redis.Client // of the same node; nil: a blocked read ends only by itself
	id      int64         // of the connection, for CLIENT UNBLOCK
	addr    string        // its address as the server sees it, for CLIENT KILL; "": not known, or others have the same
	block   time.Duration
	raw     bool // a connection, whose answers can be had as they come
}

// dial takes a connection to the node that holds key. A blocked XREADGROUP
// does not end with its context: it needs a CLIENT UNBLOCK on the same node.
// Clients without connections of their own, and servers that do not know the
// command, get short blocks. patience is how long an answer may take.
func dial(ctx context.Context, rdb redis.UniversalClient, key string, patience, lease time.Duration) (*line, error) {
	var node *redis.Client
	switch c := rdb.(type) {
	case *redis.Client:
		node = c
	case *redis.ClusterClient:
		var err error
		if node, err = c.MasterForKey(ctx, key); err != nil {
			return nil, fmt.Errorf("find the node of %s: %w", key, err)
		}
	default:
		return &line{Processor: rdb, close: func() error { return nil }, block: blockBlind}, nil
	}
	conn := node.WithTimeout(patience).Conn()
	l := &line{Processor: conn, close: conn.Close, block: blockBlind, raw: true}
	control := node.WithTimeout(controlTimeout)
	id, addr, err := whoAmI(ctx, conn)
	if err == nil { // asked of the server, not guessed from what it calls itself: it may know one command and not the other
		_, err = engine.Do(ctx, control, "CLIENT", "UNBLOCK", id)
	}
	switch engine.Classify(err) {
	case engine.OK:
		l.control, l.id, l.addr, l.block = control, id, addr, min(lease/10, blockFor) // what a read brings may be ours since it was asked for
	case engine.Refused, engine.Denied: // no such command here, or no right to it
	default:
		_ = conn.Close()
		return nil, fmt.Errorf("connect a reader: %w", err)
	}
	return l, nil
}

// whoAmI asks the server by which ID and address it knows a connection.
func whoAmI(ctx context.Context, conn engine.Processor) (id int64, addr string, err error) {
	v, err := engine.Do(ctx, conn, "CLIENT", "INFO")
	switch engine.Classify(err) {
	case engine.OK:
		if id, addr = parseInfo(v); id != 0 {
			return id, addr, nil
		}
	case engine.Refused, engine.Denied:
	default:
		return 0, "", err
	}
	v, err = engine.Do(ctx, conn, "CLIENT", "ID")
	id, _ = v.(int64)
	return id, "", err
}

// parseInfo decodes the answer to CLIENT INFO. All who come through a Unix socket have one address, so theirs is none.
func parseInfo(v any) (id int64, addr string) {
	text, _ := v.(string)
	for field := range strings.FieldsSeq(text) {
		switch name, value, _ := strings.Cut(field, "="); name {
		case "id":
			id, _ = strconv.ParseInt(value, 10, 64)
		case "addr":
			if at, err := netip.ParseAddrPort(value); err == nil && at.Port() != 0 {
				addr = value
			}
		}
	}
	return id, addr
}

// unblock ends a blocked read until stopped is closed: it has to be repeated,
// since it finds nothing while the read is only about to block.
func (l *line) unblock(ctx context.Context, stopped <-chan struct{}) {
	if l.control == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), blockFor)
	defer cancel()
	tick := time.NewTicker(unblockEach)
	defer tick.Stop()
	for {
		_, _ = engine.Do(ctx, l.control, "CLIENT", "UNBLOCK", l.id) // an error is no news: the read ends with its BLOCK then
		select {
		case <-stopped:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

var errNotKnown = errors.New("the address of the connection is not known")

// kill has the server close the connection, should it not have noticed that it is gone. A server that has been started
// again gives out the same IDs from 1 on, and so does another one after a failover: only with its address is it this
// connection and nobody else's. That none is found is no error: what is not there reads nothing.
func (l *line) kill(ctx context.Context) error {
	if l.addr == "" {
		return errNotKnown
	}
	_, err := engine.Do(ctx, l.control, "CLIENT", "KILL", "ID", l.id, "ADDR", l.addr)
	return err
}
