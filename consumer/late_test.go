package consumer

import "testing"

// TestLateIsCountedTaskByTask: one excuse does not cover the others of its batch, wherever it stands.
func TestLateIsCountedTaskByTask(t *testing.T) {
	t.Parallel()
	w := fakeWorker(t, &fakeRedis{}, Config{})
	batch := func() []*task {
		return []*task{endedTask(w, "1-1"), endedTask(w, "2-1"), endedTask(w, "3-1")}
	}
	for name, tc := range map[string]struct {
		excuse func(tasks []*task)
		answer any
		want   int64
	}{
		"none late":                {func([]*task) {}, []any{}, 0},
		"two late":                 {func([]*task) {}, []any{"1-1", "3-1"}, 2},
		"the first is excused":     {func(tasks []*task) { tasks[0].gone.Store(true) }, []any{"1-1", "3-1"}, 1},
		"the last is excused":      {func(tasks []*task) { tasks[2].unsure = true }, []any{"1-1", "3-1"}, 1},
		"excused, and not late":    {func(tasks []*task) { tasks[1].unsure = true }, []any{"1-1", "3-1"}, 2},
		"events, two late":         {func([]*task) {}, []any{"", ""}, 2},
		"events, one is excused":   {func(tasks []*task) { tasks[1].unsure = true }, []any{"", ""}, 1},
		"events, more are excused": {func(tasks []*task) { tasks[0].unsure, tasks[1].unsure = true, true }, []any{""}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tasks := batch()
			tc.excuse(tasks)
			if got := late(tasks, tc.answer); got != tc.want {
				t.Errorf("%d late, want %d", got, tc.want)
			}
		})
	}
}
