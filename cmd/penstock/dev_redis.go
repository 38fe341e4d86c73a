package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc"
	"github.com/penstock-go/penstock/stream/engine"
	"github.com/penstock-go/penstock/stream/redisenv"
)

// devRedis is the Redis that the load runs on.
type devRedis struct {
	Kind    string `json:"kind"` // redis-server, valkey-server, miniredis, redis, valkey
	Version string `json:"version"`
	Where   string `json:"where"`
	Own     bool   `json:"own"` // started for this run, and gone after it

	url    string // for other programs; "" when it is the user's, who knows it
	dir    string // of its data
	client func(context.Context) (redis.UniversalClient, error)
	died   <-chan struct{} // nil: nobody can tell
	stop   func() error
}

const installHint = "to try it on the real thing, install redis-server (Debian: apt-get install redis-server, macOS: brew install redis)"

// devRedis starts a Redis of its own, or connects to the user's.
func (a *app) devRedis(ctx context.Context, opt devOptions) (*devRedis, error) {
	if opt.yours {
		return a.yourRedis(ctx)
	}
	if !opt.embedded {
		path, err := redisproc.Find()
		if err == nil {
			return serverRedis(ctx, path, opt.keep)
		}
		if !errors.Is(err, redisproc.ErrNotFound) {
			return nil, err
		}
	}
	return embeddedRedis()
}

func serverRedis(ctx context.Context, path string, keep bool) (*devRedis, error) {
	dir, remove, err := devFolder()
	if err != nil {
		return nil, err
	}
	server, err := redisproc.Start(ctx, redisproc.Config{Dir: dir, Path: path, AppendOnly: true})
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	return &devRedis{
		Kind: strings.TrimSuffix(filepath.Base(path), ".exe"), Version: server.Version(), Where: server.Addr(), Own: true,
		url: server.URL(), dir: dir, client: ownClient(server.Addr()), died: server.Done(),
		stop: func() error {
			err := server.Stop()
			if keep {
				return err
			}
			return errors.Join(err, remove())
		},
	}, nil
}

// ownClient connects to a server of our own, whatever the environment says about Redis.
func ownClient(addr string) func(context.Context) (redis.UniversalClient, error) {
	return func(context.Context) (redis.UniversalClient, error) {
		return redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true}), nil
	}
}

// devFolder makes a private folder: in the user's cache, which is on a disk
// where the one for temporary files may be memory, or there when that cannot be.
func devFolder() (dir string, remove func() error, err error) {
	if cache, err := os.UserCacheDir(); err == nil {
		parent := filepath.Join(cache, "penstock")
		for range 3 { // another run that ends may take the parent away
			if err := os.MkdirAll(parent, 0o700); err != nil {
				break
			}
			if dir, err := os.MkdirTemp(parent, "dev-"); err == nil {
				return dir, func() error {
					err := os.RemoveAll(dir)
					_ = os.Remove(parent) // refused unless it is empty
					return err
				}, nil
			}
		}
	}
	if dir, err = os.MkdirTemp("", "penstock-dev-"); err != nil {
		return "", nil, fmt.Errorf("make a folder for redis: %w", err)
	}
	return dir, func() error { return os.RemoveAll(dir) }, nil
}

func embeddedRedis() (*devRedis, error) {
	m := miniredis.NewMiniRedis()
	if err := m.StartAddr("127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("start miniredis: %w", err)
	}
	stopped := make(chan struct{})
	var clock sync.WaitGroup
	clock.Go(func() { // its keys expire only when told that time has passed
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-stopped:
				return
			case <-tick.C:
				m.FastForward(time.Second)
			}
		}
	})
	return &devRedis{
		Kind: "miniredis", Version: moduleVersion("github.com/alicebob/miniredis/v2"), Where: m.Addr(), Own: true,
		url: "redis://" + m.Addr() + "/0", client: ownClient(m.Addr()),
		stop: func() error {
			close(stopped)
			clock.Wait()
			m.Close()
			return nil
		},
	}, nil
}

// moduleVersion is the version of a module in this binary, or "".
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return strings.TrimPrefix(m.Version, "v")
		}
	}
	return ""
}

func (a *app) yourRedis(ctx context.Context) (*devRedis, error) {
	rdb, err := a.client(ctx)
	if err != nil {
		return nil, err
	}
	defer rdb.Close()
	r := &devRedis{Kind: "redis", Where: redisenv.Redact(a.redis), client: a.client, stop: func() error { return nil }}
	rctx, cancel := a.requestContext(ctx)
	defer cancel()
	if err := rdb.Ping(rctx).Err(); err != nil {
		return nil, fmt.Errorf("redis at %s: %w", r.Where, err)
	}
	info, _ := rdb.Info(rctx, "server").Result() // not every server or user may say
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch {
		case name == "valkey_version":
			r.Kind, r.Version = "valkey", value
		case name == "redis_version" && r.Kind == "redis":
			r.Version = value
		}
	}
	return r, nil
}

const scanCount = 5000

// removeStream deletes every key of a stream that was made for this run, and its name from the registry.
func removeStream(ctx context.Context, rdb redis.UniversalClient, name string) error {
	remove := func(ctx context.Context, node redis.Cmdable) error {
		for cursor := uint64(0); ; {
			keys, next, err := node.Scan(ctx, cursor, "{"+name+"}:*", scanCount).Result()
			if err != nil {
				return err
			}
			if len(keys) > 0 { // all in one slot
				if err := rdb.Unlink(ctx, keys...).Err(); err != nil {
					return err
				}
			}
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	var err error
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return remove(ctx, node) })
	} else {
		err = remove(ctx, rdb)
	}
	if err == nil {
		err = rdb.Unlink(ctx, name).Err()
	}
	if err == nil {
		err = rdb.SRem(ctx, engine.RegistryKey, name).Err()
	}
	if err != nil {
		return fmt.Errorf("remove the keys of %s: %w", name, err)
	}
	return nil
}
