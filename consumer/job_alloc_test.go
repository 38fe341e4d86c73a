package consumer

import (
	"context"
	"testing"
)

// TestJobAllocates guards what each job costs: its context, its Job, and little shares of what a read allocates in one piece.
func TestJobAllocates(t *testing.T) { //nolint:paralleltest // it counts the allocations of the whole process
	for name, tc := range map[string]struct {
		handle func(context.Context, *Job[[]byte]) error
		most   float64
	}{
		"a handler that does nothing": {func(context.Context, *Job[[]byte]) error { return nil }, 2.5},
		"one that can be cancelled":   {func(ctx context.Context, _ *Job[[]byte]) error { ctx.Done(); return ctx.Err() }, 6.5},
	} {
		if got := testing.AllocsPerRun(20, jobPath(t, tc.handle)) / readOnce; got > tc.most {
			t.Errorf("%s: %.2f allocations a job, at most %.1f are expected", name, got, tc.most)
		}
	}
}
