package consumer

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
)

// lateRead keeps the answer to a read back until open is closed.
type lateRead struct {
	armed, hit atomic.Bool
	open       chan struct{}
}

func (h *lateRead) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h *lateRead) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *lateRead) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if c, ok := cmd.(interface{ Val() any }); ok && cmd.Name() == "xreadgroup" && err == nil && c.Val() != nil && h.armed.CompareAndSwap(true, false) {
			h.hit.Store(true)
			<-h.open
		}
		return err
	}
}

// TestReplayOfWhatHasJustEnded: a group that was set back delivers what runs here, and that has ended before the answer arrives.
func TestReplayOfWhatHasJustEnded(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	h := &lateRead{open: make(chan struct{})}
	rdb.AddHook(h)
	s, err := stream.New(wrapped{rdb}, redistest.Name(t), stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := New("billing", Config{}, s)
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	var first, second atomic.Int32
	w.HandleOther(func(_ context.Context, d *Delivery) error {
		if d.Type == "second" {
			second.Add(1)
			return nil
		}
		first.Add(1)
		<-release
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	publish := func(typ string) {
		if _, err := s.Publish(t.Context(), stream.Job{Type: typ}); err != nil {
			t.Fatal(err)
		}
	}
	publish("first")
	redistest.Wait(t, "the first job", func() bool { return first.Load() == 1 })
	rdb.XGroupSetID(t.Context(), s.Name(), "billing", "0")
	h.armed.Store(true)
	publish("second")
	redistest.Wait(t, "the read that brings both", h.hit.Load)
	close(release)
	redistest.Wait(t, "the first job's end", func() bool { return w.Stats().Completed == 1 })
	close(h.open)
	redistest.Wait(t, "the second job's end", func() bool { return w.Stats().Completed == 2 })
	if first.Load() != 1 || second.Load() != 1 {
		t.Errorf("they ran %d and %d times, want once", first.Load(), second.Load())
	}
}
