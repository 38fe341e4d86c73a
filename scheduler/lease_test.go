package scheduler

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// TestLeaseThatRanOut: of each beginning and end the driver hears once, also of an end that only the clock has seen, as after an
// outage or a stop: while another leads, what gocron has left would grow with each tick.
func TestLeaseThatRanOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		heard := 0
		l := newLeader(nil, slog.New(slog.DiscardHandler), func() { heard++ })
		says := func(what string, until time.Time, want int) {
			t.Helper()
			if l.set(until); heard != want {
				t.Errorf("%s: the driver has heard of %d changes, want %d", what, heard, want)
			}
		}
		says("taken", time.Now().Add(time.Second), 1)
		says("renewed", time.Now().Add(time.Second), 1)
		says("released", time.Time{}, 2)
		says("released again", time.Time{}, 2)
		says("taken again", time.Now().Add(time.Second), 3)
		time.Sleep(2 * time.Second)
		says("lost, after it ran out", time.Time{}, 4)
		says("taken a third time", time.Now().Add(time.Second), 5)
		time.Sleep(2 * time.Second)
		says("renewed, after it ran out", time.Now().Add(time.Second), 6)
	})
}
