package consumer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestLostLeaseIsTold: a run hears at once that its job is somebody else's; a batch goes on while one of its jobs is its own.
func TestLostLeaseIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := fakeWorker(t, &fakeRedis{}, Config{MaxJobs: 2})
		single, first, second := endedTask(w, "1-1"), endedTask(w, "2-1"), endedTask(w, "3-1")
		alone := w.begin(w.slots[0], context.Background(), time.Hour, single)
		batch := w.begin(w.slots[1], context.Background(), time.Hour, first, second)
		defer func() { // lets go of timers
			for _, s := range w.slots {
				s.cancelRun(nil)
				s.stop()
			}
		}()
		w.loseLease(single)
		if err := context.Cause(alone); !errors.Is(err, ErrLeaseLost) {
			t.Errorf("the run ended with %v, want ErrLeaseLost", err)
		}
		w.loseLease(first)
		if err := context.Cause(batch); err != nil {
			t.Errorf("a batch ended with %v while one of its jobs was its own", err)
		}
		w.loseLease(second)
		if err := context.Cause(batch); !errors.Is(err, ErrLeaseLost) {
			t.Errorf("the batch ended with %v, want ErrLeaseLost", err)
		}
		for _, task := range []*task{single, first, second} {
			if task.judge(nil, nil); task.verdict.action != actDrop {
				t.Errorf("what %s returned is not dropped", task.entry)
			}
		}
		if n := w.counts.leasesLost.Load(); n != 3 {
			t.Errorf("%d lost leases counted, want 3", n)
		}
	})
}
