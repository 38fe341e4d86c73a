package scheduler_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// site is a stream with a group billing that nobody serves.
type site struct {
	t   *testing.T
	rdb *redis.Client
	s   *stream.Stream
	k   engine.Keys
	g   engine.GroupKeys
}

func newSite(t *testing.T, kind stream.Kind) *site {
	t.Helper()
	rdb := redistest.Connect(t, &redis.Options{Addr: redistest.Server(t).Addr()})
	s, err := stream.New(rdb, "orders", stream.Config{Kind: kind})
	if err != nil {
		t.Fatal(err)
	}
	w := &site{t: t, rdb: rdb, s: s, k: engine.NewKeys("orders")}
	w.g = w.k.Group("billing", kind == stream.KindEvents)
	w.open("billing", kind)
	if err := s.Announce(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *site) open(group string, kind stream.Kind) {
	w.t.Helper()
	if o, err := engine.Open(w.t.Context(), w.rdb, w.k, group, string(kind), false); err != nil || o.Refusal != "" {
		w.t.Fatal(o, err)
	}
}

// add adds n entries that were published long ago.
func (w *site) add(n int) {
	w.t.Helper()
	last := w.rdb.XInfoStream(w.t.Context(), "orders").Val().LastGeneratedID
	ms := engine.EntryTime(last).UnixMilli()
	pipe := w.rdb.Pipeline()
	for i := range n {
		pipe.XAdd(w.t.Context(), &redis.XAddArgs{Stream: "orders", ID: fmt.Sprint(ms+1+int64(i), "-0"), Values: engine.Entry{Type: "ping"}.Fields()})
	}
	if _, err := pipe.Exec(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// read delivers n entries to a consumer of the group.
func (w *site) read(group, consumer string, n int) (ids []string) {
	w.t.Helper()
	res, err := w.rdb.XReadGroup(w.t.Context(), &redis.XReadGroupArgs{Group: group, Consumer: consumer, Streams: []string{"orders", ">"}, Count: int64(n), Block: -1}).Result()
	if err != nil || len(res[0].Messages) != n {
		w.t.Fatalf("read %v, %v, want %d", res, err, n)
	}
	for _, m := range res[0].Messages {
		ids = append(ids, m.ID)
	}
	return ids
}

// done lets the group read and acknowledge n entries.
func (w *site) done(group string, n int) {
	w.t.Helper()
	w.rdb.XAck(w.t.Context(), "orders", group, w.read(group, "worker", n)...)
}

// heard writes the row of a worker that was heard of that long ago.
func (w *site) heard(group, consumer string, ago time.Duration) {
	w.t.Helper()
	w.rdb.HSet(w.t.Context(), w.g.Workers, group+":"+consumer, fmt.Sprintf(`{"at":%d,"beat":1,"lease":1000,"gone":0,"run":[]}`, time.Now().Add(-ago).UnixMilli()))
}

func (w *site) consumers(group string) (names []string) {
	w.t.Helper()
	for _, c := range w.rdb.XInfoConsumers(w.t.Context(), "orders", group).Val() {
		names = append(names, c.Name)
	}
	slices.Sort(names)
	return names
}

// once does one pass, and returns what it has done.
func (w *site) once(cfg scheduler.Config) scheduler.Upkeep {
	w.t.Helper()
	s, err := scheduler.New(w.rdb, cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := s.Once(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return s.Upkeep()
}

// TestUpkeepReaps: what dead workers leave goes where nobody else removes it; who holds something, or may live, stays.
func TestUpkeepReaps(t *testing.T) {
	t.Parallel()
	w := newSite(t, stream.KindEvents)
	w.open("mails", stream.KindEvents)
	w.add(4)
	for _, group := range []string{"billing", "mails"} {
		for _, name := range []string{"dead", "holds", "silent"} {
			w.done2(group, name)
		}
		w.read(group, "holds", 1)
		w.heard(group, "dead", time.Minute)
		w.heard(group, "holds", time.Minute)
		w.heard(group, "gone", time.Minute) // Redis does not know it any more
	}
	w.heard("mails", "alive", 2*time.Second)
	w.rdb.XGroupCreate(t.Context(), "orders", "foreign", "0")
	w.rdb.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "foreign", Consumer: "theirs", Streams: []string{"orders", ">"}, Count: 1, NoAck: true})
	w.heard("foreign", "theirs", time.Minute)
	u := w.once(scheduler.Config{})
	if u.Reaped != 2 || !slices.Equal(w.consumers("billing"), []string{"holds", "silent"}) {
		t.Errorf("%d removed, and %v are left; want dead alone to go, and the row of gone", u.Reaped, w.consumers("billing"))
	}
	if n := w.rdb.XPending(t.Context(), "orders", "billing").Val().Count; n != 1 {
		t.Errorf("%d pending, want what holds holds", n)
	}
	if !slices.Equal(w.consumers("mails"), []string{"dead", "holds", "silent"}) || !slices.Equal(w.consumers("foreign"), []string{"theirs"}) {
		t.Errorf("%v and %v are left: mails has a worker that looks after it, and foreign is not ours", w.consumers("mails"), w.consumers("foreign"))
	}
	rows := w.rdb.HKeys(t.Context(), w.g.Workers).Val()
	if slices.Contains(rows, "billing:dead") || slices.Contains(rows, "billing:gone") || !slices.Contains(rows, "billing:holds") || !slices.Contains(rows, "mails:alive") {
		t.Errorf("rows %v", rows)
	}
}

// done2 makes a consumer that holds nothing.
func (w *site) done2(group, consumer string) {
	w.t.Helper()
	for _, lane := range w.k.LaneKeys(w.k.Group(group, true)) {
		if err := w.rdb.XGroupCreateConsumer(w.t.Context(), lane, group, consumer).Err(); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestUpkeepTrims: by many chunks, with what came later and what a foreign group has not done left alone; entries younger
// than a minute stay in any case.
func TestUpkeepTrims(t *testing.T) {
	t.Parallel()
	w := newSite(t, stream.KindEvents)
	w.add(25_500)
	w.rdb.XGroupSetID(t.Context(), "orders", "billing", "$")
	publish(t, w.s, stream.Job{Type: "ping", ID: "young"})
	w.done("billing", 1)
	w.rdb.XGroupCreate(t.Context(), "orders", "foreign", "25000-0")
	if u := w.once(scheduler.Config{}); u.Trimmed != 25_000 || w.rdb.XLen(t.Context(), "orders").Val() != 501 {
		t.Errorf("%d trimmed, %d left; want 501 left", u.Trimmed, w.rdb.XLen(t.Context(), "orders").Val())
	}
	w.rdb.XGroupDestroy(t.Context(), "orders", "foreign")
	if err := w.s.SetRetention(t.Context(), stream.Retention{Length: 200}); err != nil {
		t.Fatal(err)
	}
	u := w.once(scheduler.Config{})
	if n := w.rdb.XLen(t.Context(), "orders").Val(); n < 200 || n > 300 || u.Trimmed != 501-n {
		t.Errorf("%d trimmed, %d left; want 200, and hardly more", u.Trimmed, n)
	}
	if err := w.s.SetRetention(t.Context(), stream.Retention{Age: stream.None}); err != nil {
		t.Fatal(err)
	}
	if w.once(scheduler.Config{}); w.rdb.XLen(t.Context(), "orders").Val() != 1 || w.rdb.HGet(t.Context(), w.k.IDs, "young").Val() == "" {
		t.Errorf("%d are left, want the young one alone, and its ID taken", w.rdb.XLen(t.Context(), "orders").Val())
	}
}

// TestUpkeepExpires: dead letters go when they are old enough, with their IDs and locks; others stay.
func TestUpkeepExpires(t *testing.T) {
	t.Parallel()
	for _, kind := range []stream.Kind{stream.KindQueue, stream.KindEvents} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			w := newSite(t, kind)
			letter := func(id, unique string, age time.Duration) {
				o := engine.Opts{ID: id, Unique: unique}
				values := append(engine.Entry{Type: "ping", Data: "1", Opts: o.String()}.Fields(), "info", `{"reason":"failed"}`)
				entry, err := w.rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: w.g.Dead, ID: fmt.Sprint(time.Now().Add(-age).UnixMilli(), "-*"), Values: values}).Result()
				if err != nil {
					t.Fatal(err)
				}
				w.rdb.HSet(t.Context(), w.g.IDs, id, "dead "+entry)
				if unique != "" {
					w.rdb.Set(t.Context(), w.k.Unique(unique), id, 0)
				}
			}
			for i := range 120 {
				letter(fmt.Sprint("old-", i), fmt.Sprint("key-", i), 3*time.Hour)
			}
			lost := append(engine.Entry{}.Fields(), "info", `{"id":"lost","reason":"lost"}`) // as sweep.lua writes it
			entry := w.rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: w.g.Dead, Values: lost, ID: fmt.Sprint(time.Now().Add(-3*time.Hour).UnixMilli()+1000, "-*")}).Val()
			w.rdb.HSet(t.Context(), w.g.IDs, "lost", "dead "+entry)
			letter("recent", "", time.Hour)
			if u := w.once(scheduler.Config{}); u.Expired != 0 {
				t.Errorf("%d expired, and none may by default", u.Expired)
			}
			if u := w.once(scheduler.Config{KeepDead: 2 * time.Hour}); u.Expired != 121 || u.Freed != 0 || w.rdb.XLen(t.Context(), w.g.Dead).Val() != 1 {
				t.Errorf("%d expired, %d left; want 121 and 1; and %d IDs freed that it should have freed with them", u.Expired, w.rdb.XLen(t.Context(), w.g.Dead).Val(), u.Freed)
			}
			if where := w.rdb.HGet(t.Context(), w.g.IDs, "recent").Val(); where == "" || w.rdb.HExists(t.Context(), w.g.IDs, "old-7").Val() || w.rdb.HExists(t.Context(), w.g.IDs, "lost").Val() {
				t.Errorf("recent is at %q; old-7 known: %v", where, w.rdb.HExists(t.Context(), w.g.IDs, "old-7").Val())
			}
			if n := w.rdb.Exists(t.Context(), w.k.Unique("key-7")).Val(); n != 0 {
				t.Error("the lock of an expired letter is left")
			}
		})
	}
}

// TestUpkeepFrees: IDs whose jobs somebody deleted by hand are free again; those of jobs that stand are not.
func TestUpkeepFrees(t *testing.T) {
	t.Parallel()
	w := newSite(t, stream.KindQueue)
	publish(t, w.s, stream.Job{Type: "ping", ID: "waits"}, stream.Job{Type: "ping", ID: "later", Delay: time.Hour}, stream.Job{Type: "ping", ID: "gone", Delay: time.Hour})
	w.rdb.HSet(t.Context(), w.k.IDs, "letter", "dead 5-5", "parked", "retrying 7000000000000")
	w.rdb.ZRem(t.Context(), w.k.Scheduled, "gone")
	w.rdb.HDel(t.Context(), w.k.ScheduledJobs, "gone")
	u := w.once(scheduler.Config{})
	left := w.rdb.HKeys(t.Context(), w.k.IDs).Val()
	slices.Sort(left)
	if u.Freed != 3 || !slices.Equal(left, []string{"later", "waits"}) {
		t.Errorf("%d freed, %v left", u.Freed, left)
	}
	w.rdb.XTrimMaxLen(t.Context(), "orders", 0) // a worker may have it: it is missed first, and free a lease later
	if u := w.once(scheduler.Config{}); u.Freed != 0 || !strings.HasPrefix(w.rdb.Get(t.Context(), w.k.Job("waits")).Val(), "missed ") {
		t.Errorf("%d freed at once of a job that may run", u.Freed)
	}
	w.rdb.Set(t.Context(), w.k.Job("waits"), fmt.Sprint("missed ", time.Now().Add(-time.Hour).UnixMilli(), " ", w.rdb.HGet(t.Context(), w.k.IDs, "waits").Val()), time.Hour)
	if u := w.once(scheduler.Config{}); u.Freed != 1 || w.rdb.HExists(t.Context(), w.k.IDs, "waits").Val() {
		t.Errorf("%d freed an hour later", u.Freed)
	}
}

// TestUpkeepFreesOfGroups: a group of an events stream has an index of its own.
func TestUpkeepFreesOfGroups(t *testing.T) {
	t.Parallel()
	w := newSite(t, stream.KindEvents)
	publish(t, w.s, stream.Job{Type: "ping", ID: "a"}, stream.Job{Type: "ping", ID: "b"})
	for _, entry := range w.read("billing", "me", 2) {
		id := map[bool]string{true: "a", false: "b"}[strings.HasPrefix(w.rdb.HGet(t.Context(), w.k.IDs, "a").Val(), "orders "+entry)]
		held := engine.Held{Key: "orders", Group: "billing", Consumer: "me", Entry: entry}
		if _, err := engine.RetryCall(held, w.g, id, time.Hour, engine.Entry{Type: "ping", Opts: engine.Opts{ID: id}.String()}).Run(t.Context(), w.rdb); err != nil {
			t.Fatal(err)
		}
	}
	w.rdb.ZRem(t.Context(), w.g.Retrying, "a")
	w.rdb.HDel(t.Context(), w.g.RetryingJobs, "a")
	if u := w.once(scheduler.Config{}); u.Freed != 1 || w.rdb.HExists(t.Context(), w.g.IDs, "a").Val() || !w.rdb.HExists(t.Context(), w.g.IDs, "b").Val() {
		t.Errorf("%d freed; want a alone", u.Freed)
	}
}

// lines counts what was logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

// TestUpkeepOneAtATime: of several schedulers one looks after a stream, and when it is gone another.
func TestUpkeepOneAtATime(t *testing.T) {
	t.Parallel()
	w := newSite(t, stream.KindQueue)
	first, stop := run(t, w.rdb, scheduler.Config{Upkeep: time.Second})
	redistest.Wait(t, "a pass", func() bool { return first.Upkeep().Passes > 0 })
	second, _ := run(t, w.rdb, scheduler.Config{Upkeep: time.Second})
	redistest.Wait(t, "some passes", func() bool { return first.Upkeep().Passes >= 3 })
	if n := second.Upkeep().Passes; n != 0 {
		t.Errorf("the second did %d passes beside the first", n)
	}
	stop()
	redistest.Wait(t, "the second to take over", func() bool { return second.Upkeep().Passes > 0 })
	if u := w.once(scheduler.Config{}); u.Passes != 1 {
		t.Errorf("Once did %d passes, want one whoever else does", u.Passes)
	}
}

// TestUpkeepOff: nothing is done, and nothing asked.
func TestUpkeepOff(t *testing.T) {
	t.Parallel()
	w := newSite(t, stream.KindEvents)
	w.add(3)
	w.done("billing", 3)
	if u := w.once(scheduler.Config{Upkeep: stream.None}); u.Passes != 0 || w.rdb.XLen(t.Context(), "orders").Val() != 3 {
		t.Errorf("%+v", u)
	}
	s, stop := run(t, w.rdb, scheduler.Config{Upkeep: stream.None})
	stop()
	if u := s.Upkeep(); u.Passes != 0 {
		t.Errorf("%+v", u)
	}
}

// TestUpkeepOfABadStream: what fails on one stream keeps neither its other steps nor other streams from their upkeep.
func TestUpkeepOfABadStream(t *testing.T) {
	t.Parallel()
	w := newSite(t, stream.KindEvents)
	w.add(3)
	w.done("billing", 3)
	w.rdb.SAdd(t.Context(), engine.RegistryKey, "aaa")
	w.rdb.Set(t.Context(), "{aaa}:ids", "no hash", 0)
	if err := w.rdb.Do(t.Context(), "ACL", "SETUSER", "old", "on", ">pw", "~*", "&*", "+@all", "-xtrim").Err(); err != nil {
		t.Fatal(err)
	}
	old := redistest.Connect(t, &redis.Options{Addr: w.rdb.Options().Addr, Username: "old", Password: "pw"})
	w.rdb.HSet(t.Context(), w.k.IDs, "letter", "dead 5-5")
	log := &lines{}
	s, stop := run(t, old, scheduler.Config{Upkeep: time.Second, Logger: slog.New(slog.NewTextHandler(log, nil))})
	redistest.Wait(t, "two passes", func() bool { return s.Upkeep().Passes >= 2 })
	if s.Upkeep().Freed != 1 || s.Upkeep().Trimmed != 0 || log.count("upkeep of a stream fails") != 2 {
		t.Errorf("%+v, logged\n%s", s.Upkeep(), log.text.String())
	}
	stop()
	s, err := scheduler.New(w.rdb, scheduler.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Once(t.Context()); err == nil || !strings.Contains(err.Error(), "upkeep of aaa") || s.Upkeep().Trimmed != 3 {
		t.Errorf("Once = %v, %+v; want the error of the bad stream, and the other trimmed", err, s.Upkeep())
	}
}

// TestUpkeepCostsLittle: a pass over a stream where nothing is to do is so few commands, those in scripts included, that they
// leave most of an idle scheduler's 0.2 a second to promotion.
func TestUpkeepCostsLittle(t *testing.T) {
	t.Parallel()
	w := newSite(t, stream.KindQueue)
	commands := func(cfg scheduler.Config) int {
		t.Helper()
		w.once(cfg) // and the scripts are loaded
		w.rdb.ConfigResetStat(t.Context())
		w.once(cfg)
		n := 0
		for line := range strings.Lines(w.rdb.Info(t.Context(), "commandstats").Val()) {
			var calls int
			name, rest, _ := strings.Cut(line, ":calls=")
			if _, err := fmt.Sscan(strings.Split(rest, ",")[0], &calls); err == nil && name != "cmdstat_info" && name != "cmdstat_config|resetstat" {
				n += calls
			}
		}
		return n
	}
	n := commands(scheduler.Config{}) - commands(scheduler.Config{Upkeep: stream.None})
	every := scheduler.Config{}.WithDefaults().Upkeep
	if rate := float64(n) / every.Seconds(); n <= 0 || rate > 0.04 {
		t.Errorf("a pass is %d commands, %.3f a second; want 0.04", n, rate)
	}
	t.Logf("a pass is %d commands, every %s", n, every)
}

// TestUpkeepStopsWithItsContext: a pass that a stop cuts short ends Run.
func TestUpkeepStopsWithItsContext(t *testing.T) {
	t.Parallel()
	w := newSite(t, stream.KindQueue)
	s, err := scheduler.New(w.rdb, scheduler.Config{Upkeep: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestUpkeepRefuses(t *testing.T) {
	t.Parallel()
	_, err := scheduler.New(redistest.Client(t), scheduler.Config{Upkeep: time.Millisecond, KeepDead: time.Second})
	if err == nil || !strings.Contains(err.Error(), "Upkeep") || !strings.Contains(err.Error(), "KeepDead") {
		t.Errorf("%v, want both faults", err)
	}
}
