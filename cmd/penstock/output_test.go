package main

import (
	"bytes"
	"math"
	"testing"
	"time"
)

func TestNumbers(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0", 999: "999", 1930: "1,930", 1234567: "1,234,567", -1930: "-1,930", math.MinInt64: "-9,223,372,036,854,775,808"} {
		if got := count(n); got != want {
			t.Errorf("count(%d) = %s, want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 2400: "2.4 KB", 2_400_000: "2.4 MB", 999_600: "1.0 MB", 48_000_000: "48 MB", 5e12: "5,000 GB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s, want %s", n, got, want)
		}
	}
	if plural(1, "job") != "1 job" || plural(1930, "job") != "1,930 jobs" {
		t.Error("plural")
	}
}

func TestDurations(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0:                                     "0s",
		300 * time.Microsecond:                "0.3ms",
		812 * time.Millisecond:                "812ms",
		999_700 * time.Microsecond:            "1s",
		4200 * time.Millisecond:               "4.2s",
		41 * time.Second:                      "41s",
		59*time.Second + 600*time.Millisecond: "1m",
		298 * time.Second:                     "4m58s",
		5 * time.Minute:                       "5m",
		72 * time.Minute:                      "1h12m",
		76*time.Hour + 10*time.Minute:         "3d 4h",
		23*time.Hour + 59*time.Minute + 40*time.Second: "1d",
		-5 * time.Minute: "-5m",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%s) = %s, want %s", d, got, want)
		}
	}
	now := time.Date(2026, 11, 30, 14, 30, 0, 0, time.Local)
	for d, want := range map[time.Duration]string{
		0:                         "just now",
		-2 * time.Minute:          "2m ago",
		-90 * time.Minute:         "1h ago",
		-100 * time.Hour:          "4d ago",
		8 * time.Second:           "in 8s",
		299999 * time.Millisecond: "in 5m",
	} {
		if got := ago(now.Add(d), now); got != want {
			t.Errorf("ago(%s) = %s, want %s", d, got, want)
		}
	}
	if ago(time.Time{}, now) != "–" {
		t.Error("ago of no time")
	}
	if got := clock(now.Add(5*time.Minute), now); got != "14:35:00" {
		t.Errorf("clock = %s", got)
	}
	if got := clock(now.Add(24*time.Hour), now); got != "2026-12-01 14:30:00" {
		t.Errorf("clock = %s", got)
	}
}

// Names and payloads are other people's: they must not reach a terminal as they are.
func TestSafe(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"plain – ünï 漢字 🙂":    "plain – ünï 漢字 🙂",
		"\x1b[31mred\x07":     `\x1b[31mred\a`,
		"two\nlines\t\r":      `two\nlines\t\r`,
		"bad \xff utf8":       `bad \xff utf8`,
		"real \ufffd":         "real \ufffd",
		"c1 \u009b31m":        `c1 \u009b31m`,
		"bidi \u202e\u2066":   `bidi \u202e\u2066`,
		"zero\u200bwidth\x7f": `zero\u200bwidth\x7f`,
	} {
		if got := safe(s); got != want {
			t.Errorf("safe(%q) = %q, want %q", s, got, want)
		}
	}
	if got := safeLines("a\n\tb\x1b"); got != "a\n\tb\\x1b" {
		t.Errorf("safeLines = %q", got)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	a := &app{out: &out, env: variables{}}
	err := a.table([]string{"GROUP", "WAITING", "OLDEST", "NOTE"}, [][]string{
		{"billing", "12,391", "4.2s", "x"},
		{"ev\x1b[2Jil", "3", "–", ""},
		{"short row"},
	})
	want := "GROUP        WAITING  OLDEST  NOTE\n" +
		"billing       12,391    4.2s  x\n" +
		"ev\\x1b[2Jil        3       –\n" +
		"short row\n"
	if err != nil || out.String() != want {
		t.Errorf("table:\n%s\nwant:\n%s", out.String(), want)
	}
	if a.color(red, "x") != "x" || a.interactive() {
		t.Error("a buffer is taken for a terminal")
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{"PENSTOCK_MAX_JOB": 1, "PENSTOCK_MAX_JBOS": 1, "PENSTOCK_MAXJOBS": 1, "PENSTOCK_MAX_JOBS": 0} {
		if got, d := nearest(name); got != "PENSTOCK_MAX_JOBS" || d != want {
			t.Errorf("nearest(%s) = %s, %d", name, got, d)
		}
	}
}
