package consumer_test

import (
	"slices"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// sceneKeys are the keys of a stream and its group, and upkeepKeys those that serve none of its jobs.
var (
	sceneKeys = []string{
		"stream", "config", "ids", "group ids", "scheduled", "scheduled:jobs", "redelivery", "suspects",
		"retrying", "retrying:jobs", "dead",
	}
	upkeepKeys = []string{"gate", "lease", "workers", "record", "registry"}
)

// TestKeyDeleted: each key of ours, deleted by hand while jobs are in every
// place. What it held is gone; nothing else is, and what runs goes on. A set's jobs have their bodies, and are in it again.
func TestKeyDeleted(t *testing.T) {
	t.Parallel()
	for _, name := range append(sceneKeys, "upkeep") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newScene(t)
			names := []string{name}
			if name == "upkeep" {
				names = upkeepKeys
			}
			for _, s := range m.streams {
				for _, name := range names {
					m.remove(s, name)
				}
			}
			m.broken()
			if name == "scheduled" || name == "retrying" {
				for _, s := range m.streams { // promoters look once in 15 s, and when they are woken
					m.rdb.Publish(t.Context(), engine.WakeChannel, "1 "+key(s, name))
					redistest.Wait(t, "what was in the set", func() bool { return m.rdb.ZCard(t.Context(), key(s, name)).Val() == 1 })
				}
			}
			m.settled()
			switch name {
			case "scheduled", "retrying":
				if n := len(m.logs.with("WARN", "out of their set", "jobs=1")); n != len(m.streams) {
					t.Errorf("%d lines say that jobs are in their set again, want one a stream: %q", n, m.logs.with("WARN"))
				}
			case "stream":
				if got := m.w.Stats(); got.Lost < sceneSlots || got.LeasesLost != 0 {
					t.Errorf("stats = %+v, want what ran counted as lost entries", got)
				}
			case "scheduled:jobs", "retrying:jobs":
				if n := len(m.logs.with("ERROR", "had lost their bodies", "jobs=1")); n != len(m.streams) {
					t.Errorf("%d errors say that bodies were lost, want one a stream: %q", n, m.logs.with("ERROR"))
				}
			}
		})
	}
}

// remove deletes a key, and notes which jobs were nowhere else.
func (m *scene) remove(s *stream.Stream, name string) {
	key := key(s, name)
	ctx := m.t.Context()
	switch name {
	case "stream", "redelivery", "suspects":
		m.taken(s, m.unread(s, key, func(pipe redis.Pipeliner) { pipe.Del(ctx, key) })...)
		return
	case "scheduled:jobs":
		m.taken(s, "later")
	case "retrying:jobs":
		m.taken(s, "parked")
	case "dead":
		m.taken(s, "died")
	}
	m.rdb.Del(ctx, key)
}

// TestKeyReplaced: each key of ours replaced by one of another type while jobs are in every place, and put back: nothing is lost.
func TestKeyReplaced(t *testing.T) {
	t.Parallel()
	for _, name := range sceneKeys {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newScene(t)
			ctx := t.Context()
			for _, s := range m.streams {
				m.rdb.Rename(ctx, key(s, name), key(s, name)+":aside")
				m.rdb.Set(ctx, key(s, name), "oops", 0)
			}
			m.broken()
			for _, s := range m.streams {
				m.rdb.Del(ctx, key(s, name))
				m.rdb.Rename(ctx, key(s, name)+":aside", key(s, name))
			}
			m.settled()
		})
	}
}

// TestKeyMeddledWithWhileIdle: the keys that a worker uses while it waits for jobs, all of
// whose fates must be open to it again afterwards, takeovers included.
func TestKeyMeddledWithWhileIdle(t *testing.T) {
	t.Parallel()
	// A set that a person has to look at is tried again after 15 s only: TestPromoterOneSetFails.
	slow := map[string][]string{"stream": {"late"}, "redelivery": {"run-again"}, "ids": {"late", "run-again"}}
	for _, name := range []string{"stream", "config", "ids", "redelivery", "suspects", "gate", "lease", "workers", "registry"} {
		for _, how := range []string{"deleted", "replaced"} {
			if how == "deleted" && slices.Contains(upkeepKeys, name) {
				continue // TestKeyDeleted does
			}
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				m := idleScene(t)
				ctx := t.Context()
				for _, s := range m.streams {
					m.rdb.Del(ctx, key(s, name))
					if how == "replaced" {
						m.rdb.Set(ctx, key(s, name), "oops", 0)
					}
				}
				m.broken()
				if how == "deleted" {
					m.works()
					return
				}
				for _, s := range m.streams {
					m.rdb.Del(ctx, key(s, name))
				}
				m.works(slow[name]...)
			})
		}
	}
}
