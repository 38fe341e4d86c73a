package engine

import (
	"cmp"
	"context"
	"errors"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
)

// listenSilence is after how long a silent channel is pinged.
const listenSilence = 30 * time.Second

// Listener follows a channel of Redis. What is said while its connection is down is lost: whoever listens has to look at
// the truth each time the channel is up.
type Listener struct {
	Client  redis.UniversalClient
	Channel string
	Heard   func(text string)
	Up      func(bool)    // each time the channel is up, and when it is down
	Pause   time.Duration // before a new connection
	Silence time.Duration // without a sign of life before it is pinged, and again before it is given up. Default: 30 s.
}

// Run listens until ctx ends.
func (l *Listener) Run(ctx context.Context) {
	for ctx.Err() == nil {
		l.follow(ctx)
	}
}

// follow subscribes, and returns when its connection gives no sign of life any more: only a new one can be trusted then.
func (l *Listener) follow(ctx context.Context) {
	sub := l.Client.Subscribe(ctx, l.Channel)
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = sub.Close()
	})
	defer func() {
		if stop() {
			_ = sub.Close()
			return
		}
		<-closed
	}()
	pinged, lost := false, false
	for ctx.Err() == nil && !lost {
		msg, err := sub.ReceiveTimeout(ctx, cmp.Or(l.Silence, listenSilence))
		switch m := msg.(type) {
		case *redis.Message:
			pinged = false
			l.Heard(m.Payload)
			continue
		case *redis.Subscription:
			pinged = false
			l.Up(true)
			continue
		case *redis.Pong:
			pinged = false
			continue
		}
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			if lost = pinged; !lost && sub.Ping(ctx) == nil {
				pinged = true
				continue
			}
		}
		l.Up(false)
		select {
		case <-ctx.Done():
		case <-time.After(l.Pause):
		}
	}
}
