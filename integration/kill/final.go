package kill

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/integration/kill/ledger"
	"github.com/penstock-go/penstock/stream"
)

// Final is what Redis holds in the end.
type Final struct {
	Groups []GroupState
	Keys   []Key
}

// GroupState is what is left of one group.
type GroupState struct {
	Stream, Group string
	Kind          stream.Kind
	Depths        stream.Depths
	Dead          []Letter
}

// Letter is a dead letter.
type Letter struct {
	N        int // of its Work; 0: not to be told
	ID       string
	Reason   string
	Attempt  int // runs that ended in an error
	MaxTries int
	Crashes  int
	Worker   string
}

// Key is one key of Redis.
type Key struct {
	Name   string
	Type   string
	Len    int64         // of what has one
	TTL    time.Duration // negative: none
	Fields map[string]string
}

// ReadFinal reads all that is left of the streams, and every key there is: the server is the test's own.
func ReadFinal(ctx context.Context, rdb *redis.Client, streams []Stream) (Final, error) {
	var final Final
	for _, def := range streams {
		s, err := stream.New(rdb, def.Name, stream.Config{})
		if err != nil {
			return final, err
		}
		for _, name := range def.Groups {
			g := s.Group(name)
			state := GroupState{Stream: def.Name, Group: name, Kind: def.Kind}
			if state.Depths, err = g.Depths(ctx); err != nil {
				return final, err
			}
			if state.Dead, err = readDead(ctx, g); err != nil {
				return final, err
			}
			final.Groups = append(final.Groups, state)
		}
	}
	var err error
	final.Keys, err = readKeys(ctx, rdb)
	return final, err
}

func readDead(ctx context.Context, g *stream.Group) ([]Letter, error) {
	var letters []Letter
	for page := (stream.Page{Limit: 500}); ; {
		dead, next, err := g.Dead(ctx, stream.DeadFilter{}, page)
		if err != nil {
			return nil, err
		}
		for _, d := range dead {
			var work ledger.Work
			_ = json.Unmarshal(d.Payload, &work) // a letter that tells nothing is a finding
			letters = append(letters, Letter{
				N: work.N, ID: d.ID, Reason: d.Reason, Attempt: d.Attempt, MaxTries: d.MaxTries, Crashes: d.Crashes, Worker: d.Worker,
			})
		}
		if next == "" {
			return letters, nil
		}
		page.After = next
	}
}

func readKeys(ctx context.Context, rdb *redis.Client) ([]Key, error) {
	var keys []Key
	for it := rdb.Scan(ctx, 0, "*", 1000).Iterator(); ; {
		if !it.Next(ctx) {
			slices.SortFunc(keys, func(a, b Key) int { return strings.Compare(a.Name, b.Name) })
			return keys, it.Err()
		}
		key, err := readKey(ctx, rdb, it.Val())
		if err != nil {
			return nil, fmt.Errorf("read key %s: %w", it.Val(), err)
		}
		keys = append(keys, key)
	}
}

func readKey(ctx context.Context, rdb *redis.Client, name string) (Key, error) {
	key := Key{Name: name}
	var err error
	if key.Type, err = rdb.Type(ctx, name).Result(); err != nil {
		return key, err
	}
	if key.TTL, err = rdb.PTTL(ctx, name).Result(); err != nil {
		return key, err
	}
	switch key.Type {
	case "stream":
		key.Len, err = rdb.XLen(ctx, name).Result()
	case "zset":
		key.Len, err = rdb.ZCard(ctx, name).Result()
	case "set":
		key.Len, err = rdb.SCard(ctx, name).Result()
	case "hash":
		key.Fields, err = rdb.HGetAll(ctx, name).Result()
		key.Len = int64(len(key.Fields))
	}
	return key, err
}
