package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream"
)

// Survey is what there is at a Redis before a run, and what the run needs.
type Survey struct {
	Need       int64    // bytes of memory that the run takes, at most
	Room       int64    // bytes that there is room for; -1: no limit is known
	Limit      int64    // maxmemory, or the machine's memory
	MaxMemory  bool     // the limit is maxmemory
	Keys       int64    // of all masters
	Replicas   int64    // connected ones
	AppendOnly bool     // it writes all to a file
	Streams    []string // of Penstock, in the registry
}

// ErrNoRoom means that a run would need more memory than there is.
var ErrNoRoom = errors.New("not enough memory")

// Survey looks at the Redis and writes nothing. The error is ErrNoRoom when the
// cases do not fit; the survey is filled then, too.
func (h *Harness) Survey(ctx context.Context, cases []Case) (Survey, error) {
	s := Survey{Room: -1}
	for _, c := range cases {
		s.Need = max(s.Need, c.bytes*int64(max(c.Jobs, c.Most)))
	}
	err := h.masters(ctx, func(ctx context.Context, node redis.Cmdable) error { return s.look(ctx, node) })
	if err != nil {
		return s, err
	}
	if s.Streams, err = stream.Names(ctx, h.rdb); err != nil {
		return s, err
	}
	if s.Room >= 0 && s.Need > s.Room {
		what := "the memory of its machine"
		if s.MaxMemory {
			what = "its maxmemory"
		}
		return s, fmt.Errorf("%w: up to %s are needed, and this Redis has %s left of %s, %s",
			ErrNoRoom, Bytes.Format(float64(s.Need)), Bytes.Format(float64(s.Room)), what, Bytes.Format(float64(s.Limit)))
	}
	return s, nil
}

// look adds what one node says.
func (s *Survey) look(ctx context.Context, node redis.Cmdable) error {
	text, err := node.Info(ctx).Result()
	if err != nil {
		return fmt.Errorf("INFO, to see whether there is room for a run: %w", err)
	}
	info := parseInfo(text)
	if info["role"] == "slave" {
		return errors.New("this Redis is a replica and takes no writes: name its master")
	}
	number := func(field string) int64 {
		n, _ := strconv.ParseInt(info[field], 10, 64) // 0 where it is not there
		return n
	}
	limit, has := number("maxmemory"), true
	if limit == 0 {
		limit, has = number("total_system_memory"), false
	}
	if limit > 0 {
		room := max(limit-number("used_memory"), 0)
		if s.Room < 0 || room < s.Room {
			s.Room, s.Limit, s.MaxMemory = room, limit, has
		}
	}
	s.Replicas += number("connected_slaves")
	s.AppendOnly = s.AppendOnly || number("aof_enabled") == 1
	keys, err := node.DBSize(ctx).Result()
	s.Keys += keys
	return err
}

// Empty reports whether nothing is there, and nobody follows.
func (s Survey) Empty() bool { return s.Keys == 0 && s.Replicas == 0 }

func parseInfo(text string) map[string]string {
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info
}
