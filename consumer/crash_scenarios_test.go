package consumer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/scheduler"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

var crashScenarios = append(append(uniqueCrashScenarios, cancelCrashScenarios...), []crashScenario{
	{
		name:    "success",
		prepare: func(r *crashRun) { r.publish(0, ping.Job(1), "ok") },
		act:     (*crashRun).workUntilIdle,
	},
	{
		name:    "success with ID",
		prepare: func(r *crashRun) { r.publish(0, stream.Job{Type: "ping", ID: "chosen"}, "ok") },
		act:     (*crashRun).workUntilIdle,
		ended: func(r *crashRun) {
			receipt, err := r.streams[0].Publish(r.t.Context(), stream.Job{Type: "ping", ID: "chosen"})
			if err != nil || !receipt.Duplicate || receipt.State != stream.Completed {
				r.errorf("published again: %+v, %v; want a duplicate of a completed job", receipt, err)
			}
		},
	},
	{
		name: "success on record",
		prepare: func(r *crashRun) {
			r.publish(0, with(ping.Job(1), func(j *stream.Job) { j.KeepResult = time.Hour }), "error", "ok")
		},
		act: (*crashRun).workUntilIdle,
		ended: func(r *crashRun) {
			info, err := r.streams[0].Get(r.t.Context(), r.jobs[0].id)
			if err != nil || info.State != stream.Completed || info.Attempt != 2 || len(info.History) == 0 {
				r.errorf("its record: %+v, %v", info, err)
			}
		},
	},
	{
		name:    "failure, then success",
		prepare: func(r *crashRun) { r.publish(0, ping.Job(1), "error", "ok") },
		act:     (*crashRun).workUntilIdle,
	},
	{
		name:    "snooze",
		prepare: func(r *crashRun) { r.publish(0, ping.Job(1), "snooze", "ok") },
		act:     (*crashRun).workUntilIdle,
	},
	{
		name:    "death, redrive and success",
		prepare: func(r *crashRun) { r.publish(0, ping.Job(1), "permanent", "ok") },
		act: func(r *crashRun) {
			r.work(r.victim, group)
			r.await(func() bool { return r.dead() == 1 })
		},
		rescue: func(r *crashRun) {
			r.await(func() bool { return r.dead() == 1 })
			r.redrive(r.streams[0], 1)
		},
	},
	{
		name: "batch", batch: 10,
		prepare: func(r *crashRun) {
			for i := range 3 {
				r.publish(0, ping.Job(i), "ok")
			}
			r.publish(0, stream.Job{Type: "ping", ID: "chosen"}, "error", "ok")
		},
		act: (*crashRun).workUntilIdle,
	},
	{
		name:    "unknown type",
		prepare: func(r *crashRun) { r.publish(0, ping.Job(1), "ok") },
		handles: func(r *crashRun, a *crashActor) bool { return a != r.victim },
		act: func(r *crashRun) {
			r.work(r.victim, group)
			r.await(func() bool { return r.depths().Retrying == 1 })
		},
	},
	{
		name: "jobs of a dead worker", takesOver: true,
		prepare: func(r *crashRun) {
			create(r.t, r.streams[0])
			r.publish(0, ping.Job(1), "ok").crashes = 1
			r.publish(0, stream.Job{Type: "ping", ID: "chosen"}, "ok").crashes = 1
			killed(r.t, r.rdb, r.streams[0])
		},
		act: (*crashRun).workUntilIdle,
	},
	{
		name: "job of two dead workers", takesOver: true,
		config: func(c *consumer.Config) { c.MaxCrashes = 9 },
		prepare: func(r *crashRun) {
			create(r.t, r.streams[0])
			r.crashed(1, "ok").crashes = 2
			killed(r.t, r.rdb, r.streams[0])
		},
		act: (*crashRun).workUntilIdle,
	},
	{
		name: "poison job", takesOver: true,
		prepare: func(r *crashRun) {
			create(r.t, r.streams[0])
			r.crashed(2).dead = "crashed"
			killed(r.t, r.rdb, r.streams[0])
		},
		act: (*crashRun).workUntilIdle,
	},
	{
		name: "shutdown",
		config: func(c *consumer.Config) {
			c.MaxJobs = 2
			c.Grace = 20 * time.Millisecond
		},
		prepare: func(r *crashRun) {
			for i := range 4 {
				r.publish(0, ping.Job(i), "held", "ok")
			}
			r.publish(0, stream.Job{Type: "ping", ID: "chosen"}, "held", "ok")
		},
		act: func(r *crashRun) {
			stop := r.work(r.victim, group)
			r.await(func() bool { return r.started() == 2 })
			stop()
		},
	},
	{
		name:    "shutdown while a read blocks",
		config:  func(c *consumer.Config) { c.MaxJobs, c.Grace = 2, 20*time.Millisecond },
		prepare: func(r *crashRun) { r.publish(0, ping.Job(1), "held", "ok") },
		act:     (*crashRun).workAndStop,
	},
	{
		name: "shutdown with jobs not started", batch: 3,
		config: func(c *consumer.Config) { c.Grace = 20 * time.Millisecond },
		prepare: func(r *crashRun) {
			r.deadLetters("held", "ok")
			r.redrive(r.streams[0], 3) // a read takes as many of the stream as of what comes back
			for i := range 3 {
				r.publish(0, ping.Job(i), "held", "ok")
			}
		},
		act: (*crashRun).workAndStop,
	},
	{
		name: "events of two groups", kind: stream.KindEvents, groups: []string{"audit"},
		prepare: func(r *crashRun) {
			create(r.t, r.streams[0])
			if _, err := engine.Open(r.t.Context(), r.rdb, engine.NewKeys(r.streams[0].Name()), "audit", "events", false); err != nil {
				r.t.Fatal(err)
			}
			r.publish(0, ping.Job(1), "ok")
			r.publish(0, stream.Job{Type: "ping", ID: "chosen"}, "error", "ok")
		},
		act: func(r *crashRun) {
			r.work(r.victim, group)
			r.await(func() bool { return r.victim.completed() == 2 })
		},
	},
	{
		name: "two streams", wide: 2,
		prepare: func(r *crashRun) {
			r.publish(0, ping.Job(1), "ok")
			r.publish(1, stream.Job{Type: "ping", ID: "chosen"}, "error", "ok")
		},
		act: (*crashRun).workUntilIdle,
	},
	{
		name:    "publish with ID",
		prepare: func(r *crashRun) { r.expect(0, "chosen", "ok").gone = true },
		act: func(r *crashRun) {
			job := stream.Job{Type: "ping", ID: "chosen"}
			_, err := r.victim.streams[0].Publish(r.life(), job)
			r.answered(err)
		},
		rescue: func(r *crashRun) { r.again(stream.Job{Type: "ping", ID: "chosen"}) },
	},
	{
		name: "publish deferred and not",
		prepare: func(r *crashRun) {
			for _, job := range crashJobs {
				r.expect(0, job.ID, "ok").gone = true
			}
		},
		act: func(r *crashRun) {
			_, err := r.victim.streams[0].PublishAll(r.life(), crashJobs)
			r.answered(err)
		},
		rescue: func(r *crashRun) {
			r.again(crashJobs...)
			slot := engine.ScheduledSlot(engine.NewKeys(r.streams[0].Name()))
			r.await(func() bool {
				if _, err := engine.Promote(r.t.Context(), r.rdb, slot, 10); err != nil {
					r.t.Fatal(err)
				}
				return r.over()
			})
		},
	},
	{
		name:    "redrive",
		prepare: func(r *crashRun) { r.deadLetters("ok") },
		act: func(r *crashRun) {
			_, err := r.victim.streams[0].Group(group).Redrive(r.t.Context(), stream.DeadFilter{}, stream.RedriveOptions{})
			if r.point == nil && err != nil {
				r.errorf("Redrive = %v", err)
			}
		},
		rescue: func(r *crashRun) { r.redrive(r.streams[0], -1) },
	},
	{
		name: "purge",
		prepare: func(r *crashRun) {
			r.deadLetters()
			for _, j := range r.jobs {
				j.gone = true
			}
		},
		act: func(r *crashRun) {
			_, err := r.victim.streams[0].Group(group).Purge(r.t.Context(), stream.DeadFilter{}, stream.PurgeOptions{})
			if r.point == nil && err != nil {
				r.errorf("Purge = %v", err)
			}
		},
		rescue: func(r *crashRun) {
			if _, err := r.streams[0].Group(group).Purge(r.t.Context(), stream.DeadFilter{}, stream.PurgeOptions{}); err != nil {
				r.errorf("Purge = %v", err)
			}
			r.jobs = r.jobs[:2]
			r.expect(0, "chosen", "ok") // the ID is free again
			r.again(stream.Job{Type: "ping", ID: "chosen"})
		},
	},
	{
		name: "scheduler once", alone: true,
		prepare: (*crashRun).deferred,
		act: func(r *crashRun) {
			_, err := r.scheduler(r.victim).Once(r.t.Context())
			r.answered(err)
		},
		rescue: func(r *crashRun) {
			if _, err := r.scheduler(r.healer).Once(r.t.Context()); err != nil {
				r.errorf("Once = %v", err)
			}
		},
	},
}...)

// life is a context that ends with the victim, or a dead publisher would try again for long.
func (r *crashRun) life() context.Context {
	ctx, cancel := context.WithCancel(r.t.Context())
	r.late.Go(func() {
		defer cancel()
		select {
		case <-r.victim.gone:
		case <-ctx.Done():
		}
	})
	return ctx
}

func (r *crashRun) workUntilIdle() {
	r.work(r.victim, group)
	r.await(nil)
}

// workAndStop stops the victim while a job runs.
func (r *crashRun) workAndStop() {
	stop := r.work(r.victim, group)
	r.await(func() bool { return r.started() > 0 })
	stop()
}

// answered checks the error of the victim's one call, whose scripts can be repeated: it lives on when answers are lost.
func (r *crashRun) answered(err error) {
	p := r.point
	repeated := p != nil && p.lives && (strings.HasPrefix(p.label, "publish") || strings.HasPrefix(p.label, "schedule") || strings.HasPrefix(p.label, "unique"))
	if well := p == nil || !r.victim.struck || repeated; well && err != nil || p != nil && !p.lives && r.victim.struck && err == nil {
		r.errorf("the victim's call ended with %v", err)
	}
}

func (r *crashRun) dead() int64 { return r.depths().Dead }

// depths are zero while there is no group.
func (r *crashRun) depths() stream.Depths {
	d, err := r.streams[0].Group(group).Depths(r.t.Context())
	if err != nil && !errors.Is(err, stream.ErrNotFound) {
		r.errorf("%v", err)
	}
	return d
}

func (r *crashRun) started() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, starts := range r.starts {
		n += len(starts)
	}
	return n
}

// again publishes jobs as one does who does not know whether they are stored.
func (r *crashRun) again(jobs ...stream.Job) {
	receipts, err := r.streams[0].PublishAll(r.t.Context(), jobs)
	if err != nil {
		r.errorf("published again: %+v, %v", receipts, err)
	}
}

func (r *crashRun) redrive(s *stream.Stream, want int64) {
	done, err := s.Group(group).Redrive(r.t.Context(), stream.DeadFilter{}, stream.RedriveOptions{})
	if err != nil || want >= 0 && done.Moved != want {
		r.errorf("Redrive = %+v, %v", done, err)
	}
}

// crashed adds a job whose lease has run out n times.
func (r *crashRun) crashed(n int, script ...string) *crashJob {
	xadd(r.t, r.rdb, r.streams[0], "ping", "1", fmt.Sprintf(`{"cr":%d}`, n))
	last := r.rdb.XRevRangeN(r.t.Context(), r.streams[0].Name(), "+", "-", 1).Val()
	return r.expect(0, last[0].ID, script...)
}

// deadLetters makes three, one of a job with a chosen ID.
func (r *crashRun) deadLetters(script ...string) {
	s := r.streams[0]
	create(r.t, s)
	for i := range 2 {
		r.publish(0, ping.Job(i), script...)
	}
	r.publish(0, stream.Job{Type: "ping", ID: "chosen"}, script...)
	killed(r.t, r.rdb, s)
	gk := engine.NewKeys(s.Name()).Group(group, false)
	for _, e := range r.rdb.XRange(r.t.Context(), s.Name(), "-", "+").Val() {
		text, _ := e.Values["opts"].(string)
		opts, err := engine.ParseOpts(text)
		if err != nil {
			r.t.Fatal(err)
		}
		if opts.ID == "" {
			opts.ID = e.ID
		}
		opts.Moves, opts.Errors = 1, 3
		info, err := json.Marshal(engine.DeadInfo{ID: opts.ID, Reason: "failed", Error: "no luck"})
		if err != nil {
			r.t.Fatal(err)
		}
		held := engine.Held{Key: s.Name(), Group: group, Consumer: "killed", Entry: e.ID, Delete: true}
		call := engine.DeadCall(held, gk, opts.ID, engine.Entry{Type: "ping", Data: "1", Opts: opts.String()}, string(info), engine.Lock{})
		if _, err := call.Run(r.t.Context(), r.rdb); err != nil {
			r.t.Fatal(err)
		}
	}
}

// crashJobs have IDs: they may be published twice.
var crashJobs = []stream.Job{
	{Type: "ping", ID: "first"}, {Type: "ping", ID: "later", Delay: time.Millisecond}, {Type: "ping", ID: "last"},
}

// deferred publishes two jobs and waits until they are due.
func (r *crashRun) deferred() {
	r.publish(0, stream.Job{Type: "ping", Delay: time.Millisecond}, "ok")
	r.publish(0, stream.Job{Type: "ping", Delay: time.Millisecond, ID: "chosen"}, "ok")
	<-time.After(5 * time.Millisecond)
}

func (r *crashRun) scheduler(a *crashActor) *scheduler.Scheduler {
	s, err := scheduler.New(a.rdb, scheduler.Config{})
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}
