package servers

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Config of what Start starts.
type Config struct {
	// Args are more of the server program's own arguments, as "--maxmemory", "64mb".
	Args []string
	// DownAfter is how long Sentinels wait before they take a silent master for dead. Default: one minute, so that
	// a machine that is busy causes no failover.
	DownAfter time.Duration
	// Replica gives the first master of a Cluster a replica.
	Replica bool
}

// Server is one setup of running servers. Its methods that start, stop and move things are called one at a time.
type Server struct {
	setup Setup
	nodes []node // servers with data: the master and its replica, or the masters and then the replica
	watch []node // Sentinels
	cfg   Config
}

const (
	masterName  = "main"
	waitTimeout = time.Minute
	slots       = 16384
	masters     = 3
)

// Start starts the servers of a setup for one test, and returns when they answer.
func Start(t testing.TB, setup Setup, cfg Config) *Server {
	t.Helper()
	if cfg.DownAfter == 0 {
		cfg.DownAfter = time.Minute
	}
	// A replica gets its data at once, and not five seconds later with others that might come.
	cfg.Args = append([]string{"--repl-diskless-sync-delay", "0"}, cfg.Args...)
	s := &Server{setup: setup, cfg: cfg}
	switch setup.Topology {
	case Sentinel:
		s.startSentinel(t)
	case Cluster:
		s.startCluster(t)
	default:
		s.nodes = s.launch(t, spec{args: cfg.Args, mapped: true})
	}
	if _, _, version, err := setup.Kind.image(); err == nil { // a tag may lie
		if err := sameVersion(setup.Kind.Name, s.Version(t), version); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// launch starts nodes at once.
func (s *Server) launch(t testing.TB, specs ...spec) []node {
	t.Helper()
	nodes, errs := make([]node, len(specs)), make([]error, len(specs))
	var wg sync.WaitGroup
	for i, spec := range specs {
		wg.Go(func() { nodes[i], errs[i] = launch(t, s.setup.Kind, spec) })
	}
	wg.Wait()
	for _, n := range nodes {
		if n == nil {
			continue
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), startTimeout)
			defer cancel()
			_ = n.resume(ctx)
			if err := n.remove(ctx); err != nil {
				t.Errorf("end a server: %v", err)
			}
		})
	}
	for _, err := range errs {
		if err != nil {
			t.Fatalf("no %s for this test: %v", s.setup.Kind.Name, err)
		}
	}
	return nodes
}

func (s *Server) startSentinel(t testing.TB) {
	t.Helper()
	s.nodes = s.launch(t, spec{args: s.cfg.Args}, spec{args: s.cfg.Args})
	host, port := hostPort(s.nodes[0])
	if err := connect(t, s.nodes[1].addr()).ReplicaOf(t.Context(), host, port).Err(); err != nil {
		t.Fatalf("make a replica: %v", err)
	}
	s.waitForReplica(t, s.nodes[1])
	conf := fmt.Sprintf("sentinel monitor %[1]s %[2]s %[3]s 2\nsentinel down-after-milliseconds %[1]s %[4]d\nsentinel failover-timeout %[1]s 3000\n",
		masterName, host, port, s.cfg.DownAfter.Milliseconds())
	watch := spec{sentinel: conf}
	s.watch = s.launch(t, watch, watch, watch)
	for _, n := range s.watch {
		wait(t, "the Sentinels to know each other and the replica", func() bool {
			info := s.sentinelInfo(t, n)
			return info["num-other-sentinels"] == strconv.Itoa(len(s.watch)-1) && info["num-slaves"] == "1"
		})
	}
}

// sentinelInfo is what a Sentinel knows of the master.
func (s *Server) sentinelInfo(t testing.TB, n node) map[string]string {
	t.Helper()
	rdb := redis.NewSentinelClient(&redis.Options{Addr: n.addr(), MaxRetries: -1})
	defer rdb.Close()
	return rdb.Master(t.Context(), masterName).Val()
}

// waitForReplica returns when a replica has all that its master had. A Sentinel that hears late of a failover makes it follow another for a while.
func (s *Server) waitForReplica(t testing.TB, replica node) {
	t.Helper()
	rdb := connect(t, replica.addr())
	info := ""
	defer func() {
		if t.Failed() {
			t.Logf("%s: %s", replica.addr(), info)
		}
	}()
	told := time.Now()
	wait(t, "the replica to follow its master", func() bool {
		info = rdb.Info(t.Context(), "replication").Val()
		if strings.Contains(info, "master_link_status:up") {
			return true
		}
		if s.setup.Topology == Sentinel && time.Since(told) > tellAgain {
			if master := s.master(t); master != replica {
				host, port := hostPort(master)
				rdb.ReplicaOf(t.Context(), host, port)
			}
			told = time.Now()
		}
		return false
	})
}

const tellAgain = 5 * time.Second // whom a replica has to follow

func (s *Server) startCluster(t testing.TB) {
	t.Helper()
	var specs []spec
	n := masters
	if s.cfg.Replica {
		n++
	}
	buses := make([]int, n)
	for i := range n {
		// The node timeout is longer than what tests stall, and a busy machine, take: no node is to be taken for dead.
		args := []string{"--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1", "--cluster-node-timeout", "30000"}
		specs = append(specs, spec{args: append(args, s.cfg.Args...), bus: &buses[i]})
	}
	s.nodes = s.launch(t, specs...)
	first := make([]*redis.Client, n)
	for i, node := range s.nodes {
		rdb := connect(t, node.addr())
		first[i] = rdb
		do(t, rdb, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
		if i < masters {
			do(t, rdb, "CLUSTER", "ADDSLOTSRANGE", slots*i/masters, slots*(i+1)/masters-1)
		}
		for k, other := range s.nodes[:i] {
			host, port := hostPort(other)
			do(t, rdb, "CLUSTER", "MEET", host, port, buses[k])
		}
	}
	for _, rdb := range first {
		wait(t, "the nodes to know each other", func() bool {
			info := rdb.ClusterInfo(t.Context()).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:"+strconv.Itoa(n))
		})
	}
	if s.cfg.Replica {
		id := first[0].ClusterMyID(t.Context()).Val()
		wait(t, "the replica to know its master", func() bool { return first[masters].ClusterReplicate(t.Context(), id).Err() == nil })
		s.waitForReplica(t, s.nodes[masters])
		for _, rdb := range first { // clients ask any of them
			wait(t, "all nodes to know the replica", func() bool { return strings.Contains(rdb.ClusterNodes(t.Context()).Val(), "slave "+id) })
		}
	}
}

// Client returns a client of the setup, with go-redis's own defaults. It is closed at the test's end.
func (s *Server) Client(t testing.TB) redis.UniversalClient {
	t.Helper()
	return s.ClientFor(t, redis.UniversalOptions{})
}

// ClientFor is Client with some options of the caller's, as a user name; addresses are filled in.
func (s *Server) ClientFor(t testing.TB, opt redis.UniversalOptions) redis.UniversalClient {
	t.Helper()
	nodes := s.nodes
	if s.setup.Topology == Sentinel {
		nodes, opt.MasterName = s.watch, masterName
	}
	for _, n := range nodes {
		opt.Addrs = append(opt.Addrs, n.addr())
	}
	opt.IsClusterMode = s.setup.Topology == Cluster
	rdb := redis.NewUniversalClient(&opt)
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// URL is what REDIS_URL is for a program that is to use the setup.
func (s *Server) URL() string {
	scheme, nodes, path := "redis", s.nodes, ""
	switch s.setup.Topology {
	case Sentinel:
		scheme, nodes, path = "redis+sentinel", s.watch, "/"+masterName
	case Cluster:
		scheme = "redis+cluster"
	}
	addrs := make([]string, len(nodes))
	for i, n := range nodes {
		addrs[i] = n.addr()
	}
	return scheme + "://" + strings.Join(addrs, ",") + path
}

// Nodes returns a client of each server that is a master now. They are closed at the test's end.
func (s *Server) Nodes(t testing.TB) []*redis.Client {
	t.Helper()
	return slices.DeleteFunc(s.All(t), func(rdb *redis.Client) bool { return role(t, rdb) != "master" })
}

// All returns a client of each server with data, replicas too. They are closed at the test's end.
func (s *Server) All(t testing.TB) []*redis.Client {
	t.Helper()
	list := make([]*redis.Client, len(s.nodes))
	for i, n := range s.nodes {
		list[i] = connect(t, n.addr())
	}
	return list
}

func role(t testing.TB, rdb *redis.Client) string {
	t.Helper()
	answer, _ := rdb.Do(t.Context(), "ROLE").Slice()
	if len(answer) == 0 {
		return ""
	}
	text, _ := answer[0].(string)
	return text
}

// Version that the servers say they have.
func (s *Server) Version(t testing.TB) string {
	t.Helper()
	info := s.info(t, s.nodes[0], "server")
	if v := info["valkey_version"]; v != "" {
		return v
	}
	return info["redis_version"]
}

// Errors counts the error answers of all servers since they started, by their first word: MOVED, LOADING, …
func (s *Server) Errors(t testing.TB) map[string]int {
	t.Helper()
	sum := make(map[string]int)
	for _, n := range s.nodes {
		for name, value := range s.info(t, n, "errorstats") {
			var count int
			if _, err := fmt.Sscanf(value, "count=%d", &count); err == nil {
				sum[strings.TrimPrefix(name, "errorstat_")] += count
			}
		}
	}
	return sum
}

func (s *Server) info(t testing.TB, n node, section string) map[string]string {
	t.Helper()
	rdb := connect(t, n.addr())
	text, err := rdb.Info(t.Context(), section).Result()
	if err != nil {
		t.Fatalf("INFO %s: %v", section, err)
	}
	return fields(text)
}

// fields of an answer to INFO.
func fields(text string) map[string]string {
	set := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			set[name] = value
		}
	}
	return set
}

// Synced returns when the replica, where there is one, has all that its master has now.
func (s *Server) Synced(t testing.TB) {
	t.Helper()
	if len(s.nodes) == 1 || s.setup.Topology == Cluster && !s.cfg.Replica {
		return
	}
	replica := connect(t, s.nodes[len(s.nodes)-1].addr())
	master := s.nodes[0]
	if role(t, replica) == "master" {
		replica, master = connect(t, s.nodes[0].addr()), s.nodes[len(s.nodes)-1]
	}
	has := func(section map[string]string, name string) int64 {
		n, _ := strconv.ParseInt(section[name], 10, 64)
		return n
	}
	want := has(s.info(t, master, "replication"), "master_repl_offset")
	wait(t, "the replica to have all that its master has", func() bool {
		return has(fields(replica.Info(t.Context(), "replication").Val()), "slave_repl_offset") >= want
	})
}

// Stall freezes all servers with data: connections stay open, nothing answers.
func (s *Server) Stall(t testing.TB) {
	t.Helper()
	s.all(t, "stall", node.pause)
}

// Continue undoes Stall.
func (s *Server) Continue(t testing.TB) {
	t.Helper()
	s.all(t, "continue", node.resume)
}

// Down stops all servers with data in good order.
func (s *Server) Down(t testing.TB) {
	t.Helper()
	s.all(t, "stop", node.stop)
}

// Up starts them again after Down, with their data, and returns when they answer.
func (s *Server) Up(t testing.TB) {
	t.Helper()
	s.all(t, "start again", node.start)
	if s.setup.Topology != Sentinel {
		return
	}
	master := s.master(t)
	host, port := hostPort(master)
	for _, n := range s.nodes {
		if n == master {
			continue
		}
		// It has no configuration that says so, and the Sentinels would say so after ten seconds.
		if err := connect(t, n.addr()).ReplicaOf(t.Context(), host, port).Err(); err != nil {
			t.Fatalf("make a replica again: %v", err)
		}
		s.waitForReplica(t, n)
	}
}

// all does something to all servers with data at once.
func (s *Server) all(t testing.TB, what string, do func(node, context.Context) error) {
	t.Helper()
	var wg sync.WaitGroup
	for _, n := range s.nodes {
		wg.Go(func() {
			if err := do(n, t.Context()); err != nil {
				t.Errorf("%s %s: %v", what, n.addr(), err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// wait returns when ok does, and fails the test when it has not after a minute.
func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(waitTimeout); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s for this: %s", waitTimeout, what)
		}
	}
}

func do(t testing.TB, rdb *redis.Client, args ...any) any {
	t.Helper()
	v, err := rdb.Do(t.Context(), args...).Result()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return v
}

func hostPort(n node) (host, port string) {
	i := strings.LastIndexByte(n.addr(), ':')
	return n.addr()[:i], n.addr()[i+1:]
}

// byAddr is the servers with data by their addresses.
func (s *Server) byAddr() map[string]node {
	set := make(map[string]node)
	for _, n := range s.nodes {
		set[n.addr()] = n
	}
	return set
}
