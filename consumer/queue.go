package consumer

import "sync"

// readyQueue holds what was read and has not started, oldest first. A channel would wake a slot for each task it gets; here a slot
// that takes one wakes another only while more are there, so that jobs which end at once go through few slots, one after
// the other, and those that wait for something through all of them.
type readyQueue struct {
	mu     sync.Mutex
	tasks  []*task // a ring
	first  int
	n      int
	idle   []chan struct{} // of slots that wait, the last one first: its stack is the warmest
	waking bool            // one was woken and has not come yet
	closed bool
}

// push adds tasks; how many there may be is for the caller to bound.
func (q *readyQueue) push(tasks ...*task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if need := q.n + len(tasks); need > len(q.tasks) {
		ring := make([]*task, max(2*len(q.tasks), need, 64))
		for i := range q.n {
			ring[i] = q.tasks[(q.first+i)%len(q.tasks)]
		}
		q.tasks, q.first = ring, 0
	}
	for i, t := range tasks {
		q.tasks[(q.first+q.n+i)%len(q.tasks)] = t
	}
	q.n += len(tasks)
	q.wake()
}

// wake wakes a slot when there is something to do and nobody is on the way to it; q.mu is held.
func (q *readyQueue) wake() {
	if q.waking || q.n == 0 || len(q.idle) == 0 {
		return
	}
	q.waking = true
	last := len(q.idle) - 1
	q.idle[last] <- struct{}{} // never blocks: it has room for one, and whoever waits is in the list once
	q.idle = q.idle[:last]
}

// pop takes the next task, and waits for one on wait, which is the caller's own and has room for one. It reports false when
// there is none and the queue is closed.
func (q *readyQueue) pop(wait chan struct{}) (*task, bool) {
	q.mu.Lock()
	for q.n == 0 && !q.closed {
		q.idle = append(q.idle, wait)
		q.mu.Unlock()
		<-wait
		q.mu.Lock()
		q.waking = false
	}
	t := q.take()
	q.wake()
	q.mu.Unlock()
	return t, t != nil
}

// tryPop is pop that does not wait.
func (q *readyQueue) tryPop() (*task, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.take()
	return t, t != nil
}

// take takes the next task, or nil; q.mu is held.
func (q *readyQueue) take() *task {
	if q.n == 0 {
		return nil
	}
	t := q.tasks[q.first]
	q.tasks[q.first] = nil
	q.first = (q.first + 1) % len(q.tasks)
	q.n--
	return t
}

// len is how many tasks wait for a slot: those that idle slots are about to take do not.
func (q *readyQueue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	coming := len(q.idle)
	if q.waking {
		coming++
	}
	return max(q.n-coming, 0)
}

// close lets pop report the end once all is taken.
func (q *readyQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, wait := range q.idle {
		wait <- struct{}{}
	}
	q.idle = nil
}
