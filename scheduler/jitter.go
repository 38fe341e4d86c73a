package scheduler

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

// fire is when a tick is to be published: less than Jitter later, by whole milliseconds, and always before the next tick:
// ticks keep their order, without which the later of two would make the earlier one a duplicate. It is the same in every
// replica and must stay so from version to version.
func (p *plan) fire(tick time.Time) time.Time {
	if p.jitter <= 0 {
		return tick
	}
	room := p.jitter
	if next, ok := p.next(tick); ok {
		room = min(room, next.Sub(tick))
	}
	ms := room.Milliseconds()
	if ms <= 0 {
		return tick
	}
	h := sha256.Sum256(fmt.Appendf(nil, "%s:%d", p.name, tick.Unix()))
	n := binary.BigEndian.Uint64(h[:8]) % uint64(ms)     //nolint:gosec // positive
	return tick.Add(time.Duration(n) * time.Millisecond) //nolint:gosec // less than ms
}
