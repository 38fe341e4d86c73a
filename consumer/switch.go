package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

const (
	resumeEach = 20                // scripts that make put-off jobs due, between two heartbeats
	pauseLeast = 4 * time.Second   // that a kill switch puts a job off at first
	pauseMost  = 256 * time.Second // and in the end
)

// barred reports whether a task that is about to start must not, and decides what becomes of it then.
func (w *Worker) barred(t *task) bool {
	lifts := t.lane.src.lifts.Load() // before the switches are looked at: see putOff
	s := t.lane.src.stops.Load()
	return s != nil && w.forbids(t, s, lifts)
}

// barredLate is barred for tasks that may have later data than when they were looked at, and gives those that must not start to the settler.
func (w *Worker) barredLate(tasks []*task) []*task {
	return slices.DeleteFunc(tasks, func(t *task) bool {
		if t.seen == 0 || !w.barred(t) {
			return false
		}
		w.counts.refused.Add(1)
		w.finish(t)
		return true
	})
}

// putOff is called when a task was put off for good. If its switch was lifted meanwhile, nobody may have let it go.
func (w *Worker) putOff(t *task) {
	src := t.lane.src
	if src.lifts.Load() == t.verdict.lifts {
		return
	}
	src.mu.Lock()
	src.paused = true
	src.mu.Unlock()
	src.beats.ask()
}

// switchedOff asks the kill switches. One that cancels counts before one that pauses.
func (w *Worker) switchedOff(t *task, switches []engine.Switch, lifts int64) bool {
	now := t.lane.src.now()
	fields := membersOf(t.raw.Data)
	var pause *engine.Switch
	for i := range switches {
		s := &switches[i]
		if !s.Till.IsZero() && !now.Before(s.Till) || !s.Matches(w.group, t.Type, fields) {
			continue
		}
		if s.Action == engine.SwitchCancel {
			t.verdict.err = errors.New(reasonOf(s))
			t.cancelNow()
			return true
		}
		if pause == nil || !pause.Till.IsZero() && (s.Till.IsZero() || pause.Till.Before(s.Till)) { // the one that holds longest
			pause = s
		}
	}
	if pause == nil {
		return false
	}
	after := pauseLeast << min(t.opts.Pauses, 6)
	after = min(after, pauseMost)
	after -= rand.N(after / 4)
	if !pause.Till.IsZero() {
		after = min(after, max(pause.Till.Sub(now), time.Millisecond))
	}
	t.verdict = verdict{action: actPause, after: after, err: errors.New(reasonOf(pause)), lifts: lifts}
	return true
}

// membersOf are the members of data, decoded when they are asked for, and once for all switches.
func membersOf(data string) func() map[string]json.RawMessage {
	return sync.OnceValue(func() map[string]json.RawMessage { return engine.FieldsOf([]byte(data)) })
}

// switchedOffNow are the tasks that are held, or run, and that a switch cancels.
func (w *Worker) switchedOffNow(src *source, switches []engine.Switch) (tasks []*task) {
	data := make(map[*task]string) // as it is read: the lane is not to wait for it to be decoded
	src.findAll(func(t *task) bool { data[t] = t.raw.Data; return false })
	for t, text := range data {
		fields := membersOf(text)
		if i := slices.IndexFunc(switches, func(s engine.Switch) bool {
			return s.Action == engine.SwitchCancel && s.Matches(w.group, t.Type, fields)
		}); i >= 0 {
			if !t.cancelled.Load() {
				t.barredBy.CompareAndSwap(nil, &switches[i])
			}
			tasks = append(tasks, t)
		}
	}
	return tasks
}

// reasonOf says which switch it is, for people.
func reasonOf(s *engine.Switch) string {
	text := "kill switch " + s.ID
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	return text
}

// obeySwitches reads the kill switches when a heartbeat says that they have changed, or one is over, and lets go of what
// they had put off.
func (w *Worker) obeySwitches(src *source, group engine.GroupKeys, b engine.Beat) error {
	src.mu.Lock()
	changed, paused := src.switches != b.Switches, src.paused
	src.mu.Unlock()
	if s := src.stops.Load(); s != nil {
		changed = changed || slices.ContainsFunc(s.switches, func(s engine.Switch) bool { return !s.Till.IsZero() && !b.Now.Before(s.Till) })
	}
	if changed {
		return w.readSwitches(src, group)
	}
	if paused {
		return w.resume(src, group)
	}
	return nil
}

// readSwitches reads the kill switches and acts upon them.
func (w *Worker) readSwitches(src *source, group engine.GroupKeys) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.root), lookTimeout)
	defer cancel()
	asked := src.asks.Add(1)
	v, err := engine.SwitchesCall(src.keys, group).Run(ctx, w.rdb)
	if err != nil {
		return err
	}
	read, err := engine.ReadSwitches(v)
	if err != nil {
		return fmt.Errorf("read the kill switches of %s: %w", src.stream.Name(), err)
	}
	if read.Foreign > 0 {
		w.log.Warn("some kill switches cannot be read, and are not obeyed", "stream", src.stream.Name(), "switches", read.Foreign)
	}
	mine := slices.DeleteFunc(read.List, func(s engine.Switch) bool { return s.Group != "" && s.Group != w.group })
	src.mu.Lock()
	late := asked < src.asked // somebody asked later, and was answered before
	lifted := false
	if !late {
		src.asked, src.switches = asked, read.Version
		if s := src.stops.Load(); s != nil {
			lifted = slices.ContainsFunc(s.switches, func(s engine.Switch) bool {
				return s.Action == engine.SwitchPause && !slices.ContainsFunc(mine, func(is engine.Switch) bool { return is.ID == s.ID && is.Action == s.Action })
			})
		}
		pauses := slices.ContainsFunc(mine, func(s engine.Switch) bool { return s.Action == engine.SwitchPause })
		src.paused = src.paused || read.Paused > 0 && (lifted || !pauses)
		src.changeStops(func(s *stops) { s.switches = mine })
		if lifted {
			src.lifts.Add(1)
		}
	}
	resume := src.paused
	src.mu.Unlock()
	if late {
		return nil
	}
	if slices.ContainsFunc(mine, func(s engine.Switch) bool { return s.Action == engine.SwitchCancel }) {
		w.cancelTasks(w.switchedOffNow(src, mine)...)
	}
	if resume {
		return w.resume(src, group)
	}
	return nil
}

// resume makes jobs due that a switch had put off which is gone. What another one holds back is put off again when its turn comes.
func (w *Worker) resume(src *source, group engine.GroupKeys) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.root), lookTimeout)
	defer cancel()
	pending := func(is bool) {
		src.mu.Lock()
		src.paused = is
		src.mu.Unlock()
	}
	pending(false) // before: what is put off from now on says so again
	for range resumeEach {
		v, err := engine.ResumeCall(group).Run(ctx, w.rdb)
		if err != nil {
			pending(true)
			return err
		}
		if !engine.Resumed(v) {
			return nil
		}
	}
	pending(true)
	src.beats.ask() // leases come first
	return nil
}
