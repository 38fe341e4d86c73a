package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// ends is a hook of a worker's client that has Redis tell its time right behind each script that ends jobs, in the same
// pipeline: when these were completed, by the clock of who completed them.
type ends struct {
	mu sync.Mutex
	at map[string]time.Time // by what the script was told of, among that the entries of its jobs
}

// client returns one like another, with the hook, which on a Cluster each node's has.
func (e *ends) client(like redis.UniversalClient) (redis.UniversalClient, error) {
	switch like := like.(type) {
	case *redis.Client:
		rdb := redis.NewClient(like.Options())
		rdb.AddHook(e)
		return rdb, nil
	case *redis.ClusterClient:
		rdb := redis.NewClusterClient(like.Options())
		rdb.OnNewNode(func(node *redis.Client) { node.AddHook(e) })
		return rdb, nil
	}
	return nil, &Left{fmt.Sprintf("a client of the type %T cannot be made a second time", like)}
}

// of is when a job's end was written.
func (e *ends) of(entry string) (time.Time, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at, ok := e.at[entry]
	return at, ok
}

func (e *ends) DialHook(next redis.DialHook) redis.DialHook { return next }

func (e *ends) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (e *ends) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return c.Name() == "evalsha" || c.Name() == "eval" }) {
			return next(ctx, cmds)
		}
		clock := redis.NewTimeCmd(ctx, "time")
		err := next(ctx, append(slices.Clone(cmds), clock))
		now, failed := clock.Result()
		if failed != nil {
			return err
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, cmd := range cmds {
			for _, arg := range cmd.Args() {
				if entry, ok := arg.(*string); ok {
					e.at[*entry] = now
				}
			}
		}
		return err
	}
}
