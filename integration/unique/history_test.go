package unique_test

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/penstock-go/penstock/stream"
)

// What is done to jobs.
const (
	publish  = "publish"
	complete = "complete"
	bury     = "bury"
	redrive  = "redrive"
	forget   = "forget"  // its record is gone: the ID is free
	cancel   = "cancel"  // somebody asks for its end
	abandon  = "abandon" // the worker ends it as cancelled
)

// asked is what somebody wants: of a name, which is a unique key or an ID, and with a job that the test knows from others.
type asked struct {
	name, what, job string
	sure            bool // no answer was lost: what a try has done that nobody heard of is no excuse
}

// told is what came of it.
type told struct {
	done  bool
	job   string       // publish: the job that stands, where that is told
	state stream.State // publish: that job's; cancel: as it says
	nth   int          // of the answers that are alike
}

// name is how it stands with one: a job has it, which lives or, where the name is an ID, has ended.
type name struct {
	job   string
	state stream.State // "": it is free
	to    bool         // the job was running when somebody cancelled it: it is not to be buried
	heard              // of this job
	dead  string       // the job that was buried last, which may come back after others had its key,
	of    heard        // and what was heard of it
}

// heard is how many answers so far changed nothing, by what they said.
type heard [4]int

// said is the place of an answer in name.heard.
func said(s stream.State) int {
	switch s {
	case stream.Completed:
		return 1
	case stream.Dead:
		return 2
	case stream.Cancelled:
		return 3
	default:
		return 0
	}
}

// sequential is what somebody sees who is alone, of unique keys or of IDs.
func sequential(ids bool) porcupine.Model {
	return porcupine.Model{
		Partition: partition,
		Init:      func() any { return name{} },
		Step: func(state, input, output any) (bool, any) {
			return state.(name).step(ids, input.(asked), output.(told))
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
	}
}

func (n name) step(ids bool, in asked, out told) (bool, name) {
	lives := n.state == stream.Waiting
	mine := lives && (ids || n.job == in.job) // of an ID, who cancels means whichever job has it
	switch {
	case in.what == cancel && out.state == stream.Active:
		n.to = true
		return mine, n
	case in.what == cancel && out.state == stream.Cancelled && mine:
		return true, n.ended(ids, stream.Cancelled)
	case in.what == cancel:
		return !mine && (!ids || n.state == out.state), n
	case in.what == publish && !out.done:
		class := said(out.state)
		ok := lives && n.job == out.job
		if ids {
			ok = n.state != "" && said(n.state) == class
		}
		n.heard[class]++
		return ok && n.heard[class] == out.nth, n
	case in.what == redrive && !out.done: // another job has the key
		return !ids && lives && n.job != in.job, n
	case in.what == publish, in.what == redrive && !ids:
		free := n.state == ""
		if n.job != in.job && n.dead == in.job {
			n.heard = n.of
		} else if !ids && n.job != in.job {
			n.heard = heard{}
		}
		n.job, n.state = in.job, stream.Waiting
		return free, n
	case in.what == redrive:
		dead := n.state == stream.Dead && n.job == in.job
		n.state = stream.Waiting
		return dead, n
	case in.what == forget:
		if n.state == stream.Completed || n.state == stream.Cancelled { // else there is no record
			n.state = ""
		}
		return true, n
	}
	alone := out.done && lives && n.job == in.job // who ends a job has it alone: it lives
	switch {
	case in.what == bury && !out.done: // it was cancelled
		return lives && n.job == in.job && (n.to || !in.sure), n
	case in.what == bury && n.to:
		return false, n
	}
	if in.what == bury {
		n.dead, n.of = n.job, n.heard
	}
	return alone, n.ended(ids, map[string]stream.State{complete: stream.Completed, bury: stream.Dead, abandon: stream.Cancelled}[in.what])
}

// ended is how it stands once the job has ended: a key is free, an ID stays taken.
func (n name) ended(ids bool, state stream.State) name {
	if n.state, n.to = "", false; ids {
		n.state = state
	}
	return n
}

// partition parts a history by name, and numbers in each part the answers that are alike, in the order in which they came:
// they change nothing, so if all could have come one after the other, they could have done so in this order too. Without it
// the search would try all the orders of 64 that say the same.
func partition(list []porcupine.Operation) [][]porcupine.Operation {
	list = slices.SortedFunc(slices.Values(list), func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	type alike struct {
		name, job string
		class     int
	}
	count := make(map[alike]int)
	parts := make(map[string][]porcupine.Operation)
	for _, op := range list {
		in, out := op.Input.(asked), op.Output.(told)
		if in.what == publish && !out.done {
			kind := alike{in.name, out.job, said(out.state)}
			count[kind]++
			out.nth = count[kind]
			op.Output = out
		}
		parts[in.name] = append(parts[in.name], op)
	}
	all := make([][]porcupine.Operation, 0, len(parts))
	for _, part := range parts {
		all = append(all, part)
	}
	return all
}

// history is what all saw.
type history struct {
	mu    sync.Mutex
	began time.Time
	list  []porcupine.Operation
}

func (h *history) do(client int, in asked, f func() told) told {
	from := time.Since(h.began)
	out := f()
	to := time.Since(h.began)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, porcupine.Operation{ClientId: client, Input: in, Call: from.Nanoseconds(), Output: out, Return: to.Nanoseconds()})
	return out
}

// count is how many of the operations were done.
func (h *history) count(what string) int {
	n := 0
	for _, op := range h.list {
		if op.Input.(asked).what == what && op.Output.(told).done {
			n++
		}
	}
	return n
}
