package model_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

// check compares all of Redis with the model.
func (x *world) check() {
	x.t.Helper()
	s := x.read()
	x.snap = s
	x.findMessy()
	x.checkOrders(s)
	for _, g := range x.groups {
		x.checkLanes(s, g)
		x.checkParked(s, g.keys.Retrying, g.keys.RetryingJobs, inRetrying, g.jobs)
		x.checkDead(s, g)
		x.checkIDs(s, g)
	}
	x.checkParked(s, x.k.Scheduled, x.k.ScheduledJobs, inScheduled, x.scheduled)
	x.checkPublishers(s)
	x.checkRecords(s)
	x.checkMarks(s)
	x.checkConfig(s)
	x.checkWorkers(s)
	x.checkKeys(s)
}

// findMessy notes the IDs that two living jobs have: what ids says of them is one of the two.
func (x *world) findMessy() {
	for _, g := range x.groups {
		count := make(map[string]int)
		note := func(id string) {
			if count[id]++; count[id] > 1 {
				g.ids.messy[id] = true
			}
		}
		for _, j := range g.jobs {
			note(j.want.id)
		}
		if !x.events {
			for _, j := range x.scheduled {
				note(j.want.id)
			}
		}
	}
}

func (x *world) checkOrders(s *snapshot) {
	got := s.streams[x.k.Stream]
	for i, m := range x.orders {
		if i >= len(got) || got[i].entry != m.entry {
			x.fail("an entry of the stream is missing, or one is too many", "want %v\ngot %v", x.orders, got)
		}
		if !slices.Equal(got[i].values, m.values) {
			x.fail("an entry of the stream has changed", "want %q\ngot %q", m.values, got[i].values)
		}
	}
	if len(got) > len(x.orders) {
		x.fail("the stream has an entry that should not be there", "%v", got[len(x.orders):])
	}
}

// checkLanes looks at the streams a group reads: what is pending and whose it is, what waits and can be read.
func (x *world) checkLanes(s *snapshot, g *group) {
	for at := range place(engine.Lanes) {
		key := g.lanes[at]
		info, ok := s.groups[key][g.name]
		if ok == g.missing[at] {
			x.fail("a group is there that should not be, or the other way round", "%s %s: %v", key, g.name, ok)
		}
		there := make(map[string]msg)
		for _, m := range s.streams[key] {
			there[m.entry] = m
		}
		jobs := g.in(at)
		pending := 0
		for _, j := range jobs {
			m, exists := there[j.entry]
			if exists != j.there() {
				x.fail("a job's entry is there though it should not be, or the other way round", "%s: %v", j, exists)
			}
			if exists && at != inOrders {
				x.checkContent(j, m.values)
			}
			delete(there, j.entry)
			if !ok {
				continue // it will be read again, or not, when the group is made again
			}
			owner, held := info.pending[j.entry]
			if j.pending() {
				if pending++; !held || owner != j.owner {
					x.fail("a pending job is somebody else's", "%s: pending %v, owner %q", j, held, owner)
				}
			} else if held {
				x.fail("a job is pending that should not be", "%s: owner %q", j, owner)
			}
			if j.waiting() && compareIDs(j.entry, info.last) <= 0 {
				x.fail("a waiting job lies where the group reads no more", "%s: last delivered %s", j, info.last)
			}
			if j.pending() && compareIDs(j.entry, info.last) > 0 {
				x.fail("a pending job will be read again", "%s: last delivered %s", j, info.last)
			}
		}
		if len(info.pending) != pending {
			x.fail("something is pending that is no job", "%s %s: %v, want %d", key, g.name, info.pending, pending)
		}
		if at != inOrders && len(there) > 0 {
			x.fail("a stream of a group has an entry that is no job", "%s: %v", key, there)
		}
		if at == inOrders && ok {
			for entry := range there {
				if compareIDs(entry, info.last) > 0 {
					x.fail("a finished job waits again", "%s", entry)
				}
			}
		}
	}
}

func (x *world) checkParked(s *snapshot, set, bodies string, at place, jobs []*job) {
	n := 0
	for _, j := range jobs {
		if j.at != at {
			continue
		}
		n++
		due, ok := s.sets[set][j.want.id]
		if !ok || due != j.due {
			x.fail("a parked job is not in its sorted set, or due at another time", "%s: %v %d, want %d", j, ok, due, j.due)
		}
		body, ok := s.hashes[bodies][j.want.id]
		if !ok {
			x.fail("a parked job has no body", "%s", j)
		}
		values := unpack(body)
		if values == nil {
			x.fail("a body cannot be unpacked", "%s: %q", j, body)
		}
		x.checkContent(j, values)
	}
	if len(s.sets[set]) != n || len(s.hashes[bodies]) != n {
		x.fail("a sorted set or its bodies have something that is no job", "%s: %v, bodies %v, want %d", set, s.sets[set], slices.Sorted(maps.Keys(s.hashes[bodies])), n)
	}
}

func (x *world) checkDead(s *snapshot, g *group) {
	letters := make(map[string]msg)
	for _, m := range s.streams[g.keys.Dead] {
		letters[m.entry] = m
	}
	for _, j := range g.jobs {
		if j.at != inDead {
			continue
		}
		m, ok := letters[j.entry]
		if !ok || len(m.values) != 10 || m.values[8] != "info" {
			x.fail("a dead letter is missing, or is no dead letter", "%s: %q", j, m.values)
		}
		var info engine.DeadInfo
		if err := json.Unmarshal([]byte(m.values[9]), &info); err != nil || info.Reason != j.want.reason || info.ID != j.want.id {
			x.fail("a dead letter says something else", "%s: %+v %v, want %+v", j, info, err, j.want)
		}
		x.checkContent(j, m.values[:8])
		delete(letters, j.entry)
	}
	if len(letters) > 0 {
		x.fail("there is a dead letter that is no job", "%v", letters)
	}
}

// checkContent compares what lies in Redis of a job that has moved with what must: what was published, and its counters.
func (x *world) checkContent(j *job, values []string) {
	raw := strings.Join(values, "\x00")
	if j.seen == raw && j.seenWant == j.want {
		return
	}
	if j.letter {
		if raw != strings.Join(engineFields(engine.Entry{}), "\x00") {
			x.fail("what says that a job was lost should be empty", "%s: %q", j, values)
		}
		return
	}
	e, o, err := engine.ParseEntry(values)
	c := j.content
	if e.Type != c.typ || e.Data != c.data || e.Traceparent != c.trace {
		x.fail("a job has other contents", "%s: %q", j, values)
	}
	if j.bad {
		if e.Opts != badOpts || err == nil {
			x.fail("opts that nobody can read have changed", "%s: %q", j, values)
		}
		return
	}
	if err != nil {
		x.fail("the opts of a job cannot be read", "%s: %q: %v", j, values, err)
	}
	got := want{id: o.ID, errs: o.Errors, crashes: o.Crashes, bounces: o.Bounces, pauses: o.Pauses, moves: o.Moves, reason: j.want.reason}
	if got != j.want {
		x.fail("a job's counters or its ID are wrong", "%s: %+v, want %+v", j, got, j.want)
	}
	var fields []string
	for _, f := range o.Fields {
		fields = append(fields, string(f[0]), string(f[1]))
	}
	if !slices.Equal(fields, c.fields) {
		x.fail("the fields of a foreign job have changed", "%s: %d of them, want %d", j, len(fields), len(c.fields))
	}
	if c.odd && !strings.Contains(e.Opts, oddOpt) {
		x.fail("opts lost a key that this version does not know", "%s: %s", j, e.Opts)
	}
	j.seen, j.seenWant = raw, j.want
}

func engineFields(e engine.Entry) []string {
	var values []string
	for _, v := range e.Fields() {
		values = append(values, v.(string))
	}
	return values
}

// checkIDs looks whether a group's index points to where its jobs are, and to nothing else.
func (x *world) checkIDs(s *snapshot, g *group) {
	expected := maps.Clone(g.ids.stale)
	jobs := g.jobs
	if !x.events {
		jobs = slices.Concat(jobs, x.scheduled)
	}
	for _, j := range jobs {
		if j.indexed {
			expected[j.want.id] = j.where()
		}
	}
	x.compareIDs(g.ids, s.hashes[g.ids.key], expected)
}

func (x *world) compareIDs(ids *index, got, expected map[string]string) {
	for id, value := range expected {
		if !ids.messy[id] && got[id] != value {
			x.fail("ids points to where a job is not", "%s of %s: %q, want %q", id, ids.key, got[id], value)
		}
	}
	for id, value := range got {
		if _, ok := expected[id]; !ok && !ids.messy[id] {
			x.fail("ids has a field for no job", "%s of %s: %q", id, ids.key, value)
		}
	}
}

// checkPublishers looks at the index of an events stream's publishers, where what was published stays.
func (x *world) checkPublishers(s *snapshot) {
	if !x.events {
		return
	}
	expected := maps.Clone(x.published)
	for _, j := range x.scheduled {
		expected[j.want.id] = j.where()
	}
	x.compareIDs(x.publishers, s.hashes[x.k.IDs], expected)
}

func (x *world) checkRecords(s *snapshot) {
	for key, r := range x.records {
		id := r.id
		got, err := engine.ParseRecord(s.records[key])
		if err != nil || got.State != r.state || !r.any && got.Mark != r.mark || string(got.Result) != r.result {
			x.fail("a finished job's record is missing or wrong", "%s: %q, %v, want %+v", id, s.records[key], err, r)
		}
		if n := got.Note; r.note != nil && (n.Type != r.note.Type || n.Attempt != r.note.Attempt || n.Crashes != r.note.Crashes || n.Finished == 0) {
			x.fail("a cancelled job's record tells something else", "%s: %+v, want %+v", id, n, r.note)
		}
		if ttl := s.ttl[key]; ttl <= 0 || ttl > tombstone {
			x.fail("a finished job's record has no time to live", "%s: %s", id, ttl)
		}
	}
}

func (x *world) checkConfig(s *snapshot) {
	kind := "queue"
	if x.events {
		kind = "events"
	}
	expected := map[string]string{"kind": kind, "format": fmt.Sprint(engine.Format)}
	for _, g := range x.groups {
		expected["epoch:"+g.name] = fmt.Sprint(g.epoch)
		if !x.events {
			expected["floor:"+g.name] = "0-0"
		}
		if g.position != "" {
			expected["position:"+g.name] = g.position
		}
	}
	if got := s.hashes[x.k.Config]; !maps.Equal(got, expected) {
		x.fail("the stream's config is wrong", "%v, want %v", got, expected)
	}
}

// checkWorkers looks at what heartbeats have written.
func (x *world) checkWorkers(s *snapshot) {
	got := maps.Clone(s.hashes[x.groups[0].keys.Workers])
	for _, g := range x.groups {
		for name, r := range g.rows {
			var is struct{ At, Beat, Lease int64 }
			if err := json.Unmarshal([]byte(got[g.name+":"+name]), &is); err != nil || is.Beat != r.beat || is.Lease != r.lease.Milliseconds() {
				x.fail("what a heartbeat wrote is missing or wrong", "%s: %+v %v, want %+v", name, is, err, r)
			}
			delete(got, g.name+":"+name)
		}
		want := ""
		if g.longest > 0 {
			want = fmt.Sprint(g.longest.Milliseconds())
		}
		if s.leases[g.keys.Lease] != want {
			x.fail("the longest lease of a group is wrong", "%q, want %q", s.leases[g.keys.Lease], want)
		}
	}
	if len(got) > 0 {
		x.fail("a worker that has left is still written down", "%v", got)
	}
}

// checkKeys looks for keys that nobody should have made. What they hold was compared before.
func (x *world) checkKeys(s *snapshot) {
	known := map[string]bool{x.groups[0].keys.Workers: true, x.k.Stream: true, x.k.Config: true, x.k.IDs: true, x.k.Scheduled: true, x.k.ScheduledJobs: true}
	for _, g := range x.groups {
		for _, key := range []string{g.keys.Redelivery, g.keys.Suspects, g.keys.Retrying, g.keys.RetryingJobs, g.keys.Dead, g.keys.Gate, g.keys.Lease, g.keys.IDs, g.keys.Marks, g.keys.Paused} {
			known[key] = true
		}
	}
	for key := range x.records {
		known[key] = true
	}
	for key := range s.keys {
		if !known[key] {
			x.fail("there is a key that nobody should have made", "%s", key)
		}
	}
}

const (
	badOpts   = "not JSON"
	oddOpt    = `"zz":{"of":["another","version"]}`
	tombstone = 10 * time.Minute
)
