package consumer_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// TestHalfOpenConnection: when a connection is cut and Redis does not notice, the blocked read on it must not swallow what
// comes. It is ended first, or where that is not allowed or could end another's, what it took is looked for later.
func TestHalfOpenConnection(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		denied string
		ended  bool
	}{
		"ended":                {"", true},
		"may not be ended":     {"-client|kill", false},
		"address is not known": {"-client|info", false},
		"no ID is known":       {"-client", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Server(t)
			direct := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
			args := []any{"ACL", "SETUSER", "worker", "on", "nopass", "~*", "&*", "+@all"}
			if tc.denied != "" {
				args = append(args, tc.denied)
			}
			if err := direct.Do(t.Context(), args...).Err(); err != nil {
				t.Fatal(err)
			}
			proxy := redistest.NewProxy(t, server.Addr())
			proxied := redistest.Connect(t, &redis.Options{Addr: proxy.Addr(), Username: "worker", Password: "any"})
			s, err := stream.New(direct, "orders", stream.Config{})
			if err != nil {
				t.Fatal(err)
			}
			through, err := stream.New(proxied, "orders", stream.Config{})
			if err != nil {
				t.Fatal(err)
			}
			cfg := quick()
			cfg.Lease = 10 * time.Second // a read blocks for a tenth of it
			w := newWorker(t, cfg, through)
			var book ledger
			consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error { book.add(fmt.Sprint(job.Data)); return nil })
			run(t, w)
			readers := func() (ids []string) { // connections that are blocked
				for line := range strings.Lines(direct.ClientList(t.Context()).Val()) {
					if strings.Contains(line, " flags=b") {
						ids = append(ids, strings.Fields(line)[0])
					}
				}
				return ids
			}
			redistest.Wait(t, "a blocked read", func() bool { return len(readers()) == 1 })
			ghost := readers()[0]
			proxy.CutClients()
			var after []string
			redistest.Wait(t, "the worker to read again", func() bool {
				after = readers()
				return slices.ContainsFunc(after, func(id string) bool { return id != ghost })
			})
			if tc.ended && slices.Contains(after, ghost) {
				t.Error("the worker reads again, and the connection that was cut still does")
			}
			publish(t, s, many(4)...)
			for i := range 4 {
				redistest.Wait(t, "the job", func() bool { return book.of(fmt.Sprint(i)) > 0 })
			}
			idle(t, s)
			if book.total() != 4 {
				t.Errorf("%d runs, want 4", book.total())
			}
			if n := w.Stats().Reclaimed; n != 0 {
				t.Errorf("%d jobs came back when their lease was over, want none", n)
			}
		})
	}
}

// TestRestartKillsNobody: a server that was started again gives out the IDs of connections from 1 on, so the one that a
// worker has lost is somebody else's by then, whom the worker must leave alone.
func TestRestartKillsNobody(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	direct := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	proxy := redistest.NewProxy(t, server.Addr())
	through, err := stream.New(redistest.Connect(t, &redis.Options{Addr: proxy.Addr()}), "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	connect := func() (*redis.Conn, int64) {
		conn := redistest.Connect(t, &redis.Options{Addr: server.Addr(), MaxRetries: -1}).Conn()
		id, err := conn.ClientID(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		return conn, id
	}
	for range 5 { // so that the reader's ID is not one that the server's start takes
		_, _ = connect()
	}
	w := newWorker(t, quick(), through)
	consumer.Handle(w, ping, func(context.Context, *consumer.Job[int]) error { return nil })
	run(t, w)
	var reader int64
	redistest.Wait(t, "a blocked read", func() bool {
		for line := range strings.Lines(direct.ClientList(t.Context()).Val()) {
			if strings.Contains(line, " flags=b") {
				_, err := fmt.Sscanf(line, "id=%d", &reader)
				return err == nil
			}
		}
		return false
	})
	proxy.Refuse() // the worker stays away until its ID is taken
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	stranger, id := connect()
	for id < reader {
		stranger, id = connect()
	}
	if id != reader {
		t.Fatalf("the connection after the restart has ID %d, want %d", id, reader)
	}
	if err := proxy.Forward(); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, "the worker to be back", func() bool {
		_, err := through.Publish(t.Context(), ping.Job(1))
		return err == nil
	})
	redistest.Wait(t, "the job", func() bool { return w.Stats().Completed > 0 })
	if stats := direct.Info(t.Context(), "commandstats").Val(); !strings.Contains(stats, "cmdstat_client|kill:") {
		t.Error("no connection was to be ended: this proves nothing")
	}
	if got, err := stranger.ClientID(t.Context()).Result(); err != nil || got != id {
		t.Errorf("the stranger's connection has ID %d (%v), want %d still", got, err, id)
	}
}
