package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// FindingKind says what upkeep found that it cannot put right.
type FindingKind string

// The kinds of Finding.
const (
	// Unserved: jobs are pending with workers that are not heard of any more, and the group has no worker that could take them over.
	Unserved FindingKind = "unserved"
	// Unread: jobs wait for longer than five minutes, and there is no worker that reads them.
	Unread FindingKind = "unread"
	// HoldsBack: an events stream cannot be trimmed, since the group has left something undone for more than an hour behind the retention.
	HoldsBack FindingKind = "holds back"
	// Destroyed: somebody destroyed the group of an events stream. Its workers would make it again, so that nothing is trimmed that it has not seen.
	Destroyed FindingKind = "destroyed"
	// History: a queue holds entries that were read before Penstock took it over. Nobody can tell whether they are done, so they stay.
	History FindingKind = "history"
)

// Finding is something that a person should look at.
type Finding struct {
	Stream string      `json:"stream"`
	Group  string      `json:"group,omitempty"` // "": the stream itself
	Kind   FindingKind `json:"kind"`
	Jobs   int64       `json:"jobs,omitempty"` // that it is about; 0: not known
	Since  time.Time   `json:"since,omitzero"` // when the oldest of them was published or came back
	Advice string      `json:"advice"`         // what can be done
}

const (
	unreadAfter = 5 * time.Minute
	heldAfter   = time.Hour // behind the retention
)

// Inspect looks at every stream as upkeep does, and changes nothing. An error of one stream keeps none of the others back.
func (s *Scheduler) Inspect(ctx context.Context) ([]Finding, error) {
	names, err := stream.Names(ctx, s.rdb)
	if err != nil {
		return nil, fmt.Errorf("find the streams: %w", err)
	}
	k := s.newKeeper()
	var found []Finding
	for _, name := range names {
		if engine.CheckName(name) != nil {
			continue
		}
		v, failed := k.survey(ctx, &tended{name: name, keys: engine.NewKeys(name)}, "", false)
		if failed != nil {
			err = cmp.Or(err, fmt.Errorf("inspect %s: %w", name, failed))
			continue
		}
		found = append(found, judge(name, v)...)
	}
	return found, err
}

// found takes in what a pass saw, and logs what is new and what has ended.
func (k *keeper) found(st *tended, v engine.Survey) {
	now := judge(st.name, v)
	k.upkeep.mu.Lock()
	before := k.upkeep.found[st.name]
	if k.upkeep.found == nil {
		k.upkeep.found = make(map[string][]Finding)
	}
	if k.upkeep.found[st.name] = now; len(now) == 0 {
		delete(k.upkeep.found, st.name)
	}
	k.upkeep.mu.Unlock()
	if k.quiet {
		return
	}
	has := func(list []Finding, f Finding) bool {
		return slices.ContainsFunc(list, func(o Finding) bool { return o.Group == f.Group && o.Kind == f.Kind })
	}
	for _, f := range now {
		if !has(before, f) {
			k.cfg.Logger.Warn("upkeep found something to look at", "stream", f.Stream, "group", f.Group, "what", string(f.Kind), "jobs", f.Jobs, "advice", f.Advice)
		}
	}
	for _, f := range before {
		if !has(now, f) {
			k.cfg.Logger.Info("what upkeep found is over", "stream", f.Stream, "group", f.Group, "what", string(f.Kind))
		}
	}
}

// judge says what is wrong with a stream.
func judge(name string, v engine.Survey) []Finding {
	var found []Finding
	events := v.Kind == string(stream.KindEvents)
	old := func(id string, age time.Duration) bool {
		at := engine.EntryTime(id)
		return id != "" && !at.IsZero() && v.Now.Sub(at) > age
	}
	add := func(group string, kind FindingKind, jobs int64, first, advice string) {
		f := Finding{Stream: name, Group: group, Kind: kind, Jobs: jobs, Advice: advice}
		if first != "" {
			f.Since = engine.EntryTime(first)
		}
		found = append(found, f)
	}
	if len(v.Groups) == 0 && old(v.First, unreadAfter) {
		add("", Unread, v.Entries, v.First, "start a worker: the stream has no group")
	}
	for _, g := range v.Groups {
		if !g.There {
			if events {
				add(g.Name, Destroyed, 0, "", fmt.Sprintf("start a worker of the group, or forget it: HDEL %s epoch:%s position:%s", engine.NewKeys(name).Config, g.Name, g.Name))
			}
			continue
		}
		if _, alive := heard(v, g.Name); g.Ours && !alive {
			if pending := g.Pending + g.Returned; pending > 0 {
				add(g.Name, Unserved, pending, g.Oldest, "start a worker of the group: it takes them over")
			}
			first := ""
			for _, id := range []string{g.Unread, g.Waiting, g.Suspect} {
				if old(id, unreadAfter) && (first == "" || engine.EntryLess(id, first)) {
					first = id
				}
			}
			if first != "" {
				jobs := int64(0)
				if !events && g.Unread != "" {
					jobs = max(v.Entries-g.Pending, 0)
				}
				add(g.Name, Unread, jobs, first, "start a worker of the group")
			}
		}
		if undone := firstUndone(g); events && old(undone, heldAfter+retained(v.Retention)) && overLength(v) {
			advice := "see why its oldest job does not end, or start a worker"
			if !g.Ours {
				advice = "another program's group has left this undone: nothing behind it is trimmed until it is acknowledged, or the group destroyed"
			}
			add(g.Name, HoldsBack, g.Pending, undone, advice)
		}
		if v.Kind == string(stream.KindQueue) && g.Ours && g.Floor != "" && v.First != "" && !engine.EntryLess(g.Floor, v.First) && v.First != g.Oldest &&
			(g.Unread == "" || engine.EntryLess(v.First, g.Unread)) {
			add(g.Name, History, 0, v.First, fmt.Sprintf("if they are done with, delete them: XTRIM %s MINID %s", name, minID(g)))
		}
	}
	return found
}

// firstUndone is the first entry of the stream that the group has not acknowledged, or "".
func firstUndone(g engine.SurveyGroup) string {
	if g.Oldest == "" || g.Unread != "" && engine.EntryLess(g.Unread, g.Oldest) {
		return g.Unread
	}
	return g.Oldest
}

// minID is up to where history may be deleted: its floor, unless something pending or unread lies before that.
func minID(g engine.SurveyGroup) string {
	if undone := firstUndone(g); undone != "" && engine.EntryLess(undone, g.Floor) {
		return undone
	}
	return g.Floor
}

// retained is the age in a declared retention.
func retained(field string) time.Duration {
	age, _, _ := strings.Cut(field, " ")
	ms, _ := strconv.ParseInt(age, 10, 64)
	return min(time.Duration(ms), 1<<40) * time.Millisecond
}

// overLength reports whether a declared retention by length lets anything go.
func overLength(v engine.Survey) bool {
	age, text, _ := strings.Cut(v.Retention, " ")
	length, _ := strconv.ParseInt(text, 10, 64)
	return length == 0 || age != "0" || v.Entries > length
}
