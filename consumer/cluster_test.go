package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
)

// TestOnACluster runs one worker over streams in different slots, with a scheduler beside it.
func TestOnACluster(t *testing.T) {
	t.Parallel()
	rdb, _ := redistest.Cluster(t)
	var streams []*stream.Stream
	for i := range 5 {
		s, err := stream.New(rdb, fmt.Sprintf("orders-%d", i), stream.Config{})
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	tagged, err := stream.New(rdb, "{tenant}orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	streams = append(streams, tagged)
	w := newWorker(t, quick(), streams...)
	var book ledger
	consumer.Handle(w, ping, func(_ context.Context, job *consumer.Job[int]) error {
		book.add(fmt.Sprint(job.Stream, job.Data))
		if job.Data%10 == 3 && job.Attempt == 1 {
			return errors.New("once more")
		}
		if job.Data%10 == 7 {
			return consumer.Permanent(errors.New("never"))
		}
		return nil
	})
	stop := run(t, w)
	sched, err := scheduler.New(rdb, scheduler.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- sched.Run(ctx) }()
	const n = 100
	for _, s := range streams {
		jobs := many(n)
		for i := range jobs {
			switch i % 4 {
			case 1:
				jobs[i].ID = fmt.Sprintf("job-%d", i)
			case 2:
				jobs[i].Delay = time.Duration(i) * time.Millisecond
			}
		}
		publish(t, s, jobs...)
	}
	for _, s := range streams {
		deadLetters(t, s, n/10)
		idle(t, s)
	}
	still := redistest.Standstill(t)
	start := time.Now()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 3*time.Second+still() {
		t.Errorf("stopping took %s: the blocked reads were not ended", took)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for _, s := range streams {
		for i := range n {
			want := 1
			if i%10 == 3 {
				want = 2
			}
			if runs := book.of(fmt.Sprint(s.Name(), i)); runs != want {
				t.Errorf("%s: job %d ran %d times, want %d", s.Name(), i, runs, want)
			}
		}
		if d := depths(t, s); d.Workers != 0 {
			t.Errorf("%s: %d consumers are left", s.Name(), d.Workers)
		}
		swept, err := s.Group(group).Redrive(t.Context(), stream.DeadFilter{}, stream.RedriveOptions{})
		if err != nil || swept.Moved != n/10 {
			t.Errorf("%s: redrove %+v %v", s.Name(), swept, err)
		}
	}
}
