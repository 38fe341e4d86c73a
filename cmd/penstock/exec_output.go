package main

import (
	"bytes"
	"strings"
)

// head keeps the first limit bytes of what is written, and drops the rest.
type head struct {
	limit   int
	b       []byte
	dropped bool
}

func (h *head) Write(p []byte) (int, error) {
	n := min(len(p), h.limit-len(h.b))
	h.b = append(h.b, p[:n]...)
	h.dropped = h.dropped || n < len(p)
	return len(p), nil
}

// String is what was kept, as text.
func (h *head) String() string {
	text := strings.ToValidUTF8(string(bytes.TrimSpace(h.b)), "\uFFFD")
	if h.dropped {
		text += "…"
	}
	return text
}

// tail keeps the last limit bytes of what is written.
type tail struct {
	limit   int
	b       []byte // twice limit at most
	dropped bool
}

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > t.limit {
		p = p[len(p)-t.limit:]
		t.b, t.dropped = t.b[:0], true
	}
	if len(t.b)+len(p) > 2*t.limit {
		t.b = append(t.b[:0], t.b[len(t.b)-t.limit:]...)
		t.dropped = true
	}
	t.b = append(t.b, p...)
	return n, nil
}

// String is what was kept, as text; NULs and what is not UTF-8 are replaced.
func (t *tail) String() string {
	b, dropped := t.b, t.dropped
	if len(b) > t.limit {
		b, dropped = b[len(b)-t.limit:], true
	}
	text := clean(strings.ToValidUTF8(string(bytes.TrimSpace(b)), "\uFFFD"))
	if dropped {
		text = "…" + text
	}
	return text
}
