package heap

import "testing"

func TestFloor(t *testing.T) {
	t.Parallel()
	set := map[string]string{}
	lookup := func(name string) (string, bool) { v, ok := set[name]; return v, ok }
	if n := len(Floor(lookup)); n != floorSize {
		t.Errorf("a floor of %d bytes, want %d", n, floorSize)
	}
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		set = map[string]string{name: "1"}
		if n := len(Floor(lookup)); n != 0 {
			t.Errorf("a floor of %d bytes though %s is set", n, name)
		}
	}
}
