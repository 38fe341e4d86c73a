package stream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// switches lists the kill switches of s.
func switches(t *testing.T, s *stream.Stream) []stream.Switch {
	t.Helper()
	list, err := s.Switches(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func addSwitch(t *testing.T, s *stream.Stream, sw stream.Switch) stream.Switch {
	t.Helper()
	set, err := s.AddSwitch(t.Context(), sw)
	if err != nil {
		t.Fatalf("%+v: %v", sw, err)
	}
	return set
}

// TestSwitchFaults: what cannot be meant is refused with all of its faults, each by the field's name, and nothing is written.
func TestSwitchFaults(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	long := strings.Repeat("ä", 251)
	for name, c := range map[string]struct {
		sw   stream.Switch
		want []string
	}{
		"nothing":           {stream.Switch{}, []string{`Action is "": it must be pause or cancel`, "Type is empty"}},
		"unknown action":    {stream.Switch{Action: "stop", Type: "t"}, []string{`Action is "stop"`}},
		"value alone":       {stream.Switch{Action: stream.PauseJobs, Type: "t", Value: "x"}, []string{"Value is set, and Field is not"}},
		"too short":         {stream.Switch{Action: stream.PauseJobs, Type: "t", For: time.Second - 1}, []string{"For is 999.999999ms"}},
		"over before":       {stream.Switch{Action: stream.PauseJobs, Type: "t", For: -time.Hour}, []string{"For is -1h0m0s"}},
		"group's name":      {stream.Switch{Action: stream.PauseJobs, Type: "t", Group: "a:b"}, []string{"Group: "}},
		"type too long":     {stream.Switch{Action: stream.PauseJobs, Type: long}, []string{"Type has 502 bytes: at most 500"}},
		"type no text":      {stream.Switch{Action: stream.PauseJobs, Type: "\xff"}, []string{"Type is no UTF-8"}},
		"value without end": {stream.Switch{Action: stream.PauseJobs, Type: "t", Field: "f", Value: "x\xc3"}, []string{"Value is no UTF-8"}},
		"all there are": {
			stream.Switch{Action: "x", Field: long, Value: long, Reason: "\xff" + long, Group: "a:b", For: 1},
			[]string{"Action is", "Field has 502 bytes", "For is 1ns", "Group: ", "Reason has 503 bytes", "Reason is no UTF-8", "Type is empty", "Value has 502 bytes"},
		},
	} {
		set, err := s.AddSwitch(t.Context(), c.sw)
		if !errors.Is(err, stream.ErrInvalid) || set != (stream.Switch{}) || !strings.HasPrefix(err.Error(), "set a kill switch of "+s.Name()+": ") {
			t.Errorf("%s: %+v, %v", name, set, err)
			continue
		}
		_, faults, _ := strings.Cut(err.Error(), stream.ErrInvalid.Error()+": ")
		got := strings.Split(faults, "; ")
		if len(got) != len(c.want) || !slices.EqualFunc(got, c.want, strings.HasPrefix) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if n := rdb.Exists(t.Context(), engine.NewKeys(s.Name()).Switches).Val(); n != 0 {
		t.Error("a switch was set")
	}
}

// TestSwitchReceipts: what AddSwitch returns is what Switches lists, by Redis's clock; set again for the same jobs it replaces
// what that did, and for others it stands beside.
func TestSwitchReceipts(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	key := engine.NewKeys(s.Name()).Switches
	if list := switches(t, s); len(list) != 0 {
		t.Errorf("there are none: %+v", list)
	}
	first := stream.Switch{Action: stream.PauseJobs, Type: "mail", Field: "tenant", Value: "acme", Reason: "too many", For: time.Hour}
	before := redisTime(t, rdb)
	set := addSwitch(t, s, first)
	after := redisTime(t, rdb)
	if set.Made.Before(before) || set.Made.After(after) || set.Expires.Sub(set.Made) != time.Hour || set.For != 0 || len(set.ID) != 8 {
		t.Errorf("%+v, between %s and %s", set, before, after)
	}
	want := first
	want.ID, want.For, want.Made, want.Expires = set.ID, 0, set.Made, set.Expires
	if list := switches(t, s); !slices.Equal(list, []stream.Switch{want}) || set != want {
		t.Errorf("%+v, and listed %+v; want %+v", set, list, want)
	}
	again := first
	again.Action, again.Reason, again.For, again.ID = stream.CancelJobs, "they sent it twice", 0, "chosen"
	again.Made, again.Expires = time.Unix(1, 0), time.Unix(2, 0)
	changed := addSwitch(t, s, again)
	if changed.ID != set.ID || changed.Action != stream.CancelJobs || !changed.Expires.IsZero() || changed.Made.Before(after) {
		t.Errorf("set again: %+v", changed)
	}
	if list := switches(t, s); !slices.Equal(list, []stream.Switch{changed}) || rdb.PTTL(t.Context(), key).Val() > 0 {
		t.Errorf("set again it lists %+v", list)
	}
	ids := map[string]bool{set.ID: true}
	for _, change := range []func(sw *stream.Switch){
		func(sw *stream.Switch) { sw.Type = "page" }, func(sw *stream.Switch) { sw.Field = "owner" }, func(sw *stream.Switch) { sw.Value = "other" },
		func(sw *stream.Switch) { sw.Group = "audit" }, func(sw *stream.Switch) { sw.Field, sw.Value = "", "" }, func(sw *stream.Switch) { sw.Value = "" },
		func(sw *stream.Switch) { sw.Field = "tenant id" }, // and the next is another, though joined they are alike
		func(sw *stream.Switch) { sw.Type, sw.Field = "mail tenant", "id" },
	} {
		other := first
		if change(&other); other.Field == "" {
			other.Value = ""
		}
		ids[addSwitch(t, s, other).ID] = true
	}
	if list := switches(t, s); len(ids) != 9 || len(list) != 9 {
		t.Errorf("%d of 9 switches have IDs of their own, and %d are listed", len(ids), len(list))
	}
	for id := range ids {
		if err := s.RemoveSwitch(t.Context(), id); err != nil {
			t.Error(err)
		}
		if err := s.RemoveSwitch(t.Context(), id); !errors.Is(err, stream.ErrNotFound) || err.Error() != fmt.Sprintf("lift kill switch %s of %s: %v", id, s.Name(), stream.ErrNotFound) {
			t.Errorf("lifted twice: %v", err)
		}
	}
	if rdb.Exists(t.Context(), key).Val() != 0 || len(switches(t, s)) != 0 {
		t.Error("something is left of switches that were all lifted")
	}
}

// TestSwitchExpires: it is over when it said, and what is over is neither listed, nor there to be lifted.
func TestSwitchExpires(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	brief := addSwitch(t, s, stream.Switch{Action: stream.PauseJobs, Type: "brief", For: time.Second})
	if ttl := rdb.PTTL(t.Context(), engine.NewKeys(s.Name()).Switches).Val(); ttl <= 0 || ttl > time.Second {
		t.Errorf("the key of what is over in a second lives for %s", ttl)
	}
	stays := addSwitch(t, s, stream.Switch{Action: stream.PauseJobs, Type: "stays"})
	longer := addSwitch(t, s, stream.Switch{Action: stream.PauseJobs, Type: "longer", For: time.Second})
	refreshed := addSwitch(t, s, stream.Switch{Action: stream.PauseJobs, Type: "longer", For: time.Hour})
	if refreshed.ID != longer.ID || !refreshed.Expires.After(longer.Expires) {
		t.Errorf("%+v, after %+v", refreshed, longer)
	}
	var at time.Time
	redistest.Wait(t, "the brief one to be over", func() bool { at = redisTime(t, rdb); return len(switches(t, s)) == 2 })
	if at.Before(brief.Expires.Add(-50 * time.Millisecond)) {
		t.Errorf("it was over before %s, and said %s", at, brief.Expires)
	}
	if list := switches(t, s); !slices.Equal(list, []stream.Switch{stays, refreshed}) {
		t.Errorf("these hold: %+v", list)
	}
	if err := s.RemoveSwitch(t.Context(), brief.ID); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("lift one that is over: %v", err)
	}
	again := addSwitch(t, s, stream.Switch{Action: stream.PauseJobs, Type: "brief"})
	if again.ID != brief.ID || len(switches(t, s)) != 3 {
		t.Errorf("%+v", again)
	}
}

// TestSwitchesAreListedInOrder: oldest first, one that is set again is new, and those of one moment by ID; at most 100 of them.
func TestSwitchesAreListedInOrder(t *testing.T) {
	t.Parallel()
	s, _ := open(t, stream.Config{})
	var last stream.Switch
	for i := range engine.SwitchesMax {
		last = addSwitch(t, s, stream.Switch{Action: stream.PauseJobs, Type: fmt.Sprint("t", i)})
	}
	sw := stream.Switch{Action: stream.PauseJobs, Type: "one more"}
	if set, err := s.AddSwitch(t.Context(), sw); !errors.Is(err, stream.ErrInvalid) || set != (stream.Switch{}) || !strings.Contains(err.Error(), "there are 100, and no more are allowed: lift some") {
		t.Errorf("one too many: %+v, %v", set, err)
	}
	redistest.Wait(t, "another moment", func() bool {
		return addSwitch(t, s, stream.Switch{Action: stream.CancelJobs, Type: "t0"}).Made.After(last.Made) // which is no new one
	})
	list := switches(t, s)
	inOrder := func(a, b stream.Switch) int {
		if c := a.Made.Compare(b.Made); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	}
	if len(list) != engine.SwitchesMax || !slices.IsSortedFunc(list, inOrder) || list[len(list)-1].Type != "t0" {
		t.Errorf("%d switches, the last %+v", len(list), list[len(list)-1])
	}
	if err := s.RemoveSwitch(t.Context(), last.ID); err != nil {
		t.Fatal(err)
	}
	addSwitch(t, s, sw)
}

// TestSwitchesOfAnotherStream: each stream has its own, also before it has anything else; setting one makes no stream of it.
func TestSwitchesOfAnotherStream(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	other := over(t, rdb, s.Name()+"-2", stream.Config{})
	for _, id := range []string{"12345678", "", "version", "*", "a b\r\n", strings.Repeat("x", 10_000)} {
		if err := s.RemoveSwitch(t.Context(), id); !errors.Is(err, stream.ErrNotFound) {
			t.Errorf("lift %.20q where there is nothing: %v", id, err)
		}
	}
	if n := rdb.Exists(t.Context(), engine.NewKeys(s.Name()).Switches).Val(); n != 0 {
		t.Error("lifting what there is not has left a key")
	}
	sw := addSwitch(t, s, stream.Switch{Action: stream.PauseJobs, Type: "mail"})
	if twin := addSwitch(t, other, stream.Switch{Action: stream.CancelJobs, Type: "mail"}); twin.ID != sw.ID {
		t.Errorf("%+v and %+v", sw, twin)
	}
	if err := other.RemoveSwitch(t.Context(), sw.ID); err != nil {
		t.Error(err)
	}
	if list := switches(t, s); !slices.Equal(list, []stream.Switch{sw}) || len(switches(t, other)) != 0 {
		t.Errorf("%+v", list)
	}
	for _, id := range []string{"version", "", "Version", sw.ID + " ", strings.ToUpper(sw.ID) + "\n"} { // a field of the key that is no switch
		if err := s.RemoveSwitch(t.Context(), id); !errors.Is(err, stream.ErrNotFound) {
			t.Errorf("lift %q: %v", id, err)
		}
	}
	if list := switches(t, s); len(list) != 1 || rdb.HGet(t.Context(), engine.NewKeys(s.Name()).Switches, "version").Val() == "" {
		t.Errorf("after lifting what there is not: %v", rdb.HGetAll(t.Context(), engine.NewKeys(s.Name()).Switches).Val())
	}
	if rdb.Exists(t.Context(), s.Name(), engine.NewKeys(s.Name()).Config).Val() != 0 {
		t.Error("a switch has made a stream")
	}
}

// TestSwitchesOfHostileNames: whatever text there is comes back as it is.
func TestSwitchesOfHostileNames(t *testing.T) {
	t.Parallel()
	s, _ := open(t, stream.Config{})
	want := make(map[string]stream.Switch)
	for _, text := range []string{
		"version", "a b", "a\nb", "1 0\n{}", "\x00", "\r\n", `"`, `\`, `{"do":"cancel"}`, "<script>", "ä€😀", " ", "*", "%s%d", "\u2028", strings.Repeat("x", 500), "&", "switch x",
	} {
		for _, sw := range []stream.Switch{
			{Action: stream.PauseJobs, Type: text, Reason: text},
			{Action: stream.CancelJobs, Type: "t", Field: text, Value: text},
		} {
			set := addSwitch(t, s, sw)
			sw.ID, sw.Made = set.ID, set.Made
			if set != sw || want[set.ID] != (stream.Switch{}) {
				t.Errorf("%+v became %+v", sw, set)
			}
			want[set.ID] = set
		}
	}
	list := switches(t, s)
	if len(list) != len(want) {
		t.Errorf("%d switches, want %d", len(list), len(want))
	}
	for _, sw := range list {
		if sw != want[sw.ID] {
			t.Errorf("%+v became %+v", want[sw.ID], sw)
		}
	}
	for id := range want {
		if err := s.RemoveSwitch(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}

// TestSwitchErrors: what somebody put in the key's place, and a context that has ended.
func TestSwitchErrors(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	sw := stream.Switch{Action: stream.PauseJobs, Type: "mail"}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.AddSwitch(ended, sw); !errors.Is(err, context.Canceled) {
		t.Errorf("set after the context has ended: %v", err)
	}
	if err := s.RemoveSwitch(ended, "12345678"); !errors.Is(err, context.Canceled) {
		t.Errorf("lift after the context has ended: %v", err)
	}
	if _, err := s.Switches(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("list after the context has ended: %v", err)
	}
	key := engine.NewKeys(s.Name()).Switches
	rdb.HSet(t.Context(), key, "nonsense", "x", "newer", "1 0\n{\"do\":\"slow\",\"t\":\"mail\"}", "typeless", "1 0\n{\"do\":\"pause\"}", "version", "x")
	if list := switches(t, s); len(list) != 0 {
		t.Errorf("what is no switch is listed: %+v", list)
	}
	if err := s.RemoveSwitch(t.Context(), "newer"); err != nil || rdb.HExists(t.Context(), key, "newer").Val() {
		t.Errorf("one of a newer version cannot be lifted: %v", err)
	}
	rdb.Del(t.Context(), key)
	rdb.Set(t.Context(), key, "x", 0)
	if _, err := s.AddSwitch(t.Context(), sw); err == nil || !strings.HasPrefix(err.Error(), "set a kill switch of "+s.Name()+": ") {
		t.Errorf("set: %v", err)
	}
	if err := s.RemoveSwitch(t.Context(), "x"); err == nil || errors.Is(err, stream.ErrNotFound) {
		t.Errorf("lift: %v", err)
	}
	if _, err := s.Switches(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "list the kill switches of "+s.Name()+": ") {
		t.Errorf("list: %v", err)
	}
	if v := rdb.Get(t.Context(), key).Val(); v != "x" {
		t.Errorf("somebody's key is %q", v)
	}
}

// redisTime is Redis's clock, in whole milliseconds as switches have it.
func redisTime(t *testing.T, rdb *redis.Client) time.Time {
	t.Helper()
	now, err := rdb.Time(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	return now.Truncate(time.Millisecond)
}
