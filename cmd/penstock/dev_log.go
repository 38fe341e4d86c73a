package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// devLog passes the engine's log on, and counts what is a warning or worse.
type devLog struct {
	next  slog.Handler
	tally *logTally
}

// logTally is shared by a handler and those derived from it.
type logTally struct {
	mu       sync.Mutex
	warnings int
	errors   int
	lines    []string // the first few
}

const maxLogLines = 5

func (h devLog) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn || h.next.Enabled(ctx, level)
}

func (h devLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		h.tally.add(r)
	}
	if !h.next.Enabled(ctx, r.Level) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

func (h devLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return devLog{h.next.WithAttrs(attrs), h.tally}
}

func (h devLog) WithGroup(name string) slog.Handler {
	return devLog{h.next.WithGroup(name), h.tally}
}

func (t *logTally) add(r slog.Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.Level >= slog.LevelError {
		t.errors++
	} else {
		t.warnings++
	}
	if len(t.lines) == maxLogLines {
		return
	}
	line := []string{r.Level.String() + " " + r.Message}
	r.Attrs(func(a slog.Attr) bool {
		line = append(line, fmt.Sprintf("%s=%v", a.Key, a.Value))
		return true
	})
	t.lines = append(t.lines, cut(safe(strings.Join(line, " ")), 300))
}

func (t *logTally) read() (warnings, errors int, lines []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.warnings, t.errors, append([]string(nil), t.lines...)
}
