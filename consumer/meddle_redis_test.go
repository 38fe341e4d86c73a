package consumer_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// running are the jobs of a scene that handlers work on.
var running = []string{"run-ok", "run-again", "run-dead"}

// resent notes jobs that the meddler made run again.
func (m *scene) resent(s *stream.Stream, names ...string) {
	for _, name := range names {
		m.again[s.Name()+"/"+name] = true
	}
}

// TestMeddling: what people do to a Redis by hand or by mistake, while jobs
// are in every place. Each case undoes it in the end, where that can be done.
func TestMeddling(t *testing.T) {
	t.Parallel()
	for name, meddle := range map[string]func(t *testing.T, m *scene){
		"consumer deleted": func(t *testing.T, m *scene) {
			for _, s := range m.streams {
				for _, key := range []string{s.Name(), key(s, "redelivery"), key(s, "suspects")} {
					m.rdb.XGroupDelConsumer(t.Context(), key, group, m.w.Name())
				}
			}
			m.broken()
			if len(m.logs.with("WARN", "off this worker's list")) == 0 {
				t.Error("nothing says that jobs were taken off the worker's list")
			}
		},
		"groups destroyed": func(t *testing.T, m *scene) {
			for _, s := range m.streams {
				for _, key := range []string{s.Name(), key(s, "redelivery"), key(s, "suspects")} {
					m.rdb.XGroupDestroy(t.Context(), key, group)
				}
			}
			m.resent(m.streams[1], sceneJobs...) // on an events stream, what has ended since the oldest that has not
			m.broken()
		},
		"all trimmed away": func(t *testing.T, m *scene) {
			for _, s := range m.streams {
				for _, key := range []string{s.Name(), key(s, "redelivery"), key(s, "suspects")} {
					m.taken(s, m.unread(s, key, func(pipe redis.Pipeliner) { pipe.XTrimMaxLen(t.Context(), key, 0) })...)
				}
			}
			m.broken()
			if got := m.w.Stats(); got.Lost < sceneSlots {
				t.Errorf("stats = %+v, want what ran counted as lost entries", got)
			}
		},
		"waiting and running entries deleted": func(t *testing.T, m *scene) {
			for _, s := range m.streams {
				for _, e := range m.rdb.XRange(t.Context(), s.Name(), "-", "+").Val() {
					switch typ, _ := e.Values["type"].(string); typ {
					case "wait-1":
						m.taken(s, typ)
						fallthrough
					case "run-again":
						m.rdb.XDel(t.Context(), s.Name(), e.ID)
					}
				}
			}
			m.broken()
			if got := m.w.Stats(); got.Lost < 2 || got.Lost > 4 { // those that waited may have been read ahead
				t.Errorf("stats = %+v, want the entries that ran counted", got)
			}
		},
		"scripts and connections": func(t *testing.T, m *scene) {
			admin := redistest.Connect(t, &redis.Options{Addr: m.server.Addr(), MaxRetries: -1})
			for range 5 {
				admin.ScriptFlush(t.Context())
				for _, typ := range []string{"normal", "pubsub"} {
					admin.ClientKillByFilter(t.Context(), "TYPE", typ, "SKIPME", "yes")
				}
				<-time.After(lease / 10)
			}
			m.broken()
			admin.ScriptFlush(t.Context())
		},
		"clients paused": func(t *testing.T, m *scene) {
			// for longer than the leases last
			if err := m.rdb.Do(t.Context(), "CLIENT", "PAUSE", (2 * lease).Milliseconds(), "WRITE").Err(); err != nil {
				t.Fatal(err)
			}
			m.broken()
			m.rdb.Do(t.Context(), "CLIENT", "UNPAUSE")
		},
		"flushed": func(t *testing.T, m *scene) {
			for _, s := range m.streams {
				m.taken(s, sceneJobs...)
				for _, name := range running {
					delete(m.may, s.Name()+"/"+name) // all of them is with their worker
				}
			}
			m.rdb.FlushAll(t.Context())
			m.broken()
			if got := m.w.Stats(); got.Lost < sceneSlots {
				t.Errorf("stats = %+v, want what ran counted as lost entries", got)
			}
		},
		"read-only": func(t *testing.T, m *scene) {
			_, port, _ := net.SplitHostPort(closedPort(t))
			if err := m.rdb.Do(t.Context(), "REPLICAOF", "127.0.0.1", port).Err(); err != nil {
				t.Fatal(err)
			}
			m.broken()
			if _, err := m.streams[0].Publish(t.Context(), stream.Job{Type: "refused"}); !errors.Is(err, stream.ErrUnavailable) {
				t.Errorf("publish to a replica: %v, want ErrUnavailable", err)
			}
			m.free() // what ends now is written later
			<-time.After(lease / 2)
			m.broken()
			if h := m.w.Health(); h.Ready || h.Problem == nil || !h.Live {
				t.Errorf("health = %+v, want it live, not ready, and saying why", h)
			}
			if err := m.rdb.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err(); err != nil {
				t.Fatal(err)
			}
		},
		"full": func(t *testing.T, m *scene) {
			m.rdb.ConfigSet(t.Context(), "maxmemory", "1")
			m.broken()
			if _, err := m.streams[0].Publish(t.Context(), stream.Job{Type: "refused"}); !errors.Is(err, stream.ErrStreamFull) {
				t.Errorf("publish to a full server: %v, want ErrStreamFull", err)
			}
			m.free()
			redistest.Wait(t, "what ran to end", func() bool {
				return m.ended.of("orders/run-again") > 0 && m.ended.of("news/run-again") > 0 && m.dead()["orders/run-dead"] && m.dead()["news/run-dead"]
			})
			m.rdb.ConfigSet(t.Context(), "maxmemory", "0")
		},
		"full, and streams deleted": func(t *testing.T, m *scene) {
			for _, s := range m.streams {
				m.taken(s, m.unread(s, s.Name(), func(pipe redis.Pipeliner) { pipe.Del(t.Context(), s.Name()) })...)
			}
			m.rdb.ConfigSet(t.Context(), "maxmemory", "1")
			m.broken()
			m.rdb.ConfigSet(t.Context(), "maxmemory", "0")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newScene(t)
			meddle(t, m)
			m.settled()
		})
	}
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestReplay: a group that somebody sets back runs again what its stream holds
// from there on, once, and nothing else.
func TestReplay(t *testing.T) {
	t.Parallel()
	m := idleScene(t)
	news := m.streams[1]
	m.free()
	names := []string{"wait-0", "wait-1", "wait-2", "back", "run-again"}
	m.publish(news, names...)
	redistest.Wait(t, "all to end", func() bool { got := m.w.Stats(); return got.Completed == 4 && got.Dead == 1 })
	before := m.runs.total()
	third := m.rdb.XRange(t.Context(), news.Name(), "-", "+").Val()[1].ID
	if err := m.rdb.XGroupSetID(t.Context(), news.Name(), group, third).Err(); err != nil {
		t.Fatal(err)
	}
	m.publish(news, "after") // a blocked reader looks when something comes
	redistest.Wait(t, "the replay", func() bool { return m.w.Stats().Completed == 4+1+3 })
	idle(t, news)
	if n := m.runs.total() - before; n != 1+3 {
		t.Errorf("%d runs after the group was set back by three jobs, want those and the new one", n)
	}
	for _, name := range names[:2] {
		if n := m.runs.of("news/" + name); n != 1 {
			t.Errorf("%s, from before the position, ran %d times", name, n)
		}
	}
}

// TestReplayWhileRunning: what runs when its group is set back is delivered
// again to the worker that runs it, which does not run it a second time. On a
// queue what is done is gone, so nothing at all runs again.
func TestReplayWhileRunning(t *testing.T) {
	t.Parallel()
	m := newScene(t)
	for _, s := range m.streams {
		for _, key := range []string{s.Name(), key(s, "redelivery"), key(s, "suspects")} {
			if err := m.rdb.XGroupSetID(t.Context(), key, group, "0").Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.resent(m.streams[1], sceneJobs...)
	m.broken()
	m.settled()
}

// TestSetBackWithRoom: the same where the worker has room for what is delivered again.
func TestSetBackWithRoom(t *testing.T) {
	t.Parallel()
	for _, kind := range []stream.Kind{stream.KindQueue, stream.KindEvents} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			rdb := redistest.Client(t)
			s := newStream(t, rdb, stream.Config{Kind: kind})
			w := newWorker(t, quick(), s)
			var book ledger
			release := make(chan struct{})
			consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
				if book.add(job.ID); job.Data < 2 {
					<-release
				}
				return nil
			})
			run(t, w)
			ids := publish(t, s, many(2)...)
			redistest.Wait(t, "the jobs to run", func() bool { return len(w.Running()) == 2 })
			rdb.XGroupSetID(t.Context(), s.Name(), group, "0")
			for i := range 3 { // a blocked reader looks when something comes
				publish(t, s, ping.Job(2+i))
				redistest.Wait(t, "the jobs behind them", func() bool { return w.Stats().Completed == int64(i+1) })
			}
			close(release)
			redistest.Wait(t, "all jobs", func() bool { return w.Stats().Completed == 5 })
			idle(t, s)
			for _, r := range ids {
				if n := book.of(r.ID); n != 1 {
					t.Errorf("%s ran %d times, want once", r.ID, n)
				}
			}
		})
	}
}

// TestSkipped: jobs of a queue that somebody made its group skip run all the same; to skip one, one deletes it.
func TestSkipped(t *testing.T) {
	t.Parallel()
	m := newScene(t)
	orders := m.streams[0]
	skipped := 0
	for _, key := range []string{orders.Name(), key(orders, "redelivery"), key(orders, "suspects")} {
		skipped += len(m.unread(orders, key, func(pipe redis.Pipeliner) { pipe.XGroupSetID(t.Context(), key, group, "$") }))
	}
	if skipped == 0 {
		t.Error("no job was skipped: this proves nothing")
	}
	m.broken()
	m.settled()
}
