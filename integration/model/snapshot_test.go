package model_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/engine"
)

// snapshot is all that Redis holds of one stream.
type snapshot struct {
	now     time.Time
	streams map[string][]msg
	groups  map[string]map[string]groupInfo // by key and group
	sets    map[string]map[string]int64
	members map[string]map[string]bool
	hashes  map[string]map[string]string
	ttl     map[string]time.Duration // of records
	records map[string]string
	leases  map[string]string
	keys    map[string]bool
}

type groupInfo struct {
	last    string            // last delivered
	pending map[string]string // entry -> owner
}

// read reads all of it in one pipeline.
func (x *world) read() *snapshot {
	s := &snapshot{
		streams: make(map[string][]msg), groups: make(map[string]map[string]groupInfo), sets: make(map[string]map[string]int64), members: make(map[string]map[string]bool),
		hashes: make(map[string]map[string]string), ttl: make(map[string]time.Duration), records: make(map[string]string), leases: make(map[string]string), keys: make(map[string]bool),
	}
	pipe := x.rdb.Pipeline()
	var then []func() error
	ask := func(use func(v any) error, args ...any) {
		cmd := pipe.Do(x.ctx, args...)
		then = append(then, func() error {
			if err := cmd.Err(); err != nil && !errors.Is(err, redis.Nil) {
				return fmt.Errorf("%v: %w", args, err)
			}
			return use(cmd.Val())
		})
	}
	stream := func(key string) {
		ask(func(v any) error { s.streams[key] = entriesOf(v); return nil }, "XRANGE", key, "-", "+")
	}
	set := func(key string) {
		ask(func(v any) error { s.sets[key] = scoresOf(v); return nil }, "ZRANGE", key, 0, -1, "WITHSCORES")
	}
	hash := func(key string) {
		ask(func(v any) error { s.hashes[key] = fieldsOf(v); return nil }, "HGETALL", key)
	}
	lane := func(key string, g *group) {
		pending := pipe.Do(x.ctx, "XPENDING", key, g.name, "-", "+", 100000)
		info := pipe.Do(x.ctx, "XINFO", "GROUPS", key)
		then = append(then, func() error {
			if info.Err() != nil || pending.Err() != nil {
				if err := pending.Err(); engine.Classify(err) != engine.NoGroup {
					return err
				}
				return nil
			}
			gi := groupInfo{pending: make(map[string]string)}
			for _, p := range listOf(pending.Val()) {
				gi.pending[textOf(listOf(p)[0])] = textOf(listOf(p)[1])
			}
			for _, fields := range listOf(info.Val()) {
				f := fieldsOf(fields)
				if f["name"] == g.name {
					gi.last = f["last-delivered-id"]
				}
			}
			if s.groups[key] == nil {
				s.groups[key] = make(map[string]groupInfo)
			}
			s.groups[key][g.name] = gi
			return nil
		})
	}
	ask(func(v any) error {
		t, err := engine.ReadTime(v)
		s.now = t
		return err
	}, "TIME")
	stream(x.k.Stream)
	set(x.k.Scheduled)
	hash(x.k.ScheduledJobs)
	hash(x.k.Config)
	hash(x.k.IDs)
	hash(x.groups[0].keys.Workers)
	for _, g := range x.groups {
		for _, key := range g.lanes {
			lane(key, g)
		}
		stream(g.keys.Redelivery)
		stream(g.keys.Suspects)
		stream(g.keys.Dead)
		set(g.keys.Retrying)
		set(g.keys.Marks)
		ask(func(v any) error {
			s.members[g.keys.Paused] = make(map[string]bool)
			for _, id := range textsOf(v) {
				s.members[g.keys.Paused][id] = true
			}
			return nil
		}, "SMEMBERS", g.keys.Paused)
		ask(func(v any) error { s.leases[g.keys.Lease] = textOf(v); return nil }, "GET", g.keys.Lease)
		hash(g.keys.RetryingJobs)
		if x.events {
			hash(g.keys.IDs)
		}
	}
	for key := range x.records {
		ask(func(v any) error { s.records[key] = textOf(v); return nil }, "GET", key)
		ask(func(v any) error {
			ms, _ := v.(int64)
			s.ttl[key] = time.Duration(ms) * time.Millisecond
			return nil
		}, "PTTL", key)
	}
	cursor := "0"
	scan := func(v any) error {
		answer := listOf(v)
		cursor = textOf(answer[0])
		for _, key := range listOf(answer[1]) {
			s.keys[textOf(key)] = true
		}
		return nil
	}
	ask(func(v any) error {
		if v == int64(1) {
			s.keys[x.k.Stream] = true
		}
		return nil
	}, "EXISTS", x.k.Stream)
	match := []any{"MATCH", "{" + x.name + "}:*", "COUNT", 10000}
	ask(scan, append([]any{"SCAN", 0}, match...)...)
	_, _ = pipe.Exec(x.ctx) // each command carries its own error
	for _, use := range then {
		if err := use(); err != nil {
			x.fail("Redis cannot be read", "%v", err)
		}
	}
	for cursor != "0" {
		v, err := x.rdb.Do(x.ctx, append([]any{"SCAN", cursor}, match...)...).Result()
		if err != nil {
			x.fail("Redis cannot be read", "%v", err)
		}
		_ = scan(v)
	}
	return s
}

// What RESP2 gives.

func listOf(v any) []any {
	list, _ := v.([]any)
	return list
}

func textOf(v any) string {
	switch s := v.(type) {
	case string:
		return s
	case nil:
		return ""
	}
	return fmt.Sprint(v)
}

func textsOf(v any) []string {
	list := listOf(v)
	texts := make([]string, len(list))
	for i, item := range list {
		texts[i] = textOf(item)
	}
	return texts
}

func fieldsOf(v any) map[string]string {
	list := listOf(v)
	fields := make(map[string]string, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		fields[textOf(list[i])] = textOf(list[i+1])
	}
	return fields
}

func scoresOf(v any) map[string]int64 {
	scores := make(map[string]int64)
	for id, text := range fieldsOf(v) {
		f, _ := strconv.ParseFloat(text, 64)
		scores[id] = int64(f)
	}
	return scores
}

// entriesOf decodes entries; those that were deleted have no values.
func entriesOf(v any) []msg {
	var entries []msg
	for _, item := range listOf(v) {
		pair := listOf(item)
		m := msg{entry: textOf(pair[0])}
		if len(pair) > 1 && pair[1] != nil {
			m.values = textsOf(pair[1])
		}
		entries = append(entries, m)
	}
	return entries
}

// unpack takes a body apart.
func unpack(body string) []string {
	head, rest, _ := strings.Cut(body, "\n")
	values := []string{engine.FieldType, "", engine.FieldData, "", engine.FieldTraceparent, "", engine.FieldOpts, ""}
	for i, text := range strings.Fields(head) {
		n, err := strconv.Atoi(text)
		if err != nil || i > 3 || n > len(rest) {
			return nil
		}
		values[2*i+1], rest = rest[:n], rest[n:]
	}
	if rest != "" {
		return nil
	}
	return values
}
