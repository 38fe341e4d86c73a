package consumer_test

import (
	"fmt"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// crashJob is a job and how its runs end, when each is settled: "ok", "error",
// "snooze", "permanent" (a redrive follows), or "held" (until the victim stops).
type crashJob struct {
	stream, id string
	script     []string
	dead       string // the reason, when it ends among the dead letters
	crashes    int    // leases that have run out before the victim gets it
	gone       bool   // whether it was stored is open, or it was cancelled where it waited
	cancelled  bool   // somebody has asked for its end: nobody runs it after that
}

// crashStart is a run of a job by somebody who lived then.
type crashStart struct {
	by      *crashActor
	attempt int
	crashes int
	fence   int64
	outcome string
	cut     bool // the victim died before its end was in Redis
}

// crashKey is a job as one group knows it.
type crashKey struct{ stream, group, id string }

// start notes that a job runs; nil when whoever runs it is dead.
func (r *crashRun) start(a *crashActor, d *consumer.Delivery) (s *crashStart) {
	a.do(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		key := crashKey{d.Stream, d.Group, d.ID}
		s = &crashStart{by: a, attempt: d.Attempt, crashes: consumer.Crashes(d), fence: d.Fence}
		done := 0
		for _, before := range r.starts[key] {
			if !before.cut {
				done++
			}
		}
		s.outcome = r.job(d.Stream, d.ID).outcome(&done, a == r.victim)
		r.starts[key] = append(r.starts[key], s)
	})
	return s
}

// outcome of the run after done others. Only the victim has somebody who holds its jobs.
func (j *crashJob) outcome(done *int, victim bool) string {
	if !victim && *done < len(j.script) && j.script[*done] == "held" {
		*done++
	}
	if *done >= len(j.script) {
		return "ok"
	}
	return j.script[*done]
}

// job finds one; r.mu is held.
func (r *crashRun) job(stream, id string) *crashJob {
	for _, j := range r.jobs {
		if j.stream == stream && j.id == id {
			return j
		}
	}
	r.faults = append(r.faults, fmt.Sprintf("a job that nobody published: %s/%s", stream, id)) // r.mu is held
	return &crashJob{}
}

// publish stores a job in the n-th stream, whose runs end as the script says.
func (r *crashRun) publish(n int, job stream.Job, script ...string) *crashJob {
	receipt, err := r.streams[n].Publish(r.t.Context(), job)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.expect(n, receipt.ID, script...)
}

func (r *crashRun) expect(n int, id string, script ...string) *crashJob {
	j := &crashJob{stream: r.streams[n].Name(), id: id, script: script}
	r.mu.Lock()
	r.jobs = append(r.jobs, j)
	r.mu.Unlock()
	return j
}
