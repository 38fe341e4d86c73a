package consumer

import (
	"bytes"
	"fmt"

	"github.com/penstock-go/penstock/stream/engine"
)

const (
	// Strings of entries are cut from texts of this many entries and bytes at most, larger entries excepted: few
	// allocations, and little that one slow job keeps alive.
	textEntries = 16
	textBytes   = 4 << 10
)

// replyReader decodes answers to XREADGROUP as they came over the wire: go-redis makes fifteen values of each
// entry, and a drain would spend most of its time there. It keeps its tables, so what it returned holds until the next.
type replyReader struct {
	b  []byte
	at int

	spans   []span   // IDs and values of the entries in b
	values  []string // the same as strings, up to cut
	scratch []byte   // the text being made
	entries []rawEntry
	counts  []int // of each entry's values; -1: it is gone
	cut     int
	texts   int // entries that are not cut yet
}

type span struct{ from, to int }

// read decodes one answer: per key, its entries, in the order asked for.
func (p *replyReader) read(b []byte) (map[string][]rawEntry, error) {
	*p = replyReader{b: b, spans: p.spans[:0], values: p.values[:0], entries: p.entries[:0], counts: p.counts[:0], scratch: p.scratch[:0]}
	kind, n, err := p.head()
	if err != nil {
		return nil, err
	}
	if n < 0 {
		return map[string][]rawEntry{}, nil
	}
	if kind != '*' && kind != '%' { // RESP2 has pairs where RESP3 has a map
		return nil, unexpected(kind)
	}
	keys, firsts := make([]span, n), make([]int, n+1)
	for i := range n {
		if kind == '*' {
			if err := p.pair(); err != nil {
				return nil, err
			}
		}
		if keys[i], err = p.bulk(); err != nil {
			return nil, err
		}
		firsts[i] = len(p.counts)
		if err := p.list(); err != nil {
			return nil, err
		}
	}
	firsts[n] = len(p.counts)
	p.toText(len(p.spans))
	values := p.values
	for _, count := range p.counts {
		p.entries = append(p.entries, rawEntry{id: values[0], values: values[1 : 1+max(count, 0)], gone: count < 0})
		values = values[1+max(count, 0):]
	}
	read := make(map[string][]rawEntry, n)
	for i, key := range keys {
		read[string(b[key.from:key.to])] = p.entries[firsts[i]:firsts[i+1]:firsts[i+1]]
	}
	return read, nil
}

// drop lets go of what was read.
func (p *replyReader) drop() {
	p.b = nil
	if cap(p.scratch) > 16*textBytes {
		p.scratch = nil
	}
	clear(p.values)
	clear(p.entries)
}

// list decodes the entries of one key.
func (p *replyReader) list() error {
	kind, n, err := p.head()
	if err != nil {
		return err
	}
	if kind != '*' || n < 0 {
		return unexpected(kind)
	}
	for range n {
		if err := p.pair(); err != nil {
			return err
		}
		first := len(p.spans)
		id, err := p.bulk()
		if err != nil {
			return err
		}
		p.spans = append(p.spans, id)
		kind, fields, err := p.head()
		if err != nil {
			return err
		}
		if fields >= 0 && kind != '*' {
			return unexpected(kind)
		}
		for range fields {
			value, err := p.bulk()
			if err != nil {
				return err
			}
			p.spans = append(p.spans, value)
		}
		p.counts = append(p.counts, fields)
		if p.texts++; p.at-id.from >= textBytes {
			p.toText(first) // the others are not to keep this one alive
			p.toText(len(p.spans))
		} else if p.texts == textEntries || p.at-p.spans[p.cut].from >= textBytes {
			p.toText(len(p.spans))
		}
	}
	return nil
}

// toText makes strings of all spans before the one given: one text for all that is in none of the names that we know.
func (p *replyReader) toText(to int) {
	if p.cut == to {
		return
	}
	spans := p.spans[p.cut:to]
	p.scratch = p.scratch[:0]
	for _, s := range spans {
		if known(p.b[s.from:s.to]) == "" {
			p.scratch = append(p.scratch, p.b[s.from:s.to]...)
		}
	}
	text, at := string(p.scratch), 0
	for _, s := range spans {
		value := known(p.b[s.from:s.to])
		if value == "" {
			value = text[at : at+s.to-s.from]
			at += s.to - s.from
		}
		p.values = append(p.values, value)
	}
	p.cut, p.texts = to, 0
}

// known is b as a string if it is the name of one of our fields, or "".
func known(b []byte) string {
	switch string(b) {
	case engine.FieldType:
		return engine.FieldType
	case engine.FieldData:
		return engine.FieldData
	case engine.FieldTraceparent:
		return engine.FieldTraceparent
	case engine.FieldOpts:
		return engine.FieldOpts
	}
	return ""
}

func (p *replyReader) pair() error {
	kind, n, err := p.head()
	if err == nil && (kind != '*' || n != 2) {
		err = unexpected(kind)
	}
	return err
}

// bulk decodes a string.
func (p *replyReader) bulk() (span, error) {
	kind, n, err := p.head()
	if err != nil {
		return span{}, err
	}
	if kind != '$' || n < 0 {
		return span{}, unexpected(kind)
	}
	s := span{p.at, p.at + n}
	if p.at = s.to + 2; p.at > len(p.b) {
		return span{}, errShort
	}
	return s, nil
}

// head decodes the first line of a value: its kind and its length, -1 for nil.
func (p *replyReader) head() (kind byte, n int, err error) {
	b := p.b[p.at:]
	if len(b) < 3 {
		return 0, 0, errShort
	}
	kind = b[0]
	if bytes.HasPrefix(b[1:], []byte("-1\r\n")) {
		p.at += len("$-1\r\n")
		return kind, -1, nil
	}
	i := 1
	for ; i < len(b) && b[i] != '\r'; i++ {
		digit := b[i] - '0'
		if digit > 9 || n > len(p.b) { // no count in an answer is larger than the answer
			return kind, 0, unexpected(kind)
		}
		n = 10*n + int(digit)
	}
	if n > len(p.b) || i+2 > len(b) {
		return kind, 0, errShort
	}
	if kind == '_' { // nil in RESP3
		n = -1
	}
	p.at += i + 2
	return kind, n, nil
}

var errShort = fmt.Errorf("%w: it ends early", errAnswer)

func unexpected(kind byte) error {
	return fmt.Errorf("%w: unexpected %q", errAnswer, kind)
}
