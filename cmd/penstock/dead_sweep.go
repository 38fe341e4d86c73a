package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/penstock-go/penstock/stream"
)

// sweep is a redrive or a purge of dead letters.
type sweep struct {
	deadFlags
	verb, past string
	asks       bool // even where nobody can answer: then --yes is required
	run        func(ctx context.Context, g *stream.Group, dry bool, progress func(stream.Sweep)) (stream.Sweep, error)

	all, dry, yes bool
	rate          rate
}

func (a *app) redriveCommand() *cobra.Command {
	s := &sweep{verb: "redrive", past: "redrove"}
	s.run = func(ctx context.Context, g *stream.Group, dry bool, progress func(stream.Sweep)) (stream.Sweep, error) {
		return g.Redrive(ctx, s.DeadFilter, stream.RedriveOptions{DryRun: dry, Rate: float64(s.rate), Progress: progress})
	}
	cmd := &cobra.Command{
		Use:   "redrive STREAM GROUP [ID…]",
		Short: "Send dead letters back to their group",
		Long: `Send dead letters back to their group, oldest first, with new tries. Say which:
by ID, by a filter, or --all. Letters that come while it runs are left alone.
On a terminal it asks first when it was given no IDs; --yes answers.

Ctrl-C stops it between two jobs: what was sent back stays so, the rest stays dead.`,
		Example: `  penstock dead redrive orders billing paid-9
  penstock dead redrive orders billing --type order.paid --error 503 --dry-run
  penstock dead redrive orders billing --all --rate 50/s`,
		Args: args(cobra.MinimumNArgs(2)),
		RunE: s.command(a),
	}
	s.flags(cmd)
	cmd.Flags().Var(&s.rate, "rate", "at most so many, as in 50/s or 3000/m (default: as fast as it goes)")
	return cmd
}

func (a *app) purgeCommand() *cobra.Command {
	s := &sweep{verb: "purge", past: "purged", asks: true}
	s.run = func(ctx context.Context, g *stream.Group, dry bool, progress func(stream.Sweep)) (stream.Sweep, error) {
		return g.Purge(ctx, s.DeadFilter, stream.PurgeOptions{DryRun: dry, Progress: progress})
	}
	cmd := &cobra.Command{
		Use:   "purge STREAM GROUP [ID…]",
		Short: "Delete dead letters for good",
		Long: `Delete dead letters for good. Say which: by ID, by a filter, or --all. It asks
first; where nobody can answer it needs --yes.`,
		Example: `  penstock dead purge orders billing paid-9 --yes
  penstock dead purge orders billing --older 720h --dry-run
  penstock dead purge orders billing --all`,
		Args: args(cobra.MinimumNArgs(2)),
		RunE: s.command(a),
	}
	s.flags(cmd)
	return cmd
}

func (s *sweep) flags(cmd *cobra.Command) {
	s.register(cmd.Flags())
	cmd.Flags().BoolVar(&s.all, "all", false, "all dead letters of the group")
	cmd.Flags().BoolVar(&s.dry, "dry-run", false, "count them, and do nothing")
	cmd.Flags().BoolVar(&s.yes, "yes", false, "do not ask")
}

func (s *sweep) command(a *app) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, list []string) error {
		s.IDs = slices.Compact(slices.Sorted(slices.Values(list[2:])))
		if err := s.check(); err != nil {
			return err
		}
		switch {
		case s.empty() && !s.all:
			return usagef("say which dead letters: IDs, --type, --error, --older, --newer, or --all")
		case !s.empty() && s.all:
			return usagef("--all goes with no IDs and no filter")
		case s.asks && !s.yes && !s.dry && !a.interactive():
			return usagef("purge deletes for good, and nobody is here to ask: add --yes, or --dry-run to look first")
		}
		return a.withGroup(cmd.Context(), list, func(ctx context.Context, _ *stream.Stream, g *stream.Group) error {
			return a.sweepDead(ctx, g, s)
		})
	}
}

// sweepJSON is what --json says in the end.
type sweepJSON struct {
	stream.Sweep
	Missing []string `json:"missing,omitempty"` // IDs that are no dead letters
	DryRun  bool     `json:"dry_run,omitempty"`
	Stopped bool     `json:"stopped,omitempty"`
}

func (a *app) sweepDead(ctx context.Context, g *stream.Group, s *sweep) error {
	missing, err := s.findIDs(ctx, g)
	if err != nil {
		return err
	}
	lost := notDead(missing)
	if lost != nil && len(s.IDs) == 0 {
		return lost
	}
	depths, err := g.Depths(ctx)
	if err != nil {
		return err
	}
	would, err := s.run(ctx, g, true, nil)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%s of %s%s", count(would.Matched), plural(depths.Dead, "dead letter"), s.String())
	switch {
	case a.json && (s.dry || would.Matched == 0):
		err = a.printJSON(sweepJSON{Sweep: would, Missing: missing, DryRun: s.dry})
	case s.dry:
		err = a.printf("would %s %s%s\n", s.verb, what, s.pace(would.Matched))
	case would.Matched == 0:
		err = a.printf("nothing to %s: %s\n", s.verb, what)
	default:
		err = a.sweepFor(ctx, g, s, what, sweepJSON{Sweep: would, Missing: missing})
	}
	if err != nil {
		return err
	}
	return lost
}

// sweepFor asks, does it, and says what was done.
func (a *app) sweepFor(ctx context.Context, g *stream.Group, s *sweep, what string, would sweepJSON) error {
	if !s.yes && a.interactive() && (s.asks || len(s.IDs) == 0) {
		ok, err := a.confirm(ctx, fmt.Sprintf("%s %s%s?", s.verb, what, s.pace(would.Matched)))
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("nothing was changed")
		}
	}
	began := time.Now()
	progress, finish := a.sweepProgress(s, would.Matched)
	done, err := s.run(ctx, g, false, progress)
	finish()
	if err != nil {
		if a.json {
			if e := a.printJSON(sweepJSON{Sweep: done, Missing: would.Missing, Stopped: !errors.Is(err, stream.ErrLocked)}); e != nil {
				return e
			}
		}
		sofar := fmt.Sprintf("%s %s of %s", s.past, count(done.Moved), plural(would.Matched, "dead letter"))
		if ctx.Err() != nil {
			return fmt.Errorf("stopped: %s; the others are as they were", sofar)
		}
		if errors.Is(err, stream.ErrLocked) {
			return fmt.Errorf("%s; the others stay: %w", sofar, err)
		}
		return fmt.Errorf("%s, then: %w", sofar, err)
	}
	if a.json {
		return a.printJSON(sweepJSON{Sweep: done, Missing: would.Missing})
	}
	text := fmt.Sprintf("%s %s", s.past, what)
	if done.Moved != would.Matched { // somebody else was at it too
		text = fmt.Sprintf("%s %s, having found %s", s.past, count(done.Moved), what)
	}
	return a.printf("%s in %s\n", text, short(time.Since(began)))
}

// findIDs takes the IDs that are no dead letters out of the filter and returns them.
func (s *sweep) findIDs(ctx context.Context, g *stream.Group) (missing []string, err error) {
	var found []string
	for _, id := range s.IDs {
		_, err := g.DeadLetter(ctx, id)
		switch {
		case err == nil:
			found = append(found, id)
		case !errors.Is(err, stream.ErrNotFound):
			return nil, err
		default:
			missing = append(missing, id)
		}
	}
	s.IDs = found
	return missing, nil
}

func notDead(ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	quoted := make([]string, len(ids))
	for i, id := range ids {
		quoted[i] = safe(id)
	}
	return fmt.Errorf("no dead letter: %s", strings.Join(quoted, ", "))
}

// pace says how long n will take at the rate that was asked for.
func (s *sweep) pace(n int64) string {
	if s.rate == 0 {
		return ""
	}
	d := time.Duration(min(float64(n)/float64(s.rate)*float64(time.Second), math.MaxInt64/2))
	return fmt.Sprintf(", in about %s at %s", short(max(d.Round(time.Second), time.Second)), s.rate.String())
}

const plainProgressEvery = 5 * time.Second

// sweepProgress shows how far a sweep is: a bar on a terminal, now and then a line elsewhere.
func (a *app) sweepProgress(s *sweep, total int64) (progress func(stream.Sweep), finish func()) {
	if !terminal(a.err) {
		last := time.Now()
		return func(done stream.Sweep) {
			if now := time.Now(); now.Sub(last) >= plainProgressEvery {
				last = now
				fmt.Fprintf(a.err, "%s %s of %s\n", s.past, count(done.Moved), count(total))
			}
		}, func() {}
	}
	bar := progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(a.err),
		progressbar.OptionSetDescription(s.verb),
		progressbar.OptionShowCount(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetWidth(30),
		progressbar.OptionClearOnFinish(),
	)
	return func(done stream.Sweep) { _ = bar.Set64(min(done.Moved, total)) }, func() { _ = bar.Exit() }
}

// confirm asks a question whose answer is no unless it is yes. Ctrl-C is no answer.
func (a *app) confirm(ctx context.Context, question string) (bool, error) {
	if err := a.printf("%s [y/N] ", question); err != nil {
		return false, err
	}
	answers := make(chan string, 1)
	go func() { // after Ctrl-C it reads on until the program ends, which is soon
		line, _ := bufio.NewReader(a.in).ReadString('\n') // no line is no answer
		answers <- line
	}()
	select {
	case <-ctx.Done():
		return false, errors.New("nothing was changed")
	case line := <-answers:
		answer := strings.ToLower(strings.TrimSpace(line))
		return answer == "y" || answer == "yes", nil
	}
}

// rate is a number of jobs per second, as a flag; 0: no limit.
type rate float64

func (r *rate) Type() string { return "RATE" }

func (r *rate) String() string {
	switch n := float64(*r); {
	case n == 0:
		return ""
	case n >= 1:
		return strconv.FormatFloat(n, 'f', -1, 64) + "/s"
	case n*60 >= 1:
		return strconv.FormatFloat(n*60, 'g', 4, 64) + "/m"
	default:
		return strconv.FormatFloat(n*3600, 'g', 4, 64) + "/h"
	}
}

func (r *rate) Set(text string) error {
	number, unit, ok := strings.Cut(text, "/")
	per := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	if !ok {
		per = 1
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || per == 0 || !(n > 0) || math.IsInf(n, 0) {
		return errors.New("must be a number of jobs per second, minute or hour, as in 50/s, 3000/m or 100/h")
	}
	*r = rate(n / per)
	return nil
}
