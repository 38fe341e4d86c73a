package unique_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

const (
	publishers = 64
	rounds     = 20 // each is about a name of its own
	each       = 4  // times that each of them publishes in a round
)

// deaf loses one answer in ten to scripts.
type deaf struct{}

func (deaf) DialHook(next redis.DialHook) redis.DialHook { return next }
func (deaf) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (deaf) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if err == nil && cmd.Name() == "evalsha" && rand.N(10) == 0 {
			err = io.ErrUnexpectedEOF
			cmd.SetErr(err)
		}
		return err
	}
}

// contest is who publishes what.
type contest struct {
	key, id bool // all jobs of a round have this in common
	delay   time.Duration
	// Completed IDs are free soon, and letters that must stay are purged. No answer is lost: a publisher would not know its own.
	forget bool
}

// TestLinearizable: 64 publish jobs of one key, or of one ID, beside one who cancels some, and a worker that completes what it
// gets, or buries it and sends it back, unless it was cancelled. What they see could have come one after the other.
func TestLinearizable(t *testing.T) {
	for name, c := range map[string]contest{
		"key":            {key: true},
		"key, deferred":  {key: true, delay: time.Millisecond},
		"key, forgotten": {key: true, forget: true},
		"ID":             {id: true},
		"ID, deferred":   {id: true, delay: time.Millisecond},
		"ID, forgotten":  {id: true, forget: true},
		"both":           {id: true, key: true, forget: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb, theirs := redistest.Client(t), redistest.Client(t)
			if !c.forget {
				theirs.AddHook(deaf{})
			}
			s, err := stream.New(theirs, redistest.Name(t), stream.Config{PublishTimeout: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			h := &history{began: time.Now()}
			w := newEnder(t, rdb, s.Name(), h, c)
			stop, stored := make(chan struct{}), make(chan ended, rounds*publishers*each)
			var working sync.WaitGroup
			working.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						w.step()
					}
				}
			})
			working.Go(func() {
				for {
					select {
					case <-stop:
						return
					case j := <-stored:
						if rand.N(3) == 0 {
							c.cancel(t, s, h, publishers+1, j)
						}
					}
				}
			})
			for round := range rounds {
				var all sync.WaitGroup
				for client := range publishers {
					all.Go(func() {
						for n := range each {
							j := ended{name: fmt.Sprint("round-", round), tag: fmt.Sprintf("job-%d-%d-%d", round, client, n)}
							if j.id = j.tag; c.id {
								j.id = j.name
							}
							if c.publish(t, s, h, client, j) {
								stored <- j
							}
						}
					})
				}
				all.Wait()
			}
			close(stop)
			working.Wait()

			published := h.count(publish)
			t.Logf("%d operations: %d jobs stored, %d completed, %d dead, %d redriven, %d cancelled while they waited and %d while they ran", len(h.list), published,
				h.count(complete), h.count(bury), h.count(redrive), h.count(cancel), h.count(abandon))
			if published < rounds || !c.id && published < 3*rounds || h.count(bury)+h.count(redrive) == 0 || h.count(cancel)+h.count(abandon) == 0 {
				t.Error("too little happened: this proves nothing")
			}
			if got := porcupine.CheckOperationsTimeout(sequential(c.id), h.list, time.Minute); got != porcupine.Ok {
				t.Errorf("linearizable: %s", got)
			}
			w.settle()
		})
	}
}

// publish reports whether a job was stored.
func (c contest) publish(t *testing.T, s *stream.Stream, h *history, client int, j ended) bool {
	job := stream.Job{Type: "t", ID: j.id, Data: []byte(j.tag), Delay: c.delay}
	if c.key {
		job.Unique.Key = j.name
	}
	return h.do(client, asked{j.name, publish, j.tag, c.forget}, func() told {
		r, err := s.Publish(t.Context(), job)
		if err != nil {
			t.Error(err)
		}
		out := told{done: !r.Duplicate}
		if r.Duplicate {
			out.state = r.State
		}
		if r.Duplicate && !c.id {
			out.job, out.state = r.ID, stream.Waiting // whose state may have changed since
		}
		return out
	}).done
}

// cancel asks until it is answered. Afterwards the ID may be forgotten, as that of a job that has completed.
func (c contest) cancel(t *testing.T, s *stream.Stream, h *history, client int, j ended) {
	state := h.do(client, asked{j.name, cancel, j.tag, c.forget}, func() told {
		for {
			state, err := s.Cancel(t.Context(), j.id)
			switch {
			case errors.Is(err, stream.ErrAmbiguous), errors.Is(err, stream.ErrUnavailable):
				continue
			case errors.Is(err, stream.ErrNotFound):
				state = ""
			case err != nil:
				t.Error(err)
			}
			return told{done: state == stream.Cancelled, state: state}
		}
	}).state
	if state == stream.Cancelled && c.forget && c.id {
		h.do(client, asked{j.name, forget, j.tag, c.forget}, func() told {
			if err := s.Client().Del(t.Context(), engine.NewKeys(s.Name()).Job(j.id)).Err(); err != nil {
				t.Error(err)
			}
			return told{done: true}
		})
	}
}

// ender is the worker.
type ender struct {
	t    *testing.T
	c    contest
	rdb  *redis.Client
	s    *stream.Stream
	keys engine.Keys
	h    *history
	n    int
	dead []ended // it sends them back before anything else
	done []ended // it forgets them then
}

// ended is a job that it has ended.
type ended struct{ id, name, tag string }

func newEnder(t *testing.T, rdb *redis.Client, name string, h *history, c contest) *ender {
	s, err := stream.New(rdb, name, stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := &ender{t: t, c: c, rdb: rdb, s: s, keys: engine.NewKeys(name), h: h}
	if _, err := engine.Open(t.Context(), rdb, w.keys, group, "queue", false); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *ender) do(what string, j ended, f func() (bool, error)) bool {
	return w.h.do(publishers, asked{j.name, what, j.tag, w.c.forget}, func() told {
		done, err := f()
		if err != nil {
			w.t.Error(err)
		}
		return told{done: done}
	}).done
}

func (w *ender) step() {
	for _, j := range w.dead {
		w.redrive(j)
	}
	for _, j := range w.done {
		w.do(forget, j, func() (bool, error) {
			return true, w.rdb.Del(w.t.Context(), w.keys.Job(j.id)).Err()
		})
	}
	w.dead, w.done = nil, nil
	if _, err := engine.Promote(w.t.Context(), w.rdb, engine.ScheduledSlot(w.keys), 10); err != nil {
		w.t.Error(err)
	}
	g := w.keys.Group(group, false)
	res, err := w.rdb.XReadGroup(w.t.Context(), &redis.XReadGroupArgs{Group: group, Consumer: "me", Streams: []string{w.keys.Stream, g.Redelivery, ">", ">"}, Count: 1, Block: -1}).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		w.t.Error(err)
	}
	for _, lane := range res {
		w.end(engine.Held{Key: lane.Stream, Group: group, Consumer: "me", Entry: lane.Messages[0].ID, Delete: true}, lane.Messages[0].Values)
	}
}

func (w *ender) end(held engine.Held, fields map[string]any) {
	e := engine.Entry{Type: "t", Data: fields["data"].(string), Opts: fields["opts"].(string)}
	o, err := engine.ParseOpts(e.Opts)
	if err != nil {
		w.t.Error(err)
	}
	j := ended{o.ID, o.Unique, e.Data}
	if w.c.id {
		j.name = o.ID
	}
	lock := engine.Lock{Key: o.Unique}
	w.n++
	if w.n%6 == 3 || w.n%5 == 0 { // while it runs, and then it is to be buried, or completes all the same
		w.c.cancel(w.t, w.s, w.h, publishers, j)
	}
	what, state := complete, "completed"
	if w.n%3 == 0 {
		buried := w.do(bury, j, func() (bool, error) {
			v, err := engine.DeadCall(held, w.keys.Group(group, false), o.ID, e, `{"reason":"failed"}`, lock).Run(w.t.Context(), w.rdb)
			return v != "" && !engine.Marked(v), err
		})
		if buried {
			w.dead = append(w.dead, j)
			return
		}
		what, state = abandon, "cancelled"
	}
	w.do(what, j, func() (bool, error) { // it leaves a record, by which a publisher whose answer was lost knows its own
		end := engine.End{Entry: held.Entry, ID: o.ID, Indexed: true, Lock: lock, Keep: time.Minute}
		v, err := engine.CompleteCall(held, w.keys.Group(group, false), state, end).Run(w.t.Context(), w.rdb)
		late, _, ok := engine.ReadCompleted(v)
		return ok && len(late) == 0, err
	})
	if w.c.forget && w.c.id {
		w.done = append(w.done, j)
	}
}

// settle ends what is left, and checks that neither a mark nor a lock outlives its job.
func (w *ender) settle() {
	for w.n = 1; ; {
		before := w.n
		if w.step(); w.n == before && len(w.dead)+len(w.done) == 0 && w.rdb.ZCard(w.t.Context(), w.keys.Scheduled).Val() == 0 {
			break
		}
	}
	g := w.keys.Group(group, false)
	if v, err := engine.MarksCall(w.keys, g, group, true).Run(w.t.Context(), w.rdb); err != nil || len(v.([]any)) > 0 || w.rdb.Exists(w.t.Context(), g.Marks).Val() != 0 {
		w.t.Errorf("marks are left: %v, %v", v, err)
	}
	for round := range rounds {
		if lock := w.keys.Unique(fmt.Sprint("round-", round)); w.rdb.Exists(w.t.Context(), lock).Val() != 0 {
			w.t.Errorf("%s is left", lock)
		}
	}
}

// redrive sends a job back. One whose key another job has by now stays, or goes for good: neither must free that key.
func (w *ender) redrive(j ended) {
	letters, g := stream.DeadFilter{IDs: []string{j.id}}, w.s.Group(group)
	back := w.do(redrive, j, func() (bool, error) {
		done, err := g.Redrive(w.t.Context(), letters, stream.RedriveOptions{})
		if errors.Is(err, stream.ErrLocked) {
			err = nil
		}
		return done.Moved == 1, err
	})
	if back || !w.c.forget {
		return
	}
	if done, err := g.Purge(w.t.Context(), letters, stream.PurgeOptions{}); err != nil || done.Moved != 1 {
		w.t.Errorf("purge %s: %+v, %v", j.id, done, err)
	}
}
