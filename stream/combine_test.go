package stream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
)

// TestCombiner: many callers share pipelines, and each gets its own job's answer.
func TestCombiner(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	const callers, each = 64, 20
	ids := make([][]string, callers)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				r, err := s.Publish(t.Context(), stream.Job{Type: "n", Data: fmt.Sprintf("%d/%d", c, i)})
				if err != nil {
					t.Error(err)
				}
				ids[c] = append(ids[c], r.ID)
			}
		})
	}
	wg.Wait()
	msgs, err := rdb.XRange(t.Context(), s.Name(), "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	stored := make(map[string]string, len(msgs))
	for _, m := range msgs {
		stored[m.ID], _ = m.Values["data"].(string)
	}
	if len(msgs) != callers*each {
		t.Errorf("%d stored, want %d", len(msgs), callers*each)
	}
	for c := range callers {
		for i, id := range ids[c] {
			if want := fmt.Sprintf("%q", fmt.Sprintf("%d/%d", c, i)); stored[id] != want {
				t.Fatalf("caller %d got the ID of %s for its job %s", c, stored[id], want)
			}
		}
	}
}

// TestCombinerOfScripts: jobs with IDs share pipelines too, and each caller hears of its own.
func TestCombinerOfScripts(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	if err := s.Announce(t.Context()); err != nil { // else each deferred job waits for that first
		t.Fatal(err)
	}
	g := gate{make(chan struct{}), make(chan struct{})}
	rdb.AddHook(g)
	const callers = 40
	receipts, errs := make([]stream.Receipt, callers), make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			job := stream.Job{Type: "a", ID: fmt.Sprint("id-", i/2), Data: i} // two callers of each ID
			if i%2 == 1 && i%4 == 1 {
				job = stream.Job{Type: "a", Delay: time.Hour, Data: i}
			}
			receipts[i], errs[i] = s.Publish(t.Context(), job)
		})
	}
	redistest.Wait(t, "callers queue up", func() bool { return s.Queued() == callers-8 })
	close(g.single)
	close(g.pipeline)
	wg.Wait()
	near := over(t, redistest.Client(t), s.Name(), stream.Config{})
	for i := range callers {
		other := i ^ 1
		switch r := receipts[i]; {
		case errs[i] != nil:
			t.Error(errs[i])
		case i%4 == 1:
			if r.State != stream.Scheduled || r.Duplicate || get(t, near, r.ID, stream.Scheduled).ID != r.ID {
				t.Errorf("%d: %+v", i, r)
			}
		case r.ID != fmt.Sprint("id-", i/2), i%4 == 0 && r.Duplicate, i%4 > 1 && r.Duplicate == receipts[other].Duplicate:
			t.Errorf("%d: %+v, beside %+v", i, r, receipts[other])
		}
	}
	if n := length(t, redistest.Client(t), s.Name()); n != callers/2 {
		t.Errorf("%d stored, want %d", n, callers/2)
	}
	if s.Queued() != 0 {
		t.Errorf("%d wait", s.Queued())
	}
}

// TestCombinerUnderLoss: a lost reply in a shared pipeline makes each of its
// jobs ambiguous and stores it once; a caller that gave up before its job was sent stored nothing.
func TestCombinerUnderLoss(t *testing.T) {
	t.Parallel()
	s, p, direct := behind(t, stream.Config{})
	publish(t, s, stream.Job{Type: "warm"})
	p.Hang() // so that callers pile up behind the first ones
	const callers = 64
	var mu sync.Mutex
	results := make(map[string]error)
	record := func(data string, err error) {
		mu.Lock()
		defer mu.Unlock()
		results[data] = err
	}
	var wg, impatient sync.WaitGroup
	caller := func(wg *sync.WaitGroup, ctx context.Context, data string) {
		wg.Go(func() {
			_, err := s.Publish(ctx, stream.Job{Type: "n", Data: []byte(data)})
			record(data, err)
		})
	}
	giveUp, cancel := context.WithCancelCause(t.Context())
	for i := range callers {
		caller(&wg, t.Context(), fmt.Sprintf("patient-%d", i))
	}
	redistest.Wait(t, "callers queue up", func() bool { return s.Queued() >= callers-8 })
	for i := range 10 {
		caller(&impatient, giveUp, fmt.Sprintf("impatient-%d", i))
	}
	redistest.Wait(t, "impatient callers queue up", func() bool { return s.Queued() >= callers-8+10 })
	gone := errors.New("gone home")
	cancel(gone)
	impatient.Wait()
	p.LoseReplies("XADD", 1000)
	if err := p.Forward(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	p.LoseReplies("", 0)

	stored := make(map[string]int)
	for _, m := range direct.XRange(t.Context(), s.Name(), "-", "+").Val() {
		data, _ := m.Values["data"].(string)
		stored[data]++
	}
	for data, err := range results {
		if strings.HasPrefix(data, "impatient") {
			if !errors.Is(err, stream.ErrUnavailable) || !errors.Is(err, gone) || stored[data] != 0 {
				t.Errorf("%s: %v, stored %d times", data, err, stored[data])
			}
		} else if !errors.Is(err, stream.ErrAmbiguous) || stored[data] != 1 {
			t.Errorf("%s: %v, stored %d times", data, err, stored[data])
		}
	}
	if len(results) != callers+10 || s.Queued() != 0 {
		t.Errorf("%d of %d callers heard, %d wait", len(results), callers+10, s.Queued())
	}
	if _, err := s.Publish(t.Context(), stream.Job{Type: "a"}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// gate is a hook that holds commands, and pipelines, back until it is opened.
type gate struct{ single, pipeline chan struct{} }

func (g gate) DialHook(next redis.DialHook) redis.DialHook { return next }

func (g gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		<-g.single
		return next(ctx, cmd)
	}
}

func (g gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() == "xadd" { // not the greeting of a new connection
			<-g.pipeline
		}
		return next(ctx, cmds)
	}
}

// TestCombinerOnTheWire: a caller that gives up while its job is on the wire in
// another's pipeline hears what became of it; "not sent" would be a lie.
func TestCombinerOnTheWire(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := gate{make(chan struct{}), make(chan struct{})}
	rdb.AddHook(g)
	ctx, cancel := context.WithCancel(t.Context())
	const callers = 40
	errs := make(chan error, callers)
	for range callers {
		go func() {
			_, err := s.Publish(ctx, stream.Job{Type: "a"})
			errs <- err
		}()
	}
	redistest.Wait(t, "callers queue up", func() bool { return s.Queued() == callers-8 })
	close(g.single)
	redistest.Wait(t, "the queue is on the wire", func() bool { return s.Queued() == 0 })
	cancel()
	close(g.pipeline)
	stored := int64(0)
	for range callers {
		if err := <-errs; err == nil {
			stored++
		} else if !errors.Is(err, stream.ErrUnavailable) && !errors.Is(err, stream.ErrAmbiguous) {
			t.Error(err)
		}
	}
	if n := length(t, redistest.Client(t), s.Name()); n != stored || n < callers-8 {
		t.Errorf("%d callers were told their job is stored, %d are", stored, n)
	}
}

// TestCombinerBytes: what concurrent callers share is no larger than a pipeline of PublishAll.
func TestCombinerBytes(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{PublishTimeout: 20 * time.Second})
	most := &pipelines{}
	rdb.AddHook(most)
	g := gate{make(chan struct{}), make(chan struct{})}
	close(g.pipeline)
	rdb.AddHook(g)
	const callers = 40
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			if _, err := s.Publish(t.Context(), stream.Job{Type: "a", Data: make([]byte, 1<<20)}); err != nil {
				t.Error(err)
			}
		})
	}
	redistest.Wait(t, "callers queue up", func() bool { return s.Queued() == callers-8 })
	close(g.single)
	wg.Wait()
	if n := length(t, redistest.Client(t), s.Name()); n != callers || most.most() > 4 || most.most() < 2 {
		t.Errorf("%d stored, at most %d of 1 MiB in one pipeline: want %d and 4", n, most.most(), callers)
	}
}
