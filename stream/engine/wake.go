package engine

import (
	"context"
	"strconv"
	"strings"
	"sync"
)

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
	l := Listener{Client: p.Client, Channel: WakeChannel, Pause: p.Poll, Silence: p.silence,
		Heard: func(text string) {
			due, set, _ := strings.Cut(text, " ")
			ms, err := strconv.ParseInt(due, 10, 64)
			if err != nil || set == "" {
				if p.Said != nil {
					p.Said(text)
				}
				return
			}
			w.tell(func() { w.sets[set] = ms })
		},
		Up: func(up bool) {
			w.tell(func() { w.up, w.all = up, w.all || up }) // what was said before is lost: look at everything
			if up && p.Missed != nil {
				p.Missed()
			}
		},
	}
	l.Run(ctx)
}
