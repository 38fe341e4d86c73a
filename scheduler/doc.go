// Package scheduler promotes what is due: deferred jobs, and failed or snoozed
// ones, of every stream in the registry.
//
// A [Scheduler] sleeps until the next due time and is woken when an earlier
// one arrives. Redis's clock decides what is due, and a script moves each job,
// so any number of schedulers may run at once and any of them be killed at any
// time: a job is promoted once, never early, and lost by none.
package scheduler
