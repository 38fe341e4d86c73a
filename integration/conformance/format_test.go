package conformance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/consumer"
	scheduling "github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
)

func xadd(t *testing.T, s *stream.Stream, fields ...any) string {
	t.Helper()
	id, err := s.Client().XAdd(t.Context(), &redis.XAddArgs{Stream: s.Name(), Values: fields}).Result()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func entry(typ, data, opts string) []any {
	return []any{"type", typ, "data", data, "traceparent", "", "opts", opts}
}

// otherVersions: what a newer version wrote waits for a worker that knows it,
// and what this one does not know survives every move.
func otherVersions(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	if _, err := s.Create(t.Context(), stream.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const unknown = `"zz":{"deep":[1,2.50,"x"]}`
	xadd(t, s, entry("known", "1", `{"id":"extended",`+unknown+`}`)...)
	xadd(t, s, entry("known", "2", `{"v":2,"id":"newer",`+unknown+`}`)...)
	xadd(t, s, entry("elsewhere", "3", `{"id":"elsewhere"}`)...)
	xadd(t, s, "sku", "A-1", "raw", "\x00\xff")
	cfg := quick()
	cfg.UnknownType = 6 * time.Second
	worker := w.worker(t, cfg, s)
	var runs atomic.Int32
	released := make(chan struct{}, 1)
	consumer.Handle(worker, stream.Type[int]{Name: "known"}, func(ctx context.Context, job *consumer.Job[int]) error {
		switch runs.Add(1) {
		case 1:
			return errors.New("once more")
		case 2:
			return consumer.Snooze(time.Millisecond)
		case 3:
			released <- struct{}{}
			<-ctx.Done() // handed back
			return ctx.Err()
		}
		return consumer.Permanent(errors.New("never"))
	})
	stop := run(t, worker)
	receive(t, "the third run", released)
	next := w.worker(t, cfg, s) // a deploy: this one knows a type more
	fields := make(chan map[string]string, 1)
	consumer.Handle(next, stream.Type[int]{Name: "known"}, func(context.Context, *consumer.Job[int]) error {
		return consumer.Permanent(errors.New("never"))
	})
	elsewhere := make(chan int, 1)
	consumer.Handle(next, stream.Type[int]{Name: "elsewhere"}, func(_ context.Context, job *consumer.Job[int]) error {
		elsewhere <- job.Attempt
		return nil
	})
	next.HandleOther(func(_ context.Context, d *consumer.Delivery) error { fields <- d.Fields; return nil })
	run(t, next)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if attempt := receive(t, "the job of another type", elsewhere); attempt != 1 {
		t.Errorf("the job of a type that one worker did not know is in attempt %d", attempt)
	}
	if got := receive(t, "the foreign entry", fields); got["sku"] != "A-1" || got["raw"] != "\x00\xff" {
		t.Errorf("a foreign entry's fields: %q", got)
	}
	letters := dead(t, s, group, 2)
	reasons := make(map[string]string)
	for _, l := range letters {
		reasons[l.ID] = l.Reason
		raw, err := s.Client().XRange(t.Context(), "{"+s.Name()+"}:g:"+group+":dead", l.Entry, l.Entry).Result()
		if err != nil || len(raw) != 1 {
			t.Fatalf("%v, %v", raw, err)
		}
		var opts map[string]json.RawMessage
		text, _ := raw[0].Values["opts"].(string)
		if err := json.Unmarshal([]byte(text), &opts); err != nil || string(opts["zz"]) != `{"deep":[1,2.50,"x"]}` {
			t.Errorf("%s: the opts are %s, want the unknown key as it was", l.ID, text)
		}
		if l.ID == "newer" && (string(opts["v"]) != "2" || l.Attempt != 0) {
			t.Errorf("the newer entry: %s, attempt %d", text, l.Attempt)
		}
	}
	if reasons["extended"] != "permanent" || reasons["newer"] != "newer format" {
		t.Errorf("reasons %v", reasons)
	}

	// a stream of a newer version is refused, whole
	newer := w.stream(t, stream.Config{})
	if err := newer.Client().HSet(t.Context(), "{"+newer.Name()+"}:config", "kind", "queue", "format", "99").Err(); err != nil {
		t.Fatal(err)
	}
	if err := refused(t, w.worker(t, quick(), newer)); !errors.Is(err, stream.ErrNewerFormat) {
		t.Errorf("a stream of a newer format: %v, want ErrNewerFormat", err)
	}
}

// forged: nothing that anybody writes makes a script stop half-way, a worker
// loop, or a neighbour suffer: it ends as a dead letter, or runs.
func forged(t *testing.T, w *world) {
	s := w.stream(t, stream.Config{})
	ctx := t.Context()
	rdb := s.Client()
	first := w.worker(t, quick(), s)
	stop := run(t, first)
	wait(t, "the group", func() bool { return first.Health().Ready })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	bad := []string{"no JSON", "[]", `{"err":-1}`, `{"cr":1e99}`, `{"f":"x"}`, `{"id":""}`, `{"id":5}`, strings.Repeat("[", 5000), "\xff\xfe"}
	for i, opts := range bad {
		xadd(t, s, entry("forged", fmt.Sprint(i), opts)...)
	}
	xadd(t, s, "a", "", "b", "\x00")
	keys := "{" + s.Name() + "}:g:" + group + ":"
	for i, body := range []string{"", "1 2", "99999999999 0 0 0\n", "4 0 0 0\nabc", "6 1 0 0\nforged7"} {
		id := fmt.Sprintf("parked-%d", i)
		if err := errors.Join(rdb.HSet(ctx, keys+"retrying:jobs", id, body).Err(), rdb.ZAdd(ctx, keys+"retrying", redis.Z{Score: 1, Member: id}).Err()); err != nil {
			t.Fatal(err)
		}
	}
	if err := rdb.ZAdd(ctx, keys+"retrying", redis.Z{Score: 1, Member: "no body"}).Err(); err != nil {
		t.Fatal(err)
	}
	publish(t, s, numbers(0, 50)...)
	cfg := quick()
	cfg.UnknownType = 2 * time.Second
	worker := w.worker(t, cfg, s)
	var book ledger
	consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error { book.add(job.Data); return nil })
	var others atomic.Int32
	worker.HandleOther(func(context.Context, *consumer.Delivery) error { others.Add(1); return nil })
	run(t, worker)
	drained(t, s)
	book.want(t, 50, once)
	letters, _, err := s.Group(group).Dead(ctx, stream.DeadFilter{}, stream.Page{})
	if err != nil {
		t.Fatal(err)
	}
	// an empty ID is none, a body that is not ours is a job of no type
	if len(letters) != len(bad)-1 || others.Load() != 1+1+5 {
		t.Errorf("%d dead and %d run, want %d and 7", len(letters), others.Load(), len(bad)-1)
	}
	for _, l := range letters {
		if l.Reason != "undecodable" {
			t.Errorf("dead letter %+v, want undecodable", l)
		}
	}
	if started := worker.Stats().Started; started != 50+int64(others.Load()) {
		t.Errorf("%d runs, want %d: something loops", started, 50+int64(others.Load()))
	}
}

// limitedUser: the rights that the README lists are enough for everything, and a
// worker without them, or with a wrong password, ends and says so.
func limitedUser(t *testing.T, w *world) {
	stem := name(t)
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, acl, _ := strings.Cut(string(readme), "<!-- acl:begin -->")
	acl, _, _ = strings.Cut(acl, "<!-- acl:end -->")
	user := "user-" + stem
	acl = strings.NewReplacer("```", "", "{orders}", "{"+stem+"}", "~orders", "~"+stem).Replace(acl)
	if w.cluster() {
		more := regexp.MustCompile("On a Cluster both need\\s+`([^`]+)`").FindStringSubmatch(string(readme))
		if more == nil {
			t.Fatal("the README does not say what a Cluster takes")
		}
		acl += more[1]
	}
	words := strings.Fields(acl)
	if len(words) < 20 || words[0] != "ACL" {
		t.Fatalf("the README lists no rights: %v", words)
	}
	scheduler, planner := user+"-scheduler", user+"-planner"
	plans := regexp.MustCompile("`penstock schedule`\\s+needs\\s+`([^`]+)`\\s+too").FindStringSubmatch(string(readme))
	if plans == nil {
		t.Fatal("the README does not say what it takes to make schedules")
	}
	nodes := w.server.All(t)
	for _, node := range nodes {
		for name, more := range map[string][]string{user: nil, scheduler: {"~*"}, planner: {plans[1]}} {
			args := []any{"ACL", "SETUSER", name}
			for _, word := range append(words[3:len(words):len(words)], more...) {
				args = append(args, word)
			}
			do(t, node, args...)
		}
		do(t, node, "ACL", "LOG", "RESET")
	}
	t.Cleanup(func() {
		for _, node := range nodes {
			node.Do(context.WithoutCancel(t.Context()), "ACL", "DELUSER", user, scheduler, planner)
		}
	})
	as := func(user, password string) redis.UniversalClient {
		return w.server.ClientFor(t, redis.UniversalOptions{Username: user, Password: password})
	}
	s := over(t, as(user, "secret"), stem, stream.Config{})
	sched, err := scheduling.New(as(scheduler, "secret"), scheduling.Config{})
	if err != nil {
		t.Fatal(err)
	}
	// its own schedule makes it a leader, beside those of other tests
	beat := scheduling.Schedule{Name: stem, Every: time.Second, Stream: over(t, as(scheduler, "secret"), stem, stream.Config{}), Job: stream.Job{Type: "beat"}}
	if err := sched.Add(beat); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- sched.Run(ctx) }()
	var seen beats
	var book ledger
	worker := w.worker(t, quick(), s)
	consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error {
		runs := book.add(job.Data)
		job.Progress(0.5, "half")
		for i := range 250 { // more than are kept
			job.Logf("line %d", i)
		}
		switch {
		case job.Data%5 == 1 && runs == 1:
			return errors.New("once more")
		case job.Data%5 == 2 && runs == 1:
			return consumer.Permanent(errors.New("never"))
		}
		return nil
	})
	worker.HandleOther(seen.handle(t))
	worker.Use(consumer.Once(consumer.RedisOnceStore(s), consumer.OnceConfig{Keep: time.Minute}))
	stop := run(t, worker)
	const n = 30
	jobs := numbers(0, n)
	for i := range jobs {
		switch i % 3 {
		case 1:
			jobs[i].ID = fmt.Sprintf("job-%d", i)
		case 2:
			jobs[i].Delay = 100 * time.Millisecond
		}
	}
	publish(t, s, jobs...)
	dead(t, s, group, n/5)
	drained(t, s)
	g := s.Group(group)
	if swept, err := g.Redrive(t.Context(), stream.DeadFilter{IDs: []string{"job-7"}}, stream.RedriveOptions{}); err != nil || swept.Moved != 1 {
		t.Errorf("redrive: %+v, %v", swept, err)
	}
	if swept, err := g.Purge(t.Context(), stream.DeadFilter{}, stream.PurgeOptions{}); err != nil || swept.Moved != n/5-1 {
		t.Errorf("purge: %+v, %v", swept, err)
	}
	wait(t, "the redriven job", func() bool { return book.of(7) == 2 })
	publish(t, s, stream.Job{Type: number.Name, Data: n, ID: "later", Delay: time.Hour})
	if _, err := s.Move(t.Context(), "", "later", stream.When{}); err != nil {
		t.Errorf("move: %v", err)
	}
	if lines, err := s.Log(t.Context(), "", "job-7", 0); err != nil || len(lines) != 200 {
		t.Errorf("log: %d lines, %v", len(lines), err)
	}
	plan(t, s, as(planner, "secret"), &seen)
	tidy(t, w, as(scheduler, "secret"))
	pass(lease + 2*time.Second) // leases are renewed and swept for, consumers looked at
	if h := worker.Health(); !h.Ready || h.Problem != nil {
		t.Errorf("health %+v", h)
	}
	if _, err := s.Describe(t.Context()); err != nil {
		t.Error(err)
	}
	drained(t, s)
	if err := stop(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := receive(t, "the scheduler's end", ended); err != nil {
		t.Error(err)
	}
	if sched.Fired() == 0 || len(seen.sorted()) < 2*3 {
		t.Errorf("%d ticks were fired by that scheduler, and the jobs of %v ran", sched.Fired(), seen.sorted())
	}
	book.want(t, n+1, func(i int) int {
		if i < n && i%5 == 1 || i == 7 {
			return 2
		}
		return 1
	})

	for _, node := range nodes {
		for _, denied := range node.ACLLog(t.Context(), 100).Val() {
			// what go-redis says of itself may be refused; and a list has the schedules of other tests too, whose ticks are theirs
			others := denied.Username == planner && strings.HasSuffix(denied.Object, ":ticks") && !strings.Contains(denied.Object, "{"+stem+"}")
			if strings.HasPrefix(denied.Username, user) && denied.Object != "client|setinfo" && !others {
				t.Errorf("%s was denied %s (%s)", denied.Username, denied.Object, denied.Reason)
			}
		}
	}
	if err := refused(t, w.worker(t, quick(), over(t, as(user, "wrong"), stem, stream.Config{}))); !errors.Is(err, stream.ErrDenied) {
		t.Errorf("with a wrong password: %v, want ErrDenied", err)
	}
	if err := refused(t, w.worker(t, quick(), over(t, as(user, "secret"), name(t), stream.Config{}))); !errors.Is(err, stream.ErrDenied) {
		t.Errorf("on a stream it has no right to: %v, want ErrDenied", err)
	}
}

// plan does all that can be done with a schedule.
func plan(t *testing.T, s *stream.Stream, rdb redis.UniversalClient, seen *beats) {
	t.Helper()
	store, name := keep(t, rdb), s.Name()+"-kept"
	before := len(seen.sorted())
	put := func() error {
		return store.Put(t.Context(), scheduling.Schedule{Name: name, Every: time.Second, Stream: s, Job: stream.Job{Type: "beat"}})
	}
	for what, do := range []func() error{
		put,
		func() error { return store.Pause(t.Context(), name) },
		func() error { return store.Resume(t.Context(), name) },
		func() error { _, err := store.List(t.Context()); return err },
		func() error {
			id, published, err := store.RunNow(t.Context(), name)
			if err == nil && published {
				wait(t, "its job", func() bool { return seen.of(id) == 1 })
			}
			return err
		},
		func() error {
			wait(t, "a tick of it", func() bool { st, err := store.Show(t.Context(), name); return err != nil || !st.Last.IsZero() })
			st, err := store.Show(t.Context(), name)
			return errors.Join(err, st.Err)
		},
		func() error { return store.Remove(t.Context(), name) },
	} {
		if err := do(); err != nil {
			t.Errorf("step %d with a schedule: %v", what, err)
		}
	}
	wait(t, "ticks", func() bool { return len(seen.sorted()) >= before+3 })
}

// tidy has upkeep of all streams done, of which one has something to trim.
func tidy(t *testing.T, w *world, rdb redis.UniversalClient) {
	t.Helper()
	log := over(t, w.client(t), name(t), events)
	entries := past(t, log, 10, group)
	take := &redis.XReadGroupArgs{Group: group, Consumer: "worker", Streams: []string{log.Name(), ">"}, Count: 10, Block: -1}
	if err := log.Client().XReadGroup(t.Context(), take).Err(); err != nil {
		t.Fatal(err)
	}
	log.Client().XAck(t.Context(), log.Name(), group, entries...)
	s, err := scheduling.New(rdb, scheduling.Config{KeepDead: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Once(t.Context()); err != nil {
		t.Logf("upkeep: %v", err) // other tests' streams may have faults; ACL LOG has what is denied
	}
	if n := log.Client().XLen(t.Context(), log.Name()).Val(); n != 0 {
		t.Errorf("%d entries are left, and none were to be", n)
	}
}

// noHints: a user who may not listen to what becomes due, nor say it, waits a little longer, and loses nothing.
func noHints(t *testing.T, w *world) {
	deaf := w.silent(t)
	s := over(t, deaf, name(t), stream.Config{})
	var book ledger
	worker := w.worker(t, quick(), s)
	consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error {
		if book.add(job.Data) == 1 {
			return consumer.RetryAfter(errors.New("once more"), 700*time.Millisecond)
		}
		return nil
	})
	run(t, worker)
	wait(t, "the worker", func() bool { return worker.Health().Ready }) // by then it has announced the stream: a scheduler that is deaf asks which there are once a minute
	schedule(t, deaf)
	jobs := numbers(0, 10)
	for i := range jobs {
		jobs[i].Delay = time.Duration(i) * 200 * time.Millisecond
	}
	publish(t, s, jobs...)
	drained(t, s)
	book.want(t, len(jobs), func(int) int { return 2 })
	w.clean(t, s)
}

// silent is a client that may use no channel: it announces nothing, and hears nothing.
func (w *world) silent(t *testing.T) redis.UniversalClient {
	t.Helper()
	user := "user-" + name(t)
	nodes := w.server.All(t)
	for _, node := range nodes {
		do(t, node, "ACL", "SETUSER", user, "on", ">secret", "~*", "resetchannels", "+@all")
	}
	t.Cleanup(func() {
		for _, node := range nodes {
			node.Do(context.WithoutCancel(t.Context()), "ACL", "DELUSER", user)
		}
	})
	return w.server.ClientFor(t, redis.UniversalOptions{Username: user, Password: "secret"})
}

func do(t *testing.T, node *redis.Client, args ...any) {
	t.Helper()
	if err := node.Do(t.Context(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}
