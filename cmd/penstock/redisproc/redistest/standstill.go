package redistest

import (
	"sync/atomic"
	"testing"
	"time"
)

// Standstill measures from now on until the test ends for how long this machine has given a process that wanted to run no
// processor, and answers with the sum so far. Who holds something to a time allows for that and for nothing else.
func Standstill(t testing.TB) func() time.Duration {
	t.Helper()
	const look = 10 * time.Millisecond
	var still atomic.Int64
	stop, ended := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		<-ended
	})
	go func() {
		defer close(ended)
		for last := time.Now(); ; {
			select {
			case <-stop:
				return
			case <-time.After(look):
			}
			now := time.Now()
			if late := now.Sub(last) - look; late > look {
				still.Add(int64(late))
			}
			last = now
		}
	}()
	return func() time.Duration { return time.Duration(still.Load()) }
}
