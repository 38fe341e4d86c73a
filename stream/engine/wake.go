package engine

import (
	"cmp"
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// wakeSilence is after how long the wake-up channel is pinged.
const wakeSilence = 30 * time.Second

// wakeups is what the listener tells the promoter.
type wakeups struct {
	mu   sync.Mutex
	sets map[string]int64 // set -> due ms
	all  bool             // something may have been missed
	up   bool
	ping chan struct{} // capacity 1
}

func (w *wakeups) tell(change func()) {
	w.mu.Lock()
	change()
	w.mu.Unlock()
	select {
	case w.ping <- struct{}{}:
	default:
	}
}

// listen follows the wake-up channel until ctx ends.
func (p *Promoter) listen(ctx context.Context, w *wakeups) {
	for ctx.Err() == nil {
		p.follow(ctx, w)
	}
}

// follow subscribes, and returns when its connection gives no sign of life any more: only a new one can be trusted then.
func (p *Promoter) follow(ctx context.Context, w *wakeups) {
	sub := p.Client.Subscribe(ctx, WakeChannel)
	stop := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer func() {
		if stop() {
			_ = sub.Close()
		}
	}()
	silence := cmp.Or(p.silence, wakeSilence)
	pinged, lost := false, false
	for ctx.Err() == nil && !lost {
		msg, err := sub.ReceiveTimeout(ctx, silence)
		switch m := msg.(type) {
		case *redis.Message:
			pinged = false
			due, set, _ := strings.Cut(m.Payload, " ")
			ms, err := strconv.ParseInt(due, 10, 64)
			if err != nil || set == "" {
				continue // not from our scripts
			}
			w.tell(func() { w.sets[set] = ms })
			continue
		case *redis.Subscription:
			pinged = false
			w.tell(func() { w.up, w.all = true, true }) // what was said before is lost: look at everything
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
		w.tell(func() { w.up = false })
		select {
		case <-ctx.Done():
		case <-time.After(p.Poll):
		}
	}
}
