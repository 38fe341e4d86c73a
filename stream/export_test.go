package stream

// Queued is how many callers wait for another's pipeline.
func (s *Stream) Queued() int {
	n := 0
	for _, c := range []*combiner{&s.single, &s.scripted} {
		c.mu.Lock()
		n += len(c.queue)
		c.mu.Unlock()
	}
	return n
}
