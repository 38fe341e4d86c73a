package redistest_test

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
)

func TestMain(m *testing.M) { redistest.Main(m) }

func TestNameCleansUp(t *testing.T) {
	rdb := redistest.Client(t)
	ctx := t.Context()
	var name string
	t.Run("inner", func(t *testing.T) {
		name = redistest.Name(t)
		rdb.Set(ctx, name, 1, 0)
		rdb.Set(ctx, "{"+name+"}:config", 1, 0)
		rdb.Set(ctx, "{"+name+"-other}:config", 1, 0)
		rdb.SAdd(ctx, "penstock:streams", name)
	})
	t.Cleanup(func() { rdb.Del(context.WithoutCancel(ctx), "{"+name+"-other}:config") })
	keys, err := redistest.Keys(ctx, rdb, name)
	if err != nil || len(keys) != 0 || rdb.SIsMember(ctx, "penstock:streams", name).Val() {
		t.Errorf("left over: %v, %v", keys, err)
	}
	if rdb.Exists(ctx, "{"+name+"-other}:config").Val() != 1 {
		t.Error("another stream's key was deleted")
	}
}

func TestProxy(t *testing.T) {
	t.Parallel()
	opt := redistest.Options(t)
	if opt.Network == "unix" || opt.TLSConfig != nil {
		t.Fatalf("%s must be plain TCP for this test", os.Getenv(redistest.EnvURL))
	}
	name := redistest.Name(t)
	direct := redistest.Client(t)
	p := redistest.NewProxy(t, opt.Addr)
	opt.Addr, opt.MaxRetries, opt.DialerRetries, opt.ContextTimeoutEnabled = p.Addr(), -1, 1, true
	rdb := redistest.Connect(t, opt)
	ctx := t.Context()
	if err := rdb.Ping(ctx).Err(); err != nil {
		t.Fatal(err)
	}

	p.LoseReplies("incr", 1)
	if err := rdb.Incr(ctx, name).Err(); err == nil {
		t.Error("the reply was not lost")
	}
	if got := direct.Get(ctx, name).Val(); got != "1" || p.Lost() != 1 {
		t.Errorf("the request arrived %q times, want once; %d lost", got, p.Lost())
	}
	if err := rdb.Incr(ctx, name).Err(); err != nil {
		t.Errorf("only one reply was to be lost: %v", err)
	}

	p.Refuse()
	if err := rdb.Ping(ctx).Err(); err == nil {
		t.Error("refused, and it answers")
	}
	redistest.Wait(t, "new connections are refused", func() bool { return errors.Is(rdb.Ping(ctx).Err(), syscall.ECONNREFUSED) })
	if err := p.Forward(); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, "it forwards again", func() bool { return rdb.Ping(ctx).Err() == nil })

	p.Hang()
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := rdb.Ping(short).Err(); err == nil || errors.Is(err, redis.ErrClosed) {
		t.Errorf("hung: %v", err)
	}
	if err := p.Forward(); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, "it forwards again", func() bool { return rdb.Ping(ctx).Err() == nil })
}
