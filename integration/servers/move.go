package servers

import (
	"context"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Failover makes the replica the master, in the way of an operator: Sentinel's
// SENTINEL FAILOVER, which demotes a master that goes on until then, or a
// Cluster's CLUSTER FAILOVER (Config.Replica), which loses nothing. It returns
// when the old master follows the new one.
func (s *Server) Failover(t testing.TB) {
	t.Helper()
	if s.setup.Topology == Cluster {
		replica := connect(t, s.nodes[masters].addr())
		wait(t, "the replica to take over", func() bool {
			_ = replica.ClusterFailover(t.Context()).Err() // refused while its link to the master is down
			return role(t, replica) == "master"
		})
		s.waitForReplica(t, s.nodes[0])
		s.nodes[0], s.nodes[masters] = s.nodes[masters], s.nodes[0]
		return
	}
	old := s.master(t)
	wait(t, "the Sentinels to begin a failover", func() bool {
		rdb := redis.NewSentinelClient(&redis.Options{Addr: s.watch[0].addr(), MaxRetries: -1})
		defer rdb.Close()
		return rdb.Failover(t.Context(), masterName).Err() == nil // refused while another is under way
	})
	s.waitForMaster(t, old)
}

// Crash kills the master that Sentinels watch, waits until they have made
// the replica one (after Config.DownAfter), and starts the old one again.
func (s *Server) Crash(t testing.TB) {
	t.Helper()
	old := s.master(t)
	if err := old.kill(t.Context()); err != nil {
		t.Fatalf("kill the master: %v", err)
	}
	wait(t, "the Sentinels to name another master", func() bool { return s.master(t).addr() != old.addr() })
	if err := old.start(t.Context()); err != nil {
		t.Fatalf("start the old master again: %v", err)
	}
	s.waitForMaster(t, old)
}

// master that the Sentinels name.
func (s *Server) master(t testing.TB) node {
	t.Helper()
	for end := time.Now().Add(waitTimeout); time.Now().Before(end); {
		info := s.sentinelInfo(t, s.watch[0])
		if n := s.byAddr()[net.JoinHostPort(info["ip"], info["port"])]; n != nil {
			return n
		}
	}
	t.Fatal("the Sentinels name no master")
	return nil
}

// waitForMaster waits until all Sentinels name another master than old, and old follows it.
func (s *Server) waitForMaster(t testing.TB, old node) {
	t.Helper()
	for _, n := range s.watch {
		wait(t, "all Sentinels to name the new master", func() bool {
			info := s.sentinelInfo(t, n)
			addr := net.JoinHostPort(info["ip"], info["port"])
			return s.byAddr()[addr] != nil && addr != old.addr()
		})
	}
	host, port := hostPort(s.master(t))
	if err := connect(t, old.addr()).ReplicaOf(t.Context(), host, port).Err(); err != nil { // as the Sentinels do after ten seconds
		t.Fatalf("make the old master a replica: %v", err)
	}
	s.waitForReplica(t, old)
}

// Migration is a slot of a Cluster on its way from one node to another.
type Migration struct {
	t        testing.TB
	slot     int64
	from, to *redis.Client
	all      []*redis.Client
	toAddr   string
	toID     string
}

// Migrate begins to move the slot of key to another node: it is MIGRATING and
// IMPORTING from here on, and a command for a key that has moved is answered
// with ASK, one for some that have and some that have not with TRYAGAIN.
func (s *Server) Migrate(t testing.TB, key string) *Migration {
	t.Helper()
	all := s.Nodes(t)
	m := &Migration{t: t, slot: all[0].ClusterKeySlot(t.Context(), key).Val(), all: all}
	owner := s.owner(t, m.slot)
	for _, rdb := range all {
		switch addr := rdb.Options().Addr; {
		case addr == owner:
			m.from = rdb
		case m.to == nil:
			m.to, m.toAddr = rdb, addr
		}
	}
	if m.from == nil || m.to == nil {
		t.Fatalf("no two nodes to move the slot %d between; its owner is %s", m.slot, owner)
	}
	m.toID = m.to.ClusterMyID(t.Context()).Val()
	setSlot(t, m.to, "IMPORTING", m.slot, m.from.ClusterMyID(t.Context()).Val())
	setSlot(t, m.from, "MIGRATING", m.slot, m.toID)
	return m
}

// setSlot says what becomes of a slot, once the node has heard by gossip that the other one is a master.
func setSlot(t testing.TB, rdb *redis.Client, what string, slot int64, other string) {
	t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-time.After(50 * time.Millisecond) {
		if err = rdb.Do(t.Context(), "CLUSTER", "SETSLOT", slot, what, other).Err(); err == nil || !strings.Contains(err.Error(), "not a master") {
			break
		}
	}
	if err != nil {
		t.Fatalf("CLUSTER SETSLOT %d %s %s: %v", slot, what, other, err)
	}
}

// owner is the address of the master that has a slot.
func (s *Server) owner(t testing.TB, slot int64) string {
	t.Helper()
	shards, err := s.Nodes(t)[0].ClusterShards(t.Context()).Result()
	if err != nil {
		t.Fatalf("CLUSTER SHARDS: %v", err)
	}
	for _, shard := range shards {
		for _, r := range shard.Slots {
			for _, n := range shard.Nodes {
				if r.Start <= slot && slot <= r.End && n.Role == "master" {
					return net.JoinHostPort(n.IP, strconv.FormatInt(n.Port, 10))
				}
			}
		}
	}
	t.Fatalf("nobody has slot %d", slot)
	return ""
}

// Keys are those of the slot that have not moved yet, n of them at most.
func (m *Migration) Keys(n int) []string {
	m.t.Helper()
	keys, err := m.from.ClusterGetKeysInSlot(m.t.Context(), int(m.slot), n).Result()
	if err != nil {
		m.t.Fatalf("CLUSTER GETKEYSINSLOT: %v", err)
	}
	return keys
}

// Move moves keys of the slot.
func (m *Migration) Move(keys ...string) {
	m.t.Helper()
	host, port := split(m.toAddr)
	for _, key := range keys {
		if err := m.from.Migrate(m.t.Context(), host, port, key, 0, 10*time.Second).Err(); err != nil {
			m.t.Fatalf("MIGRATE %s: %v", key, err)
		}
	}
}

// Finish moves what is left and gives the slot to its new owner, which all nodes hear.
func (m *Migration) Finish() {
	m.t.Helper()
	for keys := m.Keys(100); len(keys) > 0; keys = m.Keys(100) {
		m.Move(keys...)
	}
	nodes := append([]*redis.Client{m.to, m.from}, m.all...)
	for _, rdb := range nodes { // the new owner first, or a key might be made where the slot was
		wait(m.t, "a node to hear whose the slot is", func() bool {
			return rdb.Do(context.WithoutCancel(m.t.Context()), "CLUSTER", "SETSLOT", m.slot, "NODE", m.toID).Err() == nil
		})
	}
}

func split(addr string) (host, port string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, ""
	}
	return host, port
}
