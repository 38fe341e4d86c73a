package bench

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

const (
	checkTool  = "redis-benchmark"
	checkJobs  = 200_000
	checkPairs = 3
)

// crossCheck says in a line whether the raw loop's client is a fair one: how fast it reads, and how fast a client in C
// does. (redis-benchmark cannot do more of the loop: it does not know the IDs that it read.)
func (h *Harness) crossCheck(ctx context.Context) string {
	const what = "the raw loop's reading alone"
	line, err := h.compareReading(ctx)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return what + " was not compared with " + checkTool + ", which is not installed"
	case err != nil:
		return what + " was not compared with " + checkTool + ": " + err.Error()
	}
	return what + " " + line
}

func (h *Harness) compareReading(ctx context.Context) (string, error) {
	path, err := exec.LookPath(checkTool)
	if err != nil {
		return "", err
	}
	where, err := h.checkArgs()
	if err != nil {
		return "", err
	}
	n := max(h.fit(min(checkJobs, h.most(mostPerSec)))/rawCount, 1) * rawCount
	var ours, theirs []float64
	for range checkPairs {
		a, err := h.readAlone(ctx, n)
		if err != nil {
			return "", err
		}
		b, err := h.readByTool(ctx, path, where, n)
		if err != nil {
			return "", err
		}
		ours, theirs = append(ours, a), append(theirs, b)
	}
	a, b := Summarize(ours).Median, Summarize(theirs).Median
	return fmt.Sprintf("does %s, and %s with as many clients %s: %.2f of it (medians of %d)",
		JobsPerSecond.Format(a), checkTool, JobsPerSecond.Format(b), a/b, checkPairs), nil
}

// checkArgs tells the tool where Redis is; a password would show in the list of processes.
func (h *Harness) checkArgs() ([]string, error) {
	c, ok := h.rdb.(*redis.Client)
	if !ok {
		return nil, errors.New("this is not one node")
	}
	opt := c.Options()
	if opt.TLSConfig != nil || opt.Password != "" || opt.CredentialsProvider != nil || opt.CredentialsProviderContext != nil || opt.StreamingCredentialsProvider != nil {
		return nil, errors.New("only tried without TLS and password")
	}
	args := []string{"--dbnum", strconv.Itoa(opt.DB)}
	if opt.Network == "unix" {
		return append(args, "-s", opt.Addr), nil
	}
	host, port, err := net.SplitHostPort(opt.Addr)
	return append(args, "-h", host, "-p", port), err
}

// readAlone reads a backlog by the raw loop's readers, which leave it at that.
func (h *Harness) readAlone(ctx context.Context, n int) (perSecond float64, err error) {
	name, drop, err := h.checkBacklog(ctx, n)
	defer func() { err = errors.Join(err, drop()) }()
	if err != nil {
		return 0, err
	}
	var done atomic.Int64
	s, err := h.Timed(ctx, n, done.Load, func(ctx context.Context) error {
		return InParallel(ctx, rawReaders, func(ctx context.Context, reader int) error {
			args := &redis.XReadGroupArgs{Group: group, Consumer: fmt.Sprint("reader-", reader), Streams: []string{name, ">"}, Count: rawCount, Block: -1}
			for {
				answer, err := h.rdb.XReadGroup(ctx, args).Result()
				if errors.Is(err, redis.Nil) {
					return nil
				}
				if err != nil {
					return err
				}
				done.Add(int64(len(answer[0].Messages)))
			}
		})
	})
	return s.PerSecond(), err
}

func (h *Harness) readByTool(ctx context.Context, path string, where []string, n int) (perSecond float64, err error) {
	name, drop, err := h.checkBacklog(ctx, n)
	defer func() { err = errors.Join(err, drop()) }()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, stalled)
	defer cancel()
	args := append(where[:len(where):len(where)], "--csv", "-c", strconv.Itoa(rawReaders), "-n", strconv.Itoa(n/rawCount),
		"XREADGROUP", "GROUP", group, "tool", "COUNT", strconv.Itoa(rawCount), "STREAMS", name, ">")
	out, err := exec.CommandContext(ctx, path, args...).Output() //nolint:gosec // a tool of Redis's own, arguments of ours
	if err != nil {
		return 0, err
	}
	rps, err := requestsPerSecond(out)
	return rps * rawCount, err
}

func (h *Harness) checkBacklog(ctx context.Context, n int) (name string, drop func() error, err error) {
	name = h.Name()
	drop = func() error { return h.drop(ctx, name) }
	if err := h.Fill(ctx, name, n); err != nil {
		return name, drop, err
	}
	return name, drop, h.rdb.XGroupCreate(ctx, name, group, "0").Err()
}

// requestsPerSecond finds it in what redis-benchmark --csv writes: a header in newer versions, then a line for the command.
func requestsPerSecond(out []byte) (float64, error) {
	r := csv.NewReader(bytes.NewReader(out))
	r.FieldsPerRecord = -1
	rows, err := r.ReadAll()
	if err != nil || len(rows) == 0 || len(rows[len(rows)-1]) < 2 {
		return 0, fmt.Errorf("%s wrote %q", checkTool, out)
	}
	rps, err := strconv.ParseFloat(rows[len(rows)-1][1], 64)
	if err != nil || rps <= 0 {
		return 0, fmt.Errorf("%s wrote %q", checkTool, out)
	}
	return rps, nil
}
