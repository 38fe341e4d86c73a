package ledger_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock-go/penstock/integration/kill/ledger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// handler is one end of a connection to the ledger.
type handler struct {
	net.Conn
	answers *bufio.Reader
}

func connect(t *testing.T, path string) *handler {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // a ledger that does not answer is a failure, not a hang
	return &handler{conn, bufio.NewReader(conn)}
}

// say sends a line, and waits for the answer when there is to be one.
func (h *handler) say(t *testing.T, v any, answered bool) {
	t.Helper()
	if err := json.NewEncoder(h).Encode(v); err != nil {
		t.Fatal(err)
	}
	if answered {
		if _, err := h.answers.ReadString('\n'); err != nil {
			t.Fatalf("no answer to %v: %v", v, err)
		}
	}
}

// TestLedger: what handlers report is recorded before they go on, what ends
// without a word is gone, and a wish to kill a worker is passed on once.
func TestLedger(t *testing.T) {
	dir, err := os.MkdirTemp("", "kill") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "ledger")
	var file bytes.Buffer
	killed := make(chan string, 10)
	l, err := ledger.Open(path, &file, func(worker string) { killed <- worker })
	if err != nil {
		t.Fatal(err)
	}
	begin := func(n int) *handler {
		h := connect(t, path)
		h.say(t, ledger.Record{N: n, Worker: "main1.1", Attempt: 1, Fence: 5, Pid: os.Getpid()}, true)
		return h
	}
	l.Add(ledger.Record{What: ledger.Published, N: 1, Work: &ledger.Work{N: 1}})
	ends, poison, dies, stays := begin(1), begin(2), begin(3), begin(4)
	if n := len(l.Handlers("main1.1")); n != 4 || len(l.Handlers("main1.2")) != 0 {
		t.Errorf("%d handlers of main1.1 run, want 4", n)
	}
	ends.say(t, map[string]string{"result": ledger.OK}, true)
	poison.say(t, map[string]string{"kill": "main1.1"}, false)
	poison.say(t, map[string]string{"result": ledger.Interrupted}, true)
	_ = dies.Close()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if what, _ := l.Count(); what[ledger.Gone] > 0 {
			break
		} else if time.Now().After(end) {
			t.Fatal("the end of a handler was not noticed")
		}
	}
	_ = connect(t, path).Close() // one that dies before it says anything has done nothing
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := stays.answers.ReadString('\n'); err == nil {
		t.Errorf("the ledger is closed, and its handler hears %v", err)
	}
	if len(killed) != 1 || <-killed != "main1.1" {
		t.Errorf("%d workers were to be killed, want main1.1, once", len(killed)+1)
	}
	want := map[int]string{1: "published started ended:ok", 2: "started ended:interrupted", 3: "started gone", 4: "started gone"}
	got := make(map[int]string)
	records := l.Records()
	for i, r := range records {
		text := string(r.What)
		if r.Result != "" {
			text += ":" + r.Result
		}
		got[r.N] = strings.TrimSpace(got[r.N] + " " + text)
		if i > 0 && r.At < records[i-1].At {
			t.Errorf("record %d is older than the one before", i)
		}
	}
	for n, text := range want {
		if got[n] != text {
			t.Errorf("job %d: %q, want %q", n, got[n], text)
		}
	}
	if lines := strings.Count(file.String(), "\n"); lines != len(records) {
		t.Errorf("%d lines were copied, of %d records", lines, len(records))
	}
	if r := records[1]; r.Run == 0 || r.Fence != 5 || r.Attempt != 1 || r.Pid != os.Getpid() {
		t.Errorf("a start was recorded as %+v", r)
	}
}
