package consumer

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/penstock-go/penstock/stream"
)

// Handler runs one delivery. nil completes the job; an error fails this try,
// unless it is a [Permanent], [RetryAfter] or [Snooze].
type Handler func(ctx context.Context, d *Delivery) error

// Middleware wraps handlers; the first one given is the outermost.
type Middleware func(Handler) Handler

// BatchHandler is what HandleBatch's function is for the worker: one error for
// each delivery, or none at all when every one succeeded.
type batchHandler func(ctx context.Context, ds []*Delivery) []error

// Delivery is one run of a job, handed to a handler. Its fields are the
// handler's to read; it is valid until the handler returns.
type Delivery struct {
	// ID of the job, the same in every run.
	ID string
	// Type that was published; empty for entries of other programs that name none.
	Type string
	// Stream and Group it came through.
	Stream, Group string
	// Attempt is this run's number: 1, and one more for each run that ended in an error.
	Attempt int
	// MaxTries is the attempt after whose failure the job is dead-lettered.
	MaxTries int
	// Fence grows with each delivery of the job: a store that remembers the highest it has seen can refuse a late writer.
	Fence int64
	// Published is when the job was stored, Due when it was to run, Delivered when this worker got it.
	Published, Due, Delivered time.Time
	// Header as published.
	Header map[string]string
	// Fields of an entry that some other program added; nil for Penstock's own.
	Fields map[string]string
	// Payload as it lies in Redis.
	Payload []byte

	codec stream.Codec
	run   *runContext
	task  *task
}

// SetTimeout lets this run go on for left from now, whatever its timeout was;
// None takes the limit away.
func (d *Delivery) SetTimeout(left time.Duration) {
	if d.run != nil {
		d.run.slot.setTimeout(d.run, left)
	}
}

// decode fills v from the payload. []byte and json.RawMessage take it as it
// is, and an empty payload leaves the zero value.
func (d *Delivery) decode(v any) error {
	switch p := v.(type) {
	case *[]byte:
		*p = d.Payload
		return nil
	case *json.RawMessage:
		*p = d.Payload
		return nil
	}
	if len(d.Payload) == 0 {
		return nil
	}
	codec := d.codec
	if codec == nil {
		codec = stream.JSON
	}
	// guarded: one payload that a decoder chokes on must not take its neighbours in a batch along
	if err := guard(func() error { return codec.Unmarshal(d.Payload, v) }); err != nil {
		return &decodeError{d.Type, err}
	}
	return nil
}

// Job is a delivery with its payload decoded.
type Job[T any] struct {
	*Delivery
	Data T
}

// Handle makes h the handler of jobs of type t. It panics when the type has
// one, or the worker runs: both are mistakes of the program. A payload that
// can't be decoded is dead-lettered without running h.
func Handle[T any](w *Worker, t stream.Type[T], h func(context.Context, *Job[T]) error) {
	w.register(t.Name, &route{handle: func(ctx context.Context, d *Delivery) error {
		job := &Job[T]{Delivery: d}
		if err := d.decode(&job.Data); err != nil {
			return err
		}
		return h(ctx, job)
	}})
}

// HandleResult is Handle for a function that returns something besides its
// error. When the job completes that is kept for KeepResult, encoded by the
// stream's codec ([]byte and json.RawMessage as they are), and
// [stream.Result] waits for it. One of more than Config.MaxResult bytes, or
// that can't be encoded, is [Permanent]: the job is dead-lettered.
func HandleResult[T, R any](w *Worker, t stream.Type[T], h func(context.Context, *Job[T]) (R, error)) {
	Handle(w, t, func(ctx context.Context, job *Job[T]) error {
		result, err := h(ctx, job)
		if err != nil {
			return err
		}
		return job.returned(result)
	})
}

// HandleBatch makes h the handler of jobs of type t, up to size at once or
// what has arrived: it waits for none. h answers with one error for each job,
// in order, or nil when all succeeded. A batch takes one of MaxJobs; its
// timeout is the longest of its jobs', and middleware does not see it.
func HandleBatch[T any](w *Worker, t stream.Type[T], size int, h func(context.Context, []*Job[T]) []error) {
	if size < 1 || size > maxBatch {
		panic(fmt.Sprintf("penstock: batch size of %s must be between 1 and %d: %d", t.Name, maxBatch, size))
	}
	w.register(t.Name, &route{size: size, batch: func(ctx context.Context, ds []*Delivery) []error {
		errs := make([]error, len(ds))
		jobs := make([]*Job[T], 0, len(ds))
		at := make([]int, 0, len(ds))
		for i, d := range ds {
			job := &Job[T]{Delivery: d}
			if errs[i] = d.decode(&job.Data); errs[i] == nil {
				jobs, at = append(jobs, job), append(at, i)
			}
		}
		if len(jobs) == 0 {
			return errs
		}
		answer := h(ctx, jobs)
		if answer != nil && len(answer) != len(jobs) {
			err := fmt.Errorf("the batch handler of %s answered with %d errors for %d jobs", t.Name, len(answer), len(jobs))
			answer = make([]error, len(jobs))
			for i := range answer {
				answer[i] = err
			}
		}
		for i, err := range answer {
			errs[at[i]] = err
		}
		return errs
	}})
}

// HandleOther makes h the handler of every job that no other handler takes:
// entries without a type, and types not registered here.
func (w *Worker) HandleOther(h Handler) {
	w.register("", &route{handle: h})
}

// Use adds middleware around all handlers, whenever they were registered.
func (w *Worker) Use(mw ...Middleware) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mustNotRun()
	w.middleware = append(w.middleware, mw...)
}

const maxBatch = 1000

// route is where a type of job goes, erased of its payload's type.
type route struct {
	handle Handler
	batch  batchHandler
	size   int // of a batch
	policy policy
	weight int64 // of one job, in units of capacity
	queue  batchQueue
}

func (w *Worker) register(name string, r *route) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mustNotRun()
	if w.routes[name] != nil {
		panic("penstock: type " + name + " has a handler already")
	}
	w.routes[name] = r
}

func (w *Worker) mustNotRun() {
	if w.started {
		panic("penstock: handlers and middleware must be set before Run")
	}
}

// guard runs f and turns a panic of the user's code into an error with its stack.
func guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{v, debug.Stack()}
		}
	}()
	return f()
}

// clip shortens s to n bytes, at a rune's border.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n] + "…"
}
