// Package scheduler promotes what is due: deferred jobs, and failed or snoozed
// ones, of every stream in the registry. And it fires cron schedules.
//
// A [Scheduler] sleeps until the next due time and is woken when an earlier
// one arrives. Redis's clock decides what is due, and a script moves each job,
// so any number of schedulers may run at once and any of them be killed at any
// time: a job is promoted once, never early, and lost by none.
//
// # Cron
//
// A [Schedule] publishes a job at each of its ticks. Schedules are given to
// [Scheduler.Add], read from Config.SchedulesFile, or kept in Redis ([Store]);
// a name may be in one of the three only.
//
// Each tick is published exactly once. One script in the stream's slot does
// that: a tick that is not later than the last one on record for its schedule
// is a duplicate, one that is later than Redis's clock is refused, and else the
// job is published and the tick recorded, in one step. So that hangs on no lock:
// any number of schedulers may believe that they lead, be frozen, or crash
// between computing a tick and publishing it. The exception is what Redis itself
// loses, as the last writes before a failover.
//
// One of the schedulers that have the same schedules leads, by a lease of a few
// seconds, to save the others the work. When it is killed another does within
// 5 s, when it stops at once, and publishes what is due since the last tick on
// record: what is late by less than a minute always, what was missed as
// [Missed] says. A schedule makes up for nothing before it was first seen or,
// when it is kept in Redis, before it was last changed or resumed.
//
// Times are Redis's, learned with each of its answers: the time of day of the
// machine that a scheduler runs on does not matter. When Redis's clock is set
// back, ticks that were published are not published again.
//
// # Upkeep
//
// Schedulers take turns to look after each stream, every Config.Upkeep. What
// every group of an events stream has acknowledged is trimmed once its
// [stream.Retention] is over; what one has not stays, and all behind it, be the
// group another program's, or one that somebody destroyed and that its workers
// would make again. Consumers of dead workers are removed where no worker of
// the group is left to do it; dead letters older than Config.KeepDead are
// deleted; IDs of jobs that are gone are freed. Entries of a queue are left
// alone: one that lies in nobody's list may be undone, and workers run it.
//
// A pass is bounded, and what it leaves follows soon. A gate in Redis keeps
// several schedulers from the same work. Nothing depends on it: each script
// finds out by itself what may go. What a pass found that a person should look
// at is logged when it is first seen and when it is over, and [Scheduler.Upkeep]
// has it; [Scheduler.Inspect] looks for it and changes nothing.
package scheduler
