// Package stream publishes jobs to Redis Streams, looks after them, and repairs.
//
// A [Stream] is a name and a client. [New] does no input or output, starts no
// goroutine and needs no Close, so a service starts while Redis is down.
//
// # Guarantees
//
// Once [Stream.Publish] has returned an ID, the job ends completed, dead or, when
// somebody cancels it, cancelled, whatever workers and schedulers do, as long as
// Redis keeps its data. A job can run more than once (at-least-once delivery):
// handlers should be idempotent, and the job's ID is the same each time.
//
// Publish never repeats blindly what may have happened. When a reply is lost,
// a job without an ID is [ErrAmbiguous]; one with an ID is published again
// safely, since an ID is taken while its job lives.
//
// # Stopping jobs
//
// [Stream.Cancel] ends one job, wherever it is: what waits is gone, and the
// handler of what runs is told by its context. A [Switch], set with
// [Stream.AddSwitch], pauses or cancels the jobs of a type, or those with a
// value in a field of their data, until it is lifted or over.
//
// # Two kinds
//
// On a queue ([KindQueue]) one group works, and an entry is deleted as it
// completes. On an events stream ([KindEvents]) any number of groups each get
// every job. A new, empty stream becomes a queue when its first group is made.
// A stream with entries or groups that are not ours gets no default:
// deleting other people's data is not ours to choose, so opening it without a
// kind is [ErrKind].
//
// # Why consumer.Handle(w, …) and not w.Handle(…)
//
// Go has no generic methods; a function can have a type parameter, so the
// payload's type is checked when publisher and handler are compiled.
package stream
