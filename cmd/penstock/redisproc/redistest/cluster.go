package redistest

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc"
)

const clusterSlots = 16384

// Cluster starts a Redis Cluster of three masters for one test, and returns a
// client with go-redis's own defaults and the servers, which hold a third of the slots each.
func Cluster(t testing.TB) (*redis.ClusterClient, []*redisproc.Server) {
	t.Helper()
	const masters = 3
	var servers []*redisproc.Server
	var nodes []*redis.Client
	var addrs, buses []string
	for i := range masters {
		bus := freePort(t)
		s, err := redisproc.Start(t.Context(), redisproc.Config{
			Dir:  filepath.Join(t.TempDir(), "node"+strconv.Itoa(i)),
			Args: []string{"--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", bus},
		})
		if err != nil {
			t.Fatalf("no Redis for this test: %v", err)
		}
		t.Cleanup(func() {
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		})
		servers, buses, addrs = append(servers, s), append(buses, bus), append(addrs, s.Addr())
		nodes = append(nodes, Connect(t, &redis.Options{Addr: s.Addr()}))
	}
	for i, node := range nodes {
		first, last := clusterSlots*i/masters, clusterSlots*(i+1)/masters-1
		if err := node.Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", first, last).Err(); err != nil {
			t.Fatalf("give a node its slots: %v", err)
		}
		host, port, err := net.SplitHostPort(addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := node.Do(t.Context(), "CLUSTER", "MEET", host, port, buses[0]).Err(); err != nil {
			t.Fatalf("let the nodes meet: %v", err)
		}
	}
	for i, node := range nodes {
		Wait(t, fmt.Sprintf("node %d to know the cluster", i), func() bool {
			info := node.ClusterInfo(t.Context()).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
	t.Cleanup(func() { _ = rdb.Close() })
	Wait(t, "the cluster to answer", func() bool {
		ok := true
		for i := range 30 { // keys of all nodes
			ok = ok && rdb.Set(t.Context(), "key"+strconv.Itoa(i), 1, time.Second).Err() == nil
		}
		return ok
	})
	return rdb, servers
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it was only asked for its number
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
