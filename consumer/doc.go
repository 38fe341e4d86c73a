// Package consumer runs the jobs of Redis Streams: handlers, retries, dead
// letters, shutdown.
//
// A [Worker] is one group over one or more streams, and runs at most
// [Config].MaxJobs handlers at once. Give it handlers with [Handle] and its
// kin, then call [Worker.Run], which returns when its context has ended and the
// jobs have:
//
//	w, err := consumer.New("billing", consumer.Config{}, orders)
//	…
//	consumer.Handle(w, OrderPaid, func(ctx context.Context, job *consumer.Job[Paid]) error {
//		return invoices.Create(ctx, job.Data.Order)
//	})
//	err = w.Run(ctx)
//
// # What a handler says
//
// nil completes the job. An error fails this try, and the job comes back after
// the backoff, until its tries are used up: then it is a dead letter, with its
// error, stack and history. [Permanent] dead-letters at once, [RetryAfter] says
// when the next try is due, [Snooze] puts the job off and counts no try. A panic
// is an error with a stack. The context ends with [ErrTimeout] when the run takes
// too long ([Delivery.SetTimeout] moves that), with [ErrStopping] when the
// worker stops and its grace period is over, and with [ErrCancelled] when the job
// was cancelled ([stream.Stream.Cancel]), or a kill switch ([stream.Switch]) says
// so. Then any error ends the job as cancelled, without a retry; nil completes it.
//
// # What a job leaves behind
//
// Nothing, when it completes and its handler returns nothing but its error. What a handler of
// [HandleResult] returns is kept for [Config].KeepResult, and whoever has the
// job's ID can look it up and wait for it: see [stream.Stream.Get] and [stream.Result].
// [Config].KeepStatus and a KeepResult of the type or the job itself keep a record
// of others too. The record is written by the script that ends the job, so it is of the
// end that counted: a late success of a worker that had lost the job leaves none.
//
// # Guarantees
//
// A job runs at least once, and can run more than once: handlers should be
// idempotent. [Delivery.ID] is the same in every run, and [Delivery.Fence] grows
// with each, so that a store that remembers the highest can refuse a late writer.
//
// What a worker has read and not started when it stops, and what stops within the
// grace period, goes back to its group at once and costs no try.
//
// A job is a worker's for as long as its lease lasts, which is renewed while the
// worker lives. The jobs of a worker that is killed go back to the group when their
// leases run out; it costs no try, but after [Config].MaxCrashes of them a job is
// dead-lettered. A worker that was cut off for longer than a lease ends the
// contexts of jobs that are not its own any more, with [ErrLeaseLost].
//
// A worker never ends because Redis goes away: it goes on with what it holds,
// and writes the ends of those jobs when Redis is back. It never repeats blindly
// what may have happened.
//
// [Worker.Health] is for probes and people: whether the worker is live, whether
// it is ready, and what is wrong. A handler that ignores the end of its context
// is logged with its stack after 10 s; it keeps its slot, and its job's lease.
//
// The workers of a group should have the same [Config].Lease. Where they differ,
// as during a deploy that changes it, the longest decides when a job is taken over.
//
// How it works inside is in DESIGN.md beside this file. Why it is
// consumer.Handle(w, …) and not w.Handle(…): Go has no generic methods.
package consumer
