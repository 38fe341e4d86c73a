package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// uniqueKeys: of the jobs of one key one runs at a time, whoever publishes and works; the last to run has the latest data
// where that was asked for; and with the jobs their locks are gone, those of dead ones too.
func uniqueKeys(t *testing.T, w *world) {
	const keys, n = 4, 40
	s := w.stream(t, stream.Config{})
	var runs keyed
	for range 2 {
		worker := w.worker(t, quick(), w.again(t, s))
		consumer.Handle(worker, number, func(_ context.Context, job *consumer.Job[int]) error {
			defer runs.leave(job.Header["key"])
			if !runs.enter(job.Header["key"], job.Data) {
				t.Errorf("two jobs of %s run at once", job.Header["key"])
			}
			pass(time.Millisecond)
			switch {
			case job.Attempt == 1 && job.Data%5 == 1:
				return errors.New("once more")
			case job.Data%5 == 2 && job.Header["dies"] != "":
				return consumer.Permanent(errors.New("never"))
			}
			return nil
		})
		run(t, worker)
	}
	schedule(t, s.Client())
	var wg sync.WaitGroup
	for k := range keys {
		for _, kind := range []string{"kept", "deferred", "latest"} {
			from := w.again(t, s)
			wg.Go(func() {
				for i := range n {
					job := number.Job(i)
					job.Unique.Key = fmt.Sprint(kind, "-", k)
					job.Header = map[string]string{"key": job.Unique.Key}
					switch kind {
					case "kept":
						job.Header["dies"] = "yes"
					case "deferred":
						job.Unique.OnConflict, job.Delay = stream.Replace, time.Millisecond
					case "latest":
						job.Unique.OnConflict = stream.Coalesce
					}
					r, err := from.Publish(t.Context(), job)
					if err != nil || kind == "latest" && r.Duplicate && !r.Updated {
						t.Errorf("publish %d of %s: %+v, %v", i, job.Unique.Key, r, err)
					}
				}
			})
		}
	}
	wg.Wait()
	drained(t, s)
	for k := range keys {
		if last := runs.last(fmt.Sprint("latest-", k)); last != n-1 {
			t.Errorf("the last run of key %d had the data %d, want the latest", k, last)
		}
	}
	if _, err := s.Group(group).Purge(t.Context(), stream.DeadFilter{}, stream.PurgeOptions{}); err != nil {
		t.Error(err)
	}
	w.clean(t, s)
}

// keyed is what runs under which key.
type keyed struct {
	mu   sync.Mutex
	busy map[string]bool
	seen map[string]int
}

func (k *keyed) enter(key string, data int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy == nil {
		k.busy, k.seen = make(map[string]bool), make(map[string]int)
	}
	free := !k.busy[key]
	k.busy[key], k.seen[key] = true, data
	return free
}

func (k *keyed) leave(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.busy[key] = false
}

func (k *keyed) last(key string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.seen[key]
}

// latestFirst is the number of the first job that newer publishes behind a lock.
const latestFirst = 3_000_000

// parkedKey is held by a job that waits for as long as parkedFor.
const parkedKey = "parked"

// newer publishes ever newer data under the key of a parked job, until stop is called; check tells whether the latest have run.
func newer(t *testing.T, s *stream.Stream, book *ledger) (stop, check func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	last := latestFirst - 1
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			job := number.Job(last + 1)
			job.ID, job.Unique = fmt.Sprint("latest-", last+1), stream.Unique{Key: parkedKey, OnConflict: stream.Coalesce}
			if _, err := s.Publish(context.WithoutCancel(ctx), job); err != nil {
				t.Errorf("publish newer data: %v", err)
				return
			}
			last++
			pass(10 * time.Millisecond)
		}
	})
	stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(stop)
	return stop, func() {
		if book.of(last) == 0 {
			t.Errorf("of the data %d to %d the latest did not run", latestFirst, last)
		}
	}
}
