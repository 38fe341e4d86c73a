package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

const workerHelp = `Run the jobs of one group over one or more streams, earlier streams first. Each
job is run by a command: COMMAND after --, or the --handle of its type. Commands
are started as they are, without a shell.

A command reads the job's data on standard input. Its exit status decides:

  0        the job is done
  65       it can never succeed: dead letter, no more tries (EX_DATAERR)
  another  this try failed: run again after a pause, until no try is left;
           the end of standard error is kept as the reason (75, EX_TEMPFAIL, is
           the usual one)

Its environment is the worker's, without REDIS_… and PENSTOCK_… (--env NAME
passes one on), and with

  PENSTOCK_JOB_ID, _TYPE, _STREAM, _GROUP   what it is and came through
  PENSTOCK_JOB_ATTEMPT, _MAX_TRIES          this try, from 1, and the last one
  PENSTOCK_JOB_FENCE                        grows with every delivery of the job
  PENSTOCK_JOB_PUBLISHED, _DUE              RFC 3339, UTC
  PENSTOCK_JOB_HEADER_<NAME>                headers; order-id is _ORDER_ID
  PENSTOCK_JOB_FIELDS                       JSON, of entries of other programs
  TRACEPARENT, TRACESTATE                   W3C trace context

After PENSTOCK_JOB_TIMEOUT the command and all it started get SIGTERM and, 5 s
later, SIGKILL (2 s while the worker stops). A command that was told to stop has
not done its job, whatever its exit status. What it leaves running is killed.

SIGTERM, Ctrl-C, the end of its terminal or of who reads its output stops the
worker: it takes no more jobs, gives running ones PENSTOCK_GRACE, and hands back
the rest. A second SIGTERM or Ctrl-C ends it at once.

Settings are PENSTOCK_… variables: see penstock config. Retries come back by
themselves; jobs published with a delay need a penstock scheduler somewhere.`

type workerFlags struct {
	group     string
	kind      string
	maxJobs   int
	handle    []string
	env       []string
	verbose   bool
	logFormat string
}

func (a *app) workerCommand() *cobra.Command {
	var f workerFlags
	cmd := &cobra.Command{
		Use:   "worker STREAM… [flags] [-- COMMAND [ARG…]]",
		Short: "Run jobs as commands",
		Long:  workerHelp,
		Example: `  penstock worker orders -- ./handle-order
  penstock worker orders --group billing -v -- sh -c 'jq -r .order | xargs ./charge'
  penstock worker urgent orders --handle order.paid='./charge --retry' --handle mail='./mail'`,
		Args:                  args(cobra.MinimumNArgs(1)),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, list []string) error {
			var words []string
			if n := cmd.ArgsLenAtDash(); n >= 0 {
				list, words = list[:n], list[n:]
			}
			if cmd.Flags().Changed("max-jobs") && f.maxJobs < 1 {
				return usagef("--max-jobs %d must be at least 1", f.maxJobs)
			}
			return a.work(cmd.Context(), f, list, words)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.group, "group", "default", "consumer `GROUP`")
	flags.StringVar(&f.kind, "kind", "", "what a stream becomes that is none yet, `KIND` queue or events (default: queue, if it is new)")
	flags.IntVar(&f.maxJobs, "max-jobs", 0, "how `MANY` commands at once, in place of PENSTOCK_MAX_JOBS")
	flags.StringArrayVar(&f.handle, "handle", nil, "what runs the jobs of one type, as `TYPE=COMMAND`; repeatable")
	flags.StringArrayVar(&f.env, "env", nil, "variable to pass on all the same, or `NAME`=VALUE to set one; repeatable")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "log each job, with what its command wrote")
	flags.StringVar(&f.logFormat, "log-format", "auto", "`FORMAT` of the log on standard error: text, json, or auto: text on a terminal")
	return cmd
}

// work is the worker from its flags to its end.
func (a *app) work(ctx context.Context, f workerFlags, names, words []string) error {
	if len(names) == 0 {
		return usagef("say which streams: penstock worker STREAM… -- COMMAND")
	}
	// before the rest: where Redis is comes first for who tries it for the first time
	cfg, err := a.settings(ctx)
	if err != nil {
		return err
	}
	handlers, err := f.handlers(words)
	if err != nil {
		return err
	}
	kind, err := parseKind(f.kind)
	if err != nil {
		return err
	}
	log, err := a.workerLogger(f)
	if err != nil {
		return err
	}
	env, err := baseEnv(a.env, f.env)
	if err != nil {
		return err
	}
	cfg.Consumer.Logger, cfg.Stream.Logger = log, log
	if f.maxJobs > 0 {
		cfg.Consumer.MaxJobs = f.maxJobs
	}
	if kind != stream.KindAny {
		cfg.Stream.Kind = kind
	}
	rdb, err := cfg.Redis.Client()
	if err != nil {
		return usageError{err}
	}
	defer rdb.Close()

	r := newRunner(env, log)
	streams, w, err := newWorker(rdb, f.group, cfg, names)
	if err != nil {
		return usageError{err}
	}
	for typ, c := range handlers {
		h := r.handler(c)
		if typ == "" {
			w.HandleOther(h)
			continue
		}
		consumer.Handle(w, stream.Type[[]byte]{Name: typ}, func(ctx context.Context, job *consumer.Job[[]byte]) error {
			return h(ctx, job.Delivery)
		})
	}
	err = a.runWorker(ctx, w, r, readyLine{
		Ready: true, Worker: w.Name(), Group: f.group, Streams: names, MaxJobs: w.Health().MaxJobs,
	})
	if errors.Is(err, stream.ErrKind) {
		return a.kindError(ctx, streams, err)
	}
	return err
}

func newWorker(rdb redis.UniversalClient, group string, cfg settings, names []string) ([]*stream.Stream, *consumer.Worker, error) {
	streams := make([]*stream.Stream, len(names))
	var errs []error
	for i, name := range names {
		var err error
		if streams[i], err = stream.New(rdb, name, cfg.Stream); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return nil, nil, errors.Join(errs...)
	}
	w, err := consumer.New(group, cfg.Consumer, streams...)
	return streams, w, err
}

// handlers are the commands by type; "" is the one for every other type.
func (f workerFlags) handlers(words []string) (map[string]command, error) {
	handlers := make(map[string]command)
	add := func(typ string, words []string) error {
		c, err := newCommand(words)
		handlers[typ] = c
		return err
	}
	if len(words) > 0 {
		if err := add("", words); err != nil {
			return nil, err
		}
	}
	for _, h := range f.handle {
		typ, text, ok := strings.Cut(h, "=")
		switch {
		case !ok || typ == "":
			return nil, usagef("--handle %q is not TYPE=COMMAND", h)
		case handlers[typ].args != nil:
			return nil, usagef("--handle: type %s has two commands", typ)
		}
		words, err := splitCommand(text)
		if err != nil {
			return nil, err
		}
		if err := add(typ, words); err != nil {
			return nil, err
		}
	}
	if len(handlers) == 0 {
		return nil, usagef("say what runs the jobs: -- COMMAND, or --handle TYPE=COMMAND\n  e.g. penstock worker orders -- ./handle-order")
	}
	return handlers, nil
}

// workerLogger writes to standard error.
func (a *app) workerLogger(f workerFlags) (*slog.Logger, error) {
	opt := &slog.HandlerOptions{}
	if f.verbose {
		opt.Level = slog.LevelDebug
	}
	switch {
	case f.logFormat == "text", f.logFormat == "auto" && terminal(a.err) && !a.json:
		return slog.New(slog.NewTextHandler(a.err, opt)), nil
	case f.logFormat == "json", f.logFormat == "auto":
		return slog.New(slog.NewJSONHandler(a.err, opt)), nil
	}
	return nil, usagef("--log-format %q is none of text, json and auto", f.logFormat)
}

// readyLine is what a worker says on standard output when it takes jobs.
type readyLine struct {
	Ready   bool     `json:"ready"`
	Worker  string   `json:"worker"`
	Group   string   `json:"group"`
	Streams []string `json:"streams"`
	MaxJobs int      `json:"max_jobs"`
}

func (l readyLine) String() string {
	return fmt.Sprintf("ready    %s/%s  %s at once  worker %s", strings.Join(l.Streams, "+"), l.Group, plural(int64(l.MaxJobs), "job"), l.Worker)
}

// stoppedLine is what it says last.
type stoppedLine struct {
	Stopped bool           `json:"stopped"`
	Worker  string         `json:"worker"`
	Stats   consumer.Stats `json:"stats"`
}

func (l stoppedLine) String() string {
	s := l.Stats
	parts := []string{count(s.Completed) + " completed"}
	for _, p := range []struct {
		n    int64
		what string
	}{{s.Retried, "retried"}, {s.Snoozed, "snoozed"}, {s.Bounced, "bounced"}, {s.Dead, "dead"}, {s.HandedBack, "handed back"}} {
		if p.n > 0 {
			parts = append(parts, count(p.n)+" "+p.what)
		}
	}
	return fmt.Sprintf("stopped  %s started: %s", count(s.Started), strings.Join(parts, ", "))
}

func (a *app) say(line fmt.Stringer) error {
	if a.json {
		return a.printJSON(line)
	}
	return a.printf("%s\n", safe(line.String()))
}

const (
	readyLook = 20 * time.Millisecond
	sameStop  = time.Second // timeout, npm and others signal a process and its group: that is one signal
	lastWait  = time.Second // for killed jobs to be handed back
)

// runWorker runs it until ctx ends and the jobs have, or a second signal comes.
func (a *app) runWorker(ctx context.Context, w *consumer.Worker, r *runner, ready readyLine) error {
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	look := time.NewTicker(readyLook)
	defer look.Stop()
	again := make(chan os.Signal, 1)
	defer signal.Stop(again)
	looks, stopping, stopped := look.C, ctx.Done(), time.Time{}
	for {
		select {
		case err := <-result:
			if err != nil && looks != nil {
				return err // it never began
			}
			return errors.Join(err, a.say(stoppedLine{Stopped: true, Worker: w.Name(), Stats: w.Stats()}))
		case <-looks:
			if !w.Health().Ready {
				continue
			}
			look.Stop()
			looks = nil
			if err := a.say(ready); err != nil {
				r.log.WarnContext(ctx, "standard output cannot be written", "err", err)
			}
		case <-stopping:
			stopping, stopped = nil, time.Now()
			signal.Notify(again, os.Interrupt, syscall.SIGTERM)
			if n := w.Health().Running; n > 0 {
				r.log.InfoContext(ctx, "stopping, and waiting for running jobs; another signal ends them at once", "jobs", n)
			}
		case <-again:
			if time.Since(stopped) < sameStop {
				continue
			}
			n := r.killAll()
			var err error
			select {
			case err = <-result:
			case <-time.After(lastWait):
			}
			return errors.Join(fmt.Errorf("stopped at once: %s killed", plural(int64(n), "command")), err,
				a.say(stoppedLine{Stopped: true, Worker: w.Name(), Stats: w.Stats()}))
		}
	}
}

// kindError says what can be done about a stream whose kind forbids the worker, or is not declared.
func (a *app) kindError(ctx context.Context, streams []*stream.Stream, err error) error {
	ctx, cancel := a.requestContext(context.WithoutCancel(ctx))
	defer cancel()
	var texts []string
	for _, s := range streams {
		d, e := s.Describe(ctx)
		if e != nil || d.Kind != stream.KindAny || d.Entries == 0 && len(d.Groups) == 0 {
			continue
		}
		force, lose := "        ", "entries are deleted as they complete"
		if len(d.Groups) > 0 {
			force, lose = " --force", lose+", and "+groupList(d.Groups, " and ")+" would lose them"
		}
		texts = append(texts, fmt.Sprintf("%s\n  say once what it is:\n    penstock stream create %s --kind events          each group gets every entry\n    penstock stream create %s --kind queue%s   %s",
			strings.SplitN(foreignText(d), "\n", 2)[0], s.Name(), s.Name(), force, lose))
	}
	if len(texts) == 0 {
		return err
	}
	return errors.New(strings.Join(texts, "\n"))
}
