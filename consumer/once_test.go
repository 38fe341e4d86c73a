package consumer_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// mapStore is a store that anybody may write.
type mapStore struct {
	mu   sync.Mutex
	work map[string]*mapWork
}

type mapWork struct {
	by     consumer.OnceClaim
	until  time.Time
	done   bool
	result []byte
}

func (m *mapStore) Claim(_ context.Context, c consumer.OnceClaim) (consumer.OnceState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w, now := m.work[c.Key], time.Now()
	switch {
	case w != nil && w.done:
		return consumer.OnceState{Done: true, Result: w.result}, nil
	case w != nil && w.by.Run != c.Run && now.Before(w.until) && (w.by.Job != c.Job || w.by.Fence >= c.Fence):
		return consumer.OnceState{Taken: true, Wait: w.until.Sub(now)}, nil
	}
	if m.work == nil {
		m.work = make(map[string]*mapWork)
	}
	m.work[c.Key] = &mapWork{by: c, until: now.Add(c.Lease)}
	return consumer.OnceState{}, nil
}

func (m *mapStore) Done(_ context.Context, c consumer.OnceClaim, result []byte, _ time.Duration) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.work[c.Key]; w != nil && !w.done && w.by.Run != c.Run {
		return false, nil
	}
	m.work[c.Key] = &mapWork{done: true, result: result}
	return true, nil
}

func (m *mapStore) Release(_ context.Context, c consumer.OnceClaim) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.work[c.Key]; w != nil && !w.done && w.by.Run == c.Run {
		delete(m.work, c.Key)
	}
	return nil
}

func stores(s *stream.Stream) map[string]consumer.OnceStore {
	return map[string]consumer.OnceStore{"redis": consumer.RedisOnceStore(s), "map": &mapStore{}}
}

// TestOnce runs jobs whose work is done, under way, failed or free.
func TestOnce(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for _, name := range []string{"redis", "map"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStream(t, rdb, stream.Config{})
			store := stores(s)[name]
			cfg := quick()
			cfg.MaxTries = 5
			w := newWorker(t, cfg, s)
			w.Use(consumer.Once(store, consumer.OnceConfig{Key: func(d *consumer.Delivery) string { return d.Header["key"] }}))
			var runs ledger
			gate := make(chan struct{})
			consumer.HandleResult(w, stream.Type[string]{Name: "work"}, func(_ context.Context, job *consumer.Job[string]) (string, error) {
				n := runs.add(job.Header["key"] + job.Header["own"])
				switch {
				case job.Data == "waits":
					<-gate
				case job.Data == "fails" && n < 3:
					return "", errors.New("no")
				case job.Data == "panics" && n < 3:
					panic("no")
				case job.Data == "goexits":
					return "", consumer.Snooze(time.Millisecond)
				}
				return job.Data + " " + job.ID, nil
			})
			job := func(id, key, data string) stream.Job {
				return stream.Job{Type: "work", ID: id, Data: data, Header: map[string]string{"key": key, "own": map[bool]string{true: id}[key == ""]}}
			}
			result := func(id string) string {
				t.Helper()
				r, err := stream.Result[string](t.Context(), s, id)
				if err != nil {
					t.Fatalf("%s: %v", id, err)
				}
				return r
			}
			run(t, w)
			publish(t, s, job("a-1", "a", "first"), job("f-1", "f", "fails"), job("p-1", "p", "panics"), job("n-1", "", "none"))
			if got := []string{result("a-1"), result("f-1"), result("p-1"), result("n-1")}; !slices.Equal(got, []string{"first a-1", "fails f-1", "panics p-1", "none n-1"}) {
				t.Errorf("results %q", got)
			}
			publish(t, s, job("a-2", "a", "second"), job("f-2", "f", "second"), job("p-2", "p", "second"), job("n-2", "", "second"))
			if got := []string{result("a-2"), result("f-2"), result("p-2"), result("n-2")}; !slices.Equal(got, []string{"first a-1", "fails f-1", "panics p-1", "second n-2"}) {
				t.Errorf("results %q of work that is done", got)
			}
			publish(t, s, job("w-1", "w", "waits"))
			redistest.Wait(t, "the work to be under way", func() bool { return runs.of("w") == 1 })
			publish(t, s, job("w-2", "w", "other"))
			redistest.Wait(t, "the other to be put off", func() bool { return w.Stats().Snoozed > 0 })
			if info, err := s.Get(t.Context(), "w-2"); err != nil || info.State != stream.Retrying || info.Attempt != 1 || info.Err != "" {
				t.Errorf("the other: %+v, %v", info, err)
			}
			close(gate)
			if got := []string{result("w-1"), result("w-2")}; !slices.Equal(got, []string{"waits w-1", "waits w-1"}) {
				t.Errorf("results %q", got)
			}
			for key, want := range map[string]int{"a": 1, "f": 3, "p": 3, "w": 1, "n-1": 1, "n-2": 1} {
				if got := runs.of(key); got != want {
					t.Errorf("%s ran %d times, want %d", key, got, want)
				}
			}
		})
	}
}

// TestOnceTwoDeliveries: of two runs of one job at the same time, as when the first has lost its lease, the later one counts. And by
// default the job is the key.
func TestOnceTwoDeliveries(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	for _, name := range []string{"redis", "map"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStream(t, rdb, stream.Config{})
			store := stores(s)[name]
			began, first, second := make(chan int64, 2), make(chan struct{}), make(chan struct{})
			ended := make(map[bool]chan error)
			ended[false], ended[true] = make(chan error, 1), make(chan error, 1)
			do := func(fence int64, gate chan struct{}) error {
				h := consumer.Once(store, consumer.OnceConfig{})(func(context.Context, *consumer.Delivery) error {
					began <- fence
					<-gate
					return nil
				})
				return h(t.Context(), &consumer.Delivery{Stream: s.Name(), Group: group, ID: "x", Fence: fence})
			}
			go func() { ended[false] <- do(1, first) }()
			<-began
			go func() { ended[true] <- do(2, second) }()
			if fence := <-began; fence != 2 {
				t.Errorf("run %d has begun", fence)
			}
			close(first)
			if err := <-ended[false]; err == nil {
				t.Error("a run that lost the work was taken for the one that did it")
			}
			close(second)
			if err := <-ended[true]; err != nil {
				t.Error(err)
			}
			if err := do(3, nil); err != nil {
				t.Errorf("done already: %v", err)
			}
		})
	}
}

// TestOnceRunsAgain shows what Once does not guarantee: a worker that dies between the work and its mark has the work done again.
func TestOnceRunsAgain(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	keys := engine.NewKeys(s.Name())
	key := s.Name() + "/" + group + "/x"
	dead := engine.Claimant{Job: key, Fence: 1, Run: "killed"}
	if _, err := engine.ClaimCall(keys, key, dead, time.Hour).Run(t.Context(), rdb); err != nil {
		t.Fatal(err)
	}
	w := newWorker(t, quick(), s)
	w.Use(consumer.Once(consumer.RedisOnceStore(s), consumer.OnceConfig{Keep: time.Minute}))
	var runs ledger
	consumer.Handle(w, stream.Type[int]{Name: "work"}, func(_ context.Context, job *consumer.Job[int]) error {
		runs.add(job.ID)
		return nil
	})
	publish(t, s, stream.Job{Type: "work", ID: "x", Data: 1})
	run(t, w)
	idle(t, s)
	if runs.of("x") != 1 {
		t.Errorf("ran %d times, want once more, and at once", runs.of("x"))
	}
	if ttl := rdb.PTTL(t.Context(), keys.Once(key)).Val(); ttl <= 0 || ttl > time.Minute {
		t.Errorf("the mark stays for %s", ttl)
	}
}
