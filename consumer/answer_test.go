package consumer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
)

// wireServer is a server in RESP2 that answers reads as the test has it.
type wireServer struct {
	mu   sync.Mutex
	got  []string // the commands, their arguments with spaces between
	read string   // what it answers to a read of what is new
}

func (s *wireServer) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	line := func() (string, error) {
		text, err := in.ReadString('\n')
		return strings.TrimRight(text, "\r\n"), err
	}
	for {
		head, err := line()
		if err != nil {
			return
		}
		n, _ := strconv.Atoi(strings.TrimPrefix(head, "*"))
		args := make([]string, n)
		for i := range args {
			length, err := line()
			if err != nil {
				return
			}
			size, _ := strconv.Atoi(strings.TrimPrefix(length, "$"))
			b := make([]byte, size+2)
			if _, err := io.ReadFull(in, b); err != nil {
				return
			}
			args[i] = string(b[:size])
		}
		if _, err := io.WriteString(conn, s.answer(strings.ToUpper(strings.Join(args, " ")))); err != nil {
			return
		}
	}
}

func (s *wireServer) answer(command string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, command)
	switch {
	case strings.HasPrefix(command, "HELLO"):
		return "-ERR unknown command\r\n"
	case command == "CLIENT INFO":
		return "$25\r\nid=7 addr=127.0.0.1:40000\r\n"
	case strings.HasPrefix(command, "CLIENT UNBLOCK"), strings.HasPrefix(command, "CLIENT KILL"):
		return ":0\r\n"
	case strings.HasPrefix(command, "XREADGROUP") && strings.HasSuffix(command, ">"):
		return s.read
	case strings.HasPrefix(command, "XREADGROUP"): // of what is pending
		return "*-1\r\n"
	}
	return "+OK\r\n"
}

// sent counts the commands that begin so.
func (s *wireServer) sent(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, command := range s.got {
		if strings.HasPrefix(command, prefix) {
			n++
		}
	}
	return n
}

// wireReader is the reader of a worker whose server is s.
func wireReader(t *testing.T, s *wireServer) *reader {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() }) // after the client's connections are closed
	st, err := stream.New(redistest.Connect(t, &redis.Options{Addr: l.Addr().String(), Protocol: 2}), "orders", stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := New("billing", Config{}, st)
	if err != nil {
		t.Fatal(err)
	}
	readyToRun(w)
	t.Cleanup(w.readers[0].hangUp)
	return w.readers[0]
}

// TestAnswerNotUnderstood: an answer that cannot be understood has come whole. Its connection goes back to the pool, where it
// must not be ended under whoever has it next, what it brought is looked for, and go-redis decodes what comes after it.
func TestAnswerNotUnderstood(t *testing.T) {
	t.Parallel()
	s := &wireServer{read: "*1\r\n*2\r\n+orders\r\n*1\r\n*2\r\n+1-0\r\n*2\r\n+data\r\n+x\r\n"} // strings that Redis would not send so
	r := wireReader(t, s)
	ctx := context.Background()
	err := r.read(ctx, r.w.unit)
	if !errors.Is(err, errAnswer) {
		t.Fatalf("the answer was understood, or not had: %v", err)
	}
	r.failed(ctx, err, newPauses())
	if !r.anyOrphans() {
		t.Error("what the answer brought is not looked for")
	}
	for range 2 {
		if err := r.read(ctx, r.w.unit); err != nil {
			t.Errorf("go-redis understands it, and the reader says %v", err)
		}
	}
	if n := r.w.ready.len(); n != 1 { // delivered twice, as after a group was set back
		t.Errorf("%d jobs wait, want 1", n)
	}
	if n := s.sent("CLIENT KILL"); n != 0 {
		t.Errorf("%d connections were to be ended, want none", n)
	}
	if n := s.sent("XREADGROUP GROUP BILLING " + strings.ToUpper(r.w.name) + " COUNT 100 STREAMS"); n == 0 {
		t.Error("nobody looked for what the answer brought")
	}
}

// TestLargeForeignEntries: what other programs add has its bytes in any fields, and is large all the same.
func TestLargeForeignEntries(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("x", 2*rawMax)
	s := &wireServer{read: fmt.Sprintf("*1\r\n*2\r\n$6\r\norders\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$4\r\nbody\r\n$%d\r\n%s\r\n", len(body), body)}
	r := wireReader(t, s)
	if err := r.read(context.Background(), r.w.unit); err != nil {
		t.Fatal(err)
	}
	if r.weighs < rawMax {
		t.Errorf("entries of %d bytes are taken for ones of %d: the next answer would be taken as it comes", len(body), r.weighs)
	}
}
