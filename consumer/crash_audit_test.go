package consumer_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// await waits for something, or for the end of the victim; nil: for the ends of all jobs.
func (r *crashRun) await(ok func() bool) {
	var gone chan struct{}
	if r.healer == nil {
		gone = r.victim.gone
	}
	if ok == nil {
		ok = r.over
	}
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for end := time.Now().Add(crashPatience); !ok(); {
		select {
		case <-gone:
			return
		case <-poll.C:
		}
		if time.Now().After(end) {
			r.report(r.t)
			r.t.Fatalf("waited %s, and it is not over: %s", crashPatience, r.describe())
		}
	}
}

// over reports whether every job has ended. That the groups are idle is not
// enough: what is where is not read all at one instant.
func (r *crashRun) over() bool {
	want, dead, got := int64(0), int64(0), r.victim.completed()
	if r.healer != nil {
		got += r.healer.completed()
	}
	for _, j := range r.jobs {
		if j.dead != "" {
			dead += int64(1 + len(r.groups))
		} else if j.completes() {
			want += int64(1 + len(r.groups))
		}
	}
	if want > got {
		return false
	}
	for _, s := range r.streams {
		for _, g := range append([]string{group}, r.groups...) {
			d, err := s.Group(g).Depths(r.t.Context())
			if err != nil || d.Waiting+d.Active+d.Retrying+d.Scheduled != 0 {
				return false
			}
			got += d.Dead
		}
	}
	return got >= want+dead
}

func (r *crashRun) describe() string {
	var b strings.Builder
	for _, s := range r.streams {
		for _, g := range append([]string{group}, r.groups...) {
			places := r.places(s, g)
			for _, id := range slices.Sorted(maps.Keys(places)) {
				fmt.Fprintf(&b, "%s %s: %+v; ", g, id, places[id])
			}
		}
	}
	return b.String()
}

// jobPlace is where a job lies for a group.
type jobPlace struct {
	where string
	owner string // whose it is
	opts  engine.Opts
}

// places finds every job of one stream.
func (r *crashRun) places(s *stream.Stream, g string) map[string][]jobPlace {
	ctx, keys := r.t.Context(), engine.NewKeys(s.Name())
	gk := keys.Group(g, r.kind == stream.KindEvents)
	found := make(map[string][]jobPlace)
	note := func(where, id, owner, opts string) {
		o, err := engine.ParseOpts(opts)
		if err != nil {
			r.errorf("%s in %s: %v", id, where, err)
		}
		if o.ID != "" {
			id = o.ID
		}
		found[id] = append(found[id], jobPlace{where, owner, o})
	}
	for _, key := range []string{gk.Dead, s.Name(), gk.Redelivery, gk.Suspects} {
		owners, last := make(map[string]string), ""
		if key != gk.Dead {
			pending, err := r.rdb.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: key, Group: g, Start: "-", End: "+", Count: 1000}).Result()
			r.must(err, "NOGROUP")
			for _, p := range pending {
				owners[p.ID] = p.Consumer
			}
			infos, err := r.rdb.XInfoGroups(ctx, key).Result()
			r.must(err, "ERR no such key")
			for _, info := range infos {
				if info.Name == g {
					last = info.LastDeliveredID
				}
			}
		}
		entries, err := r.rdb.XRange(ctx, key, "-", "+").Result()
		r.must(err)
		for _, e := range entries {
			opts, _ := e.Values["opts"].(string)
			if owners[e.ID] == "" && last != "" && !laterEntry(e.ID, last) {
				if key != s.Name() || r.kind != stream.KindEvents {
					r.errorf("%s lies in %s, delivered and acknowledged, and nobody will see it again", e.ID, r.short(key))
				}
				continue
			}
			note(r.short(key), e.ID, owners[e.ID], opts)
			delete(owners, e.ID)
		}
		for id, owner := range owners {
			r.errorf("%s is pending for %s in %s, and its entry is gone", id, owner, r.short(key))
		}
	}
	for _, set := range [][2]string{{gk.Retrying, gk.RetryingJobs}, {keys.Scheduled, keys.ScheduledJobs}} {
		bodies, err := r.rdb.HGetAll(ctx, set[1]).Result()
		r.must(err)
		ids, err := r.rdb.ZRange(ctx, set[0], 0, -1).Result()
		r.must(err)
		for _, id := range ids {
			head, _, _ := strings.Cut(bodies[id], "\n")
			n, err := strconv.Atoi(head[strings.LastIndexByte(head, ' ')+1:])
			if err != nil {
				r.errorf("the body of %s in %s: %q", id, r.short(set[0]), bodies[id])
				continue
			}
			note(r.short(set[0]), id, "", bodies[id][len(bodies[id])-n:])
			delete(bodies, id)
		}
		if len(bodies) > 0 {
			r.errorf("%s has bodies without a time: %v", r.short(set[1]), bodies)
		}
	}
	for _, kept := range r.rdb.HGetAll(ctx, keys.Next).Val() { // behind a lock
		head, _, _ := strings.Cut(kept, "\n")
		note(r.short(keys.Next), head[strings.LastIndexByte(head, ' ')+1:], "", "")
	}
	return found
}

// must fails the test when what it looks at cannot be read, but for answers that begin as given.
func (r *crashRun) must(err error, but ...string) {
	if err != nil && !slices.ContainsFunc(but, func(prefix string) bool { return strings.HasPrefix(err.Error(), prefix) }) {
		r.t.Fatal(err)
	}
}

func laterEntry(a, b string) bool {
	ams, aseq, _ := strings.Cut(a, "-")
	bms, bseq, _ := strings.Cut(b, "-")
	for _, pair := range [][2]string{{ams, bms}, {aseq, bseq}} {
		x, _ := strconv.ParseUint(pair[0], 10, 64)
		y, _ := strconv.ParseUint(pair[1], 10, 64)
		if x != y {
			return x > y
		}
	}
	return false
}

// lostSweep reports whether the answer to a sweep was lost. What it took over its worker finds as its own, as
// after a read whose answer was lost, and hands it back uncounted.
func (r *crashRun) lostSweep() bool {
	p := r.point
	return r.victim.struck && p.lives && !p.before && p.moved && strings.HasPrefix(p.label, "sweep")
}

// look finds every job after the victim is gone: it lies in one place, or has ended.
func (r *crashRun) look() {
	ended := int64(0)
	if r.lostSweep() {
		for _, j := range r.jobs {
			if j.dead == "crashed" {
				j.dead, j.script = "", []string{"ok"}
			}
		}
	}
	for _, s := range r.streams {
		for _, g := range append([]string{group}, r.groups...) {
			places := r.places(s, g)
			for _, j := range r.jobs {
				if j.stream != s.Name() {
					continue
				}
				key := crashKey{j.stream, g, j.id}
				switch found := places[j.id]; {
				case len(found) > 1:
					r.errorf("%v is in %d places: %+v", key, len(found), found)
				case len(found) == 1:
					r.place[key] = found[0]
					if r.rdb.Exists(r.t.Context(), engine.NewKeys(s.Name()).Group(g, r.kind == stream.KindEvents).Job(j.id)).Val() > 0 {
						r.errorf("%v lives, and is on record as finished", key)
					}
					starts := r.starts[key]
					if n := len(starts); n > 0 && r.consumers[found[0].owner] == r.victim && starts[n-1].fence&(1<<32-1) == found[0].opts.Moves {
						starts[n-1].cut = true
					}
					if (r.point == nil || r.point.lives) && r.consumers[found[0].owner] == r.victim {
						r.errorf("%v is still the worker's, which has stopped in good order", key)
					}
				case !j.gone:
					ended++
				}
			}
		}
	}
	if got := r.victim.completed(); got != ended {
		r.errorf("the victim completed %d jobs, and %d are gone", got, ended)
	}
}

// audit checks what became of all.
func (r *crashRun) audit() {
	done := int64(0)
	for _, s := range r.streams {
		for _, g := range append([]string{group}, r.groups...) {
			places := r.places(s, g)
			dead := 0
			for _, j := range r.jobs {
				if j.stream != s.Name() {
					continue
				}
				if j.dead != "" {
					dead++
				} else if j.completes() {
					done++
				}
				r.auditJob(crashKey{j.stream, g, j.id}, j, places[j.id])
			}
			r.auditGroup(s, g, dead)
		}
		r.auditKeys(s)
	}
	if got := r.victim.completed() + r.healer.completed(); got != done {
		r.errorf("%d jobs were completed, want %d: each once", got, done)
	}
	if r.alone {
		reads := fmt.Sprintf("cmdstat_xreadgroup:calls=%d,", r.victim.sent["XREADGROUP"]+r.healer.sent["XREADGROUP"])
		if stats := r.rdb.Info(r.t.Context(), "commandstats").Val(); !strings.Contains(stats, reads) {
			r.errorf("some reads have gone past this test: want %s in %s", reads, stats)
		}
	}
	for _, label := range append(r.victim.strange, r.healer.strange...) {
		r.errorf("a command that this test does not know: %s", label)
	}
}

// auditJob checks the runs of one job, and where it ended.
func (r *crashRun) auditJob(key crashKey, j *crashJob, places []jobPlace) {
	switch {
	case j.dead == "" && len(places) > 0:
		r.errorf("%v has not ended: %+v", key, places)
	case j.dead != "" && (len(places) != 1 || !strings.HasSuffix(places[0].where, ":dead")):
		r.errorf("%v is not dead: %+v", key, places)
	}
	place, known := r.place[key]
	crashes := place.opts.Crashes
	if place.owner != "" {
		crashes++ // its lease has to run out, once
	}
	known = known && !strings.HasSuffix(place.where, ":dead")
	if known && j.dead != "" && len(places) == 1 && places[0].opts.Crashes != crashes {
		r.errorf("%v has %d crashes, want %d", key, places[0].opts.Crashes, crashes)
	}
	if j.cancelled {
		r.auditCancelled(key)
		return
	}
	done, attempt, fence := 0, 1, int64(-1)
	for i, s := range r.starts[key] {
		want := j.outcome(&done, s.by == r.victim)
		if done >= len(j.script) || s.outcome != want {
			r.errorf("%v: run %d of %d is one that nothing explains: %+v", key, i+1, len(r.starts[key]), s)
			return
		}
		if s.attempt != attempt {
			r.errorf("%v: run %d is attempt %d, want %d", key, i+1, s.attempt, attempt)
		}
		if s.fence <= fence {
			r.errorf("%v: run %d has fence %d, after %d", key, i+1, s.fence, fence)
		}
		fence = s.fence
		if late := r.takesOver && r.point != nil && r.point.lives; s.by == r.victim && s.crashes != j.crashes && !late {
			r.errorf("%v: the victim's run %d comes after %d crashes, want %d", key, i+1, s.crashes, j.crashes)
		}
		if known && s.by == r.healer {
			if known = false; s.crashes != crashes {
				r.errorf("%v: run %d comes after %d crashes, want %d", key, i+1, s.crashes, crashes)
			}
		}
		if s.cut {
			continue
		}
		done++
		switch s.outcome {
		case "error":
			attempt++
		case "permanent":
			attempt = 1
		}
	}
	if done != len(j.script) {
		r.errorf("%v has had %d of %d runs", key, done, len(j.script))
	}
}

// auditGroup checks that nothing is pending, and nobody is left who should have gone.
func (r *crashRun) auditGroup(s *stream.Stream, g string, dead int) {
	d, err := s.Group(g).Depths(r.t.Context())
	if err != nil || d.Active != 0 || d.Dead != int64(dead) {
		r.errorf("depths of %s = %+v, %v; want nothing pending and %d dead", g, d, err, dead)
	}
	gk := engine.NewKeys(s.Name()).Group(g, r.kind == stream.KindEvents)
	for _, key := range []string{s.Name(), gk.Redelivery, gk.Suspects} {
		for _, c := range r.rdb.XInfoConsumers(r.t.Context(), key, g).Val() {
			if c.Name != "killed" && r.consumers[c.Name] == nil {
				r.errorf("a consumer of %s is left: %s", r.short(key), c.Name)
			}
		}
	}
}

// auditKeys checks that no key is left over.
func (r *crashRun) auditKeys(s *stream.Stream) {
	ctx := r.t.Context()
	keys, err := redistest.Keys(ctx, r.rdb, s.Name())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, key := range keys {
		ttl, kind := r.rdb.PTTL(ctx, key).Val(), r.rdb.Type(ctx, key).Val()
		short := r.short(key)
		switch {
		case kind == "none", ttl >= 0: // a gate, a tombstone; 0: for less than a millisecond
		case strings.HasSuffix(short, ":config"), strings.HasSuffix(short, ":dead"):
		case kind == "stream" && (r.rdb.XLen(ctx, key).Val() == 0 || key == s.Name() && r.kind == stream.KindEvents):
		case short == "orders:ids" && r.kind == stream.KindEvents: // an ID is taken while its entry lies there
		case strings.HasSuffix(short, ":ids") && slices.ContainsFunc(r.jobs, func(j *crashJob) bool { return j.dead != "" }):
		default:
			r.errorf("a key is left over: %s, a %s, ttl %s", short, kind, ttl)
		}
	}
}
