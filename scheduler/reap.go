package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/engine"
)

const (
	// reapLeases is for how many leases a worker must not have been heard of before it is taken for dead.
	reapLeases = 5
	// reapIdle is how long a consumer must have done nothing that no worker says is its own.
	reapIdle = time.Hour
)

// presence is a worker's row: when it was heard of, and its lease.
type presence struct{ At, Lease int64 }

// live reports whether a worker may be alive. A row that this version cannot read is one of a worker of a later one.
func live(row string, now time.Time) bool {
	var p presence
	if json.Unmarshal([]byte(row), &p) != nil || p.At <= 0 || p.Lease <= 0 {
		return true
	}
	return now.Sub(time.UnixMilli(p.At)) <= reapLeases*time.Duration(p.Lease)*time.Millisecond
}

// heard reports whether workers of the group have rows, and whether one of them may be alive.
func heard(v engine.Survey, group string) (rows, alive bool) {
	for row, text := range v.Workers {
		if name, _, _ := strings.Cut(row, ":"); name == group {
			rows, alive = true, alive || live(text, v.Now)
		}
	}
	return rows, alive
}

// reap removes what dead workers leave behind in groups that nobody serves: their consumers and their rows. Where a worker
// lives it does that itself. The script looks again that nothing is pending.
func (k *keeper) reap(ctx context.Context, st *tended, v engine.Survey) (n int64, more bool, err error) {
	for _, g := range v.Groups {
		rows, alive := heard(v, g.Name)
		if !g.Ours || !g.There || alive || !rows && v.Now.Sub(st.reaped[g.Name]) < reapIdle {
			continue
		}
		st.reaped[g.Name] = v.Now
		removed, left, err := k.reapGroup(ctx, st, v, g.Name)
		n, more = n+removed, more || left
		if err != nil {
			return n, more, fmt.Errorf("remove dead consumers of %s: %w", g.Name, err)
		}
	}
	return n, more, nil
}

func (k *keeper) reapGroup(ctx context.Context, st *tended, v engine.Survey, group string) (n int64, more bool, err error) {
	keys := st.keys.Group(group, false)
	pipe := k.rdb.Pipeline()
	var lanes []*redis.XInfoConsumersCmd
	for _, key := range st.keys.LaneKeys(keys) {
		lanes = append(lanes, pipe.XInfoConsumers(ctx, key, group))
	}
	_ = engine.Exec(ctx, pipe) // each command carries its own error
	dead := make(map[string]bool)
	for row := range v.Workers {
		if of, name, _ := strings.Cut(row, ":"); of == group {
			dead[name] = true
		}
	}
	for _, lane := range lanes {
		switch class := engine.Classify(lane.Err()); class {
		case engine.OK:
		case engine.NoGroup, engine.Refused: // it is made with the group's first worker
			continue
		default:
			return 0, false, lane.Err()
		}
		for _, c := range lane.Val() {
			is, seen := dead[c.Name]
			_, told := v.Workers[group+":"+c.Name]
			dead[c.Name] = (is || !seen) && c.Pending == 0 && (told || c.Idle >= reapIdle)
		}
	}
	var calls []engine.Call
	for name, is := range dead {
		if len(calls) == reapMost {
			more = true
			break
		}
		if is {
			var p presence
			_ = json.Unmarshal([]byte(v.Workers[group+":"+name]), &p) // where it has none, nobody says anything of it
			since := v.Now.Add(-reapLeases * time.Duration(p.Lease) * time.Millisecond)
			calls = append(calls, engine.LeaveCall(st.keys, keys, group, name, since))
		}
	}
	for _, res := range engine.RunAll(ctx, k.rdb, calls) {
		if res.Err != nil {
			return n, false, res.Err
		}
		if removed, _ := res.Val.(int64); removed > 0 {
			n++
		}
	}
	if n > 0 {
		k.count(func(u *Upkeep) { u.Reaped += n })
		k.cfg.Logger.Info("consumers that were not heard of any more were removed from their group", "stream", st.name, "group", group, "consumers", n)
	}
	return n, more, nil
}

// expire deletes dead letters that are older than they are kept.
func (k *keeper) expire(ctx context.Context, st *tended, v engine.Survey) (n int64, more bool, err error) {
	if k.cfg.KeepDead <= 0 {
		return 0, false, nil
	}
	before := v.Now.Add(-k.cfg.KeepDead)
	for _, g := range v.Groups {
		if g.FirstDead == "" || !engine.EntryTime(g.FirstDead).Before(before) {
			continue
		}
		expired, left, err := k.expireGroup(ctx, st, st.keys.Group(g.Name, v.Kind == "events"), before)
		n, more = n+expired, more || left
		if expired > 0 {
			k.cfg.Logger.Info("dead letters have expired", "stream", st.name, "group", g.Name, "jobs", expired)
		}
		if err != nil {
			return n, more, fmt.Errorf("expire dead letters of %s: %w", g.Name, err)
		}
	}
	return n, more, nil
}

func (k *keeper) expireGroup(ctx context.Context, st *tended, keys engine.GroupKeys, before time.Time) (n int64, more bool, err error) {
	end := strconv.FormatInt(before.UnixMilli()-1, 10)
	for seen := 0; seen < expireMost; seen += expireBatch {
		entries, err := k.rdb.XRangeN(ctx, keys.Dead, "-", end, expireBatch).Result()
		if err != nil || len(entries) == 0 {
			return n, false, err
		}
		letters := make([]engine.Letter, len(entries))
		for i, e := range entries {
			letters[i] = letterOf(e)
		}
		res, err := engine.PurgeCall(keys, letters).Run(ctx, k.rdb)
		if err != nil {
			return n, false, err
		}
		gone, _ := res.(int64)
		n += gone
		k.count(func(u *Upkeep) { u.Expired += gone })
		if len(entries) < expireBatch {
			return n, false, nil
		}
	}
	return n, true, nil
}

// letterOf reads what purge needs to know of a dead letter.
func letterOf(e redis.XMessage) engine.Letter {
	text := func(field string) string { s, _ := e.Values[field].(string); return s }
	letter := engine.Letter{Entry: e.ID, ID: e.ID}
	o, _ := engine.ParseOpts(text(engine.FieldOpts)) // one that cannot be read has neither
	var info engine.DeadInfo
	_ = json.Unmarshal([]byte(text("info")), &info)
	switch {
	case o.ID != "":
		letter.ID = o.ID
	case info.ID != "":
		letter.ID = info.ID
	}
	letter.Unique = o.Unique
	return letter
}
