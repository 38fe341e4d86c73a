package consumer

import "testing"

// TestLostRunHidesNoOther: a handler that goes on after its lease was lost is held still. It must not hide the run of
// the same entry that is ours, which would not be renewed, and be started once more when it is delivered again.
func TestLostRunHidesNoOther(t *testing.T) {
	t.Parallel()
	w := fakeWorker(t, &fakeRedis{}, Config{})
	l := w.sources[0].lanes[1]
	entries := func() []rawEntry {
		return []rawEntry{{id: "5-0", values: []string{"type", "t", "data", "", "traceparent", "", "opts", ""}}}
	}
	lost := w.handOut(l, entries(), mono())
	l.hold(lost)
	lost[0].lost.Store(true)
	if again := l.notHeld(entries()); len(again) != 1 {
		t.Fatal("an entry whose lease was lost is delivered again, and does not run")
	}
	ours := w.handOut(l, entries(), mono())
	l.hold(ours)
	if set, _ := l.snapshot(); set["5-0"] != ours[0] {
		t.Error("a heartbeat does not renew the run that is ours")
	}
	if again := l.notHeld(entries()); len(again) != 0 {
		t.Error("an entry that runs here is delivered again, and runs beside itself")
	}
}
