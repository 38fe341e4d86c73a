package engine_test

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream/engine"
)

func TestParseOpts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in   string
		want engine.Opts
		out  string // "": as it came in
	}{
		"empty":      {in: ""},
		"no options": {in: "{}", out: "-"},
		"null":       {in: "null", out: "-"},
		"id":         {in: `{"id":"a"}`, want: engine.Opts{ID: "a"}},
		"counters":   {in: `{"err":2,"cr":1,"f":9,"b":3,"b0":1000}`, want: engine.Opts{Errors: 2, Crashes: 1, Moves: 9, Bounces: 3, BouncedAt: 1000}},
		"none":       {in: `{"to":-1,"kr":-1}`, want: engine.Opts{Timeout: -1, KeepResult: -1}},
		"unicode":    {in: `{"h":{"k":"ä<\u2028"}}`, want: engine.Opts{Header: map[string]string{"k": "ä<\u2028"}}, out: `{"h":{"k":"ä\u003c\u2028"}}`},
		"bytes":      {in: `{"ff":[["AA==","/w=="]]}`, want: engine.Opts{Fields: [][2][]byte{{{0}, {0xff}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := engine.ParseOpts(c.in)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Fatalf("parsed %+v, %v, want %+v", got, err, c.want)
			}
			want := c.out
			switch want {
			case "":
				want = c.in
			case "-":
				want = ""
			}
			if out := got.String(); out != want {
				t.Errorf("written as %s, want %s", out, want)
			}
		})
	}
}

func TestParseOptsRefuses(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"x", "[]", `{"id":1}`, `{"err":-1}`, `{"cr":-1}`, `{"b":-1}`, `{"f":-1}`, `{"mt":-1}`, `{"f":99999999999}`, `{"err":99999999999}`,
		`{"due":-1}`, `{"exp":1e16}`, `{"exp":253402300799001}`, `{"pub":-5}`, `{"b0":-1}`, `{"to":9223372036855}`, `{"kr":9223372036855}`,
		`{"bo":{"d":-1}}`, `{"bo":{"d":9223372036855}}`, `{"bo":{"f":-1}}`, `{"bo":{"j":2}}`,
		`{"id":"` + strings.Repeat("i", engine.MaxIDLen+1) + `"}`, `{"id":"a"}{"id":"b"}`, `{"id":"a"`,
	} {
		if o, err := engine.ParseOpts(in); err == nil || !reflect.DeepEqual(o, engine.Opts{}) {
			t.Errorf("%s: parsed as %+v, %v", in, o, err)
		}
	}
}

// TestOptsKeepUnknown: what a newer version writes survives every move by this one.
func TestOptsKeepUnknown(t *testing.T) {
	t.Parallel()
	o, err := engine.ParseOpts(`{"v":2,"zz":{"deep":[1,2.50,12345678901234567890]},"id":"a","ID":"b","tſ":"folds to ts"}`)
	if err != nil || o.ID != "a" || o.Format != 2 || o.Tracestate != "" {
		t.Fatalf("parsed %+v, %v", o, err)
	}
	o.Moves++
	for range 3 {
		if o, err = engine.ParseOpts(o.String()); err != nil {
			t.Fatal(err)
		}
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal([]byte(o.String()), &all); err != nil {
		t.Fatal(err)
	}
	if string(all["zz"]) != `{"deep":[1,2.50,12345678901234567890]}` || string(all["ID"]) != `"b"` || string(all["id"]) != `"a"` || string(all["f"]) != "1" || len(all) != 6 {
		t.Errorf("after some moves: %s", o.String())
	}
}

func TestParseEntry(t *testing.T) {
	t.Parallel()
	ours := []string{"type", "a", "data", "d", "traceparent", "tp", "opts", `{"id":"x"}`}
	e, o, err := engine.ParseEntry(ours)
	if err != nil || e != (engine.Entry{Type: "a", Data: "d", Traceparent: "tp", Opts: `{"id":"x"}`}) || o.ID != "x" || o.Fields != nil {
		t.Errorf("ours: %+v, %+v, %v", e, o, err)
	}
	for name, values := range map[string][]string{
		"other order":  {"data", "d", "type", "a", "traceparent", "", "opts", `{"id":"x"}`},
		"one more":     append(append([]string(nil), ours...), "more", "1"),
		"without opts": {"type", "a", "data", "d"},
	} {
		e, o, err := engine.ParseEntry(values)
		if err != nil || e.Type != "a" || e.Data != "d" || o.ID != "" || len(o.Fields) != len(values)/2 {
			t.Errorf("%s: %+v, %+v, %v: want a foreign entry with its type, data and all fields", name, e, o, err)
		}
	}
	if _, _, err := engine.ParseEntry([]string{"type", "a", "data", "d", "traceparent", "", "opts", "x"}); err == nil {
		t.Error("broken opts are no error")
	}
}

func TestEntryTime(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]time.Time{
		"1000-5": time.UnixMilli(1000), "0-1": time.UnixMilli(0), "": {}, "x-1": {}, "7": {}, "18446744073709551615-1": {}, "-5": {},
	} {
		if got := engine.EntryTime(id); !got.Equal(want) {
			t.Errorf("%q: %s, want %s", id, got, want)
		}
	}
}

func FuzzParseOpts(f *testing.F) {
	for _, s := range []string{"", "{}", `{"id":"a","f":3,"new":[1]}`, `{"ID":"a"}`, `{"h":{"a":"b"},"hist":[{"a":1,"e":"x"}],"ff":[["YQ==","Yg=="]]}`, `{"bo":{"d":1,"f":2}}`, "null", `{"tſ":1}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, err := engine.ParseOpts(s)
		if err != nil {
			return
		}
		text := o.String()
		again, err := engine.ParseOpts(text)
		if err != nil || again.String() != text {
			t.Fatalf("%q was written as %q, which reads as %q, %v", s, text, again.String(), err)
		}
		var before, after map[string]any
		if json.Unmarshal([]byte(s), &before) != nil || text == "" || json.Unmarshal([]byte(text), &after) != nil {
			return
		}
		for k, v := range before {
			if !engine.KnownOpt(k) && !reflect.DeepEqual(v, after[k]) {
				t.Fatalf("unknown %q was %v, became %v", k, v, after[k])
			}
		}
	})
}

func FuzzParseEntry(f *testing.F) {
	f.Add("type", "a", "data", "b", "traceparent", "c", "opts", `{"id":"x"}`)
	f.Add("type", "", "data", "\xff", "traceparent", "", "opts", "")
	f.Add("sku", "1", "type", "\x00", "data", "9\n", "data", "twice")
	f.Fuzz(func(t *testing.T, a, b, c, d, e, f, g, h string) {
		values := []string{a, b, c, d, e, f, g, h}
		entry, opts, err := engine.ParseEntry(values)
		if err != nil {
			return
		}
		entry.Opts = opts.String()
		var out []string
		for _, v := range entry.Fields() {
			out = append(out, v.(string))
		}
		again, opts2, err := engine.ParseEntry(out)
		if err != nil || again != entry || opts2.String() != entry.Opts {
			t.Fatalf("%q moved as %+v came back as %+v, %v", values, entry, again, err)
		}
		for i, pair := range opts.Fields {
			if string(pair[0]) != values[2*i] || string(pair[1]) != values[2*i+1] || string(opts2.Fields[i][1]) != values[2*i+1] {
				t.Fatalf("a foreign entry's field %d was %q, became %q", i, values[2*i:2*i+2], opts2.Fields[i])
			}
		}
		for n := range len(values) { // no panic on any shape
			_, _, _ = engine.ParseEntry(values[:n])
		}
	})
}

// TestBodyUnpacks: what Body packs, promote.lua unpacks; and what is no body of
// ours is kept whole, as a job of no type.
func TestBodyUnpacks(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	w := newWorld(t, rdb, redistest.Name(t))
	entries := []engine.Entry{
		{},
		{Type: "a"},
		{Opts: "{}"},
		{Type: "a", Data: "1 2 3 4\n", Traceparent: "00-aa-bb-01", Opts: `{"id":"x"}`},
		{Type: "ä", Data: "\x00\xff\n\r\n", Opts: "\n"},
		{Type: strings.Repeat("t", 256), Data: strings.Repeat("x", 1<<19)},
		{Data: "0"},
	}
	bodies := make([]string, 0, len(entries)+8)
	for _, e := range entries {
		bodies = append(bodies, e.Body())
	}
	ours := len(bodies)
	bodies = append(bodies, "", "plain", "1 1 1\nabc", "1 1 1 1\nabc", "1 1 1 1\nabcde", "-1 1 1 1\nab", "99999999999 0 0 0\n", "1 1 1 1 \nabcd")
	for i, body := range bodies {
		id := strconv.Itoa(i)
		rdb.HSet(t.Context(), w.ScheduledJobs, id, body)
		rdb.ZAdd(t.Context(), w.Scheduled, redis.Z{Score: float64(i), Member: id})
	}
	p, err := engine.Promote(t.Context(), rdb, engine.ScheduledSlot(w.Keys), 100)
	if err != nil || p.Moved != int64(len(bodies)) || p.Lost != 0 || p.Next != 0 || p.Now < 1e12 {
		t.Fatalf("promoted %+v, %v", p, err)
	}
	msgs := rdb.XRange(t.Context(), w.Stream, "-", "+").Val()
	for i, m := range msgs {
		str := func(k string) string { s, _ := m.Values[k].(string); return s }
		got := engine.Entry{Type: str("type"), Data: str("data"), Traceparent: str("traceparent"), Opts: str("opts")}
		want := engine.Entry{Data: bodies[i], Opts: `{"id":"` + strconv.Itoa(i) + `"}`}
		if i < ours {
			want = entries[i]
		}
		if got != want {
			t.Errorf("body %d: %.60q came out as %+.60v", i, bodies[i], got)
		}
		if w.where(strconv.Itoa(i)) != "orders "+m.ID {
			t.Errorf("body %d is at %q", i, w.where(strconv.Itoa(i)))
		}
	}
}
