package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/penstock-go/penstock/stream"
)

// devScreen shows how a run goes: redrawn in place on a terminal, a line a second elsewhere.
type devScreen struct {
	s     *devSession
	w     io.Writer                 // nil: show nothing
	live  interface{ Fd() uintptr } // the terminal, when it is redrawn
	begun time.Time
	drawn int       // lines on the terminal that the next frame replaces
	next  time.Time // when to show something again
}

const (
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
	clearLine  = "\x1b[K"
	clearBelow = "\x1b[J"
	barWidth   = 30
)

func newDevScreen(s *devSession) *devScreen {
	d := &devScreen{s: s, w: s.app.out, begun: time.Now()}
	if s.app.json { // standard output is for the one object
		d.w = s.app.err
		if !terminal(d.w) {
			d.w = nil
		}
	}
	dumb, _ := s.app.env.Lookup("TERM")
	if f, ok := d.w.(interface{ Fd() uintptr }); ok && terminal(f) && dumb != "dumb" && !s.opt.verbose { // a log would tear the picture
		d.live = f
	}
	d.next = d.begun.Add(time.Second)
	if d.live != nil {
		d.next = d.begun
	}
	return d
}

// print writes text in one piece. A terminal that is gone is no reason to stop.
func (d *devScreen) print(text string) {
	if d.w != nil {
		_, _ = io.WriteString(d.w, text)
	}
}

// header says what runs where.
func (d *devScreen) header() {
	r, opt := d.s.redis, d.s.opt
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-9s  %s\n", name, fmt.Sprintf(format, args...))
	}
	program := strings.TrimSpace(r.Kind + " " + r.Version)
	switch {
	case !r.Own:
		line("redis", "yours: %s at %s", safe(program), safe(r.Where))
	case r.dir == "":
		line("redis", "%s, embedded, on %s", program, r.Where)
		line("", "it keeps everything in memory: nothing about recovery is proven by it")
		if !opt.embedded {
			line("", "%s", installHint)
		}
	default:
		end := "gone at the end"
		if opt.keep {
			end = "kept"
		}
		line("redis", "%s of its own, on %s", program, r.Where)
		line("", "data in %s, %s", tilde(r.dir), end)
	}
	line("workers", "%d of group %s, %s at once each, and 1 scheduler", opt.workers, devGroup, plural(int64(opt.maxJobs), "job"))
	load := "until Ctrl-C"
	if opt.jobs > 0 {
		load = plural(int64(opt.jobs), "job")
	}
	line("load", "%s on %s, %s/s, seed %d", load, strings.Join(d.s.names, " and "), count(int64(opt.rate+0.5)), opt.seed)
	url := r.url
	if url == "" {
		url = "URL"
	}
	line("look", "penstock stream show %s --redis %s", d.s.names[0], url)
	line("", "penstock dead ls %s %s --redis %s", d.s.names[0], devGroup, url)
	b.WriteString("\n")
	d.print(b.String())
}

// tilde shortens a path below the home folder.
func tilde(path string) string {
	home, err := os.UserHomeDir()
	if err != nil || home == "/" || home == "" {
		return path
	}
	if rest, err := filepath.Rel(home, path); err == nil && !strings.HasPrefix(rest, "..") {
		return filepath.Join("~", rest)
	}
	return path
}

// update shows the state of affairs, when it is time to.
func (d *devScreen) update(depths stream.Depths, err error) {
	now := time.Now()
	if d.w == nil || now.Before(d.next) {
		return
	}
	kinds, _ := d.s.ledger.counts()
	if d.live != nil {
		d.next = now.Add(lookEvery)
		d.draw(d.frame(kinds, depths, err))
		return
	}
	d.next = d.next.Add(time.Second)
	d.print(fmt.Sprintf("%4ds  %s\n", int(now.Sub(d.begun).Seconds()), numbers(kinds, depths, err)))
}

// numbers is one line: what has been done, and where the rest is.
func numbers(kinds []devTally, d stream.Depths, err error) string {
	all := sumTallies(kinds)
	if err != nil {
		return fmt.Sprintf("published %s  completed %s  redis does not answer", count(all.Published), count(all.Completed))
	}
	return fmt.Sprintf("published %s  waiting %s  active %s  scheduled %s  retrying %s  completed %s  dead %s",
		count(all.Published), count(d.Waiting), count(d.Active), count(d.Scheduled), count(d.Retrying), count(all.Completed), count(d.Dead))
}

// frame is the picture on a terminal.
func (d *devScreen) frame(kinds []devTally, depths stream.Depths, err error) []string {
	all := sumTallies(kinds)
	lines := append(kindLines(kinds), "")
	if jobs := d.s.opt.jobs; jobs > 0 {
		settled := all.Completed + all.Failed
		done := int(settled * barWidth / int64(jobs))
		done = min(max(done, 0), barWidth)
		lines = append(lines, fmt.Sprintf("settled %s of %s  %s%s  %d %%", count(settled), count(int64(jobs)),
			strings.Repeat("█", done), strings.Repeat("░", barWidth-done), settled*100/int64(jobs)))
	} else {
		lines = append(lines, fmt.Sprintf("running for %s, Ctrl-C ends it", short(time.Since(d.begun).Round(time.Second))))
	}
	return append(lines, numbers(kinds, depths, err))
}

// kindLines are a table of what each kind of job does, and what has come of it.
func kindLines(kinds []devTally) []string {
	rows := make([][]string, len(devKinds))
	for i, k := range devKinds {
		t := kinds[i]
		published := max(t.Published, t.Completed+t.Failed) // a handler may be quicker than the publisher's answer
		rows[i] = []string{k.typ, k.what, count(published), count(t.Completed), count(t.Retried), count(t.Failed)}
	}
	var b bytes.Buffer
	plain := &app{out: &b}
	_ = plain.table([]string{"TYPE", "WHAT IT DOES", "PUBLISHED", "COMPLETED", "RETRIES", "DEAD"}, rows) // to memory
	return strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
}

// draw replaces the last frame by the next in one write, so that nothing flickers.
func (d *devScreen) draw(lines []string) {
	width, height, err := term.GetSize(int(d.live.Fd())) //nolint:gosec // a descriptor
	if err != nil || width < 20 || height < 3 {
		width, height = 80, 24
	}
	if over := len(lines) - (height - 1); over > 0 {
		lines = lines[over:] // the last ones matter most
	}
	var b strings.Builder
	b.WriteString(hideCursor)
	if d.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r", d.drawn)
	}
	for _, line := range lines {
		if utf8.RuneCountInString(line) >= width { // a line that wraps would be two
			line = cut(line, width-1)
		}
		b.WriteString(line + clearLine + "\n")
	}
	b.WriteString(clearBelow)
	d.drawn = len(lines)
	d.print(b.String())
}

// last shows how it ended, and the cursor again.
func (d *devScreen) last(f devFacts) {
	lines := append(kindLines(f.kinds), "")
	if d.live != nil {
		d.draw(lines)
		d.drawn = 0
		return
	}
	d.print("\n" + strings.Join(lines, "\n") + "\n")
}

func (d *devScreen) close() {
	if d.live != nil {
		d.print(showCursor)
	}
}

// finish prints the outcome.
func (s *devSession) finish(r devReport, took time.Duration) error {
	if s.app.json {
		return s.app.printJSON(r)
	}
	style, text := red, r.summary(took)
	if r.OK {
		style = green
	}
	head, rest, _ := strings.Cut(text, "\n")
	if err := s.app.printf("%s\n%s", s.app.color(style, head), rest); err != nil {
		return err
	}
	if r.OK && s.opt.jobs > 0 {
		if err := s.app.printf("every job ended where it must, and its handler ran as often as it must;\nredis holds nothing but the dead letters.\n"); err != nil {
			return err
		}
	}
	if _, _, lines := s.tally.read(); len(lines) > 0 {
		if err := s.app.printf("the engine's log has %s and %s:\n  %s\n", plural(int64(r.Warnings), "warning"), plural(int64(r.Errors), "error"), strings.Join(lines, "\n  ")); err != nil {
			return err
		}
	}
	if s.opt.keep && s.redis.Kind != "miniredis" {
		where, again := "the streams "+strings.Join(s.names, " and "), ""
		if s.redis.dir != "" {
			where = s.redis.dir
			again = fmt.Sprintf("; to look into it: %s --dir %s --appendonly yes --bind 127.0.0.1", s.redis.Kind, where)
		}
		return s.app.printf("kept: %s%s\n", where, again)
	}
	return nil
}
