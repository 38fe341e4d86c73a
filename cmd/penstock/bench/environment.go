package bench

import (
	"context"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/cpuid/v2"
	"github.com/redis/go-redis/v9"
)

// Environment is what a run was measured on.
type Environment struct {
	Time       time.Time `json:"time"`
	CPU        string    `json:"cpu"`
	Cores      int       `json:"cores"`          // that Go uses
	Load       float64   `json:"load,omitempty"` // mean number of busy threads in the minute before; 0: not known
	OS         string    `json:"os"`
	Penstock   string    `json:"penstock,omitempty"` // the version; set by the program
	Go         string    `json:"go"`
	GoRedis    string    `json:"go_redis"`
	Server     string    `json:"server"`     // Redis 7.0.15
	Topology   string    `json:"topology"`   // one node, cluster, other
	Connection string    `json:"connection"` // Unix socket, TCP over loopback, TCP, TLS
	Own        bool      `json:"own"`        // started for this run
}

func (h *Harness) environment(ctx context.Context) Environment {
	e := Environment{
		Time: time.Now().UTC().Truncate(time.Second), CPU: cpuid.CPU.BrandName, Cores: runtime.GOMAXPROCS(0), Load: load(),
		OS: runtime.GOOS + "/" + runtime.GOARCH, Go: strings.TrimPrefix(runtime.Version(), "go"), GoRedis: redis.Version(), Own: h.cfg.Own,
		Topology: "other", Connection: "not known", Server: "not known",
	}
	if e.CPU == "" {
		e.CPU = "CPU not known"
	}
	switch c := h.rdb.(type) {
	case *redis.Client:
		opt := c.Options()
		e.Topology, e.Connection = "one node", connection(opt.Network, opt.Addr, opt.TLSConfig != nil)
	case *redis.ClusterClient:
		opt := c.Options()
		e.Topology = "cluster"
		if len(opt.Addrs) > 0 {
			e.Connection = connection("tcp", opt.Addrs[0], opt.TLSConfig != nil)
		}
	}
	text, err := h.rdb.Info(ctx, "server").Result()
	if err != nil {
		return e
	}
	info := parseInfo(text)
	if v := info["valkey_version"]; v != "" {
		e.Server = "Valkey " + v
	} else if v := info["redis_version"]; v != "" {
		e.Server = "Redis " + v
	}
	return e
}

func connection(network, addr string, tls bool) string {
	if network == "unix" {
		return "Unix socket"
	}
	kind := "TCP"
	if tls {
		kind = "TLS"
	}
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	if err == nil && (host == "localhost" || ip != nil && ip.IsLoopback()) {
		kind += " over loopback"
	}
	return kind
}

// load is the load average of the last minute, where the system tells.
func load() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	n, _ := strconv.ParseFloat(first, 64)
	return n
}
