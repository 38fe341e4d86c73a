package engine_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

func aSwitch(id string) engine.Switch {
	return engine.Switch{ID: id, Action: engine.SwitchPause, Type: "t", Field: "tenant", Value: "acme", Reason: "a\nb"}
}

var switchScenarios = map[string]scenario{
	"switch": {
		prepare: func(w *world) engine.Call { return engine.SwitchCall(w.Keys, aSwitch("s"), time.Hour) },
		first:   starts("[0 "), twice: starts("[1 "), oom: true,
	},
	"switch lift": {
		prepare: func(w *world) engine.Call {
			w.run(engine.SwitchCall(w.Keys, aSwitch("other"), 0))
			w.run(engine.SwitchCall(w.Keys, aSwitch("s"), 0))
			return engine.LiftCall(w.Keys, "s")
		},
		first: starts("[1 "), twice: starts("[0 "), oom: true,
	},
	"switches": {
		prepare: func(w *world) engine.Call {
			w.run(engine.SwitchCall(w.Keys, aSwitch("s"), 0))
			return engine.SwitchesCall(w.Keys, w.g)
		},
		first: starts("[1"), twice: starts("[1"), oom: true,
	},
	"resume": {
		prepare: func(w *world) engine.Call {
			w.run(engine.PauseCall(w.held("x"), w.g, "x", time.Hour, entry("x")))
			return engine.ResumeCall(w.g)
		},
		first: is(1), twice: is(0), oom: true,
	},
	"retry pause": {
		prepare: func(w *world) engine.Call {
			return engine.PauseCall(w.held("x"), w.g, "x", time.Hour, entry("x"))
		},
		first: starts("1"), twice: is(0), oom: true,
	},
}

// switches reads those that hold.
func (w *world) switches() engine.Switches {
	w.t.Helper()
	s, err := engine.ReadSwitches(w.run(engine.SwitchesCall(w.Keys, w.g)))
	w.must(s, err)
	return s
}

// TestSwitches are kept, replaced, lifted and over; each change has another version, and the key goes with the last.
func TestSwitches(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	if s := w.switches(); s.Version != "" || len(s.List) != 0 || s.Paused != 0 {
		t.Errorf("none: %+v", s)
	}
	versions := map[string]bool{"": true}
	change := func(c engine.Call, ids ...string) {
		t.Helper()
		w.run(c)
		s := w.switches()
		var got []string
		for _, one := range s.List {
			got = append(got, one.ID)
			want := aSwitch(one.ID)
			want.Made, want.Till = one.Made, one.Till
			if one.ID == "b" {
				want.Action = engine.SwitchCancel
			}
			if one != want || time.Since(one.Made).Abs() > time.Minute {
				t.Errorf("%+v, want %+v", one, want)
			}
		}
		if slices.Sort(got); !slices.Equal(got, ids) {
			t.Errorf("switches %q, want %q", got, ids)
		}
		if versions[s.Version] != (len(ids) == 0) {
			t.Errorf("version %q, after %v", s.Version, versions)
		}
		versions[s.Version] = true
	}
	b := aSwitch("b")
	b.Action = engine.SwitchCancel
	change(engine.SwitchCall(w.Keys, aSwitch("a"), time.Hour), "a")
	if ttl := w.rdb.PTTL(t.Context(), w.Switches).Val(); ttl <= 0 || ttl > time.Hour {
		t.Errorf("what is over in an hour lives for %s", ttl)
	}
	change(engine.SwitchCall(w.Keys, b, 0), "a", "b")
	if ttl := w.rdb.PTTL(t.Context(), w.Switches).Val(); ttl > 0 {
		t.Errorf("what holds until it is lifted lives for %s", ttl)
	}
	change(engine.SwitchCall(w.Keys, aSwitch("c"), 20*time.Millisecond), "a", "b", "c")
	redistest.Wait(t, "c to be over", func() bool { return len(w.switches().List) == 2 })
	change(engine.LiftCall(w.Keys, "a"), "b")
	if n := w.rdb.HLen(t.Context(), w.Switches).Val(); n != 2 {
		t.Errorf("%d fields, want b and the version: %v", n, w.rdb.HGetAll(t.Context(), w.Switches).Val())
	}
	change(engine.LiftCall(w.Keys, "b"))
	if w.rdb.Exists(t.Context(), w.Switches).Val() != 0 {
		t.Error("the key is left over")
	}
	for i := range engine.SwitchesMax {
		w.run(engine.SwitchCall(w.Keys, aSwitch(fmt.Sprint(i)), 0))
	}
	if _, _, _, ok := engine.ReadSwitched(w.run(engine.SwitchCall(w.Keys, aSwitch("more"), 0))); ok || len(w.switches().List) != engine.SwitchesMax {
		t.Errorf("one too many: %v", ok)
	}
	if was, _, _, ok := engine.ReadSwitched(w.run(engine.SwitchCall(w.Keys, aSwitch("7"), time.Hour))); !ok || !was {
		t.Error("one that there is cannot be replaced once there are as many as may be")
	}
	w.rdb.HSet(t.Context(), w.Switches, "odd", "nonsense", "newer", "1 0\n{\"do\":\"slow\",\"t\":\"t\"}")
	if s := w.switches(); s.Foreign != 2 || len(s.List) != engine.SwitchesMax {
		t.Errorf("%d foreign ones", s.Foreign)
	}
}

// TestSwitchIsOver: it is not told of, nor counted, though its field stays until the next change.
func TestSwitchIsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	w.run(engine.SwitchCall(w.Keys, aSwitch("stays"), 0))
	for i := range engine.SwitchesMax {
		w.rdb.HSet(t.Context(), w.Switches, fmt.Sprint(i), "1 2\n{\"do\":\"pause\",\"t\":\"t\"}")
	}
	if list := w.switches().List; len(list) != 1 || list[0].ID != "stays" {
		t.Errorf("these hold: %+v", list)
	}
	if _, _, _, ok := engine.ReadSwitched(w.run(engine.SwitchCall(w.Keys, aSwitch("another"), 0))); !ok || w.rdb.HLen(t.Context(), w.Switches).Val() != 3 {
		t.Errorf("added: %v; %d fields, want two switches and the version", ok, w.rdb.HLen(t.Context(), w.Switches).Val())
	}
}

// TestPausedJobs: resume makes due what a switch put off, and nothing that was parked for another reason since.
func TestPausedJobs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Client(t), redistest.Name(t))
	for _, id := range []string{"a", "b", "c"} {
		w.run(engine.PauseCall(w.held(id), w.g, id, time.Hour, entry(id)))
	}
	w.rdb.ZAdd(t.Context(), w.g.Retrying, redis.Z{Score: 1000, Member: "b"})
	w.run(engine.PromoteCall(engine.RetryingSlot(w.g), 10, "0"))
	w.run(engine.RetryCall(w.read(w.g.Redelivery), w.g, "b", time.Hour, entry("b"))) // b has failed meanwhile
	w.run(engine.RetryCall(w.held("d"), w.g, "d", time.Hour, entry("d")))
	w.run(engine.PauseCall(w.held("e"), w.g, "e", time.Hour, entry("e"))) // it has become due by itself
	w.rdb.ZAdd(t.Context(), w.g.Retrying, redis.Z{Score: 1000, Member: "e"})
	if s := w.switches(); s.Paused != 3 {
		t.Errorf("%d are put off, want 3", s.Paused)
	}
	if v := w.run(engine.ResumeCall(w.g)); v != int64(3) || engine.Resumed(v) {
		t.Errorf("answered %v", v)
	}
	now := float64(time.Now().Add(time.Minute).UnixMilli())
	for id, due := range map[string]bool{"a": true, "b": false, "c": true, "d": false} {
		score := w.rdb.ZScore(t.Context(), w.g.Retrying, id).Val()
		if (score < now) != due || !strings.HasPrefix(w.where(id), fmt.Sprintf("retrying %.0f n", score)) {
			t.Errorf("%s is due at %.0f, and ids says %q; want now: %v", id, score, w.where(id), due)
		}
	}
	if at := w.rdb.ZScore(t.Context(), w.g.Retrying, "e").Val(); at != 1000 {
		t.Errorf("what was due has lost its place: %.0f", at)
	}
	if w.rdb.Exists(t.Context(), w.g.Paused).Val() != 0 {
		t.Error("the set is left over")
	}
}

func TestSwitchMatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		field, value, data string
		want               bool
	}{
		{"", "", "no JSON", true},
		{"tenant", "acme", `{"tenant":"acme"}`, true},
		{"tenant", "acme", `{"tenant":"acm\u0065"}`, true},
		{"tenant", "acme", `{"Tenant":"acme"}`, false},
		{"tenant", "acme", `{"of":{"tenant":"acme"}}`, false},
		{"tenant", "acme", `["acme"]`, false},
		{"tenant", "acme", `tenant=acme`, false},
		{"tenant", "", `{"tenant":""}`, true},
		{"tenant", "", `{}`, false},
		{"n", "7", `{"n":7}`, true},
		{"n", "7", `{"n":"7"}`, true},
		{"n", "7", `{"n":7.0}`, false},
		{"n", "true", `{"n":true}`, true},
		{"n", "null", `{"n":null}`, true},
		{"n", "", `{"n":null}`, false},
	} {
		s := engine.Switch{Type: "t", Field: c.field, Value: c.value}
		if got := s.Matches("g", "t", func() map[string]json.RawMessage { return engine.FieldsOf([]byte(c.data)) }); got != c.want {
			t.Errorf("%s=%s of %s: %v", c.field, c.value, c.data, got)
		}
	}
	s := engine.Switch{Type: "t", Group: "g"}
	if !s.Matches("g", "t", nil) || s.Matches("other", "t", nil) || s.Matches("g", "T", nil) {
		t.Error("another group's, or another type's")
	}
}
