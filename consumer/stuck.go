package consumer

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// stuckFor is how long a handler may ignore the end of its context before it is reported.
	stuckFor   = 10 * time.Second
	watchEvery = time.Second

	// slotLabel marks the goroutines of a slot's handlers, those that they start included, in profiles.
	slotLabel    = "penstock_slot"
	stackLogged  = 16 << 10
	stacksSearch = 64 << 20
)

// label names a slot's goroutines, so that a stuck one can be found among all of the process.
func (w *Worker) label(ctx context.Context, i int) context.Context {
	return pprof.WithLabels(ctx, pprof.Labels(slotLabel, w.name+"/"+strconv.Itoa(i)))
}

// watch looks for handlers that ignore the end of their context, until all handlers have ended.
func (w *Worker) watch() {
	look := time.NewTicker(watchEvery)
	defer look.Stop()
	for {
		select {
		case <-w.gone:
			return
		case <-look.C:
			w.lookForStuck(time.Now())
		}
	}
}

func (w *Worker) lookForStuck(now time.Time) {
	var found []*slot
	for _, s := range w.slots {
		if s.overdue(now) {
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		return
	}
	w.counts.stuck.Add(int64(len(found)))
	w.logStuck("a handler ignores the end of its context; its job stays leased and its slot taken until it returns", found)
}

// logStuck is one line for each of the slots, with the stacks of its handler.
func (w *Worker) logStuck(message string, slots []*slot) {
	profile := profileGoroutines()
	for _, s := range slots {
		s.mu.Lock()
		tasks, run := slices.Clone(s.tasks), s.run
		var since time.Time
		if run != nil {
			since = s.over
		}
		s.mu.Unlock()
		if run == nil || len(tasks) == 0 {
			continue // it has just returned
		}
		attrs := []slog.Attr{
			slog.String("stream", tasks[0].Stream), slog.String("job", tasks[0].ID), slog.String("type", tasks[0].Type),
			slog.Int("attempt", tasks[0].Attempt), slog.Duration("took", time.Since(tasks[0].started)),
			slog.Any("err", context.Cause(run)),
		}
		if !since.IsZero() {
			attrs = append(attrs, slog.Duration("overdue", time.Since(since)))
		}
		if len(tasks) > 1 {
			attrs = append(attrs, slog.Int("jobs", len(tasks)))
		}
		attrs = append(attrs, slog.String("stack", clip(stacksOf(profile, w.name+"/"+strconv.Itoa(slices.Index(w.slots, s))), stackLogged)))
		w.log.LogAttrs(w.root, slog.LevelError, message, attrs...)
	}
}

// profileGoroutines is the text of runtime/pprof's goroutine profile, which, unlike a traceback, tells labels.
func profileGoroutines() string {
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&limited{b: &b, left: stacksSearch}, 1); err != nil {
		return ""
	}
	return b.String()
}

// limited keeps the first bytes of what is written.
type limited struct {
	b    *bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.b.Write(p[:n])
	l.left -= n
	return len(p), nil
}

// stacksOf finds the stacks that carry a slot's label.
func stacksOf(profile, name string) string {
	label := fmt.Sprintf("%q:%q", slotLabel, name)
	var found []string
	for block := range strings.SplitSeq(profile, "\n\n") {
		if !strings.Contains(block, label) {
			continue
		}
		var lines []string
		for line := range strings.Lines(block) {
			if strings.HasPrefix(line, "#\t") { // # address function+offset file:line
				fields := strings.Fields(line)
				lines = append(lines, strings.Join(fields[min(2, len(fields)):], " "))
			}
		}
		found = append(found, strings.Join(lines, "\n"))
	}
	return strings.Join(found, "\n\n")
}

// overdue notes since when the slot's handler ignores the end of its context,
// and reports once that it does so for too long.
func (s *slot) overdue(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.run == nil || s.run.Err() == nil:
		s.over = time.Time{}
	case s.over.IsZero():
		s.over = now
	case !s.stuck && now.Sub(s.over) >= stuckFor:
		s.stuck = true
		return true
	}
	return false
}
