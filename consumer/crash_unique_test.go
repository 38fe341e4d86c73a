package consumer_test

import (
	"fmt"
	"time"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// only is a job that is the only one with the key "k".
func only(id string, u stream.Unique) stream.Job {
	u.Key = "k"
	return stream.Job{Type: "ping", ID: id, Data: id, Unique: u}
}

var coalesced = stream.Unique{OnConflict: stream.Coalesce}

// uniqueCrashScenarios: wherever a worker or a publisher dies, locks end with their jobs, and what was behind them runs once.
var uniqueCrashScenarios = []crashScenario{
	{
		name:    "unique until done",
		prepare: func(r *crashRun) { r.publish(0, only("first", stream.Unique{}), "error", "ok") },
		act:     (*crashRun).workUntilIdle,
		ended:   (*crashRun).unlocked,
	},
	{
		name: "unique until started",
		prepare: func(r *crashRun) {
			r.publish(0, only("first", stream.Unique{Until: stream.UntilStarted}), "error", "ok")
		},
		act:   (*crashRun).workUntilIdle,
		ended: (*crashRun).unlocked,
	},
	{
		name: "unique, death, redrive and success",
		prepare: func(r *crashRun) {
			r.publish(0, only("first", stream.Unique{}), "permanent", "ok")
		},
		act: func(r *crashRun) {
			r.work(r.victim, group)
			r.await(func() bool { return r.dead() == 1 })
		},
		rescue: func(r *crashRun) {
			r.await(func() bool { return r.dead() == 1 })
			r.unlocked()
			r.redrive(r.streams[0], 1)
		},
		ended: (*crashRun).unlocked,
	},
	{
		name: "one more behind a lock",
		prepare: func(r *crashRun) {
			r.publish(0, only("first", stream.Unique{}), "error", "ok") // which does not look for later data
			r.coalesce("second", "third")
			r.expect(0, "third", "ok")
		},
		act:   (*crashRun).workUntilIdle,
		ended: (*crashRun).unlocked,
	},
	{
		name: "one more behind a job that dies",
		prepare: func(r *crashRun) {
			r.publish(0, only("first", stream.Unique{}), "permanent").dead = "permanent"
			r.coalesce("second")
			r.expect(0, "second", "ok")
		},
		act:   (*crashRun).workUntilIdle,
		ended: (*crashRun).unlocked,
	},
	{
		name: "the latest data",
		prepare: func(r *crashRun) {
			r.publish(0, only("first", coalesced), "error", "ok")
			r.coalesce("second", "third") // which the first one sees
		},
		act:   (*crashRun).workUntilIdle,
		ended: (*crashRun).unlocked,
	},
	{
		name: "batch of unique jobs", batch: 10,
		prepare: func(r *crashRun) {
			r.publish(0, ping.Job(1), "ok")
			job := only("first", stream.Unique{Until: stream.UntilStarted})
			job.Data = 1
			r.publish(0, job, "error", "ok")
		},
		act:   (*crashRun).workUntilIdle,
		ended: (*crashRun).unlocked,
	},
	{
		name: "unique job of a dead worker", takesOver: true,
		prepare: func(r *crashRun) {
			create(r.t, r.streams[0])
			r.publish(0, only("first", stream.Unique{}), "ok").crashes = 1
			killed(r.t, r.rdb, r.streams[0])
		},
		act:   (*crashRun).workUntilIdle,
		ended: (*crashRun).unlocked,
	},
	{
		name:    "publish unique",
		prepare: func(r *crashRun) { r.expect(0, "first", "ok").gone = true },
		act: func(r *crashRun) {
			_, err := r.victim.streams[0].Publish(r.life(), only("first", stream.Unique{}))
			r.answered(err)
		},
		rescue: func(r *crashRun) { r.again(only("first", stream.Unique{})) },
		ended:  (*crashRun).unlocked,
	},
	{
		name: "publish in place of a scheduled one",
		prepare: func(r *crashRun) {
			job := only("first", stream.Unique{})
			job.Delay = time.Hour
			r.publish(0, job, "ok")
		},
		act: func(r *crashRun) {
			_, err := r.victim.streams[0].Publish(r.life(), only("second", stream.Unique{OnConflict: stream.Replace}))
			r.answered(err)
		},
		rescue: func(r *crashRun) {
			if where := r.where("first"); where != "" && where[:9] == "scheduled" { // else it was replaced, and runs or has run
				r.again(only("second", stream.Unique{OnConflict: stream.Replace}))
			}
		},
		ended: (*crashRun).unlocked,
	},
}

// coalesce publishes jobs behind the lock of another.
func (r *crashRun) coalesce(ids ...string) {
	for _, id := range ids {
		receipt, err := r.streams[0].Publish(r.t.Context(), only(id, coalesced))
		if err != nil || !receipt.Updated || receipt.ID != "first" {
			r.t.Fatalf("receipt %+v, %v: want it behind the first one's lock", receipt, err)
		}
	}
}

func (r *crashRun) where(id string) string {
	return r.rdb.HGet(r.t.Context(), engine.NewKeys(r.streams[0].Name()).IDs, id).Val()
}

// unlocked checks that no lock is left, and nothing behind one.
func (r *crashRun) unlocked() {
	keys := engine.NewKeys(r.streams[0].Name())
	holder := r.rdb.Get(r.t.Context(), keys.Unique("k")).Val()
	if behind := r.rdb.HGetAll(r.t.Context(), keys.Next).Val(); holder != "" || len(behind) > 0 {
		r.errorf("the lock is still held by %q, and behind it is %s", holder, fmt.Sprint(behind))
	}
}
