package stream

// Queued is how many callers wait for another's pipeline.
func (s *Stream) Queued() int {
	s.single.mu.Lock()
	defer s.single.mu.Unlock()
	return len(s.single.queue)
}
