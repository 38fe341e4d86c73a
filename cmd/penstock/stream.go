package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/penstock-go/penstock/stream"
)

func (a *app) streamCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stream ls|show|create|set",
		Short: "List, show and declare streams",
		Long: `List, show and declare streams.

A queue has one group of workers, and an entry is deleted as it completes. An
events stream has any number of groups, and each gets every entry.`,
		Example: "  penstock stream show orders\n  penstock stream create audit --kind events\n  penstock stream set audit --retention 24h",
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.streamLsCommand(), a.streamShowCommand(), a.streamCreateCommand(), a.streamSetCommand())
	return cmd
}

func (a *app) streamLsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the streams of this Redis",
		Long: `List the streams of this Redis: those that had a worker or a deferred job, or
that were declared. With --json, one object a line. One that cannot be read is
listed with the reason ("error" in JSON), and the exit status is then 1.`,
		Example: "  penstock stream ls\n  penstock stream ls --json | jq -r .name",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			rdb, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			defer rdb.Close()
			return a.listStreams(cmd.Context(), rdb)
		},
	}
}

func (a *app) listStreams(ctx context.Context, rdb redis.UniversalClient) error {
	rctx, cancel := a.requestContext(ctx)
	names, err := stream.Names(rctx, rdb)
	cancel()
	if err != nil {
		return err
	}
	var rows [][]string
	var failed error
	for _, name := range names {
		d, err := a.describe(ctx, rdb, name)
		switch {
		case err != nil && (ctx.Err() != nil || errors.Is(err, stream.ErrUnavailable)):
			return err // the others would fail alike
		case err != nil && a.json:
			failed = errReported
			err = a.printJSON(badStream{Name: name, Error: err.Error()})
		case err != nil:
			failed = errReported
			rows, err = append(rows, []string{name, "error", "–", "–", err.Error()}), nil
		case a.json:
			err = a.printJSON(d)
		default:
			rows = append(rows, []string{name, kindText(d), count(d.Entries), count(d.Scheduled), strings.Join(d.Groups, ", ")})
		}
		if err != nil {
			return err
		}
	}
	switch {
	case a.json:
		return failed
	case len(rows) == 0:
		return a.printf("no streams yet: one is listed here once it has a worker or a deferred job\n")
	}
	if err := a.table([]string{"NAME", "KIND", "ENTRIES", "SCHEDULED", "GROUPS"}, rows); err != nil {
		return err
	}
	return failed
}

// badStream is one that the registry names and that can't be described, as `stream ls --json` writes it.
type badStream struct {
	Name  string `json:"name"`
	Error string `json:"error"`
}

func (a *app) describe(ctx context.Context, rdb redis.UniversalClient, name string) (stream.Description, error) {
	s, err := stream.New(rdb, name, stream.Config{PublishTimeout: a.timeout})
	if err != nil {
		return stream.Description{}, err
	}
	return s.Describe(ctx)
}

func kindText(d stream.Description) string {
	if d.Kind == stream.KindAny {
		return "undeclared"
	}
	return string(d.Kind)
}

func (a *app) streamShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show STREAM",
		Short: "Show a stream and the depths of its groups",
		Long: `Show a stream and how many jobs of each of its groups are where.

  WAITING    not yet read by the group, those that came back to it included; ?
             where Redis cannot count them, as entries among them were deleted
  ACTIVE     a worker has them
  SCHEDULED  deferred, not yet due; of the stream, whatever the group
  RETRYING   failed or snoozed, not yet due again
  DEAD       dead letters: penstock dead ls STREAM GROUP
  OLDEST     the age of the job that waits longest
  WORKERS    consumers of the group`,
		Example: "  penstock stream show orders\n  penstock stream show orders --json | jq '.groups[].waiting'",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.withStream(cmd.Context(), list[0], stream.Config{}, a.showStream)
		},
	}
}

// groupDepths is a group as `stream show --json` writes it.
type groupDepths struct {
	Name    string `json:"name"`
	Foreign bool   `json:"foreign,omitempty"` // made by another program: its depths are not known
	stream.Depths
	NoOldest *struct{} `json:"oldest,omitempty"` // hides that of Depths, whose name does not say its unit
	OldestMS int64     `json:"oldest_ms"`
}

func (a *app) showStream(ctx context.Context, s *stream.Stream) error {
	d, err := s.Describe(ctx)
	if err != nil {
		return err
	}
	if d.Kind == stream.KindAny && d.Entries == 0 && d.Scheduled == 0 && len(d.Groups) == 0 {
		return fmt.Errorf("stream %s: %w", s.Name(), stream.ErrNotFound)
	}
	groups := []groupDepths{}
	for _, name := range d.Groups {
		depths, err := s.Group(name).Depths(ctx)
		foreign := errors.Is(err, stream.ErrNotFound) || errors.Is(err, stream.ErrInvalid) // a name of ours or none
		if err != nil && !foreign {
			return err
		}
		groups = append(groups, groupDepths{Name: name, Foreign: foreign, Depths: depths, OldestMS: depths.Oldest.Milliseconds()})
	}
	if a.json {
		return a.printJSON(struct {
			stream.Description
			Groups []groupDepths `json:"groups"`
		}{d, groups})
	}
	if err := a.printf("stream  %s  %s\n", a.color(bold, s.Name()), describeStream(d)); err != nil {
		return err
	}
	if len(groups) == 0 {
		return a.printf("no groups: the first worker makes one\n")
	}
	rows := make([][]string, len(groups))
	for i, g := range groups {
		rows[i] = g.row()
	}
	return a.table([]string{"GROUP", "WAITING", "ACTIVE", "SCHEDULED", "RETRYING", "DEAD", "OLDEST", "WORKERS"}, rows)
}

func (g groupDepths) row() []string {
	if g.Foreign {
		return []string{g.Name + " (foreign)", "–", "–", "–", "–", "–", "–", "–"}
	}
	oldest := "–"
	if g.Oldest > 0 {
		oldest = short(g.Oldest)
	}
	waiting := "?"
	if g.Waiting >= 0 {
		waiting = count(g.Waiting)
	}
	return []string{g.Name, waiting, count(g.Active), count(g.Scheduled), count(g.Retrying), count(g.Dead), oldest, count(g.Workers)}
}

// describeStream is what `stream show` and `stream create` say of a stream in a line.
func describeStream(d stream.Description) string {
	parts := []string{kindText(d)}
	if d.Format > 0 {
		parts = append(parts, fmt.Sprintf("format %d", d.Format))
	}
	entries := count(d.Entries) + " entries"
	if d.Entries == 1 {
		entries = "1 entry"
	}
	parts = append(parts, entries)
	if d.Bytes > 0 {
		parts = append(parts, size(d.Bytes))
	}
	if kept := keptText(d.Retention); kept != "" {
		parts = append(parts, kept)
	}
	return strings.Join(parts, ", ")
}

// keptText is what a stream keeps that all its groups are done with.
func keptText(r stream.Retention) string {
	switch {
	case r.Age > 0 && r.Length > 0:
		return fmt.Sprintf("kept for %s, at most %s entries", short(r.Age), count(r.Length))
	case r.Age > 0:
		return "kept for " + short(r.Age)
	case r.Length > 0:
		return fmt.Sprintf("the last %s entries kept", count(r.Length))
	}
	return ""
}

// retentionFlags are --retention and --retention-length.
type retentionFlags struct {
	age    string
	length int64
}

func (f *retentionFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.age, "retention", "", "how long an events stream keeps what all its groups are done with, a `DURATION` or off")
	flags.Int64Var(&f.length, "retention-length", 0, "how many such entries it keeps, the latest `N`")
}

func (f *retentionFlags) parse() (stream.Retention, error) {
	r := stream.Retention{Length: f.length}
	if f.age != "" {
		d, err := parseTimeout(f.age)
		if err != nil {
			return r, usagef("--retention %s", err)
		}
		r.Age = d
	}
	switch {
	case f.length < 0:
		return r, usagef("--retention-length must be at least 1")
	case r.Age == stream.None && r.Length > 0:
		return r, usagef("--retention off goes with no --retention-length")
	}
	return r, nil
}

func (a *app) streamSetCommand() *cobra.Command {
	var retention retentionFlags
	cmd := &cobra.Command{
		Use:   "set STREAM --retention DURATION|off",
		Short: "Say how long an events stream keeps what is done",
		Long: `Say how long an events stream keeps entries that all its groups are done with, for
a group that is set back to replay them, or that comes later. Schedulers delete what
is older than --retention or lies before the last --retention-length entries; a minute
after it was published at the earliest. What a group has not acknowledged stays. What is
said here takes the place of what was said before; off keeps nothing that is done.

A worker whose PENSTOCK_RETENTION_AGE or PENSTOCK_RETENTION_LENGTH is set says it anew
each time it starts.`,
		Example: "  penstock stream set audit --retention 24h\n  penstock stream set audit --retention 168h --retention-length 1000000\n  penstock stream set audit --retention off",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			r, err := retention.parse()
			if err != nil {
				return err
			}
			if r.IsZero() {
				return usagef("say what it keeps: --retention, --retention-length or both")
			}
			return a.withStream(cmd.Context(), list[0], stream.Config{}, func(ctx context.Context, s *stream.Stream) error {
				if err := s.SetRetention(ctx, r); err != nil {
					return err
				}
				d, err := s.Describe(ctx)
				switch {
				case err != nil:
					return err
				case a.json:
					return a.printJSON(d)
				}
				return a.printf("%s  %s\n", a.color(bold, s.Name()), describeStream(d))
			})
		},
	}
	retention.register(cmd.Flags())
	return cmd
}

func (a *app) streamCreateCommand() *cobra.Command {
	var kind string
	var force bool
	var retention retentionFlags
	cmd := &cobra.Command{
		Use:   "create STREAM --kind queue|events",
		Short: "Declare what a stream is",
		Long: `Declare what a stream is. A new stream needs no declaration: it becomes a queue
with its first worker. One that another program has filled does, since the
entries of a queue are deleted as they complete; --force makes it one even when
that program's groups would lose them. A kind can't be changed later.`,
		Example: "  penstock stream create audit --kind events\n  penstock stream create mails --kind queue --force",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			k, err := parseKind(kind)
			if err != nil {
				return err
			}
			if k == stream.KindAny {
				return usagef("say what it is: --kind queue or --kind events")
			}
			r, err := retention.parse()
			if err == nil && k == stream.KindQueue && !r.IsZero() {
				err = usagef("--retention is for events streams: the entries of a queue go as they complete")
			}
			if err != nil {
				return err
			}
			return a.withStream(cmd.Context(), list[0], stream.Config{Kind: k, Retention: r}, func(ctx context.Context, s *stream.Stream) error {
				return a.createStream(ctx, s, force)
			})
		},
	}
	cmd.Flags().StringVar(&kind, "kind", "", "`KIND` of the stream: queue or events")
	cmd.Flags().BoolVar(&force, "force", false, "take over a stream with groups that Penstock did not make")
	retention.register(cmd.Flags())
	return cmd
}

func parseKind(text string) (stream.Kind, error) {
	switch k := stream.Kind(text); k {
	case stream.KindAny, stream.KindQueue, stream.KindEvents:
		return k, nil
	}
	return "", usagef("--kind %q is neither queue nor events", text)
}

func (a *app) createStream(ctx context.Context, s *stream.Stream, force bool) error {
	before, err := s.Describe(ctx)
	if err != nil {
		return err
	}
	d, err := s.Create(ctx, stream.CreateOptions{Force: force})
	switch {
	case errors.Is(err, stream.ErrKind) && before.Kind == stream.KindAny:
		return errors.New(foreignText(before) + "\n  use --kind events, or --kind queue --force")
	case errors.Is(err, stream.ErrKind):
		return fmt.Errorf("%s is declared as %s, and a kind cannot be changed", s.Name(), before.Kind)
	case err != nil:
		return err
	case a.json:
		return a.printJSON(d)
	}
	if err := a.printf("%s  %s\n", a.color(bold, s.Name()), describeStream(d)); err != nil {
		return err
	}
	if d.Kind == stream.KindQueue && len(d.Groups) > 1 {
		return a.printf("note: it has %d groups (%s), and a queue works with one: remove the others before its worker starts, with\n  XGROUP DESTROY %s GROUP\n",
			len(d.Groups), groupList(d.Groups, ", "), s.Name())
	}
	return nil
}

// foreignText says what a stream holds that Penstock did not make, and what a queue would make of it.
func foreignText(d stream.Description) string {
	holds := plural(d.Entries, "entry")
	if d.Entries != 1 {
		holds = count(d.Entries) + " entries"
	}
	if len(d.Groups) == 0 {
		return fmt.Sprintf("%s already holds %s that Penstock did not make\n  as a queue they are deleted as they complete", d.Name, holds)
	}
	return fmt.Sprintf("%s already holds %s and %s (%s) that Penstock did not make\n  as a queue its entries are deleted as they complete, and %s would lose them",
		d.Name, holds, plural(int64(len(d.Groups)), "group"), groupList(d.Groups, ", "), groupList(d.Groups, " and "))
}

// groupList names at most a few groups; they may be other people's names.
func groupList(groups []string, last string) string {
	const most = 5
	list := make([]string, 0, most+1)
	for i, g := range groups {
		if i == most {
			list = append(list, fmt.Sprintf("%d more", len(groups)-most))
			break
		}
		list = append(list, safe(g))
	}
	n := len(list) - 1
	if n == 0 {
		return list[0]
	}
	return strings.Join(list[:n], ", ") + last + list[n]
}

// withStream calls f with the stream called name, whose calls each have the time of --timeout.
func (a *app) withStream(ctx context.Context, name string, cfg stream.Config, f func(context.Context, *stream.Stream) error) error {
	rdb, err := a.client(ctx)
	if err != nil {
		return err
	}
	defer rdb.Close()
	cfg.PublishTimeout = a.timeout
	s, err := stream.New(rdb, name, cfg)
	if err == nil {
		err = f(ctx, s)
	}
	if errors.Is(err, stream.ErrInvalid) {
		return usageError{err}
	}
	return err
}
