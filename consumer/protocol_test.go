package consumer_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// TestBothProtocols: jobs of any size and content come as they are, ours and those of other programs, in RESP2 and in RESP3.
func TestBothProtocols(t *testing.T) {
	t.Parallel()
	for _, protocol := range []int{2, 3} {
		t.Run(fmt.Sprint(protocol), func(t *testing.T) {
			t.Parallel()
			rdb := redistest.Client(t)
			opt := redistest.Options(t)
			opt.Protocol = protocol
			s := newStream(t, redistest.Connect(t, opt), stream.Config{Kind: stream.KindQueue})
			w := newWorker(t, quick(), s)
			var want atomic.Pointer[string]
			w.HandleOther(func(_ context.Context, d *consumer.Delivery) error {
				got := string(d.Payload)
				if d.Fields != nil {
					if got = d.Fields["x"]; len(d.Fields) != 2 || d.Fields[""] != "é" {
						t.Errorf("the fields of another program's entry are %.100q", d.Fields)
					}
				}
				if got != *want.Load() {
					t.Errorf("%d bytes have come: %.100q; want %d: %.100q", len(got), got, len(*want.Load()), *want.Load())
				}
				return nil
			})
			run(t, w)
			for i, size := range []int{0, 1, 1000, 100, 600_000, 7, 8000, 8000, 2} { // after a large one answers are decoded another way
				data := strings.Repeat("\r\n$5*", size)
				want.Store(&data)
				rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []any{"type", "t", "data", data, "traceparent", "", "opts", ""}})
				rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: []any{"x", data, "", "é"}})
				redistest.Wait(t, "the jobs", func() bool { return w.Stats().Completed == int64(2*i+2) })
			}
			if n := w.Stats().HandedBack; n != 0 {
				t.Errorf("%d jobs were handed back: an answer was not understood", n)
			}
		})
	}
}
