package engine_test

import (
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

// scores are the members of a set, and when each is due.
func scores(t *testing.T, rdb *redis.Client, set string) map[string]int64 {
	t.Helper()
	list, err := rdb.ZRangeWithScores(t.Context(), set, 0, -1).Result()
	if err != nil {
		t.Fatal(err)
	}
	due := make(map[string]int64)
	for _, z := range list {
		due[fmt.Sprint(z.Member)] = int64(z.Score)
	}
	return due
}

// TestPromoteStranded: jobs that somebody took out of their set by hand are put back, to be due when they were.
func TestPromoteStranded(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for name, c := range map[string]struct {
		meddle func(w *world, slot engine.Slot)
		back   int64
		now    bool // what comes back is due now
		lost   bool // the index was deleted too: their places are what it says again
	}{
		"set deleted":  {meddle: func(w *world, slot engine.Slot) { rdb.Del(t.Context(), slot.Set) }, back: 4},
		"one taken":    {meddle: func(w *world, slot engine.Slot) { rdb.ZRem(t.Context(), slot.Set, "b") }, back: 1},
		"nothing done": {meddle: func(w *world, slot engine.Slot) {}},
		"index deleted too": {meddle: func(w *world, slot engine.Slot) {
			rdb.Del(t.Context(), slot.Set, slot.IDs)
		}, back: 4, lost: true},
		"due when nobody can say": {meddle: func(w *world, slot engine.Slot) {
			rdb.Del(t.Context(), slot.Set, slot.IDs)
			for _, id := range []string{"a", "b", "c", "d"} {
				rdb.HSet(t.Context(), slot.Bodies, id, entry(id).Body())
			}
		}, back: 4, now: true, lost: true},
		"bodies that are no JSON or none of ours": {meddle: func(w *world, slot engine.Slot) {
			rdb.Del(t.Context(), slot.Set, slot.IDs)
			for i, body := range []string{"what?", engine.Entry{Opts: "[[["}.Body(), engine.Entry{Opts: `{"due":-7}`}.Body(), engine.Entry{Opts: `{"due":1e300}`}.Body()} {
				rdb.HSet(t.Context(), slot.Bodies, string(rune('a'+i)), body)
			}
		}, back: 4, now: true, lost: true},
	} {
		for _, place := range []string{"scheduled", "retrying"} {
			t.Run(name+"/"+place, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, rdb, redistest.Name(t))
				slot := engine.ScheduledSlot(w.Keys)
				if place == "retrying" {
					slot = engine.RetryingSlot(w.g)
				}
				for i, id := range []string{"a", "b", "c", "d"} {
					e, delay := entry(id), time.Duration(i+1)*time.Hour
					if place == "retrying" {
						h := w.held(id)
						w.run(engine.RetryCall(h, w.g, id, delay, e))
					} else {
						w.run(engine.ScheduleCall(w.Keys, id, "n", 0, delay, time.Time{}, e))
					}
					due := int64(rdb.ZScore(t.Context(), slot.Set, id).Val())
					e.Opts = engine.Opts{ID: id, Due: due}.String()
					rdb.HSet(t.Context(), slot.Bodies, id, e.Body())
				}
				due, where := scores(t, rdb, slot.Set), rdb.HGetAll(t.Context(), slot.IDs).Val()
				c.meddle(w, slot)
				p, err := engine.Promote(t.Context(), rdb, slot, 10)
				if err != nil || p.Moved != 0 || p.Lost != 0 || p.Back != c.back || p.Cursor != "0" {
					t.Fatalf("promoted %+v, %v, want %d back", p, err, c.back)
				}
				got := scores(t, rdb, slot.Set)
				if c.now {
					due = map[string]int64{"a": p.Now, "b": p.Now, "c": p.Now, "d": p.Now}
				}
				if !maps.Equal(got, due) || p.More != c.now {
					t.Errorf("due %v, want %v; more now: %v", got, due, p.More)
				}
				if p.Next != slices.Min(slices.Collect(maps.Values(due))) {
					t.Errorf("next due at %d, want the first of %v", p.Next, due)
				}
				if c.lost {
					for id := range where {
						where[id] = fmt.Sprintf("%s %d", place, due[id])
					}
				}
				if got := rdb.HGetAll(t.Context(), slot.IDs).Val(); !maps.Equal(got, where) {
					t.Errorf("the index says %v, want %v", got, where)
				}
				if p, err := engine.Promote(t.Context(), rdb, slot, 10); err != nil || p.Back != 0 || c.now && p.Moved != 4 {
					t.Errorf("a second time: %+v, %v", p, err)
				}
			})
		}
	}
}

// TestPromoteStrandedHidden: a member without a body hides a body without a member, until it is due itself.
func TestPromoteStrandedHidden(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	slot := engine.ScheduledSlot(w.Keys)
	w.schedule("x", time.Hour)
	w.due("empty")
	rdb.HDel(t.Context(), slot.Bodies, "empty")
	rdb.ZRem(t.Context(), slot.Set, "x")
	if p, err := engine.Promote(t.Context(), rdb, slot, 10); err != nil || p.Lost != 1 || p.Back != 1 {
		t.Errorf("%+v, %v, want one lost and the other back, in one go", p, err)
	}
}

// TestPromoteStrandedMany: one step puts a bounded number back, and the next goes on where it left off;
// a few among many are found in one walk, and a walk that finds none ends.
func TestPromoteStrandedMany(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	slot := engine.ScheduledSlot(w.Keys)
	const n = 3000
	var calls []engine.Call
	for i := range n {
		id := fmt.Sprint("job-", i)
		calls = append(calls, engine.ScheduleCall(w.Keys, id, "n", 0, time.Hour, time.Time{}, entry(id)))
	}
	for _, res := range engine.RunAll(t.Context(), rdb, calls) {
		w.must(res.Val, res.Err)
	}
	due := scores(t, rdb, slot.Set)
	walk := func() (steps, back int64) {
		t.Helper()
		for cursor := ""; cursor != "0"; steps++ {
			if cursor == "" {
				cursor = "0"
			}
			p, err := engine.PromoteFrom(t.Context(), rdb, slot, 10, cursor)
			if err != nil || p.Back > 400 || steps > n {
				t.Fatalf("step %d: %+v, %v", steps, p, err)
			}
			cursor, back = p.Cursor, back+p.Back
		}
		return steps, back
	}
	rdb.Del(t.Context(), slot.Set)
	if steps, back := walk(); back != n || steps < n/400 || !maps.Equal(scores(t, rdb, slot.Set), due) {
		t.Errorf("%d are back after %d steps", back, steps)
	}
	rdb.ZRem(t.Context(), slot.Set, "job-17", "job-2017")
	if _, back := walk(); back != 2 || !maps.Equal(scores(t, rdb, slot.Set), due) {
		t.Errorf("%d of two are back", back)
	}
	rdb.ZRem(t.Context(), slot.Set, "job-7", "job-1007")
	log := &lines{}
	once := &engine.Promoter{Client: rdb, Logger: slog.New(slog.NewTextHandler(log, nil))}
	if err := once.Empty(t.Context(), slot); err != nil || !maps.Equal(scores(t, rdb, slot.Set), due) || log.count("jobs=2") != 1 {
		t.Errorf("a promoter that looks once: %v, and logged\n%s", err, log.text.String())
	}
	if steps, back := walk(); steps != 1 || back != 0 {
		t.Errorf("with nothing to find: %d steps, %d back", steps, back)
	}
	rdb.Del(t.Context(), slot.Set, slot.Bodies) // and large bodies end a step early
	for i := range 60 {
		rdb.HSet(t.Context(), slot.Bodies, fmt.Sprint(i), engine.Entry{Data: string(make([]byte, 64<<10)), Opts: fmt.Sprintf(`{"due":%d}`, math.MaxInt32*1000)}.Body())
	}
	if steps, back := walk(); steps < 3 || back != 60 {
		t.Errorf("large bodies: %d steps, %d back", steps, back)
	}
}

// TestPromoterFindsStranded: a promoter that looks for another reason finds them all in one go, says so once,
// and sleeps again. What it can't put back keeps it neither busy nor from its work.
func TestPromoterFindsStranded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rights []any
		full   bool
		back   int
	}{
		"all":             {back: 500},
		"without a right": {rights: []any{"-hscan"}},
		"full":            {full: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Server(t)
			rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
			w := newWorld(t, rdb, "orders")
			if err := rdb.Do(t.Context(), append([]any{"ACL", "SETUSER", "mender", "on", "nopass", "allkeys", "allchannels", "+@all"}, c.rights...)...).Err(); err != nil {
				t.Fatal(err)
			}
			slot := engine.ScheduledSlot(w.Keys)
			log := &lines{}
			run(t, &engine.Promoter{
				Client: redistest.Connect(t, &redis.Options{Addr: server.Addr(), Username: "mender", Password: "x"}),
				Slots:  slots(slot), Poll: time.Hour, Logger: slog.New(slog.NewTextHandler(log, nil)),
			})
			subscribed(t, rdb, 1)
			w.schedule("kept", 10*time.Hour)
			for i := range 500 {
				w.schedule(fmt.Sprint("job-", i), time.Duration(20+i)*time.Hour)
			}
			due := scores(t, rdb, slot.Set)
			quiet(t, rdb, "it sleeps")
			rdb.Del(t.Context(), slot.Set)
			rdb.ZAdd(t.Context(), slot.Set, redis.Z{Score: float64(due["kept"]), Member: "kept"})
			if c.full {
				rdb.ConfigSet(t.Context(), "maxmemory", "1")
			}
			rdb.Publish(t.Context(), engine.WakeChannel, fmt.Sprint(due["kept"])+" "+slot.Set)
			if c.back > 0 {
				redistest.Wait(t, "all to be back", func() bool { return maps.Equal(scores(t, rdb, slot.Set), due) })
			}
			quiet(t, rdb, "it sleeps again")
			if n := rdb.ZCard(t.Context(), slot.Set).Val(); n != int64(1+c.back) {
				t.Errorf("%d are in the set, want %d", n, 1+c.back)
			}
			warned := min(c.back, 1)
			if log.count("WARN") != warned || log.count("level=") != warned || log.count(fmt.Sprintf("set={orders}:scheduled jobs=%d", c.back)) != warned {
				t.Errorf("logged\n%s", log.text.String())
			}
			rdb.ConfigSet(t.Context(), "maxmemory", "0")
			w.schedule("soon", time.Millisecond)
			redistest.Wait(t, "it works", func() bool { return rdb.XLen(t.Context(), w.Stream).Val() == 1 })
			if c.full {
				redistest.Wait(t, "all to be back when there is room", func() bool { return rdb.ZCard(t.Context(), slot.Set).Val() == int64(len(due)) })
			}
		})
	}
}
