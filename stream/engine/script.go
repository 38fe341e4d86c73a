package engine

import (
	"context"
	"crypto/sha1" // the name Redis gives scripts, not a signature
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var sources embed.FS

// Script is a Lua script that is one transition.
type Script struct{ name, source, sha string }

// Scripts are all there are, for those who tell what is on the wire.
func Scripts() []*Script {
	return []*Script{
		publishScript, scheduleScript, promoteScript, openScript, settleScript, completeScript, retryScript, moveScript, redriveScript, purgeScript,
		leaveScript, beatScript, sweepScript, mendScript, freeScript, getScript, uniqueScript, startScript, cancelScript, marksScript,
		switchScript, switchesScript, resumeScript,
		reportScript, onceScript, rescheduleScript, surveyScript, trimScript, staleScript,
		replaceScript, tickPublishScript, tickScheduleScript, tickUniqueScript,
	}
}

// Name of the script, and of its file.
func (s *Script) Name() string { return s.name }

// Source is the script's text as Redis gets it.
func (s *Script) Source() string { return s.source }

func load(name string) *Script {
	b, err := sources.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // embedded at build time
	}
	source := withPart(string(b))
	sum := sha1.Sum([]byte(source))
	return &Script{name: name, source: source, sha: hex.EncodeToString(sum[:])}
}

// withPart puts the file that a script's header names as its part behind the header.
func withPart(source string) string {
	_, line, found := strings.Cut(source, "\n-- Part: ")
	if !found {
		return source
	}
	file, _, _ := strings.Cut(line, "\n")
	part, err := sources.ReadFile("lua/" + file)
	if err != nil {
		panic(err) // embedded at build time
	}
	return behindHeader(source, string(part))
}

// around puts another script whole into one, as its function publish.
func around(name string, inside *Script) *Script {
	outer := load(name)
	source := behindHeader(outer.source, "local function publish()\n"+inside.source+"end\n")
	sum := sha1.Sum([]byte(source))
	return &Script{name: name, source: source, sha: hex.EncodeToString(sum[:])}
}

func behindHeader(source, text string) string {
	header := 0
	for line := range strings.Lines(source) {
		if !strings.HasPrefix(line, "--") {
			break
		}
		header += len(line)
	}
	return source[:header] + text + source[header:]
}

var (
	publishScript  = load("publish")
	scheduleScript = load("schedule")
	promoteScript  = load("promote")
	openScript     = load("open")
	settleScript   = load("settle")
	completeScript = load("complete")
	retryScript    = load("retry")
	moveScript     = load("move")
	redriveScript  = load("redrive")
	purgeScript    = load("purge")
	leaveScript    = load("leave")
	beatScript     = load("beat")
	sweepScript    = load("sweep")
	mendScript     = load("mend")
	freeScript     = load("free")
	getScript      = load("get")
	reportScript   = load("report")
	onceScript     = load("once")
	uniqueScript   = load("unique")
	startScript    = load("start")
	cancelScript   = load("cancel")
	marksScript    = load("marks")
	switchScript   = load("switch")
	switchesScript = load("switches")
	resumeScript   = load("resume")
	surveyScript   = load("survey")
	trimScript     = load("trim")
	staleScript    = load("stale")

	rescheduleScript = load("reschedule")
	replaceScript    = load("replace")

	tickPublishScript  = around("tick", publishScript)
	tickScheduleScript = around("tick", scheduleScript)
	tickUniqueScript   = around("tick", uniqueScript)
)

// once is a command that go-redis does not send again after a lost reply: by
// default it would, and an XADD or a script that ran would run twice.
type once struct{ *redis.Cmd }

// NoRetry tells go-redis to leave retries to us.
func (once) NoRetry() bool { return true }

// Processor is a client, or one connection of it.
type Processor interface {
	Process(ctx context.Context, cmd redis.Cmder) error
}

// Do sends one command, once. Its first key must be the first argument, or the client be one connection.
func Do(ctx context.Context, rdb Processor, args ...any) (any, error) {
	return DoAt(ctx, rdb, 1, args...)
}

// DoAt is Do for a command whose first key is its argument number key.
func DoAt(ctx context.Context, rdb Processor, key int, args ...any) (any, error) {
	if err := checkContext(ctx); err != nil {
		return nil, err
	}
	cmd := once{redis.NewCmd(ctx, args...)}
	cmd.SetFirstKeyPos(int8(key)) //nolint:gosec // a small constant
	if err := rdb.Process(ctx, cmd); err != nil {
		return nil, err
	}
	return cmd.Result()
}

// Answer is an answer as it came over the wire. Its room is used again.
type Answer struct{ b []byte }

// answerMax is the room that an Answer keeps.
const answerMax = 1 << 20

// Bytes are good until the next call that this Answer is given to.
func (a *Answer) Bytes() []byte { return a.b }

func (a *Answer) reset() {
	if a.b = a.b[:0]; cap(a.b) > answerMax {
		a.b = nil
	}
}

// Write is for go-redis.
func (a *Answer) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}

// ReadFrom is for io.CopyN, by which go-redis copies strings: without it each would pass through a buffer of its own.
func (a *Answer) ReadFrom(r io.Reader) (int64, error) {
	limited, ok := r.(*io.LimitedReader)
	if !ok {
		return 0, fmt.Errorf("cannot read an answer from a %T", r)
	}
	from, n := len(a.b), int(limited.N)
	a.b = slices.Grow(a.b, n)[:from+n]
	read, err := io.ReadFull(limited.R, a.b[from:])
	limited.N -= int64(read)
	return int64(read), err
}

// DoRaw is DoAt for an answer that the caller decodes, in RESP2 or RESP3 as the connection, which conn must be, has it.
// It reports false when the server said no. go-redis has not looked into the answer then, which may have been that this is a
// replica now, so the caller should ask again with DoAt: nothing has happened.
func DoRaw(ctx context.Context, conn Processor, key int, answer *Answer, args ...any) (ok bool, err error) {
	if err := checkContext(ctx); err != nil {
		return false, err
	}
	answer.reset()
	cmd := redis.NewRawWriteToCmd(ctx, answer, args...) // which go-redis does not send twice
	cmd.SetFirstKeyPos(int8(key))                       //nolint:gosec // a small constant
	if err := conn.Process(ctx, cmd); err != nil {
		return false, err
	}
	b := answer.Bytes()
	return len(b) > 0 && b[0] != '-' && b[0] != '!', nil
}

// ReadTime decodes the answer to TIME.
func ReadTime(v any) (time.Time, error) {
	list, _ := v.([]any)
	if len(list) != 2 {
		return time.Time{}, fmt.Errorf("unexpected answer %v to TIME", v)
	}
	seconds, err1 := strconv.ParseInt(fmt.Sprint(list[0]), 10, 64)
	micros, err2 := strconv.ParseInt(fmt.Sprint(list[1]), 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return time.Time{}, fmt.Errorf("unexpected answer %v to TIME: %w", v, err)
	}
	return time.Unix(seconds, micros*1000), nil
}

// Call is one run of a script.
type Call struct {
	Script *Script
	Keys   []string
	Args   []any
}

func (c Call) cmd(ctx context.Context, name, script string) once {
	args := make([]any, 0, 3+len(c.Keys)+len(c.Args))
	args = append(args, name, script, len(c.Keys))
	for _, k := range c.Keys {
		args = append(args, k)
	}
	cmd := redis.NewCmd(ctx, append(args, c.Args...)...)
	cmd.SetFirstKeyPos(3)
	return once{cmd}
}

// Run runs the script once. A server that does not know it yet, or forgot it
// in a restart, is sent its text: NOSCRIPT means that nothing ran.
func (c Call) Run(ctx context.Context, rdb redis.UniversalClient) (any, error) {
	if err := checkContext(ctx); err != nil {
		return nil, err
	}
	cmd := c.cmd(ctx, "EVALSHA", c.Script.sha)
	err := rdb.Process(ctx, cmd)
	if Classify(err) == NoScript {
		cmd = c.cmd(ctx, "EVAL", c.Script.source)
		err = rdb.Process(ctx, cmd)
	}
	if err != nil {
		return nil, err
	}
	return cmd.Val(), nil
}

// Result is what one script of a pipeline answered.
type Result struct {
	Val any
	Err error
}

// RunAll runs scripts in one pipeline, each once, and answers in order.
func RunAll(ctx context.Context, rdb redis.UniversalClient, calls []Call) []Result {
	results := make([]Result, len(calls))
	todo := make([]int, len(calls))
	for i := range calls {
		todo[i] = i
	}
	name := "EVALSHA"
	for len(todo) > 0 {
		if err := checkContext(ctx); err != nil {
			for _, i := range todo {
				results[i] = Result{Err: err}
			}
			return results
		}
		pipe := rdb.Pipeline()
		cmds := make([]once, len(todo))
		for n, i := range todo {
			script := calls[i].Script.sha
			if name == "EVAL" {
				script = calls[i].Script.source
			}
			cmds[n] = calls[i].cmd(ctx, name, script)
			_ = pipe.Process(ctx, cmds[n])
		}
		_ = Exec(ctx, pipe) // each command carries its own error
		var again []int
		for n, i := range todo {
			results[i] = Result{cmds[n].Val(), Answered(cmds[n].Err(), cmds[n].Val() != nil)}
			if name == "EVALSHA" && Classify(cmds[n].Err()) == NoScript {
				again = append(again, i)
			}
		}
		todo, name = again, "EVAL"
	}
	return results
}

// Exec sends a pipeline; afterwards each of its commands carries its own
// error. By itself go-redis leaves them without one when the server refuses
// the connection, as for a wrong password: jobs would seem to be stored.
func Exec(ctx context.Context, pipe redis.Pipeliner) error {
	cmds, err := pipe.Exec(ctx)
	if err == nil || slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Err() != nil }) {
		return err
	}
	for _, cmd := range cmds {
		cmd.SetErr(err)
	}
	return err
}

var errNoAnswer = errors.New("the client gave neither an answer nor an error")

// Answered makes an error of a command that has neither an error nor an answer, which Classify calls Lost.
func Answered(err error, answered bool) error {
	if err == nil && !answered {
		return errNoAnswer
	}
	return err
}
