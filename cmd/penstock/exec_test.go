//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/telemetry"
)

// shell returns a runner and a command that runs script; the file that $OUT names is the test's to read.
func shell(t *testing.T, script string) (r *runner, c command, out string) {
	t.Helper()
	out = filepath.Join(t.TempDir(), "out")
	r = newRunner([]string{"PATH=" + os.Getenv("PATH"), "OUT=" + out}, slog.New(slog.DiscardHandler))
	c, err := newCommand([]string{"sh", "-c", script})
	if err != nil {
		t.Fatal(err)
	}
	return r, c, out
}

// kindOf names the instruction in a handler's error: consumer's types are its own.
func kindOf(err error) string {
	switch {
	case err == nil:
		return "done"
	case fmt.Sprintf("%T", err) == fmt.Sprintf("%T", consumer.Permanent(errors.New("x"))):
		return "permanent"
	case fmt.Sprintf("%T", err) == fmt.Sprintf("%T", consumer.Snooze(0)):
		return "snooze"
	}
	return "retry"
}

func TestExitStatus(t *testing.T) {
	t.Parallel()
	for script, want := range map[string][2]string{
		"exit 0":                                  {"done", ""},
		"echo fine >&2":                           {"done", ""},
		"echo no stock >&2; exit 1":               {"retry", "exit status 1: no stock"},
		"exit 75":                                 {"retry", "exit status 75"},
		"echo bad order >&2; exit 65":             {"permanent", "exit status 65: bad order"},
		"kill -9 $$":                              {"retry", "signal: killed"},
		`printf 'a\000b\377' >&2; exit 2`:         {"retry", "exit status 2: a\uFFFDb\uFFFD"},
		"exec /nowhere/nothing 2>/dev/null":       {"retry", "exit status 127"},
		`cat >/dev/null; read line; exit $((9))`:  {"retry", "exit status 9"},
		`test "$(cat)" = '{"order":7}' || exit 3`: {"done", ""},
	} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			r, c, _ := shell(t, script)
			_, err := r.run(t.Context(), c, &consumer.Delivery{Payload: []byte(`{"order":7}`)})
			text := ""
			if err != nil {
				text = err.Error()
			}
			if kindOf(err) != want[0] || text != want[1] {
				t.Errorf("got %s: %q, want %s: %q", kindOf(err), text, want[0], want[1])
			}
		})
	}
}

func TestPayloadNotRead(t *testing.T) {
	t.Parallel()
	r, c, _ := shell(t, "exit 0")
	if _, err := r.run(t.Context(), c, &consumer.Delivery{Payload: bytes.Repeat([]byte("x"), 4<<20)}); err != nil {
		t.Errorf("a command that does not read its data failed: %v", err)
	}
	r, c, out := shell(t, `wc -c > "$OUT"`)
	if _, err := r.run(t.Context(), c, &consumer.Delivery{Payload: bytes.Repeat([]byte("x"), 4<<20)}); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(read(t, out)); got != strconv.Itoa(4<<20) {
		t.Errorf("the command got %s bytes", got)
	}
}

func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	r, c, _ := shell(t, `head -c 3000000 /dev/zero | tr '\0' e >&2; echo the end >&2; head -c 3000000 /dev/zero | tr '\0' o; exit 1`)
	r.log = slog.New(slog.NewTextHandler(&bytes.Buffer{}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	out, err := r.run(t.Context(), c, &consumer.Delivery{})
	if err == nil || !strings.HasSuffix(err.Error(), "ethe end") || len(err.Error()) > stderrKept+100 {
		t.Errorf("the error has %d bytes and ends with %.20q", len(err.Error()), err.Error()[max(0, len(err.Error())-20):])
	}
	if len(out) > stdoutKept+10 || !strings.HasSuffix(out, "o…") {
		t.Errorf("standard output: %d bytes kept", len(out))
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	for _, step := range []int{1, 3, 7, 10, 11, 25, 100} {
		var all []byte
		kept := tail{limit: 10}
		for i := 0; len(all) < 95; i++ {
			p := bytes.Repeat([]byte{byte('a' + i%26)}, step)
			all = append(all, p...)
			_, _ = kept.Write(p)
			want := string(all)
			if len(all) > 10 {
				want = "…" + string(all[len(all)-10:])
			}
			if got := kept.String(); got != want {
				t.Fatalf("in steps of %d, after %d bytes: %q, want %q", step, len(all), got, want)
			}
		}
	}
}

func TestJobEnvironment(t *testing.T) {
	t.Parallel()
	r, c, out := shell(t, `env > "$OUT"`)
	at := time.Date(2026, 11, 24, 12, 0, 0, 5e6, time.UTC)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	_, err := r.run(telemetry.Extract(t.Context(), parent, "a=b"), c, &consumer.Delivery{
		ID: "paid-7", Type: "order\x00paid", Stream: "orders", Group: "billing", Attempt: 2, MaxTries: 3, Fence: 4294967297,
		Published: at, Due: at.Add(time.Minute),
		Header: map[string]string{"order-id": "7", "PATH": "/evil", "nul": "admin\x00x", "a.b": "1", "a b": "0", "": "empty", "eq=x": "v=w", "ü": "u"},
		Fields: map[string]string{"k": "a\x00b", "ls": "$(id)"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(read(t, out), "\n")
	for _, want := range []string{
		"PATH=" + os.Getenv("PATH"),
		"PENSTOCK_JOB_ID=paid-7", "PENSTOCK_JOB_TYPE=order\uFFFDpaid", "PENSTOCK_JOB_STREAM=orders", "PENSTOCK_JOB_GROUP=billing",
		"PENSTOCK_JOB_ATTEMPT=2", "PENSTOCK_JOB_MAX_TRIES=3", "PENSTOCK_JOB_FENCE=4294967297",
		"PENSTOCK_JOB_PUBLISHED=2026-11-24T12:00:00.005Z", "PENSTOCK_JOB_DUE=2026-11-24T12:01:00.005Z",
		"PENSTOCK_JOB_HEADER_ORDER_ID=7", "PENSTOCK_JOB_HEADER_PATH=/evil", "PENSTOCK_JOB_HEADER_NUL=admin\uFFFDx",
		"PENSTOCK_JOB_HEADER_A_B=1", "PENSTOCK_JOB_HEADER_=empty", "PENSTOCK_JOB_HEADER_EQ_X=v=w", "PENSTOCK_JOB_HEADER__=u",
		`PENSTOCK_JOB_FIELDS={"k":"a\u0000b","ls":"$(id)"}`, "TRACEPARENT=" + parent, "TRACESTATE=a=b",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("the environment lacks %q:\n%s", want, strings.Join(got, "\n"))
		}
	}
}

func TestEnvironmentTooLarge(t *testing.T) {
	t.Parallel()
	r, c, _ := shell(t, "exit 0")
	_, err := r.run(t.Context(), c, &consumer.Delivery{Fields: map[string]string{"big": strings.Repeat("x", 8<<20)}})
	if kindOf(err) != "permanent" || !strings.Contains(err.Error(), "do not fit into an environment") {
		t.Errorf("got %s: %v", kindOf(err), err)
	}
}

func TestBaseEnv(t *testing.T) {
	t.Parallel()
	vars := variables{"PATH": "/bin", "REDIS_URL": "redis://:secret@x", "REDIS_PASSWORD": "secret", "PENSTOCK_MAX_JOBS": "1", "TRACEPARENT": "00", "HOME": "/h"}
	env, err := baseEnv(vars, []string{"REDIS_URL", "MODE=a=b"})
	if want := []string{"HOME=/h", "PATH=/bin", "REDIS_URL=redis://:secret@x", "MODE=a=b"}; err != nil || !slices.Equal(env, want) {
		t.Errorf("got %q, %v, want %q", env, err, want)
	}
	for _, bad := range []string{"", "=x", "NOT_THERE", "A=\x00"} {
		if _, err := baseEnv(vars, []string{bad}); !isUsage(err) {
			t.Errorf("--env %q: %v", bad, err)
		}
	}
}

func TestSplitCommand(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		`./charge --retry 3`:           {"./charge", "--retry", "3"},
		`sh -c 'jq . | ./x "$A" > f'`:  {"sh", "-c", `jq . | ./x "$A" > f`},
		`a "b c" d\ e '' $HOME * #x ~`: {"a", "b c", "d e", "", "$HOME", "*", "#x", "~"},
	} {
		if got, err := splitCommand(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
	for _, bad := range []string{"a | b", "a > f", "a; b", "a && b", "a 'b", `a "b`, "(a)", "a `b"} {
		if got, err := splitCommand(bad); !isUsage(err) {
			t.Errorf("%s: %q, %v, want a usage error", bad, got, err)
		}
	}
	for _, bad := range [][]string{nil, {""}, {"/nowhere/nothing"}, {"no-such-program-here"}, {os.TempDir()}} {
		if _, err := newCommand(bad); !isUsage(err) {
			t.Errorf("command %q: %v, want a usage error", bad, err)
		}
	}
}

func TestTimeoutKillsTheGroup(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"stubborn":   `trap '' TERM; sleep 300 & echo $! $$ > "$OUT"; while :; do sleep 300; done`,
		"grandchild": `(trap '' TERM; sleep 300 & wait; sleep 300) >/dev/null 2>&1 & echo $! $$ > "$OUT"; wait`,
		"exits 0":    `trap 'exit 0' TERM; sleep 300 & echo $! $$ > "$OUT"; wait`,
		"exits 65":   `trap 'exit 65' TERM; sleep 300 & echo $! $$ > "$OUT"; wait`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, c, out := shell(t, script)
			r.killAfter = 300 * time.Millisecond
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			ended := make(chan error, 1)
			go func() {
				_, err := r.run(ctx, c, &consumer.Delivery{})
				ended <- err
			}()
			eventually(t, "the command has started", func() bool { b, _ := os.ReadFile(out); return bytes.HasSuffix(b, []byte("\n")) })
			cancel(consumer.ErrTimeout)
			err := <-ended
			if kindOf(err) != "retry" || !strings.HasPrefix(err.Error(), "told to stop: ") {
				t.Errorf("got %s: %v", kindOf(err), err)
			}
			for _, pid := range strings.Fields(read(t, out)) {
				eventually(t, "process "+pid+" is gone", func() bool { return !lives(pid) })
			}
			if len(r.running) != 0 {
				t.Errorf("still known as running: %v", slices.Collect(maps.Keys(r.running)))
			}
		})
	}
}

func TestLeftBehind(t *testing.T) {
	t.Parallel()
	for name, redirect := range map[string]string{"quiet": ">/dev/null 2>&1", "holds the output": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, c, out := shell(t, "sleep 300 "+redirect+` & echo $! > "$OUT"`)
			r.linger = 200 * time.Millisecond
			if _, err := r.run(t.Context(), c, &consumer.Delivery{}); err != nil {
				t.Errorf("the job failed: %v", err)
			}
			pid := strings.TrimSpace(read(t, out))
			eventually(t, "process "+pid+" is gone", func() bool { return !lives(pid) })
		})
	}
}

// TestTimeoutAfterTheEnd: the command was done in time, and something it started holds its output for longer.
func TestTimeoutAfterTheEnd(t *testing.T) {
	t.Parallel()
	r, c, out := shell(t, `sleep 300 & echo $! > "$OUT"`)
	r.linger = time.Second
	ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, consumer.ErrTimeout)
	defer cancel()
	if _, err := r.run(ctx, c, &consumer.Delivery{}); err != nil {
		t.Errorf("the job failed: %v", err)
	}
	if ctx.Err() == nil {
		t.Error("it did not wait for what holds the output")
	}
	pid := strings.TrimSpace(read(t, out))
	eventually(t, "process "+pid+" is gone", func() bool { return !lives(pid) })
}

func TestKillAll(t *testing.T) {
	t.Parallel()
	r, c, out := shell(t, `echo $$ > "$OUT"; sleep 300`)
	ended := make(chan error, 1)
	go func() {
		_, err := r.run(t.Context(), c, &consumer.Delivery{})
		ended <- err
	}()
	eventually(t, "the command has started", func() bool { b, _ := os.ReadFile(out); return len(b) > 0 })
	if n := r.killAll(); n != 1 {
		t.Errorf("%d commands were killed, want 1", n)
	}
	if err := <-ended; kindOf(err) != "snooze" {
		t.Errorf("the killed job: %s: %v", kindOf(err), err)
	}
	if _, err := r.run(t.Context(), c, &consumer.Delivery{}); kindOf(err) != "snooze" {
		t.Errorf("a job after the end: %s: %v", kindOf(err), err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// lives reports whether a process runs; a zombie does not.
func lives(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		n, _ := strconv.Atoi(pid)
		_, statErr := os.Stat("/proc")
		return statErr != nil && groupLives(-n) // no /proc: ask for the process itself
	}
	_, state, _ := bytes.Cut(stat, []byte(") "))
	return len(state) > 0 && state[0] != 'Z'
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func isUsage(err error) bool {
	var usage usageError
	return errors.As(err, &usage)
}
