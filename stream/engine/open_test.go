package engine_test

import (
	"testing"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// TestEpochNeverFalls: a group that is made again delivers what was delivered before, under a higher fence.
func TestEpochNeverFalls(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	reopen := func(known, want int64, after string) {
		t.Helper()
		o, err := engine.Reopen(t.Context(), rdb, w.Keys, "g", "queue", known)
		if err != nil || o.Refusal != "" || o.Epoch != want {
			t.Errorf("%s: %+v, %v; want epoch %d", after, o, err, want)
		}
	}
	reopen(1, 1, "nothing happened")
	rdb.XGroupDestroy(t.Context(), w.Stream, "g")
	reopen(1, 2, "the group was destroyed")
	rdb.Del(t.Context(), w.Config)
	reopen(2, 3, "the config was deleted, the worker knows the last epoch")
	rdb.XGroupDestroy(t.Context(), w.Stream, "g")
	rdb.Del(t.Context(), w.Config)
	reopen(7, 8, "both, and the worker knows a later one")
	reopen(1, 8, "another worker, which knows an old one")
}
