package consumer

import (
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
)

func TestReadyQueueKeepsOrder(t *testing.T) {
	t.Parallel()
	q := &readyQueue{}
	pushed, popped := 0, 0
	push := func(n int) {
		tasks := make([]*task, n)
		for i := range tasks {
			tasks[i] = &task{entry: strconv.Itoa(pushed)}
			pushed++
		}
		q.push(tasks...)
	}
	pop := func(n int) {
		t.Helper()
		for range n {
			e, ok := q.tryPop()
			if !ok || e.entry != strconv.Itoa(popped) {
				t.Fatalf("popped %+v (%v), want task %d", e, ok, popped)
			}
			popped++
		}
	}
	push(3)
	pop(2)
	push(200) // grows, its first not at the beginning
	pop(150)
	push(90) // goes round the end
	pop(141)
	if _, ok := q.tryPop(); ok || q.len() != 0 {
		t.Errorf("a task that was not pushed, or %d left", q.len())
	}
}

// TestReadyQueueWakesAll: tasks that wait for each other have to be at work at once, however they came.
func TestReadyQueueWakesAll(t *testing.T) {
	t.Parallel()
	for name, share := range map[string]int{"at once": 100, "one by one": 1, "some at a time": 7} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const slots = 100
				q := &readyQueue{}
				var together, lives sync.WaitGroup
				together.Add(slots)
				for range slots {
					lives.Go(func() {
						wait := make(chan struct{}, 1)
						for {
							if _, ok := q.pop(wait); !ok {
								return
							}
							together.Done()
							together.Wait()
						}
					})
				}
				synctest.Wait() // all are idle
				for left := slots; left > 0; left -= share {
					q.push(some(min(share, left))...)
				}
				together.Wait()
				q.close()
				lives.Wait()
			})
		})
	}
}

// TestReadyQueueCountsWhoWaits: tasks for which slots are idle do not wait, or a worker with nothing to do would shed them.
func TestReadyQueueCountsWhoWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &readyQueue{}
		var lives sync.WaitGroup
		var mu sync.Mutex // keeps slots from coming back
		mu.Lock()
		for range 3 {
			lives.Go(func() {
				wait := make(chan struct{}, 1)
				for {
					if _, ok := q.pop(wait); !ok {
						return
					}
					mu.Lock()
					mu.Unlock() //nolint:staticcheck // it is a gate
				}
			})
		}
		synctest.Wait() // all are idle
		q.push(some(5)...)
		if n := q.len(); n != 2 {
			t.Errorf("%d tasks wait behind three idle slots that got five, want 2", n)
		}
		mu.Unlock()
		q.close()
		lives.Wait()
	})
}

// TestReadyQueueCloses: what is in it is still taken.
func TestReadyQueueCloses(t *testing.T) {
	t.Parallel()
	q := &readyQueue{}
	wait := make(chan struct{}, 1)
	q.push(&task{})
	q.close()
	if _, ok := q.pop(wait); !ok {
		t.Error("the last task was dropped")
	}
	if _, ok := q.pop(wait); ok {
		t.Error("an empty queue that is closed gave a task")
	}
}

func some(n int) []*task {
	tasks := make([]*task, n)
	for i := range tasks {
		tasks[i] = &task{}
	}
	return tasks
}
