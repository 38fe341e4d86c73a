package stream

import (
	"context"
	"slices"
	"strings"

	"github.com/penstock-go/penstock/stream/engine"
)

// free looks whether the jobs that are said to stand in the way of others do, since what somebody deletes by hand leaves
// its ID in the index. It answers which are worth another try: the ID was freed, or the job has moved meanwhile. Only
// duplicates cost anything, and those of jobs that are in the stream nothing: a few looks for the groups, where it takes them,
// and one pipeline of scripts. What can't be checked stands.
func (s *Stream) free(ctx context.Context, jobs []prepared, answers []any) []bool {
	again := make([]bool, len(jobs))
	where, ids := make([]string, len(jobs)), make([]string, len(jobs))
	any, perGroup := false, false
	for i, job := range jobs {
		stored, err := engine.ReadStored(answers[i], job.nonce)
		if err != nil || !stored.Duplicate || stored.Mine {
			continue // its own publish, repeated after a lost answer: that job was stored, and has had its life
		}
		if can, groups := stored.Freeable(); can {
			where[i], any, perGroup = stored.Where, true, perGroup || groups
			if ids[i] = job.id; stored.Holder != "" {
				ids[i] = stored.Holder
			}
		}
	}
	if !any {
		return again
	}
	var groups []string
	if perGroup {
		var err error
		if groups, err = s.allGroups(ctx); err != nil {
			s.cfg.Logger.Debug("whether duplicates still stand cannot be checked", "stream", s.name, "err", err)
			return again
		}
	}
	var calls []engine.Call
	var called []int
	for i := range jobs {
		if where[i] != "" {
			calls, called = append(calls, engine.FreeCall(s.keys, ids[i], where[i], groups)), append(called, i)
		}
	}
	for n, res := range engine.RunAll(ctx, s.rdb, calls) {
		if res.Err != nil {
			s.cfg.Logger.Debug("whether a duplicate still stands cannot be checked", "stream", s.name, "job", ids[called[n]], "err", res.Err)
		}
		again[called[n]] = res.Err == nil && engine.Freed(res.Val) || engine.Classify(res.Err) == engine.Lost // it may have been freed
	}
	return again
}

// freeHolder is free for the job that holds a unique key: it reports whether that may have changed.
func (s *Stream) freeHolder(ctx context.Context, id, where string) bool {
	can, perGroup := engine.Stored{Where: where, Gone: true}.Freeable()
	if !can {
		return false
	}
	var groups []string
	if perGroup {
		var err error
		if groups, err = s.allGroups(ctx); err != nil {
			return false
		}
	}
	v, err := engine.FreeCall(s.keys, id, where, groups).Run(ctx, s.rdb)
	return err == nil && engine.Freed(v)
}

// allGroups names the groups that the stream has, and those that it had: their dead letters may be there still.
func (s *Stream) allGroups(ctx context.Context) ([]string, error) {
	config, err := s.rdb.HGetAll(ctx, s.keys.Config).Result()
	if err != nil {
		return nil, wrapRead("read the configuration of "+s.name, err)
	}
	infos, err := s.groupInfos(ctx)
	if err != nil {
		return nil, err
	}
	var groups []string
	for field := range config {
		if group, ok := strings.CutPrefix(field, "epoch:"); ok {
			groups = append(groups, group)
		}
	}
	for _, info := range infos {
		groups = append(groups, info.Name)
	}
	slices.Sort(groups)
	return slices.Compact(groups), nil
}

// callAll stores jobs that have IDs in one pipeline, and in a second one those that only a deleted job stood in the way of.
func (s *Stream) callAll(ctx context.Context, ready []prepared, calls []engine.Call, called []int) []engine.Result {
	results := engine.RunAll(ctx, s.rdb, calls)
	var jobs []prepared
	var answers []any
	var of []int
	for n, res := range results {
		if res.Err == nil {
			jobs, answers, of = append(jobs, ready[called[n]]), append(answers, res.Val), append(of, n)
		}
	}
	var second []engine.Call
	var at []int
	for i, again := range s.free(ctx, jobs, answers) {
		if again {
			second, at = append(second, calls[of[i]]), append(at, of[i])
		}
	}
	for i, res := range engine.RunAll(ctx, s.rdb, second) {
		results[at[i]] = res
	}
	return results
}
