package engine

import (
	"context"
	"crypto/sha1" // the name Redis gives scripts, not a signature
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var sources embed.FS

// Script is a Lua script that is one transition.
type Script struct{ name, source, sha string }

func load(name string) *Script {
	b, err := sources.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // embedded at build time
	}
	sum := sha1.Sum(b)
	return &Script{name: name, source: string(b), sha: hex.EncodeToString(sum[:])}
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
