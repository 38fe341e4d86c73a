package stream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// behind returns a stream over a proxy, on a client with go-redis's own
// MaxRetries, and a client that goes to the server directly.
func behind(t *testing.T, cfg stream.Config) (*stream.Stream, *redistest.Proxy, *redis.Client) {
	t.Helper()
	opt := redistest.Options(t)
	p := redistest.NewProxy(t, opt.Addr)
	opt.Addr = p.Addr()
	opt.DialerRetries, opt.DialerRetryTimeout = 1, time.Millisecond // a refused connection is refused at once
	rdb := redistest.Connect(t, opt)
	if rdb.Options().MaxRetries != 3 {
		t.Fatalf("the client retries %d times: no test of go-redis's default", rdb.Options().MaxRetries)
	}
	return over(t, rdb, redistest.Name(t), cfg), p, redistest.Client(t)
}

func TestLostReplyPlain(t *testing.T) {
	t.Parallel()
	s, p, direct := behind(t, stream.Config{})
	p.LoseReplies("XADD", 1)
	r, err := s.Publish(t.Context(), stream.Job{Type: "a"})
	if !errors.Is(err, stream.ErrAmbiguous) || errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("receipt %+v, error %v, want ErrAmbiguous", r, err)
	}
	if n := length(t, direct, s.Name()); n != 1 || p.Lost() != 1 {
		t.Errorf("%d entries after %d lost replies: it was sent again", n, p.Lost())
	}
}

func TestLostReplyPublishAll(t *testing.T) {
	t.Parallel()
	s, p, direct := behind(t, stream.Config{})
	p.LoseReplies("XADD", 1)
	receipts, err := s.PublishAll(t.Context(), []stream.Job{{Type: "a"}, {Type: "b"}, {Type: "c", ID: "c"}, {Type: "d", Delay: time.Hour}})
	if !errors.Is(err, stream.ErrAmbiguous) || !strings.Contains(err.Error(), "2 of 4") {
		t.Errorf("error %v, want ErrAmbiguous for 2 of 4", err)
	}
	for i, r := range receipts {
		if want := i < 2; errors.Is(r.Err, stream.ErrAmbiguous) != want {
			t.Errorf("job %d: %+v", i, r)
		}
	}
	if n := length(t, direct, s.Name()); n != 3 {
		t.Errorf("%d entries, want 3", n)
	}
}

func TestLostReplyWithID(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		job   stream.Job
		state stream.State
	}{
		"immediate": {stream.Job{Type: "a", ID: "x"}, stream.Waiting},
		"deferred":  {stream.Job{Type: "a", ID: "x", Delay: time.Hour}, stream.Scheduled},
		"unnamed":   {stream.Job{Type: "a", Delay: time.Hour}, stream.Scheduled},
	} {
		for _, many := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", name, many), func(t *testing.T) {
				t.Parallel()
				s, p, direct := behind(t, stream.Config{})
				// the script is known, so that its first run is EVALSHA
				publish(t, over(t, direct, redistest.Name(t), stream.Config{}), c.job)
				p.LoseReplies("EVALSHA", 2)
				var r stream.Receipt
				var err error
				if many {
					var all []stream.Receipt
					if all, err = s.PublishAll(t.Context(), []stream.Job{c.job}); err == nil {
						r = all[0]
					}
				} else {
					r, err = s.Publish(t.Context(), c.job)
				}
				if err != nil || r.Duplicate || r.State != c.state || r.ID == "" || c.job.ID != "" && r.ID != "x" {
					t.Errorf("receipt %+v, %v", r, err)
				}
				if (c.state == stream.Scheduled) == r.Due.IsZero() {
					t.Errorf("due %s", r.Due)
				}
				keys := engine.NewKeys(s.Name())
				if n := length(t, direct, s.Name()) + direct.ZCard(t.Context(), keys.Scheduled).Val(); n != 1 || p.Lost() != 2 {
					t.Errorf("%d jobs after %d lost replies", n, p.Lost())
				}
			})
		}
	}
}

// TestLostReplyToTheEnd: when no reply ever comes, a job with an ID is ambiguous as well, within its deadline.
func TestLostReplyToTheEnd(t *testing.T) {
	t.Parallel()
	s, p, direct := behind(t, stream.Config{PublishTimeout: 200 * time.Millisecond})
	publish(t, over(t, direct, redistest.Name(t), stream.Config{}), stream.Job{Type: "a", ID: "x"}) // the script is known
	p.LoseReplies("EVAL", 1000)
	if _, err := s.Publish(t.Context(), stream.Job{Type: "a", ID: "x"}); !errors.Is(err, stream.ErrAmbiguous) {
		t.Errorf("error %v, want ErrAmbiguous", err)
	}
	all, err := s.PublishAll(t.Context(), []stream.Job{{Type: "a", ID: "y"}, {Type: "a", ID: "z"}})
	if !errors.Is(err, stream.ErrAmbiguous) || !errors.Is(all[1].Err, stream.ErrAmbiguous) {
		t.Errorf("receipts %+v, error %v, want ErrAmbiguous", all, err)
	}
	if n := length(t, direct, s.Name()); n != 3 {
		t.Errorf("%d entries, want one a job", n)
	}
}

// TestLostThenRefused: once a try may have been stored, no later refusal makes that certain.
func TestLostThenRefused(t *testing.T) {
	t.Parallel()
	for _, many := range []bool{false, true} {
		s, p, direct := behind(t, stream.Config{PublishTimeout: 300 * time.Millisecond})
		publish(t, over(t, direct, redistest.Name(t), stream.Config{}), stream.Job{Type: "a", ID: "x"}) // the script is known
		p.LoseReplies("EVALSHA", 1)
		done := make(chan error, 1)
		go func() {
			var err error
			if many {
				_, err = s.PublishAll(t.Context(), []stream.Job{{Type: "a", ID: "x"}})
			} else {
				_, err = s.Publish(t.Context(), stream.Job{Type: "a", ID: "x"})
			}
			done <- err
		}()
		redistest.Wait(t, "the reply is about to be lost", func() bool { return p.Lost() == 1 && length(t, direct, s.Name()) == 1 })
		p.Refuse()
		if err := <-done; !errors.Is(err, stream.ErrAmbiguous) {
			t.Errorf("slice %v: error %v, want ErrAmbiguous", many, err)
		}
	}
}

func TestUnavailableStoresNothing(t *testing.T) {
	t.Parallel()
	s, p, direct := behind(t, stream.Config{PublishTimeout: 300 * time.Millisecond})
	p.Refuse()
	jobs := []stream.Job{{Type: "a"}, {Type: "a", ID: "x"}, {Type: "a", Delay: time.Hour}}
	for _, job := range jobs {
		if _, err := s.Publish(t.Context(), job); !errors.Is(err, stream.ErrUnavailable) || errors.Is(err, stream.ErrAmbiguous) {
			t.Errorf("%+v: %v, want ErrUnavailable", job, err)
		}
	}
	all, err := s.PublishAll(t.Context(), jobs)
	for i, r := range all {
		if !errors.Is(r.Err, stream.ErrUnavailable) || errors.Is(r.Err, stream.ErrAmbiguous) {
			t.Errorf("job %d of PublishAll: %v, want ErrUnavailable", i, r.Err)
		}
	}
	if !errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("PublishAll: %v", err)
	}
	if keys, err := redistest.Keys(t.Context(), direct, s.Name()); err != nil || len(keys) > 0 {
		t.Errorf("stored all the same: %v, %v", keys, err)
	}
	if _, err := s.Describe(t.Context()); !errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("Describe: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Forward(); err != nil {
		t.Fatal(err)
	}
	for _, job := range jobs {
		if _, err := s.Publish(cancelled, job); !errors.Is(err, stream.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("under a cancelled context: %v", err)
		}
	}
	publish(t, s, jobs...) // and all is well again
}

// TestDefaultDeadline: a Redis that accepts and never answers costs PublishTimeout, not for ever.
func TestDefaultDeadline(t *testing.T) {
	t.Parallel()
	for name, job := range map[string]stream.Job{"plain": {Type: "a"}, "script": {Type: "a", ID: "x"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opt := redistest.Options(t)
			p := redistest.NewProxy(t, opt.Addr)
			opt.Addr, opt.ContextTimeoutEnabled = p.Addr(), true
			s := over(t, redistest.Connect(t, opt), redistest.Name(t), stream.Config{PublishTimeout: 150 * time.Millisecond})
			publish(t, s, job)
			p.Hang()
			job.ID += "2"
			if name == "plain" {
				job.ID = ""
			}
			still := redistest.Standstill(t)
			begin := time.Now()
			_, err := s.Publish(t.Context(), job)
			if took := time.Since(begin); !errors.Is(err, stream.ErrAmbiguous) || took < 100*time.Millisecond || took > 2*time.Second+still() {
				t.Errorf("after %s: %v", took, err)
			}
			if err := p.Forward(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestPublishAllAfterTheEnd: under a context that has ended nothing is sent, and nothing is ambiguous.
func TestPublishAllAfterTheEnd(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone home")
	cancel(gone)
	for _, n := range []int{1, 3} {
		receipts, err := s.PublishAll(ctx, make4()[:n])
		for i, r := range receipts {
			if !errors.Is(r.Err, stream.ErrUnavailable) || errors.Is(r.Err, stream.ErrAmbiguous) || !errors.Is(r.Err, gone) || !errors.Is(err, gone) {
				t.Errorf("job %d of %d: %v, want ErrUnavailable", i, n, r.Err)
			}
		}
	}
	if n := length(t, rdb, s.Name()); n != 0 {
		t.Errorf("%d stored", n)
	}
}

// afterwards is a hook that does something once, after a script has run and before its answer is lost.
type afterwards struct{ once func() }

func (a *afterwards) DialHook(next redis.DialHook) redis.DialHook { return next }

func (a *afterwards) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { return a.lose(cmds[0], next(ctx, cmds)) }
}

func (a *afterwards) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { return a.lose(cmd, next(ctx, cmd)) }
}

func (a *afterwards) lose(cmd redis.Cmder, err error) error {
	if err != nil || !strings.HasPrefix(strings.ToUpper(cmd.Name()), "EVAL") || a.once == nil {
		return err
	}
	a.once()
	a.once = nil
	cmd.SetErr(io.ErrUnexpectedEOF)
	return io.ErrUnexpectedEOF
}

// TestLostReplyOfAJobThatMovedOn: a job that was promoted, or is done, before its publisher could ask again is no
// duplicate, as long as that can be told.
func TestLostReplyOfAJobThatMovedOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		id    string
		done  bool
		many  bool
		state stream.State
	}{
		"promoted":          {"", false, false, stream.Waiting},
		"promoted, a slice": {"", false, true, stream.Waiting},
		"promoted, named":   {"x", false, false, stream.Waiting},
		"done":              {"", true, false, stream.Completed},
		"dead, and deleted": {"x", true, false, stream.Dead}, // and not stored once more
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, rdb := open(t, stream.Config{})
			direct := redistest.Client(t)
			keys := engine.NewKeys(s.Name())
			g := group(t, s, "g")
			publish(t, s, stream.Job{Type: "warm", Delay: time.Hour})
			rdb.AddHook(&afterwards{func() {
				p, err := engine.Promote(t.Context(), direct, engine.ScheduledSlot(keys), 10)
				if err != nil || p.Moved != 1 {
					t.Errorf("promoted %+v, %v", p, err)
				}
				if c.done {
					d := read(t, over(t, direct, s.Name(), stream.Config{}), s.Name(), "g", 1)[0]
					if c.state == stream.Dead {
						kill(t, over(t, direct, s.Name(), stream.Config{}), g, d, "{}")
						direct.Del(t.Context(), g.Dead)
						return
					}
					if _, err := engine.CompleteCall(d.Held, g, "completed", engine.End{Entry: d.Entry, ID: d.id, Indexed: true, Keep: time.Minute}).Run(t.Context(), direct); err != nil {
						t.Error(err)
					}
				}
			}})
			job := stream.Job{Type: "a", ID: c.id, At: time.Now().Add(-time.Second)}
			var r stream.Receipt
			var err error
			if c.many {
				var all []stream.Receipt
				all, err = s.PublishAll(t.Context(), []stream.Job{job})
				r = all[0]
			} else {
				r, err = s.Publish(t.Context(), job)
			}
			if err != nil || r.Duplicate || r.State != c.state || r.ID == "" {
				t.Errorf("receipt %+v, %v, want one that is %s and no duplicate", r, err, c.state)
			}
		})
	}
}

// TestNamesDeadline: a Redis that accepts and never answers does not hold Names for ever.
func TestNamesDeadline(t *testing.T) {
	t.Parallel()
	opt := redistest.Options(t)
	p := redistest.NewProxy(t, opt.Addr)
	opt.Addr, opt.ContextTimeoutEnabled, opt.ReadTimeout = p.Addr(), true, -1
	rdb := redistest.Connect(t, opt)
	if _, err := stream.Names(t.Context(), rdb); err != nil {
		t.Fatal(err)
	}
	p.Hang()
	done := make(chan error, 1)
	go func() { _, err := stream.Names(t.Context(), rdb); done <- err }()
	select {
	case err := <-done:
		if !errors.Is(err, stream.ErrUnavailable) {
			t.Error(err)
		}
	case <-time.After(3 * stream.DefaultPublishTimeout):
		t.Error("no answer, and no error")
	}
	if err := p.Forward(); err != nil {
		t.Fatal(err)
	}
}
