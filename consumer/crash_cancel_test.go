package consumer_test

import (
	"errors"
	"time"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// cancelCrashScenarios: wherever a worker dies that runs a cancelled job, or whoever cancels it, the job ends as cancelled, with
// its lock and its mark, and nobody runs it again. What a kill switch has put off runs once that is lifted.
var cancelCrashScenarios = []crashScenario{
	{
		name:    "cancel of a running job",
		prepare: func(r *crashRun) { r.publish(0, only("first", stream.Unique{}), "held") },
		act:     (*crashRun).workAndCancel,
		rescue:  (*crashRun).unmarked,
		ended:   (*crashRun).unlocked,
	},
	{
		name:    "cancel of a running job without an ID",
		prepare: func(r *crashRun) { r.publish(0, ping.Job(1), "held") },
		act:     (*crashRun).workAndCancel,
		rescue:  (*crashRun).unmarked,
	},
	{
		name: "cancel of a scheduled job",
		prepare: func(r *crashRun) {
			job := only("first", stream.Unique{})
			job.Delay = time.Hour
			j := r.publish(0, job)
			j.gone, j.cancelled = true, true
		},
		act: func(r *crashRun) {
			_, err := r.victim.streams[0].Cancel(r.life(), "first")
			r.answered(err)
		},
		rescue: func(r *crashRun) {
			if state, err := r.streams[0].Cancel(r.t.Context(), "first"); err != nil || state != stream.Cancelled {
				r.errorf("cancelled again: %s, %v", state, err)
			}
		},
		ended: (*crashRun).unlocked,
	},
	{
		name: "pause switch",
		prepare: func(r *crashRun) {
			r.switchOn(stream.PauseJobs)
			r.publish(0, only("first", stream.Unique{}), "ok")
		},
		act: func(r *crashRun) {
			r.work(r.victim, group)
			r.await(func() bool { return r.depths().Retrying == 1 })
			r.switchOff()
			r.await(nil)
		},
		rescue: (*crashRun).unmarked,
		ended:  (*crashRun).unlocked,
	},
	{
		name: "cancel switch",
		prepare: func(r *crashRun) {
			r.switchOn(stream.CancelJobs)
			r.publish(0, only("first", stream.Unique{}), "ok").cancelled = true
		},
		act: (*crashRun).workUntilIdle,
		rescue: func(r *crashRun) {
			r.await(nil)
			r.switchOff()
		},
		ended: (*crashRun).unlocked,
	},
}

// workAndCancel cancels the job that the victim runs, or would have run.
func (r *crashRun) workAndCancel() {
	r.work(r.victim, group)
	r.await(func() bool { return r.started() == 1 })
	j := r.jobs[0]
	state, err := r.streams[0].Cancel(r.t.Context(), j.id)
	if err != nil || state != stream.Active && state != stream.Cancelled {
		r.errorf("cancel: %s, %v", state, err)
	}
	j.cancelled, j.gone = true, state == stream.Cancelled
	r.await(func() bool {
		info, err := r.streams[0].Get(r.t.Context(), j.id)
		return err == nil && info.State == stream.Cancelled
	})
}

// unmarked waits until all has ended, and no mark is left, nor what was put off.
func (r *crashRun) unmarked() {
	g := engine.NewKeys(r.streams[0].Name()).Group(group, false)
	r.await(func() bool { return r.over() && r.rdb.Exists(r.t.Context(), g.Marks, g.Paused).Val() == 0 })
}

func (r *crashRun) switchOn(action stream.SwitchAction) {
	if _, err := r.streams[0].AddSwitch(r.t.Context(), stream.Switch{Action: action, Type: "ping"}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *crashRun) switchOff() {
	list, err := r.streams[0].Switches(r.t.Context())
	if err == nil && len(list) != 1 {
		r.errorf("the switches are %v", list)
	}
	for _, sw := range list {
		err = errors.Join(err, r.streams[0].RemoveSwitch(r.t.Context(), sw.ID))
	}
	if err != nil {
		r.errorf("%v", err)
	}
}

// completes reports whether a worker's script ends the job.
func (j *crashJob) completes() bool { return len(j.script) > 0 && (!j.cancelled || !j.gone) }

// auditCancelled checks that a cancelled job is on record as that, and that only the victim can have run it, before.
func (r *crashRun) auditCancelled(key crashKey) {
	info, err := r.streams[0].Get(r.t.Context(), key.id)
	if err != nil || info.State != stream.Cancelled {
		r.errorf("%v is on record as %+v, %v", key, info, err)
	}
	starts := r.starts[key]
	if len(starts) > 1 || len(starts) == 1 && (starts[0].by != r.victim || starts[0].outcome != "held") {
		r.errorf("%v was cancelled, and has run: %+v", key, starts)
	}
}
