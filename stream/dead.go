package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

// DeadLetter is a job that ended without success, with all that is known of it.
type DeadLetter struct {
	ID          string            `json:"id"`                    // of the job
	Entry       string            `json:"entry"`                 // of the dead-letter stream
	Type        string            `json:"type"`                  // of the job; empty when it named none
	Reason      string            `json:"reason"`                // failed, permanent, expired, unknown type, undecodable, crashed, lost, newer format
	Error       string            `json:"error"`                 // of the last run, or what was wrong
	Stack       string            `json:"stack,omitempty"`       // of a panic
	Worker      string            `json:"worker,omitempty"`      // that gave the job up
	Attempt     int               `json:"attempt"`               // runs that ended in an error
	MaxTries    int               `json:"max_tries"`             // as it was in force
	Crashes     int               `json:"crashes"`               // leases that ran out
	Published   time.Time         `json:"published,omitzero"`    // when the job was stored
	Died        time.Time         `json:"died"`                  // by Redis's clock
	Header      map[string]string `json:"header,omitempty"`      // as published
	Traceparent string            `json:"traceparent,omitempty"` // W3C, of the publisher
	Payload     []byte            `json:"payload,omitempty"`     // as it lay in Redis
	Fields      map[string]string `json:"fields,omitempty"`      // of a foreign entry
	History     []Attempt         `json:"history,omitempty"`     // the latest 20 runs and crashes, oldest first

	raw  engine.Entry
	opts engine.Opts
}

// Attempt is one run of a job that ended in an error.
type Attempt struct {
	Attempt int           `json:"attempt"`
	Worker  string        `json:"worker,omitempty"`
	Started time.Time     `json:"started,omitzero"`
	Took    time.Duration `json:"took"`
	Error   string        `json:"error"`
}

// DeadFilter picks dead letters; the zero value picks all. What is set must all be met.
type DeadFilter struct {
	IDs       []string      // job IDs
	Type      string        // exactly
	Error     string        // a part of the error or reason
	OlderThan time.Duration // died longer ago, by Redis's clock
	NewerThan time.Duration // died more recently
}

// all reports whether the filter picks every letter.
func (f DeadFilter) all() bool {
	return len(f.IDs) == 0 && f.Type == "" && f.Error == "" && f.OlderThan == 0 && f.NewerThan == 0
}

// Page of a listing.
type Page struct {
	After string // the "next" of the page before; "" is the first
	Limit int    // Default: 100.
}

const (
	deadPage  = 100
	deadFirst = 16      // letters read at once to begin with,
	deadBatch = 500     // and at most,
	deadBytes = 4 << 20 // as long as those before say that it is no more than this
)

// Dead lists dead letters, oldest first, one page at a time: next is empty on
// the last. It reads on until a page is full and a letter of the next is seen,
// or the letters that were there when it began are over.
func (g *Group) Dead(ctx context.Context, filter DeadFilter, page Page) (letters []DeadLetter, next string, err error) {
	limit := page.Limit
	if limit <= 0 {
		limit = deadPage
	}
	w := &deadWalk{g: g, filter: filter, after: page.After}
	if err := w.open(ctx); err != nil {
		return nil, "", err
	}
	for {
		need := deadBatch
		if filter.all() {
			need = limit - len(letters) + 1
		}
		batch, err := w.next(ctx, need)
		if err != nil {
			return letters, "", err
		}
		if letters = append(letters, batch...); len(letters) > limit {
			return letters[:limit:limit], letters[limit-1].Entry, nil
		}
		if w.done {
			return letters, "", nil
		}
	}
}

// DeadLetter returns one by its job ID, or ErrNotFound.
func (g *Group) DeadLetter(ctx context.Context, id string) (DeadLetter, error) {
	letters, _, err := g.Dead(ctx, DeadFilter{IDs: []string{id}}, Page{Limit: 1})
	if err == nil && len(letters) == 0 {
		err = fmt.Errorf("dead letter %s of %s/%s: %w", id, g.s.name, g.name, ErrNotFound)
	}
	if err != nil {
		return DeadLetter{}, err
	}
	return letters[0], nil
}

// deadWalk reads a group's dead letters in order, up to those that were there when it began.
type deadWalk struct {
	g      *Group
	filter DeadFilter
	keys   engine.GroupKeys
	kind   Kind
	ids    map[string]bool
	now    time.Time
	after  string // the last that was read
	one    bool   // only last is looked at
	last   string
	chunk  int // letters to read at once
	seen   int64
	done   bool
}

func (w *deadWalk) open(ctx context.Context) error {
	ctx, cancel := w.g.s.deadline(ctx)
	defer cancel()
	w.chunk = deadFirst
	var err error
	if w.keys, w.kind, err = w.g.open(ctx); err != nil {
		return err
	}
	if len(w.filter.IDs) > 0 {
		w.ids = make(map[string]bool, len(w.filter.IDs))
		for _, id := range w.filter.IDs {
			w.ids[id] = true
		}
	}
	if w.after != "" && !engine.IsEntryID(w.after) {
		return fmt.Errorf("%w: page %q is not one that a listing gave", ErrInvalid, w.after)
	}
	if w.now, err = w.g.s.rdb.Time(ctx).Result(); err != nil {
		return wrapRead("read the time of Redis", err)
	}
	newest, err := w.g.s.rdb.XRevRangeN(ctx, w.keys.Dead, "+", "-", 1).Result()
	if err != nil {
		return wrapRead("read the dead letters of "+w.g.s.name+"/"+w.g.name, err)
	}
	if len(newest) == 0 {
		w.done = true
		return nil
	}
	w.last = newest[0].ID
	if len(w.ids) == 1 { // by ID: the index knows where, no walk
		for id := range w.ids {
			where, err := w.g.s.rdb.HGet(ctx, w.keys.IDs, id).Result()
			if err != nil && engine.Classify(err) != engine.OK {
				return wrapRead("look up "+id, err)
			}
			place, at, _ := engine.SplitWhere(where)
			if place != "dead" || w.after != "" && !engine.EntryLess(w.after, at) {
				w.done = true
				return nil
			}
			w.one, w.last = true, at
		}
	}
	return nil
}

// next reads at most so many more, and returns those that match.
func (w *deadWalk) next(ctx context.Context, most int) ([]DeadLetter, error) {
	if w.done {
		return nil, nil
	}
	ctx, cancel := w.g.s.deadline(ctx)
	defer cancel()
	count, from := min(w.chunk, most), "-"
	if w.one {
		from = w.last
	} else if w.after != "" {
		from = "(" + w.after
	}
	// XRANGE by hand: go-redis's own puts the fields into a map, and their order tells ours from foreign entries
	v, err := engine.Do(ctx, w.g.s.rdb, "XRANGE", w.keys.Dead, from, w.last, "COUNT", count)
	if err != nil {
		return nil, wrapRead("read the dead letters of "+w.g.s.name+"/"+w.g.name, err)
	}
	entries, err := parseEntries(v)
	if err != nil {
		return nil, err
	}
	w.done = w.one || len(entries) < count
	var letters []DeadLetter
	size := 1
	for _, e := range entries {
		for _, v := range e.values {
			size += len(v)
		}
		w.after = e.id
		w.seen++
		letter := parseDead(e)
		if w.match(letter) {
			letters = append(letters, letter)
		}
	}
	w.chunk = max(min(4*w.chunk, deadBytes*max(len(entries), 1)/size, deadBatch), 1)
	return letters, nil
}

func (w *deadWalk) match(l DeadLetter) bool {
	age := w.now.Sub(l.Died)
	f := w.filter
	return (w.ids == nil || w.ids[l.ID]) &&
		(f.Type == "" || f.Type == l.Type) &&
		(f.Error == "" || strings.Contains(l.Error, f.Error) || strings.Contains(l.Reason, f.Error)) &&
		(f.OlderThan == 0 || age > f.OlderThan) &&
		(f.NewerThan == 0 || age < f.NewerThan)
}

type rawEntry struct {
	id     string
	values []string
}

func parseEntries(v any) ([]rawEntry, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("unexpected answer %T to XRANGE", v)
	}
	entries := make([]rawEntry, 0, len(list))
	for _, item := range list {
		pair, _ := item.([]any)
		if len(pair) != 2 {
			return nil, fmt.Errorf("unexpected entry %v in the answer to XRANGE", item)
		}
		e := rawEntry{}
		e.id, _ = pair[0].(string)
		fields, _ := pair[1].([]any)
		for _, f := range fields {
			s, _ := f.(string)
			e.values = append(e.values, s)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// parseDead never fails: what it can't read it shows as it is.
func parseDead(raw rawEntry) DeadLetter {
	l := DeadLetter{Entry: raw.id, ID: raw.id, Died: engine.EntryTime(raw.id)}
	values := raw.values
	var info engine.DeadInfo
	if n := len(values); n == 10 && values[8] == "info" {
		if err := json.Unmarshal([]byte(values[9]), &info); err != nil {
			info.Error = "the letter's info cannot be read: " + err.Error()
		}
		values = values[:8]
	}
	entry, opts, err := engine.ParseEntry(values)
	if err != nil && info.Error == "" {
		info.Error = err.Error()
	}
	l.raw, l.opts = entry, opts
	if opts.ID != "" {
		l.ID = opts.ID
	} else if info.ID != "" {
		l.ID = info.ID
	}
	l.Type, l.Payload, l.Traceparent = entry.Type, []byte(entry.Data), entry.Traceparent
	l.Reason, l.Error, l.Stack, l.Worker, l.MaxTries = info.Reason, info.Error, info.Stack, info.Worker, info.MaxTries
	l.Attempt, l.Crashes, l.Header = opts.Errors, opts.Crashes, opts.Header
	if opts.Published > 0 {
		l.Published = time.UnixMilli(opts.Published)
	} else if engine.IsEntryID(l.ID) {
		l.Published = engine.EntryTime(l.ID)
	}
	l.History = attempts(opts.History)
	if len(opts.Fields) > 0 {
		l.Fields = make(map[string]string, len(opts.Fields))
		for _, f := range opts.Fields {
			l.Fields[string(f[0])] = string(f[1])
		}
	}
	return l
}
