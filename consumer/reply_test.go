package consumer

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// wireOf writes an answer as RESP2 or RESP3 has it.
func wireOf(keys []string, read map[string][]rawEntry, resp3 bool) []byte {
	var b bytes.Buffer
	bulk := func(s string) { fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(s), s) }
	if len(keys) == 0 {
		return []byte(map[bool]string{false: "*-1\r\n", true: "_\r\n"}[resp3])
	}
	fmt.Fprintf(&b, "%s%d\r\n", map[bool]string{false: "*", true: "%"}[resp3], len(keys))
	for _, key := range keys {
		if !resp3 {
			b.WriteString("*2\r\n")
		}
		bulk(key)
		fmt.Fprintf(&b, "*%d\r\n", len(read[key]))
		for _, e := range read[key] {
			b.WriteString("*2\r\n")
			bulk(e.id)
			if e.gone {
				b.WriteString(map[bool]string{false: "*-1\r\n", true: "_\r\n"}[resp3])
				continue
			}
			fmt.Fprintf(&b, "*%d\r\n", len(e.values))
			for _, v := range e.values {
				bulk(v)
			}
		}
	}
	return b.Bytes()
}

func TestReplyReader(t *testing.T) {
	t.Parallel()
	entries := func(n, size int) []rawEntry {
		list := make([]rawEntry, n)
		for i := range list {
			list[i] = rawEntry{id: fmt.Sprintf("%d-0", i+1), values: []string{"type", "t", "data", strings.Repeat("x\r\n", size/3), "opts", ""}}
		}
		return list
	}
	var p replyReader // one for all, as in use
	for name, read := range map[string]map[string][]rawEntry{
		"nothing":       {},
		"one":           {"orders": entries(1, 10)},
		"two streams":   {"orders": entries(3, 10), "{orders}:g:billing:redelivery": entries(2, 10)},
		"many":          {"orders": entries(100, 10)},
		"large":         {"orders": entries(5, 100_000)},
		"small, large":  {"orders": slices.Concat(entries(3, 10), entries(1, 100_000), entries(3, 10))},
		"gone":          {"orders": {{id: "1-0", gone: true}, {id: "2-0", values: []string{"a", "b"}}, {id: "3-0", gone: true}}},
		"without field": {"orders": {{id: "1-0", values: []string{}}}},
		"none of one":   {"orders": {}, "others": entries(1, 10)},
	} {
		for _, resp3 := range []bool{false, true} {
			wire := wireOf(slices.Sorted(maps.Keys(read)), read, resp3)
			got, err := p.read(wire)
			for key := range got {
				for i := range got[key] {
					if e := &got[key][i]; e.gone {
						e.values = nil
					}
				}
			}
			if err != nil || len(got) != len(read) {
				t.Fatalf("%s: %d streams, %v; want %d", name, len(got), err, len(read))
			}
			for key, want := range read {
				if len(got[key])+len(want) > 0 && !reflect.DeepEqual(got[key], want) {
					t.Errorf("%s, %s: %.300v, want %.300v", name, key, got[key], want)
				}
			}
			for n := range wire {
				if _, err := p.read(wire[:n]); err == nil && n > 0 {
					t.Fatalf("%s: the first %d of %d bytes are an answer", name, n, len(wire))
				}
				if n > 2000 {
					break
				}
			}
		}
	}
}

// TestReplyReaderKeepsLittle: a job that runs for long keeps a few small neighbours alive, and no large one.
func TestReplyReaderKeepsLittle(t *testing.T) {
	t.Parallel()
	list := make([]rawEntry, 50)
	for i := range list {
		size := 10
		if i == 20 {
			size = 1 << 20
		}
		list[i] = rawEntry{id: fmt.Sprintf("%d-0", i+1), values: []string{"data", strings.Repeat("x", size)}}
	}
	var p replyReader
	got, err := p.read(wireOf([]string{"orders"}, map[string][]rawEntry{"orders": list}, true))
	if err != nil {
		t.Fatal(err)
	}
	sharing, large := 1, uintptr(unsafe.Pointer(unsafe.StringData(got["orders"][20].values[1])))
	for i, e := range got["orders"] {
		at := uintptr(unsafe.Pointer(unsafe.StringData(e.id)))
		if i != 20 && at > large-64 && at < large+1<<20+64 {
			t.Errorf("entry %d shares the text of the large one", i)
		}
		if i > 0 {
			if last := uintptr(unsafe.Pointer(unsafe.StringData(got["orders"][i-1].id))); at > last && at < last+100 {
				sharing++
			} else {
				sharing = 1
			}
		}
		if sharing > 2*textEntries { // two texts may lie side by side
			t.Fatalf("%d entries share one text", sharing)
		}
	}
}

// TestSlowJobKeepsLittle: what was read with a job and has ended can be freed while it runs.
func TestSlowJobKeepsLittle(t *testing.T) { //nolint:paralleltest // it looks at the memory of the whole process
	const size, n = 1 << 20, 32
	wire := answerOf("orders", n, strings.Repeat("x", size))
	w := fakeWorker(t, &fakeRedis{}, Config{})
	l := w.sources[0].lanes[0]
	before := alive()
	var p replyReader
	slow := func() *task { // what it does not return is out of reach
		got, err := p.read(wire)
		if err != nil {
			t.Fatal(err)
		}
		tasks := w.handOut(l, got["orders"], 0)
		l.hold(tasks)
		p.drop()
		l.forget(tasks[1:])
		return tasks[0]
	}()
	if kept := alive() - before; kept > 4*size { // its text and its payload, and some room
		t.Errorf("one slow job of %d bytes keeps %d alive", size, kept)
	}
	runtime.KeepAlive(slow)
	runtime.KeepAlive(wire)
}

// alive is how much memory is in use.
func alive() int64 {
	runtime.GC()
	runtime.GC() // the second frees what the first found unreachable behind finalizers
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // far from it
}

// TestSmallJobKeepsNoLargeOne: a small job that was read just before a large one, or after it, keeps nothing of it while it
// runs, and nor do the reader and the queue of a worker that has nothing else to do.
func TestSmallJobKeepsNoLargeOne(t *testing.T) { //nolint:paralleltest // it looks at the memory of the whole process
	const size = 8 << 20
	list := make([]rawEntry, 5)
	for i := range list {
		list[i] = rawEntry{id: fmt.Sprintf("%d-0", i+1), values: []string{"type", "t", "data", "x", "traceparent", "", "opts", ""}}
	}
	list[2].values[3] = strings.Repeat("x", size)
	wire := wireOf([]string{"orders"}, map[string][]rawEntry{"orders": list}, true)
	for _, i := range []int{0, 1, 3, 4} {
		w := fakeWorker(t, &fakeRedis{}, Config{})
		l := w.sources[0].lanes[0]
		p := new(replyReader)
		before := alive()
		slow := func() *task { // what it does not return is out of reach
			got, err := p.read(bytes.Clone(wire))
			if err != nil {
				t.Fatal(err)
			}
			tasks := w.handOut(l, got["orders"], 0)
			w.ready.push(tasks...)
			for range tasks {
				w.ready.tryPop()
			}
			p.drop()
			return tasks[i]
		}()
		if kept := alive() - before; kept > size/2 {
			t.Errorf("small job %d of %d: %d bytes are alive, the large one had %d", i+1, len(list), kept, size)
		}
		runtime.KeepAlive(slow)
		runtime.KeepAlive(p)
		runtime.KeepAlive(w)
	}
	runtime.KeepAlive(wire)
}

// TestPayloadsAreApart: a handler may append to its payload, and its neighbours stay as they are.
func TestPayloadsAreApart(t *testing.T) {
	t.Parallel()
	w := fakeWorker(t, &fakeRedis{}, Config{})
	tasks := w.handOut(w.sources[0].lanes[0], []rawEntry{{id: "1-0", values: []string{"data", "one"}}, {id: "2-0", values: []string{"data", "two"}}}, 0)
	longer := append(tasks[0].Payload, "xxx"...) //nolint:gocritic // as a handler may
	longer[0] = 'X'
	if got := string(tasks[1].Payload); got != "two" {
		t.Errorf("the neighbour's payload is %q", got)
	}
	if got := tasks[0].raw.Data; got != "one" {
		t.Errorf("the job would be tried again with %q", got)
	}
}

func TestReplyReaderRefuses(t *testing.T) {
	t.Parallel()
	var p replyReader
	for _, bad := range []string{
		"", "*", ":1\r\n", "+OK\r\n", "*1\r\n:1\r\n", "*1\r\n*3\r\n", "*1\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*1\r\n*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
		"*1\r\n*2\r\n$1\r\na\r\n*1\r\n*2\r\n$3\r\n1-0\r\n$1\r\nx\r\n", "*x\r\n", "*--1\r\n", "*99999999999999999999\r\n", "%1\r\n$-1\r\n*0\r\n", "*1\r\n*2\r\n$1\r\na\r\n*-1\r\n",
		"*1\r\n*2\r\n$9223372036854775807\r\na\r\n*0\r\n", "|1\r\n+a\r\n+b\r\n*-1\r\n", "*-", "*-1",
	} {
		if got, err := p.read([]byte(bad)); err == nil || !strings.Contains(err.Error(), "XREADGROUP") {
			t.Errorf("%q: %v, error %v; want one that names the command", bad, got, err)
		}
	}
}

func FuzzReplyReader(f *testing.F) {
	f.Add(wireOf([]string{"orders"}, map[string][]rawEntry{"orders": {{id: "1-0", values: []string{"a", "b"}}, {id: "2-0", gone: true}}}, true))
	f.Add(wireOf([]string{"a", "b"}, map[string][]rawEntry{"a": {{id: "1-0", values: []string{"a", "b"}}}, "b": {{id: "1-0", values: []string{"", ""}}}}, false))
	f.Add([]byte("*-1\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p replyReader
		first, err := p.read(b)
		if err != nil {
			return
		}
		keys := slices.Sorted(maps.Keys(first))
		copied := make(map[string][]rawEntry)
		for key, entries := range first {
			for _, e := range entries {
				e.values = slices.Clone(e.values)
				copied[key] = append(copied[key], e)
			}
		}
		again, err := p.read(wireOf(keys, copied, true))
		if err != nil {
			t.Fatalf("%q was read, and not what was written of it: %v", b, err)
		}
		for _, key := range keys {
			if len(again[key]) != len(copied[key]) {
				t.Fatalf("%q: %d entries, then %d", b, len(copied[key]), len(again[key]))
			}
			for i, e := range again[key] {
				if want := copied[key][i]; e.id != want.id || e.gone != want.gone || !slices.Equal(e.values, want.values) {
					t.Fatalf("%q: %+v, then %+v", b, want, e)
				}
			}
		}
	})
}
