// Package heap keeps the garbage collector of a small program from coming all the time.
package heap

// floorSize is how much of the heap is never touched.
const floorSize = 16 << 20

// Floor lets the garbage collector come when there is some garbage. A worker's own heap is a few MB, so by Go's rule (as
// much garbage as there are live data) it would collect a hundred times a second under load, and that takes a third of the
// worker's time. What Floor returns counts as live data and is to be kept reachable; no page of it is ever written, so it takes
// address space only. Whoever sets GOGC or GOMEMLIMIT decides for himself.
func Floor(lookup func(string) (string, bool)) []byte {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		if _, set := lookup(name); set {
			return nil
		}
	}
	return make([]byte, floorSize)
}
