package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/engine"
)

const (
	listLimit = 100
	listChunk = 20 // bodies and entries read at once: they may be large
)

// Jobs lists the jobs of a group that are in one state, a page at a time, in
// the order in which they are due or came: next is empty on the last page. Those that wait come in
// the order of the streams that the group reads. A page is not of one moment; jobs that come due between two pages of
// scheduled or retrying ones move those behind them up, and some are then left out.
//
// The group may be "" when the stream has one, or none yet. Finished jobs are not listed: nothing knows them
// all. [Stream.Get] finds each by its ID. ErrInvalid says so.
func (s *Stream) Jobs(ctx context.Context, group string, state State, page Page) (jobs []Info, next string, err error) {
	if state == Completed || state == Cancelled {
		return nil, "", fmt.Errorf("%w: jobs that are %s are not listed, as nothing knows them all: look one up by its ID", ErrInvalid, state)
	}
	if page.Limit <= 0 {
		page.Limit = listLimit
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	l := &listing{s: s, group: group, limit: page.Limit}
	if err := l.open(ctx); err != nil {
		return nil, "", err
	}
	switch state {
	case Scheduled:
		err = l.parked(ctx, s.keys.Scheduled, s.keys.ScheduledJobs, Scheduled, page.After)
	case Retrying:
		err = l.parked(ctx, l.keys.Retrying, l.keys.RetryingJobs, Retrying, page.After)
	case Waiting, Active:
		err = l.lanes(ctx, state, page.After)
	case Dead:
		err = l.dead(ctx, page.After)
	default:
		err = fmt.Errorf("%w: %q is no state of a job", ErrInvalid, state)
	}
	if err != nil {
		return nil, "", err
	}
	return l.jobs, l.next, nil
}

// listing is one page.
type listing struct {
	s     *Stream
	group string // "": the stream has none
	keys  engine.GroupKeys
	limit int
	jobs  []Info
	next  string
}

func (l *listing) open(ctx context.Context) error {
	groups, err := l.s.allGroups(ctx)
	if err != nil {
		return err
	}
	if l.group == "" {
		if len(groups) > 1 {
			return fmt.Errorf("%w: %s has %d groups (%s): name one", ErrInvalid, l.s.name, len(groups), strings.Join(groups, ", "))
		}
		if len(groups) == 1 {
			l.group = groups[0]
		}
	} else if !slices.Contains(groups, l.group) {
		return fmt.Errorf("group %s of stream %s: %w", l.group, l.s.name, ErrNotFound)
	}
	kind, err := l.s.rdb.HGet(ctx, l.s.keys.Config, "kind").Result()
	if err != nil && engine.Classify(err) != engine.OK {
		return wrapRead("open "+l.s.name, err)
	}
	l.keys = l.s.keys.Group(l.group, Kind(kind) == KindEvents)
	return nil
}

// parked lists a sorted set by rank.
func (l *listing) parked(ctx context.Context, set, bodies string, state State, after string) error {
	from := int64(0)
	if after != "" {
		var err error
		if from, err = strconv.ParseInt(after, 10, 64); err != nil || from < 0 {
			return badPage(after)
		}
	}
	if l.group == "" && state == Retrying {
		return nil
	}
	members, err := l.s.rdb.ZRangeWithScores(ctx, set, from, from+int64(l.limit)).Result()
	if err != nil {
		return wrapRead("list the jobs of "+l.s.name, err)
	}
	if len(members) > l.limit {
		members, l.next = members[:l.limit], strconv.FormatInt(from+int64(l.limit), 10)
	}
	for some := range slices.Chunk(members, listChunk) {
		ids := make([]string, len(some))
		for i, m := range some {
			ids[i] = fmt.Sprint(m.Member)
		}
		found, err := l.s.rdb.HMGet(ctx, bodies, ids...).Result()
		if err != nil {
			return wrapRead("list the jobs of "+l.s.name, err)
		}
		for i, m := range some {
			info := Info{ID: ids[i]}
			if body, ok := found[i].(string); ok {
				if e, ok := engine.ParseBody(body); ok {
					info.fill(engine.FoundJob{There: true, Type: e.Type, Traceparent: e.Traceparent, Opts: e.Opts})
				}
			}
			info.ID, info.State, info.Due = ids[i], state, time.UnixMilli(int64(min(max(m.Score, 0), float64(lastTime.UnixMilli()))))
			l.jobs = append(l.jobs, info)
		}
	}
	return nil
}

// lanes lists the streams that a group reads one after the other; a page ends with "<lane> <entry>".
func (l *listing) lanes(ctx context.Context, state State, after string) error {
	first := 0
	if after != "" {
		lane, entry, _ := strings.Cut(after, " ")
		var err error
		if first, err = strconv.Atoi(lane); err != nil || first < 0 || first >= engine.Lanes || !engine.IsEntryID(entry) {
			return badPage(after)
		}
		after = entry
	}
	for lane, key := range l.s.keys.LaneKeys(l.keys) {
		if lane < first || l.group == "" && (lane > 0 || state == Active) {
			continue
		}
		read := l.waiting
		if state == Active {
			read = l.active
		}
		last, err := read(ctx, key, after)
		if err != nil {
			return err
		}
		if len(l.jobs) > l.limit {
			l.jobs, l.next = l.jobs[:l.limit], fmt.Sprint(lane, " ", cmp.Or(last, "0-0")) // this lane's are all on the next page
			return nil
		}
		after = ""
	}
	return nil
}

// waiting reads on behind the group's position until a job more than the page has is there, and returns the page's last entry.
func (l *listing) waiting(ctx context.Context, key, after string) (last string, err error) {
	position := "0-0"
	infos, err := l.s.rdb.XInfoGroups(ctx, key).Result()
	if err != nil && engine.Classify(err) != engine.Refused { // no such key
		return "", wrapRead("list the jobs of "+l.s.name, err)
	}
	for _, info := range infos {
		if info.Name == l.group {
			position = info.LastDeliveredID
		}
	}
	if after != "" && engine.EntryLess(position, after) {
		position = after
	}
	for len(l.jobs) <= l.limit {
		v, err := engine.Do(ctx, l.s.rdb, "XRANGE", key, "("+position, "+", "COUNT", min(listChunk, l.limit+1-len(l.jobs)))
		if err != nil {
			return "", wrapRead("list the jobs of "+l.s.name, err)
		}
		entries, err := parseEntries(v)
		if err != nil || len(entries) == 0 {
			return last, err
		}
		for _, e := range entries {
			if position = e.id; len(l.jobs) < l.limit {
				last = e.id
			}
			l.jobs = append(l.jobs, waitingInfo(e))
		}
	}
	return last, nil
}

func waitingInfo(e rawEntry) Info {
	entry, _, _ := engine.ParseEntry(e.values) // what can't be read says nothing
	info := Info{ID: e.id}
	info.waiting(engine.FoundJob{There: true, Entry: e.id, Type: entry.Type, Traceparent: entry.Traceparent, Opts: entry.Opts})
	return info
}

// active is waiting for what workers have.
func (l *listing) active(ctx context.Context, key, after string) (last string, err error) {
	from := "-"
	if after != "" {
		from = "(" + after
	}
	held, err := l.s.rdb.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: key, Group: l.group, Start: from, End: "+", Count: int64(l.limit + 1 - len(l.jobs))}).Result()
	if err != nil && engine.Classify(err) != engine.NoGroup {
		return "", wrapRead("list the jobs of "+l.s.name, err)
	}
	for some := range slices.Chunk(held, listChunk) {
		pipe := l.s.rdb.Pipeline()
		cmds := make([]*redis.Cmd, len(some))
		for i, h := range some {
			cmds[i] = pipe.Do(ctx, "XRANGE", key, h.ID, h.ID)
		}
		if err := engine.Exec(ctx, pipe); err != nil {
			return "", wrapRead("list the jobs of "+l.s.name, err)
		}
		for i, h := range some {
			entries, err := parseEntries(cmds[i].Val())
			if err != nil {
				return "", err
			}
			info := Info{ID: h.ID}
			if len(entries) > 0 { // else it was deleted while it is held
				info = waitingInfo(entries[0])
			}
			if info.State, info.Worker = Active, h.Consumer; h.Consumer == engine.Nobody {
				info.State, info.Worker = Waiting, ""
			}
			if len(l.jobs) < l.limit {
				last = h.ID
			}
			l.jobs = append(l.jobs, info)
		}
	}
	return last, nil
}

func (l *listing) dead(ctx context.Context, after string) error {
	if l.group == "" {
		return nil
	}
	letters, next, err := l.s.Group(l.group).Dead(ctx, DeadFilter{}, Page{After: after, Limit: l.limit})
	if errors.Is(err, ErrNotFound) { // another program's group
		return nil
	}
	for _, d := range letters {
		info := Info{ID: d.ID}
		info.deadLetter(d)
		l.jobs = append(l.jobs, info)
	}
	l.next = next
	return err
}

func badPage(after string) error {
	return fmt.Errorf("%w: page %q is not one that a listing gave", ErrInvalid, after)
}
