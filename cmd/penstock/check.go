package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/penstock-go/penstock/stream"
)

// errReported ends a command with exit status 1 when it has said all there is to say.
var errReported = errors.New("")

// finding is one line of penstock check.
type finding struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the settings and the Redis they name",
		Long: `Check that the settings are valid, that Redis answers, and that Penstock's registry of
streams can be read. It changes nothing. The exit status is 1 when something is wrong, so it
can be the health check of a container.`,
		Example: `  penstock check
  penstock check --timeout 2s --json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.report(a.check(cmd.Context()))
		},
	}
}

func (a *app) report(list []finding) error {
	ok := true
	for _, f := range list {
		ok = ok && f.OK
	}
	if a.json {
		if err := a.printJSON(struct {
			OK     bool      `json:"ok"`
			Checks []finding `json:"checks"`
		}{ok, list}); err != nil {
			return err
		}
	} else {
		for _, f := range list {
			word := a.color(green, "ok")
			if !f.OK {
				word = a.color(red, "not ok")
			}
			if err := a.printf("%s  %s: %s\n", word, f.Check, strings.ReplaceAll(safeLines(f.Detail), "\n", "\n      ")); err != nil {
				return err
			}
		}
	}
	if !ok {
		return errReported
	}
	return nil
}

// check goes as far as it gets: each step needs the one before.
func (a *app) check(ctx context.Context) []finding {
	var list []finding
	found := func(check, detail string, err error) bool {
		if err != nil {
			detail = err.Error()
		}
		list = append(list, finding{Check: check, OK: err == nil, Detail: detail})
		return err == nil
	}
	_, err := a.settings(ctx)
	if !found("settings", "valid", err) {
		return list
	}
	rdb, err := a.client(ctx)
	if err != nil {
		found("redis", "", err)
		return list
	}
	defer rdb.Close()
	ctx, cancel := a.requestContext(ctx)
	defer cancel()
	server, err := ping(ctx, rdb)
	if !found("redis", server, err) {
		return list
	}
	names, err := stream.Names(ctx, rdb)
	found("streams", plural(int64(len(names)), "stream")+" in the registry", err)
	return list
}

// ping says which server answers, and how fast.
func ping(ctx context.Context, rdb redis.UniversalClient) (string, error) {
	if err := rdb.Ping(ctx).Err(); err != nil { // connects, which is slower
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return "", err
	}
	start := time.Now()
	if err := rdb.Ping(ctx).Err(); err != nil {
		return "", err
	}
	took := time.Since(start)
	return fmt.Sprintf("%s answers in %s", serverName(ctx, rdb), short(took)), nil
}

// serverName is what INFO says; a user without access to INFO learns less.
func serverName(ctx context.Context, rdb redis.UniversalClient) string {
	info, err := rdb.Info(ctx, "server").Result()
	if err != nil {
		return "Redis"
	}
	fields := make(map[string]string)
	for line := range strings.SplitSeq(info, "\n") {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[k] = v
		}
	}
	name := "Redis " + fields["redis_version"]
	if v := fields["valkey_version"]; v != "" {
		name = "Valkey " + v
	}
	if mode := fields["redis_mode"]; mode != "" {
		name += ", " + mode
	} else if mode := fields["server_mode"]; mode != "" {
		name += ", " + mode
	}
	return name
}
