package engine_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// TestOnce goes through what may happen to one piece of work.
func TestOnce(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	first, later, late, other := claimant("a", 9, "r1"), claimant("a", 10, "r2"), claimant("a", 9, "r3"), claimant("b", 1<<40, "r4")
	claim := func(by engine.Claimant) func(*world) engine.Call {
		return func(w *world) engine.Call { return engine.ClaimCall(w.Keys, "k", by, time.Minute) }
	}
	done := func(by engine.Claimant, result string) func(*world) engine.Call {
		return func(w *world) engine.Call { return engine.DoneCall(w.Keys, "k", by, []byte(result), time.Minute) }
	}
	release := func(by engine.Claimant) func(*world) engine.Call {
		return func(w *world) engine.Call { return engine.UnclaimCall(w.Keys, "k", by) }
	}
	type step struct {
		call func(*world) engine.Call
		want string
	}
	const mine, taken, isDone = "mine", "taken", "done"
	for name, steps := range map[string][]step{
		"done once":                       {{claim(first), mine}, {done(first, "x"), isDone}, {claim(other), isDone}, {claim(later), isDone}, {done(later, "y"), isDone}},
		"taken, and held for longer":      {{claim(first), mine}, {claim(other), taken}, {claim(first), mine}, {claim(other), taken}},
		"given back":                      {{claim(first), mine}, {release(first), mine}, {claim(other), mine}, {done(other, "x"), isDone}},
		"a later run of the same job":     {{claim(first), mine}, {claim(later), mine}, {claim(first), taken}, {done(first, "x"), taken}, {release(first), mine}, {done(later, "y"), isDone}},
		"a run with the same fence":       {{claim(first), mine}, {claim(late), taken}},
		"an earlier run of the same job":  {{claim(later), mine}, {claim(late), taken}},
		"a higher fence, another job":     {{claim(first), mine}, {claim(other), taken}, {done(other, "x"), taken}},
		"not given back by another":       {{claim(first), mine}, {release(other), mine}, {claim(other), taken}},
		"done when nobody has it":         {{done(first, "x"), isDone}, {claim(other), isDone}},
		"done is not given back":          {{done(first, "x"), isDone}, {release(first), isDone}, {claim(other), isDone}},
		"done by a run that never claims": {{claim(first), mine}, {done(later, "x"), taken}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rdb, redistest.Name(t))
			for i, s := range steps {
				v := w.run(s.call(w))
				if got := v.([]any)[0]; got != s.want {
					t.Fatalf("step %d answered %v, want %s", i+1, v, s.want)
				}
				if ttl := rdb.PTTL(t.Context(), w.Once("k")).Val(); ttl == -1*time.Nanosecond || ttl > time.Minute {
					t.Fatalf("step %d: what is known stays for %s", i+1, ttl)
				}
			}
		})
	}
}

// TestOnceResults: what was returned comes back as it was, and a full Redis keeps the mark without it.
func TestOnceResults(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	w := newWorld(t, rdb, "orders")
	by := claimant("job\nwith lines", 1, "r")
	for key, result := range map[string][]byte{"none": nil, "empty": {}, "some": []byte("\x00\ndone\nx\n")} {
		w.run(engine.DoneCall(w.Keys, key, by, result, time.Minute))
		got, err := engine.ReadClaimed(w.run(engine.ClaimCall(w.Keys, key, by, time.Minute)))
		if err != nil || !got.Done || fmt.Sprintf("%#v", got.Result) != fmt.Sprintf("%#v", result) {
			t.Errorf("%s: %+v, %v, want %q", key, got, err, result)
		}
	}
	rdb.Set(t.Context(), w.Once("strange"), "not ours", 0)
	if got, err := engine.ReadClaimed(w.run(engine.ClaimCall(w.Keys, "strange", by, time.Minute))); err != nil || !got.Taken {
		t.Errorf("what is not ours: %+v, %v", got, err)
	}
	w.run(engine.ClaimCall(w.Keys, "full", by, time.Minute))
	if err := rdb.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	_, claimed := engine.ClaimCall(w.Keys, "another", by, time.Minute).Run(t.Context(), rdb)
	w.run(engine.DoneCall(w.Keys, "full", by, []byte("large"), time.Minute))
	if err := rdb.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := engine.ReadClaimed(w.run(engine.ClaimCall(w.Keys, "full", by, time.Minute))); err != nil || !got.Done || got.Result != nil {
		t.Errorf("marked in a full Redis: %+v, %v", got, err)
	}
	if engine.Classify(claimed) != engine.Full {
		t.Errorf("claimed in a full Redis: %v", claimed)
	}
}
