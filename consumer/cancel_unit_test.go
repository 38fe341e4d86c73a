package consumer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/engine"
)

// TestCancelledBeforeItStarts: what is known to be cancelled is refused, in any kind of worker that refuses nothing else of it; and a
// slot that has just taken it up hears of it.
func TestCancelledBeforeItStarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := fakeWorker(t, &fakeRedis{}, Config{MaxJobs: 1})
		queued := endedTask(w, "1-1")
		queued.route = &route{}
		if w.refuse(queued) {
			t.Fatalf("a job that is not cancelled was refused: %+v", queued.verdict)
		}
		w.cancelTasks(queued)
		run := w.begin(w.slots[0], context.Background(), time.Hour, queued)
		if err := context.Cause(run); !errors.Is(err, ErrCancelled) {
			t.Errorf("the run ended with %v, want ErrCancelled", err)
		}
		w.slots[0].cancelRun(nil)
		w.slots[0].stop()
		if queued.started = (time.Time{}); !w.refuse(queued) || queued.verdict.action != actCancel || queued.kept == nil {
			t.Errorf("it was not refused as cancelled: %+v", queued.verdict)
		}
		for _, err := range []error{context.Canceled, errors.New("broken off"), Snooze(time.Second), Permanent(errors.New("no"))} {
			if queued.judge(err, ErrCancelled); queued.verdict.action != actCancel {
				t.Errorf("%v became %+v", err, queued.verdict)
			}
		}
		if queued.judge(nil, nil); queued.verdict.action != actComplete {
			t.Errorf("a success became %+v", queued.verdict)
		}
		queued.lost.Store(true)
		if queued.judge(errors.New("x"), ErrCancelled); queued.verdict.action != actDrop {
			t.Errorf("what is not ours became %+v", queued.verdict)
		}
	})
}

// TestHintProvesNothing: only the mark does. One that is not there, or that cannot be asked for, stops nothing.
func TestHintProvesNothing(t *testing.T) {
	t.Parallel()
	for _, answer := range []error{redis.Nil, serverError("ERR no"), nil} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeRedis{answer: func(cmd redis.Cmder) (any, error) {
				if c, ok := cmd.(*redis.FloatCmd); ok && answer == nil {
					c.SetVal(1)
				}
				return nil, answer
			}}
			w := fakeWorker(t, f, Config{MaxJobs: 1})
			held := endedTask(w, "1-1")
			var done = make(chan struct{})
			go func() { defer close(done); w.obey() }()
			w.said("cancel {orders}:cancelled 1-1")
			w.said("cancel {others}:cancelled 1-1")
			w.said("cancel {orders}:cancelled 2-2")
			w.said("cancel")
			w.said("something new")
			synctest.Wait()
			if held.cancelled.Load() != (answer == nil) {
				t.Errorf("answer %v: cancelled %v", answer, held.cancelled.Load())
			}
			later := endedTask(w, "2-2") // it was on its way when the hint came
			later.route = &route{}
			if w.refuse(later) != (answer == nil) {
				t.Errorf("answer %v: %+v", answer, later.verdict)
			}
			close(w.gone)
			<-done
		})
	}
}

// TestMarksAreRead when a heartbeat says that there are any: what runs is told, and what waits does not start.
func TestMarksAreRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		f := &fakeRedis{answer: func(cmd redis.Cmder) (any, error) {
			if c, ok := cmd.(*redis.FloatCmd); ok {
				c.SetVal(1)
				return nil, nil
			}
			asked++
			return []any{"1-1", "2-2"}, nil
		}}
		w := fakeWorker(t, f, Config{MaxJobs: 1})
		src := w.sources[0]
		held := endedTask(w, "1-1")
		run := w.begin(w.slots[0], context.Background(), time.Hour, held)
		beat := func(marks int64, reads int) {
			t.Helper()
			asked = 0
			time.Sleep(time.Second)
			if err := w.obeyBeat(src, src.group, engine.Beat{Marks: marks}, mono()); err != nil || asked != reads {
				t.Errorf("%d marks: read %d times, want %d; %v", marks, asked, reads, err)
			}
		}
		beat(0, 0)
		if run.Err() != nil || src.stops.Load() != nil {
			t.Error("something is obeyed that nobody said")
		}
		beat(2, 1)
		if err := context.Cause(run); !errors.Is(err, ErrCancelled) {
			t.Errorf("the run ended with %v, want ErrCancelled", err)
		}
		later := endedTask(w, "2-2")
		later.route = &route{}
		if !w.refuse(later) || later.verdict.action != actCancel {
			t.Errorf("it was not refused as cancelled: %+v", later.verdict)
		}
		if beat(0, 0); src.stops.Load() != nil {
			t.Error("marks are looked up that are gone")
		}
		w.slots[0].cancelRun(nil)
		w.slots[0].stop()
	})
}

// TestMarkedWhileItSettles: what Redis does not let go elsewhere, as it is to end as cancelled, is ended so.
func TestMarkedWhileItSettles(t *testing.T) {
	t.Parallel()
	for _, v := range []verdict{{action: actRetry, after: time.Second}, {action: actPause, after: time.Second}, {action: actRelease}, {action: actDead}, {action: actReclaim}} {
		synctest.Test(t, func(t *testing.T) {
			var keys []any
			f := &fakeRedis{answer: func(cmd redis.Cmder) (any, error) {
				args := cmd.Args()
				keys = append(keys, args[4])
				switch args[4] {
				case "{orders}:g:billing:retrying":
					return int64(-3), nil
				case "{orders}:ids": // complete
					return []any{[]any{}, []any{}}, nil
				}
				return "cancelled", nil
			}}
			w := fakeWorker(t, f, Config{})
			ended := make(chan struct{})
			go func() { w.settle(); close(ended) }()
			job := endedTask(w, "1-1")
			job.verdict = v
			job.verdict.err = errors.New("why")
			w.finish(job)
			time.Sleep(10 * time.Second)
			if s := w.Stats(); s.Cancelled != 1 || s.Retried+s.Paused+s.HandedBack+s.Dead+s.Reclaimed > 0 || len(keys) != 2 || keys[1] != "{orders}:ids" || job.kept == nil {
				t.Errorf("%+v: %+v after %v", v, s, keys)
			}
			w.drainBy.Store(time.Now().Add(settleAfter).UnixNano())
			close(w.drain)
			<-ended
		})
	}
}
