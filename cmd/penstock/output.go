package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-isatty"
	"golang.org/x/term"
)

// terminal reports whether what is written to w (or read from it) goes to a person's terminal.
func terminal(w any) bool {
	f, ok := w.(interface{ Fd() uintptr }) // *os.File, outlet
	return ok && (isatty.IsTerminal(f.Fd()) || isatty.IsCygwinTerminal(f.Fd()))
}

// width is how many characters a line may have: those of the terminal, or a hundred where there is none.
func (a *app) width() int {
	if f, ok := a.out.(interface{ Fd() uintptr }); ok && terminal(a.out) {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width >= 20 { //nolint:gosec // a descriptor
			return width
		}
	}
	return 100
}

// interactive reports whether a person is there who can be asked.
func (a *app) interactive() bool { return terminal(a.in) && terminal(a.out) }

// style of a word on a terminal: the parameter of an SGR sequence.
type style string

const (
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
)

// color returns text in a style where a.out is a terminal that wants colours,
// and as it is elsewhere. The text must be our own, or have gone through safe.
func (a *app) color(s style, text string) string {
	if text == "" || !a.colors() {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

func (a *app) colors() bool {
	if a.noColor || !terminal(a.out) {
		return false
	}
	if v, _ := a.env.Lookup("NO_COLOR"); v != "" {
		return false
	}
	term, _ := a.env.Lookup("TERM")
	return term != "dumb"
}

// printf writes to standard output. Foreign text among the arguments must have gone through safe.
func (a *app) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(a.out, format, args...)
	return err
}

// printJSON writes v as one line of JSON.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// number is what makes a column align to the right, when all its cells are so.
var number = regexp.MustCompile(`^[\d,.]+(ns|µs|ms|s|m|h|/s|%| [KMG]?B)?$|^–?$`)

// table writes aligned columns under a header. Cells may be foreign text: they
// are made safe here, so they can't carry colours.
func (a *app) table(header []string, rows [][]string) error {
	widths, right := make([]int, len(header)), make([]bool, len(header))
	for i, h := range header {
		widths[i], right[i] = utf8.RuneCountInString(h), i > 0 && len(rows) > 0
	}
	safeRows := make([][]string, len(rows))
	for r, row := range rows {
		safeRows[r] = make([]string, len(header))
		for i := range header {
			if i < len(row) {
				safeRows[r][i] = safe(row[i])
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(safeRows[r][i]))
			right[i] = right[i] && number.MatchString(safeRows[r][i])
		}
	}
	if err := a.printf("%s\n", a.color(bold, line(header, widths, right))); err != nil {
		return err
	}
	for _, row := range safeRows {
		if err := a.printf("%s\n", line(row, widths, right)); err != nil {
			return err
		}
	}
	return nil
}

// line joins the cells of one row, each padded to its column's width.
func line(cells []string, widths []int, right []bool) string {
	var b strings.Builder
	for i, cell := range cells {
		if i > 0 {
			b.WriteString("  ")
		}
		pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
		if right[i] {
			b.WriteString(pad + cell)
		} else {
			b.WriteString(cell + pad)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// safe makes foreign text fit for one line of a terminal: control characters,
// invisible ones and what is not UTF-8 are written as Go escapes.
func safe(s string) string { return escape(s, "") }

// safeLines is safe for text of several lines: line breaks and tabs stay.
func safeLines(s string) string { return escape(s, "\n\t") }

func escape(s, keep string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) && !strings.ContainsRune(keep, r) }) < 0 {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch _, size := utf8.DecodeRuneInString(s[i:]); {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r) || strings.ContainsRune(keep, r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}

// cut shortens text to at most n characters.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// count writes a number for people: 1,930.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// plural is a count with its noun: 1 job, 2 jobs.
func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return count(n) + " " + noun + "s"
}

// size writes a number of bytes for people: 2.4 MB.
func size(n int64) string {
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	units := []string{"KB", "MB", "GB"}
	f := float64(n) / 1000
	for f >= 999.5 && len(units) > 1 {
		f, units = f/1000, units[1:]
	}
	if f < 9.95 {
		return strconv.FormatFloat(f, 'f', 1, 64) + " " + units[0]
	}
	return count(int64(f+0.5)) + " " + units[0]
}

// short writes a duration in at most two units: 0.3ms, 812ms, 4.2s, 4m58s, 1h12m, 3d 4h.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + short(-d)
	case d == 0:
		return "0s"
	case d < 10*time.Millisecond:
		return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'g', 2, 64) + "ms"
	case d < time.Second-time.Millisecond/2:
		return strconv.FormatInt(d.Round(time.Millisecond).Milliseconds(), 10) + "ms"
	case d < 9950*time.Millisecond:
		return strconv.FormatFloat(d.Round(100*time.Millisecond).Seconds(), 'f', -1, 64) + "s"
	}
	units := []struct {
		d     time.Duration
		name  string
		space string
	}{{24 * time.Hour, "d", " "}, {time.Hour, "h", ""}, {time.Minute, "m", ""}, {time.Second, "s", ""}}
	for i, u := range units[:3] {
		next := units[i+1]
		r := d.Round(next.d)
		if r < u.d {
			continue
		}
		text := strconv.FormatInt(int64(r/u.d), 10) + u.name
		if rest := r % u.d / next.d; rest > 0 {
			text += u.space + strconv.FormatInt(int64(rest), 10) + next.name
		}
		return text
	}
	return strconv.FormatInt(int64(d.Round(time.Second)/time.Second), 10) + "s"
}

// ago tells how far a moment is from now: "2m ago" in one unit, "in 4m58s" to
// the second. A zero time is "–".
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "–"
	}
	d := now.Sub(t)
	if d < 0 {
		return "in " + short((-d).Round(time.Second))
	}
	switch {
	case d < time.Second:
		return "just now"
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", d/time.Hour)
	default:
		return fmt.Sprintf("%dd ago", d/(24*time.Hour))
	}
}

// clock writes a moment in local time, with its date when that is not today's.
func clock(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}
