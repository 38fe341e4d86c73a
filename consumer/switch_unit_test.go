package consumer

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/stream/engine"
)

// TestBarred: which switches hold a job back, what becomes of it, and for how long. A job that no worker handles is put off too.
func TestBarred(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		pause := engine.Switch{ID: "p", Action: engine.SwitchPause, Type: "t", Reason: "too many"}
		with := func(change func(s *engine.Switch)) engine.Switch {
			s := pause
			change(&s)
			return s
		}
		cancel := with(func(s *engine.Switch) { s.ID, s.Action = "c", engine.SwitchCancel })
		over := with(func(s *engine.Switch) { s.Action, s.Till = engine.SwitchCancel, now })
		brief := with(func(s *engine.Switch) { s.ID, s.Till = "b", now.Add(time.Second) })
		for name, c := range map[string]struct {
			switches []engine.Switch
			pauses   int
			want     action
			least    time.Duration
			most     time.Duration
			why      string
		}{
			"none":                 {},
			"paused":               {[]engine.Switch{pause}, 0, actPause, 3 * time.Second, 4 * time.Second, "kill switch p: too many"},
			"paused again":         {[]engine.Switch{pause}, 3, actPause, 24 * time.Second, 32 * time.Second, "kill switch p: too many"},
			"paused for days":      {[]engine.Switch{pause}, 1000, actPause, 192 * time.Second, 256 * time.Second, "kill switch p: too many"},
			"until it is over":     {[]engine.Switch{brief}, 5, actPause, time.Second, time.Second, "kill switch b: too many"},
			"the longest counts":   {[]engine.Switch{brief, pause}, 0, actPause, 3 * time.Second, 4 * time.Second, "kill switch p: too many"},
			"in whatever order":    {[]engine.Switch{pause, brief}, 0, actPause, 3 * time.Second, 4 * time.Second, "kill switch p: too many"},
			"cancel before pause":  {[]engine.Switch{pause, cancel}, 0, actCancel, 0, 0, "kill switch c: too many"},
			"over":                 {[]engine.Switch{over}, 0, actComplete, 0, 0, ""},
			"of another type":      {[]engine.Switch{with(func(s *engine.Switch) { s.Type = "u" })}, 0, actComplete, 0, 0, ""},
			"of another group":     {[]engine.Switch{with(func(s *engine.Switch) { s.Group = "audit" })}, 0, actComplete, 0, 0, ""},
			"of a field it has":    {[]engine.Switch{with(func(s *engine.Switch) { s.Field, s.Value = "tenant", "acme" })}, 0, actPause, 3 * time.Second, 4 * time.Second, "kill switch p: too many"},
			"of a field it hasn't": {[]engine.Switch{with(func(s *engine.Switch) { s.Field, s.Value = "tenant", "other" })}, 0, actComplete, 0, 0, ""},
		} {
			w := fakeWorker(t, &fakeRedis{}, Config{MaxJobs: 1})
			job := endedTask(w, "1-1")
			job.raw.Data, job.opts = `{"tenant":"acme"}`, &engine.Opts{Pauses: c.pauses}
			if c.want == actComplete || len(c.switches) == 0 {
				job.route = &route{}
			}
			w.sources[0].setStops(func(s *stops) { s.switches = c.switches })
			refused := w.refuse(job)
			v := job.verdict
			if want := c.want; refused != (want == actPause || want == actCancel) || refused && (v.action != want || v.after < c.least || v.after > c.most || v.err.Error() != c.why) {
				t.Errorf("%s: refused %v: %+v", name, refused, v)
			}
		}
	})
}

// TestSwitchesAreReadAgain when a heartbeat tells of another version, or one is over; and what they had put off is let go of once nothing
// holds it back, in as many scripts as it takes.
func TestSwitchesAreReadAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var list []any
		version, paused, asked, resumed := "1", int64(0), 0, 0
		f := &fakeRedis{answer: func(cmd redis.Cmder) (any, error) {
			switch args := cmd.Args(); args[3] {
			case "{orders}:switches":
				asked++
				return append([]any{version, paused}, list...), nil
			case "{orders}:g:billing:paused":
				resumed++
				n := min(paused, 500)
				paused -= n
				return n, nil
			}
			return nil, serverError("ERR what is this")
		}}
		w := fakeWorker(t, f, Config{MaxJobs: 1})
		src := w.sources[0]
		beat := func(reads, resumes, holds int) {
			t.Helper()
			asked, resumed = 0, 0
			if err := w.obeySwitches(src, src.group, engine.Beat{Now: time.Now(), Switches: version}); err != nil {
				t.Error(err)
			}
			n := 0
			if s := src.stops.Load(); s != nil {
				n = len(s.switches)
			}
			if asked != reads || resumed != resumes || n != holds {
				t.Errorf("switches read %d times, resumed %d times, %d hold; want %d, %d, %d", asked, resumed, n, reads, resumes, holds)
			}
		}
		text := func(action, till string) string { return "1 " + till + "\n{\"do\":\"" + action + "\",\"t\":\"t\"}" }
		list = []any{"p", text("pause", "0")}
		beat(1, 0, 1)
		beat(0, 0, 1)
		paused, version = 1200, "2" // something else was changed: what is put off stays
		list = append(list, "c", text("cancel", "0"))
		beat(1, 0, 2)
		version, list = "3", list[2:]
		beat(1, 3, 1) // 500, 500, 200
		beat(0, 0, 1)
		version, list = "", nil
		beat(1, 0, 0)
		if src.stops.Load() != nil {
			t.Error("each job is looked at though nothing is to be obeyed")
		}
		till := time.Now().Add(time.Minute)
		version, list = "4", []any{"p", text("pause", strconv.FormatInt(till.UnixMilli(), 10))}
		beat(1, 0, 1)
		paused = 10
		time.Sleep(59 * time.Second)
		beat(0, 0, 1)
		time.Sleep(time.Second)
		list = nil // its version stands: nobody has lifted it
		beat(1, 1, 0)
	})
}

// TestPutOffAfterTheSwitchIsLifted: a job that was refused because of a switch, and is written down as put off only when that has been lifted
// already, is let go of like the others.
func TestPutOffAfterTheSwitchIsLifted(t *testing.T) {
	t.Parallel()
	for _, lifted := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			pause := engine.Switch{ID: "p", Action: engine.SwitchPause, Type: "t"}
			list, paused, resumed := []any{"p", "1 0\n{\"do\":\"pause\",\"t\":\"t\"}"}, int64(0), int64(0)
			f := &fakeRedis{answer: func(cmd redis.Cmder) (any, error) {
				switch args := cmd.Args(); args[3] {
				case "{orders}:switches":
					return append([]any{"", paused}, list...), nil
				case "{orders}:g:billing:paused":
					resumed, paused = resumed+paused, 0
					return resumed, nil
				}
				paused++ // the job is put off
				return int64(1), nil
			}}
			w := fakeWorker(t, f, Config{MaxJobs: 1})
			src := w.sources[0]
			src.setStops(func(s *stops) { s.switches = []engine.Switch{pause} })
			job := endedTask(w, "1-1")
			if !w.refuse(job) {
				t.Fatal("it is not refused")
			}
			if lifted {
				list = nil
			}
			if err := w.readSwitches(src, src.group); err != nil {
				t.Error(err)
			}
			ended := make(chan struct{})
			go func() { w.settle(); close(ended) }()
			w.finish(job)
			synctest.Wait()
			if w.Stats().Paused != 1 || len(src.beats.want) == 1 != lifted {
				t.Errorf("lifted %v: %+v, a heartbeat is wanted: %d", lifted, w.Stats(), len(src.beats.want))
			}
			if err := w.obeySwitches(src, src.group, engine.Beat{Now: time.Now()}); err != nil {
				t.Error(err)
			}
			if resumed == 1 != lifted {
				t.Errorf("lifted %v: let go of %d", lifted, resumed)
			}
			w.drainBy.Store(time.Now().Add(settleAfter).UnixNano())
			close(w.drain)
			<-ended
		})
	}
}
