package stream_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	down := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	t.Cleanup(func() { _, _ = down.Close(), ring.Close() })
	if _, err := stream.New(down, "orders", stream.Config{}); err != nil {
		t.Errorf("with Redis down: %v", err)
	}
	if d := (stream.Config{}).WithDefaults(); d.PublishTimeout != 3*time.Second || d.MaxPayload != 1<<20 || d.MaxLen != 0 {
		t.Errorf("defaults %+v", d)
	}
	for name, c := range map[string]struct {
		rdb  redis.UniversalClient
		name string
		cfg  stream.Config
		want error
		says []string
	}{
		"no client":   {nil, "orders", stream.Config{}, stream.ErrUnsupportedClient, []string{"nil"}},
		"ring":        {ring, "orders", stream.Config{}, stream.ErrUnsupportedClient, []string{"Ring", "ClusterClient"}},
		"nil *Client": {(*redis.Client)(nil), "orders", stream.Config{}, stream.ErrUnsupportedClient, []string{"nil"}},
		"kind":        {down, "orders", stream.Config{Kind: "topic"}, stream.ErrInvalid, []string{"Kind", "topic"}},
		"everything":  {down, "", stream.Config{MaxLen: -1, MaxPayload: -1, PublishTimeout: -1}, stream.ErrInvalid, []string{"name", "MaxLen", "MaxPayload", "PublishTimeout"}},
	} {
		_, err := stream.New(c.rdb, c.name, c.cfg)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
			continue
		}
		for _, says := range c.says {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%s: error %q does not say %q", name, err, says)
			}
		}
	}
}

func TestErrorClasses(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	admin := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	ctx := t.Context()
	s := over(t, admin, "orders", stream.Config{PublishTimeout: 500 * time.Millisecond})
	jobs := []stream.Job{{Type: "a"}, {Type: "a", ID: "x"}, {Type: "a", Delay: time.Hour}}
	all := func(s *stream.Stream, want error) {
		t.Helper()
		for i, job := range jobs {
			if _, err := s.Publish(ctx, job); !errors.Is(err, want) || errors.Is(err, stream.ErrAmbiguous) {
				t.Errorf("job %d: %v, want %v", i, err, want)
			}
			if _, err := s.PublishAll(ctx, []stream.Job{job, job}); !errors.Is(err, want) || errors.Is(err, stream.ErrAmbiguous) {
				t.Errorf("job %d in a slice: %v, want %v", i, err, want)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(admin.SAdd(ctx, "penstock:streams", "orders").Err())

	must(admin.ConfigSet(ctx, "maxmemory", "1").Err())
	all(over(t, admin, "orders", stream.Config{}), stream.ErrStreamFull)
	must(admin.ConfigSet(ctx, "maxmemory", "0").Err())

	must(admin.Do(ctx, "REPLICAOF", "127.0.0.1", "1").Err()) // READONLY
	all(s, stream.ErrUnavailable)
	must(admin.Do(ctx, "REPLICAOF", "NO", "ONE").Err())

	must(admin.Do(ctx, "ACL", "SETUSER", "reader", "on", "nopass", "allkeys", "allchannels", "+@read", "+@connection").Err())
	all(over(t, redistest.Connect(t, &redis.Options{Addr: server.Addr(), Username: "reader", Password: "x"}), "orders", stream.Config{}), stream.ErrDenied)
	must(admin.Do(ctx, "ACL", "SETUSER", "reader", "resetpass", ">secret").Err())
	all(over(t, redistest.Connect(t, &redis.Options{Addr: server.Addr(), Username: "reader", Password: "wrong"}), "orders", stream.Config{}), stream.ErrDenied)

	if n := length(t, admin, "orders"); n != 0 {
		t.Errorf("%d jobs were stored after all", n)
	}

	// a user without the wake-up channel's right can defer: the hint is only a hint
	must(admin.Do(ctx, "ACL", "SETUSER", "mute", "on", "nopass", "allkeys", "resetchannels", "+@all").Err())
	mute := over(t, redistest.Connect(t, &redis.Options{Addr: server.Addr(), Username: "mute", Password: "x"}), "orders", stream.Config{})
	r, err := mute.Publish(ctx, stream.Job{Type: "a", ID: "muted", Delay: time.Hour})
	if err != nil || r.State != stream.Scheduled || r.Duplicate {
		t.Errorf("deferred without the right to announce it: %+v, %v", r, err)
	}

	must(admin.Set(ctx, "text", "x", 0).Err())
	if _, err := over(t, admin, "text", stream.Config{}).Publish(ctx, stream.Job{Type: "a"}); err == nil || errors.Is(err, stream.ErrAmbiguous) || errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("a key that is no stream: %v", err)
	}
}

func TestKinds(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	rdb := redistest.Client(t)
	openGroup := func(name, group string, kind stream.Kind) error {
		s := over(t, rdb, name, stream.Config{Kind: kind})
		opened, err := engine.Open(ctx, rdb, engine.NewKeys(name), group, string(kind), false)
		if err != nil {
			t.Fatal(err)
		}
		if opened.Refusal != "" {
			return s.Refused(opened)
		}
		return nil
	}
	kindOf := func(name string) stream.Kind {
		t.Helper()
		d, err := over(t, rdb, name, stream.Config{}).Describe(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return d.Kind
	}
	refused := func(err error, says ...string) {
		t.Helper()
		if !errors.Is(err, stream.ErrKind) {
			t.Errorf("error %v, want ErrKind", err)
			return
		}
		for _, s := range says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("error %q does not name %q", err, s)
			}
		}
	}
	accepted := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}

	// a new, empty stream becomes a queue; so does one with jobs of ours
	empty, published := redistest.Name(t), redistest.Name(t)
	publish(t, over(t, rdb, published, stream.Config{}), stream.Job{Type: "a"})
	for _, name := range []string{empty, published} {
		accepted(openGroup(name, "g", stream.KindAny))
		accepted(openGroup(name, "g", stream.KindAny)) // again
		accepted(openGroup(name, "g", stream.KindQueue))
		if got := kindOf(name); got != stream.KindQueue {
			t.Errorf("kind %q", got)
		}
		refused(openGroup(name, "h", stream.KindAny), "queue", "g")
		refused(openGroup(name, "g", stream.KindEvents), "declared as queue")
	}

	// foreign entries, foreign groups: no default
	entries, groups := redistest.Name(t), redistest.Name(t)
	rdb.XAdd(ctx, &redis.XAddArgs{Stream: entries, Values: []string{"some", "thing"}})
	rdb.XGroupCreateMkStream(ctx, groups, "etl", "$")
	rdb.XGroupCreate(ctx, groups, "archive", "$")
	refused(openGroup(entries, "g", stream.KindAny), "1 entries")
	refused(openGroup(groups, "g", stream.KindAny), "etl", "archive")
	refused(openGroup(groups, "etl", stream.KindAny), "etl", "archive")
	refused(openGroup(groups, "etl", stream.KindQueue), "archive")
	if kindOf(entries) != stream.KindAny || kindOf(groups) != stream.KindAny {
		t.Error("a refusal declared the kind")
	}
	if d, _ := over(t, rdb, groups, stream.Config{}).Describe(ctx); len(d.Groups) != 2 {
		t.Errorf("a refusal made a group: %v", d.Groups)
	}
	accepted(openGroup(groups, "g", stream.KindEvents))
	accepted(openGroup(groups, "h", stream.KindAny))
	accepted(openGroup(entries, "g", stream.KindQueue)) // said so: its owner knows

	// a newer format is not for us
	newer := redistest.Name(t)
	rdb.HSet(ctx, engine.NewKeys(newer).Config, "kind", "queue", "format", "2")
	if err := openGroup(newer, "g", stream.KindAny); !errors.Is(err, stream.ErrNewerFormat) {
		t.Errorf("error %v, want ErrNewerFormat", err)
	}
}

func TestCreateAndDescribe(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	rdb := redistest.Client(t)
	name := redistest.Name(t)
	s := over(t, rdb, name, stream.Config{Kind: stream.KindEvents})
	d, err := s.Describe(ctx)
	if err != nil || d.Kind != stream.KindAny || d.Entries != 0 || len(d.Groups) != 0 {
		t.Errorf("before: %+v, %v", d, err)
	}
	d, err = s.Create(ctx, stream.CreateOptions{})
	if err != nil || d.Kind != stream.KindEvents || d.Format != engine.Format {
		t.Errorf("created: %+v, %v", d, err)
	}
	group(t, s, "b")
	group(t, s, "a")
	publish(t, s, stream.Job{Type: "a"}, stream.Job{Type: "a", Delay: time.Hour})
	d, err = s.Describe(ctx)
	if err != nil || d.Entries != 1 || d.Scheduled != 1 || d.Bytes == 0 || strings.Join(d.Groups, " ") != "a b" {
		t.Errorf("described: %+v, %v", d, err)
	}
	if _, err := over(t, rdb, name, stream.Config{Kind: stream.KindQueue}).Create(ctx, stream.CreateOptions{Force: true}); !errors.Is(err, stream.ErrKind) {
		t.Errorf("a declared kind was changed: %v", err)
	}
	if names, err := stream.Names(ctx, rdb); err != nil || !contains(names, name) {
		t.Errorf("%s is not in the registry: %v", name, err)
	}
	if slots, err := s.Slots(ctx); err != nil || len(slots) != 3 {
		t.Errorf("slots %v, %v: want scheduled and two retrying", slots, err)
	}

	foreign := redistest.Name(t)
	rdb.XGroupCreateMkStream(ctx, foreign, "etl", "$")
	f := over(t, rdb, foreign, stream.Config{Kind: stream.KindQueue})
	if _, err := f.Create(ctx, stream.CreateOptions{}); !errors.Is(err, stream.ErrKind) || !strings.Contains(err.Error(), "etl") {
		t.Errorf("foreign, no force: %v", err)
	}
	if names, _ := stream.Names(ctx, rdb); contains(names, foreign) {
		t.Error("a refused stream is in the registry")
	}
	if d, err := f.Create(ctx, stream.CreateOptions{Force: true}); err != nil || d.Kind != stream.KindQueue {
		t.Errorf("foreign, forced: %+v, %v", d, err)
	}
}
