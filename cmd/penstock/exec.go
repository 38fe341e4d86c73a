package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mattn/go-shellwords"

	"github.com/penstock-go/penstock/consumer"
)

// exitData is the one exit status of a command, besides 0, with a meaning of
// its own: EX_DATAERR of sysexits.h, no further try can help.
const exitData = 65

const (
	stderrKept = 4 << 10 // the end of it is the job's error
	stdoutKept = 4 << 10 // its beginning, for the log

	groupLook = 20 * time.Millisecond
)

// command is a program with its arguments, found and executable.
type command struct {
	path string
	args []string // the program's name first, as it was given
}

// newCommand finds the program; one that can't be run is misuse.
func newCommand(words []string) (command, error) {
	if len(words) == 0 || words[0] == "" {
		return command{}, usagef("the command is empty")
	}
	path, err := exec.LookPath(words[0])
	if err != nil {
		var e *exec.Error
		if errors.As(err, &e) {
			err = e.Err
		}
		return command{}, usagef("command %q cannot be run: %w", words[0], err)
	}
	return command{path: path, args: words}, nil
}

// splitCommand cuts a command line into words as a shell does, without running
// one: pipes and the like are refused, and $ and * are characters like others.
func splitCommand(text string) ([]string, error) {
	p := shellwords.NewParser()
	p.ParseEnv, p.ParseBacktick, p.ParseComment = false, false, false
	words, err := p.Parse(text)
	switch {
	case err != nil:
		return nil, usagef("command %q: quotes or parentheses do not match", text)
	case p.Position >= 0:
		return nil, usagef("command %q has shell syntax: quote it, or write it as sh -c '…'", text)
	}
	return words, nil
}

func (c command) String() string { return strings.Join(c.args, " ") }

// runner runs jobs as commands. The commands under way are known, so that a
// worker that must end at once leaves none behind.
type runner struct {
	env           []string // what every command gets
	log           *slog.Logger
	killAfter     time.Duration // from SIGTERM to SIGKILL
	killAfterStop time.Duration // the same while the worker stops: it waits for its handlers 3 s
	linger        time.Duration // for those that hold the pipes of a command that has ended

	mu      sync.Mutex
	running map[int]bool // process groups
	ended   bool         // killAll was called: start nothing more
}

func newRunner(env []string, log *slog.Logger) *runner {
	return &runner{
		env: env, log: log, running: make(map[int]bool),
		killAfter: 5 * time.Second, killAfterStop: 2 * time.Second, linger: 5 * time.Second,
	}
}

// handler runs c for each delivery. How a job ended is the consumer's to log.
func (r *runner) handler(c command) consumer.Handler {
	return func(ctx context.Context, d *consumer.Delivery) error {
		log := r.log.With("stream", d.Stream, "job", d.ID, "type", d.Type, "attempt", d.Attempt)
		log.DebugContext(ctx, "job started", "command", c.args[0])
		out, err := r.run(ctx, c, d)
		if out != "" {
			log.DebugContext(ctx, "job wrote", "stdout", out)
		}
		return err
	}
}

// run runs one job and returns the beginning of what the command wrote to standard output.
func (r *runner) run(ctx context.Context, c command, d *consumer.Delivery) (string, error) {
	var out head
	errs := tail{limit: stderrKept}
	cmd := exec.CommandContext(ctx, c.path) //nolint:gosec // the command is the user's own
	cmd.Args = c.args
	cmd.Env = append(slices.Clip(r.env), jobEnv(ctx, d)...)
	cmd.Stdin = bytes.NewReader(d.Payload) // a command that does not read it all is no error: exec ignores EPIPE
	if r.log.Enabled(ctx, slog.LevelDebug) {
		out.limit = stdoutKept
		cmd.Stdout = &out
	}
	cmd.Stderr = &errs
	cmd.WaitDelay = r.linger
	ownGroup(cmd)
	s := r.stopper(ctx, cmd)

	switch err := r.start(ctx, cmd); {
	case errors.Is(err, errWorkerEnds):
		return "", consumer.Snooze(0)
	case errors.Is(err, syscall.E2BIG):
		return "", consumer.Permanent(fmt.Errorf("start %s: the job's headers and fields do not fit into an environment: %w", c.args[0], err))
	case err != nil:
		return "", fmt.Errorf("start %s: %w", c.args[0], err)
	}
	err := cmd.Wait()
	stopped := s.end()
	if r.end(cmd.Process.Pid, stopped) {
		return "", consumer.Snooze(0) // killAll: no fault of the job's
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		r.log.WarnContext(ctx, "a command has ended, but something it started held its output", "stream", d.Stream, "job", d.ID, "type", d.Type)
		err = nil
	}
	return out.String(), verdict(cmd, err, errs.String(), !stopped.IsZero())
}

// verdict makes the job's error of how its command ended.
func verdict(cmd *exec.Cmd, err error, stderr string, stopped bool) error {
	state := cmd.ProcessState
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("run %s: %w", cmd.Args[0], err)
	}
	code := state.ExitCode()
	if code == 0 && !stopped {
		return nil
	}
	text := state.String() // "exit status 1", "signal: killed"
	if stopped {
		// Many programs end with a status of their own when they are told to stop. It says nothing of the job.
		text = "told to stop: " + text
	}
	if stderr != "" {
		text += ": " + stderr
	}
	if code == exitData && !stopped {
		return consumer.Permanent(errors.New(text))
	}
	return errors.New(text)
}

var errWorkerEnds = errors.New("the worker ends")

func (r *runner) start(ctx context.Context, cmd *exec.Cmd) error {
	r.mu.Lock()
	defer r.mu.Unlock() // over the fork: killAll must see every process
	if r.ended {
		return errWorkerEnds
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := cmd.Start(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	r.running[cmd.Process.Pid] = true
	return nil
}

// killAll ends every command at once.
func (r *runner) killAll() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	for pid := range r.running {
		killGroup(pid)
	}
	return len(r.running)
}

// stopper stops a command's process group when its context ends.
type stopper struct {
	until time.Time // when the group is killed; zero: it was not told to stop
	kill  *time.Timer
}

// stopper gives cmd one, before its start. exec calls it only while the process
// itself lives: once that has ended, its exit status decides, even while exec
// waits for others that hold its output.
func (r *runner) stopper(ctx context.Context, cmd *exec.Cmd) *stopper {
	s := &stopper{}
	cmd.Cancel = func() error {
		after := r.killAfter
		if errors.Is(context.Cause(ctx), consumer.ErrStopping) {
			after = r.killAfterStop
		}
		pid := cmd.Process.Pid
		s.until = time.Now().Add(after)
		stopGroup(pid)
		s.kill = time.AfterFunc(after, func() { killGroup(pid) })
		return os.ErrProcessDone // no error of Wait's: run makes its own
	}
	return s
}

// end returns until when the group may go on. cmd.Wait has returned.
func (s *stopper) end() time.Time {
	if s.kill != nil {
		s.kill.Stop()
	}
	return s.until
}

// end makes sure that nothing of a process group outlives its job. The first
// process is gone; when the group was told to stop, the others have until then.
// It reports whether the worker ends at once.
func (r *runner) end(pid int, until time.Time) bool {
	for time.Now().Before(until) && groupLives(pid) {
		time.Sleep(groupLook)
	}
	killGroup(pid)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, pid)
	return r.ended
}
