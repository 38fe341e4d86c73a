package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// app is what the commands share: where they read and write, and the global flags.
type app struct {
	in       io.Reader
	out, err io.Writer
	env      variables

	redis   string // --redis
	json    bool
	noColor bool
	timeout time.Duration
}

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitMisuse = 2
)

// usageError is a mistake in how the program was called or configured: exit status 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run executes one command line and returns the exit status.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if !errors.Is(err, errClosedOutput) { // who reads no more wants to read no more
		a.printError(err)
	}
	var usage usageError
	if errors.As(err, &usage) {
		return exitMisuse
	}
	return exitFailed
}

func (a *app) printError(err error) {
	if text := err.Error(); text != "" {
		fmt.Fprintln(a.err, "penstock:", safeLines(text))
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "penstock",
		Short:         "A Redis Streams job engine",
		Long:          "penstock — a Redis Streams job engine",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q; see penstock --help", args[0])
			}
			return nil
		},
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Version: thisBuild().String(),
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.Flags().Bool("version", false, "show the version of this program")
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see %s --help", err, cmd.CommandPath())
	})
	flags := root.PersistentFlags()
	flags.StringVar(&a.redis, "redis", "", "`URL` of Redis, in place of REDIS_URL")
	flags.BoolVar(&a.json, "json", false, "write JSON, for scripts")
	flags.BoolVar(&a.noColor, "no-color", false, "no colours, even on a terminal")
	flags.DurationVar(&a.timeout, "timeout", 10*time.Second, "how long one request to Redis may take")

	const runs, feeds, repairs, looks = "run", "feed", "repair", "look"
	root.AddGroup(
		&cobra.Group{ID: runs, Title: "Run"},
		&cobra.Group{ID: feeds, Title: "Publish and follow"},
		&cobra.Group{ID: repairs, Title: "Repair"},
		&cobra.Group{ID: looks, Title: "Look"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(runs, a.devCommand(), a.workerCommand(), a.schedulerCommand(), a.checkCommand())
	add(feeds, a.publishCommand(), a.jobCommand())
	add(repairs, a.deadCommand(), a.streamCommand(), a.switchCommand(), a.scheduleCommand())
	add(looks, a.benchCommand(), a.configCommand(), a.versionCommand())
	root.SetHelpCommand(helpCommand())
	root.SetHelpCommandGroupID(looks)
	root.SetCompletionCommandGroupID(looks)
	return root
}

// helpCommand is cobra's, but what it does not know is misuse.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about any command",
		RunE: func(cmd *cobra.Command, list []string) error {
			about, rest, err := cmd.Root().Find(list)
			if err != nil || len(rest) > 0 {
				return usagef("unknown command %q; see penstock --help", strings.Join(list, " "))
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// args checks the number of arguments of a command; a wrong one is misuse.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, list []string) error {
		if err := check(cmd, list); err != nil {
			return usagef("%w; usage: %s", err, cmd.UseLine())
		}
		return nil
	}
}

// requestContext bounds one request by --timeout.
func (a *app) requestContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, a.timeout, fmt.Errorf("no answer within %s (--timeout)", a.timeout))
}
