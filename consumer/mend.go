package consumer

import (
	"context"

	"github.com/penstock-go/penstock/stream/engine"
)

const (
	mendLimit = 100 // entries that one script looks at
	mendSteps = 10  // scripts in one sweep
)

// mender looks for jobs that are in nobody's list: somebody deleted the consumer that held them, or acknowledged or
// skipped them by hand. Only the lease loop of its source uses it.
type mender struct {
	some  [engine.Lanes]bool   // a heartbeat saw some
	after [engine.Lanes]string // up to which entry all was looked at
}

// heard notes what a heartbeat saw. A walk that has begun goes on all the same: when there is more to read, a
// heartbeat does not see what lies behind a job that runs.
func (m *mender) heard(b engine.Beat) {
	for lane, some := range b.Orphans {
		m.some[lane] = some || m.after[lane] != ""
	}
}

// any reports whether there is something to look for.
func (m *mender) any() bool { return m.some != [engine.Lanes]bool{} }

// mend makes jobs that are in nobody's list pending again, under a name that stands for nobody, and reports whether
// there may be more. Should their worker live, its next heartbeat claims them back. Otherwise a sweep finds them when
// a lease is over, and sends them back to the group. It goes along with sweeps, so that one worker of the group does
// it at a time.
func (w *Worker) mend(ctx context.Context, src *source, group engine.GroupKeys) (more bool) {
	m := &src.mend
	var found int64
	for lane, steps := 0, 0; lane < engine.Lanes; {
		if !m.some[lane] {
			lane++
			continue
		}
		if steps == mendSteps {
			more = true
			break
		}
		steps++
		v, err := engine.MendCall(src.keys, group, w.group, lane, m.after[lane], mendLimit).Run(ctx, w.rdb)
		var n int64
		var after string
		if err == nil {
			n, after, err = engine.ReadMend(v)
		}
		if err != nil {
			w.log.Debug("jobs in nobody's list cannot be looked for; the next sweep tries again", "stream", src.stream.Name(), "err", err)
			lane++ // one stream's trouble is its own
			continue
		}
		found += n
		m.after[lane], m.some[lane] = after, after != ""
	}
	if found > 0 {
		w.log.Warn("jobs are in no worker's list, as after XGROUP DELCONSUMER; unless their worker claims them, they go back to the group when a lease is over", "stream", src.stream.Name(), "jobs", found)
	}
	return more
}
