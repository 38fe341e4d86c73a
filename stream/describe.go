package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/engine"
)

// Description of a stream.
type Description struct {
	Name      string   `json:"name"`
	Kind      Kind     `json:"kind"` // KindAny: not declared yet
	Format    int      `json:"format"`
	Entries   int64    `json:"entries"`
	Scheduled int64    `json:"scheduled"`
	Bytes     int64    `json:"bytes"` // of the stream key alone; 0 where the server does not say
	Groups    []string `json:"groups"`

	Retention Retention `json:"retention,omitzero"` // of an events stream, as declared
}

// Describe reads what a stream is. A stream that does not exist has no
// entries, no groups and no kind.
func (s *Stream) Describe(ctx context.Context) (Description, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	pipe := s.rdb.Pipeline()
	config := pipe.HGetAll(ctx, s.keys.Config)
	entries := pipe.XLen(ctx, s.name)
	scheduled := pipe.ZCard(ctx, s.keys.Scheduled)
	memory := pipe.MemoryUsage(ctx, s.name)
	_ = engine.Exec(ctx, pipe) // each command carries its own error
	for _, cmd := range []redis.Cmder{config, entries, scheduled} {
		if err := cmd.Err(); err != nil {
			return Description{}, wrapRead("describe "+s.name, err)
		}
	}
	d := Description{
		Name:      s.name,
		Kind:      Kind(config.Val()["kind"]),
		Entries:   entries.Val(),
		Scheduled: scheduled.Val(),
		Bytes:     memory.Val(), // a server without MEMORY USAGE leaves 0
		Groups:    []string{},
		Retention: parseRetention(config.Val()[configRetention]),
	}
	d.Format, _ = strconv.Atoi(config.Val()["format"])
	infos, err := s.groupInfos(ctx)
	if err != nil {
		return Description{}, err
	}
	for _, info := range infos {
		d.Groups = append(d.Groups, info.Name)
	}
	slices.Sort(d.Groups)
	return d, nil
}

func (s *Stream) groupInfos(ctx context.Context) ([]redis.XInfoGroup, error) {
	infos, err := s.rdb.XInfoGroups(ctx, s.name).Result()
	if err != nil && engine.Classify(err) == engine.Refused {
		// "no such key" is the one refusal that means no groups; its text differs between servers
		var n int64
		if n, err = s.rdb.Exists(ctx, s.name).Result(); err == nil && n == 0 {
			return nil, nil
		} else if err == nil { // another refusal, or the stream was made just now
			infos, err = s.rdb.XInfoGroups(ctx, s.name).Result()
		}
	}
	return infos, wrapRead("list groups of "+s.name, err)
}

// Slots are the sorted sets whose jobs come due on this stream: its deferred
// jobs, and the failed and snoozed ones of each of its groups. Schedulers promote them.
func (s *Stream) Slots(ctx context.Context) ([]engine.Slot, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	config, err := s.rdb.HGetAll(ctx, s.keys.Config).Result()
	if err != nil {
		return nil, wrapRead("read the configuration of "+s.name, err)
	}
	slots := []engine.Slot{engine.ScheduledSlot(s.keys)}
	for field := range config {
		const prefix = "epoch:"
		if len(field) > len(prefix) && field[:len(prefix)] == prefix {
			slots = append(slots, engine.RetryingSlot(s.keys.Group(field[len(prefix):], Kind(config["kind"]) == KindEvents)))
		}
	}
	return slots, nil
}

// stateOf tells the state of a job from its place in an ids hash. On an events
// stream a job has a state per group: it is the one farthest from its end.
func (s *Stream) stateOf(ctx context.Context, id, where string) (State, time.Time, error) {
	place, at, _ := engine.SplitWhere(where)
	switch place {
	case "scheduled", "retrying":
		ms, _ := strconv.ParseInt(at, 10, 64)
		return State(place), time.UnixMilli(ms), nil
	case "orders", "redelivery", "suspects":
		d, err := s.Describe(ctx)
		if err != nil {
			return "", time.Time{}, err
		}
		for _, group := range d.Groups {
			key := s.name
			if g := s.keys.Group(group, d.Kind == KindEvents); place == "redelivery" {
				key = g.Redelivery
			} else if place == "suspects" {
				key = g.Suspects
			}
			held, err := s.rdb.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: key, Group: group, Start: at, End: at, Count: 1}).Result()
			if err != nil && engine.Classify(err) != engine.NoGroup {
				return "", time.Time{}, wrapRead("look up a job of "+s.name, err)
			}
			if len(held) > 0 {
				return Active, time.Time{}, nil
			}
		}
		if place == "orders" && d.Kind == KindEvents && len(d.Groups) > 0 {
			return s.eventState(ctx, id, at)
		}
		return Waiting, time.Time{}, nil
	default:
		return State(place), time.Time{}, nil
	}
}

// eventState is stateOf for an entry of an events stream that no group has pending: there it stays when it is done.
func (s *Stream) eventState(ctx context.Context, id, entry string) (state State, due time.Time, err error) {
	infos, err := s.groupInfos(ctx)
	if err != nil {
		return "", time.Time{}, err
	}
	best := -1
	for _, info := range infos {
		groupState, groupDue := Completed, time.Time{}
		if engine.EntryLess(info.LastDeliveredID, entry) {
			groupState = Waiting
		} else {
			where, err := s.rdb.HGet(ctx, s.keys.Group(info.Name, true).IDs, id).Result()
			if err != nil && engine.Classify(err) != engine.OK {
				return "", time.Time{}, wrapRead("look up a job of "+s.name, err)
			}
			if where != "" && !strings.HasPrefix(where, "orders ") { // which is never in a group's index: no endless round
				if groupState, groupDue, err = s.stateOf(ctx, id, where); err != nil {
					return "", time.Time{}, err
				}
			}
		}
		if rank := slices.Index([]State{Completed, Dead, Retrying, Waiting, Active}, groupState); rank > best {
			best, state, due = rank, groupState, groupDue
		}
	}
	return state, due, nil
}

// Group of a stream, to look at and repair. It need not exist.
type Group struct {
	s    *Stream
	name string
}

// Group returns the group called name, without asking Redis.
func (s *Stream) Group(name string) *Group { return &Group{s: s, name: name} }

// Name of the group.
func (g *Group) Name() string { return g.name }

// open finds the group's keys: they depend on the stream's kind.
func (g *Group) open(ctx context.Context) (engine.GroupKeys, Kind, error) {
	if err := engine.CheckGroup(g.name); err != nil {
		return engine.GroupKeys{}, "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	config, err := g.s.rdb.HMGet(ctx, g.s.keys.Config, "kind", "epoch:"+g.name).Result()
	if err != nil {
		return engine.GroupKeys{}, "", wrapRead("open "+g.s.name+"/"+g.name, err)
	}
	if config[1] == nil {
		return engine.GroupKeys{}, "", fmt.Errorf("group %s of stream %s: %w", g.name, g.s.name, ErrNotFound)
	}
	kind, _ := config[0].(string)
	return g.s.keys.Group(g.name, Kind(kind) == KindEvents), Kind(kind), nil
}

// Depths of a group: how many jobs are where.
type Depths struct {
	Waiting   int64         `json:"waiting"` // not yet read by the group, redeliveries included; -1: not known
	Lag       int64         `json:"lag"`     // of Waiting, those never read before; -1: not known
	Active    int64         `json:"active"`
	Scheduled int64         `json:"scheduled"` // of the stream, for all its groups
	Retrying  int64         `json:"retrying"`
	Dead      int64         `json:"dead"`
	Oldest    time.Duration `json:"oldest"`  // age of the job that waits longest, in ns
	Workers   int64         `json:"workers"` // those heard of within their lease, or the consumers Redis knows of, if these are more
}

// Depths reads them all. Each number is exact, but they are not of one instant, and where somebody else deletes
// entries there are two exceptions: on an events stream Redis can't count what waits while a deleted entry lies
// among it, and Waiting and Lag are -1; on a queue an entry deleted while a worker holds it hides one that waits.
func (g *Group) Depths(ctx context.Context) (Depths, error) {
	ctx, cancel := g.s.deadline(ctx)
	defer cancel()
	keys, kind, err := g.open(ctx)
	if err != nil {
		return Depths{}, err
	}
	rdb := g.s.rdb
	pipe := rdb.Pipeline()
	streams := []string{g.s.name, keys.Redelivery, keys.Suspects}
	lens, pends := make([]*redis.IntCmd, 3), make([]*redis.XPendingCmd, 3)
	for i, key := range streams {
		lens[i], pends[i] = pipe.XLen(ctx, key), pipe.XPending(ctx, key, g.name)
	}
	scheduled, retrying, dead := pipe.ZCard(ctx, g.s.keys.Scheduled), pipe.ZCard(ctx, keys.Retrying), pipe.XLen(ctx, keys.Dead)
	workers := pipe.HGetAll(ctx, keys.Workers)
	clock := pipe.Time(ctx)
	_ = engine.Exec(ctx, pipe) // each command carries its own error
	cmds := []redis.Cmder{scheduled, retrying, dead, workers, clock}
	for i := range streams {
		cmds = append(cmds, lens[i], pends[i])
	}
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil && engine.Classify(err) != engine.NoGroup {
			return Depths{}, wrapRead("read the depths of "+g.s.name+"/"+g.name, err)
		}
	}
	infos, err := g.s.groupInfos(ctx)
	if err != nil {
		return Depths{}, err
	}
	d := Depths{Scheduled: scheduled.Val(), Retrying: retrying.Val(), Dead: dead.Val(), Lag: -1}
	last := ""
	for _, info := range infos {
		if info.Name == g.name {
			d.Workers, last = info.Consumers, info.LastDeliveredID
			if kind == KindEvents {
				if d.Lag, err = g.lag(ctx, info, lens[0].Val()); err != nil {
					return Depths{}, err
				}
			}
		}
	}
	for i := range streams {
		pending := int64(0)
		if v := pends[i].Val(); v != nil {
			pending = v.Count
		}
		d.Active += pending
		if waiting := lens[i].Val() - pending; i > 0 || kind != KindEvents {
			d.Waiting += max(waiting, 0)
		}
	}
	if kind == KindEvents {
		// entries stay after they are done: only what lies behind the group's position waits
		if d.Waiting += d.Lag; d.Lag < 0 {
			d.Waiting = -1
		}
	} else {
		d.Lag = max(lens[0].Val()-pendingCount(pends[0]), 0)
	}
	if live := g.live(workers.Val(), clock.Val()); d.Workers > live {
		d.Workers = max(d.Workers-g.nobody(ctx), live)
	} else {
		d.Workers = live
	}
	d.Oldest, err = g.oldest(ctx, streams, last, clock.Val())
	return d, err
}

// nobody counts the consumer that stands for nobody, where there is one. Who may not list consumers counts it as a worker.
func (g *Group) nobody(ctx context.Context) int64 {
	consumers, err := g.s.rdb.XInfoConsumers(ctx, g.s.name, g.name).Result()
	if err == nil && slices.ContainsFunc(consumers, func(c redis.XInfoConsumer) bool { return c.Name == engine.Nobody }) {
		return 1
	}
	return 0
}

// live counts the group's workers that were heard of within their lease. Redis
// 7.0 knows a consumer only once it has delivered something to it.
func (g *Group) live(rows map[string]string, now time.Time) (n int64) {
	for row, text := range rows {
		group, _, _ := strings.Cut(row, ":")
		var w struct{ At, Lease int64 }
		if group == g.name && json.Unmarshal([]byte(text), &w) == nil && now.Sub(time.UnixMilli(w.At)) <= time.Duration(w.Lease)*time.Millisecond {
			n++
		}
	}
	return n
}

// lag is how many entries lie behind a group's position. Redis has no number
// while one that was deleted lies among them, and 7.0 counts those that were
// trimmed before they were read, for ever; none and all can be told even so.
func (g *Group) lag(ctx context.Context, info redis.XInfoGroup, length int64) (int64, error) {
	if length == 0 || info.Lag == 0 {
		return 0, nil
	}
	pipe := g.s.rdb.Pipeline()
	behind := pipe.XRangeN(ctx, g.s.name, "("+info.LastDeliveredID, "+", 1)
	first := pipe.XRangeN(ctx, g.s.name, "-", "+", 1)
	if err := engine.Exec(ctx, pipe); err != nil {
		return 0, wrapRead("read "+g.s.name, err)
	}
	switch b, f := behind.Val(), first.Val(); {
	case len(b) == 0:
		return 0, nil
	case len(f) > 0 && f[0].ID == b[0].ID:
		return length, nil
	}
	return min(info.Lag, length), nil // -1: not known
}

func pendingCount(cmd *redis.XPendingCmd) int64 {
	if v := cmd.Val(); v != nil {
		return v.Count
	}
	return 0
}

// oldest is the age of the first entry behind each stream's last delivered one.
func (g *Group) oldest(ctx context.Context, streams []string, last string, now time.Time) (time.Duration, error) {
	var oldest time.Duration
	for i, key := range streams {
		from := last
		if i > 0 {
			infos, err := g.s.rdb.XInfoGroups(ctx, key).Result()
			if err != nil {
				continue // the stream is made with the group's first worker
			}
			for _, info := range infos {
				if info.Name == g.name {
					from = info.LastDeliveredID
				}
			}
		}
		if from == "" {
			from = "0-0"
		}
		first, err := g.s.rdb.XRangeN(ctx, key, "("+from, "+", 1).Result()
		if err != nil {
			if engine.Classify(err) == engine.Refused {
				continue
			}
			return 0, wrapRead("read "+key, err)
		}
		if len(first) > 0 {
			oldest = max(oldest, now.Sub(engine.EntryTime(first[0].ID)))
		}
	}
	return oldest, nil
}
