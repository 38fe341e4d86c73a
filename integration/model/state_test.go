package model_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

// place is where a job is. The first three are the streams a group reads, in the engine's order.
type place int

const (
	inOrders place = iota
	inRedelivery
	inSuspects
	inScheduled
	inRetrying
	inDead
)

var placeNames = [...]string{"orders", "redelivery", "suspects", "scheduled", "retrying", "dead"}

func (p place) String() string { return placeNames[p] }

func (p place) lane() bool { return p <= inSuspects }

// How long an entry has been idle, by the test's will. What is fresh may be idle for as long as this test stands still.
const (
	fresh = time.Duration(0)
	aging = 48 * time.Minute // more than a short lease, and more than two thirds of a long one
	over  = 2 * time.Hour    // more than any
)

// content is what must stay the same as long as a job lives.
type content struct {
	typ, data, trace string
	fields           []string // of a foreign entry
	odd              bool     // opts has a key that no version of ours knows
}

// want is what must be in the entry or body of a job that has moved.
type want struct {
	id                     string
	errs, crashes, bounces int
	pauses                 int
	moves                  int64
	reason                 string // of a dead letter
}

// job is one job of one group, or, while it is scheduled, of all groups.
type job struct {
	n       int // for people: its number in the order of their making
	content *content
	want    want
	bad     bool // its opts cannot be decoded
	letter  bool // a dead letter that says that a job was lost: nothing else is known
	at      place
	entry   string // in a stream
	origin  string // its first entry
	owner   string // of a pending entry; '' waits
	idle    time.Duration
	gone    bool  // pending, and its entry was deleted by hand
	limbo   bool  // the same, and its owner's heartbeat has let go of it: only the owner has it
	due     int64 // in a sorted set
	indexed bool  // ids has a field for it
	mark    string
	fence   int64 // the greatest of its deliveries

	seen     string // what was compared last, and found right
	seenWant want
}

func (j *job) pending() bool { return j.at.lane() && j.owner != "" && !j.limbo }

func (j *job) waiting() bool { return j.at.lane() && j.owner == "" }

// there reports whether the job's entry is in its stream.
func (j *job) there() bool { return !j.gone && !j.limbo }

// where is the job's field in ids.
func (j *job) where() string {
	at := j.entry
	if j.at == inScheduled || j.at == inRetrying {
		at = strconv.FormatInt(j.due, 10)
	}
	return where(j.at, at, j.mark)
}

func where(p place, at, mark string) string {
	if mark != "" {
		mark = " " + mark
	}
	return p.String() + " " + at + mark
}

func (j *job) String() string {
	s := fmt.Sprintf("#%d %s", j.n, j.at)
	switch {
	case j.limbo:
		s += " deleted, held by " + j.owner
	case j.owner != "":
		s += " held by " + j.owner
	}
	if j.gone {
		s += ", deleted"
	}
	return s
}

// msg is an entry of the stream itself, which all groups share.
type msg struct {
	entry  string
	values []string
}

// index is a hash of IDs: a queue has one, an events stream one for each group and one for publishers.
type index struct {
	key   string
	stale map[string]string // fields of jobs that were lost by a deletion: nothing knows that they are gone
	messy map[string]bool   // IDs that two jobs have had at once: entries of other programs may do that
}

func newIndex(key string) *index {
	return &index{key: key, stale: make(map[string]string), messy: make(map[string]bool)}
}

// record is what a job leaves that has completed, or was cancelled.
type record struct {
	id     string
	group  *group
	state  string
	mark   string
	any    bool // the mark is not known
	result string
	note   *engine.Note // what else it must say; nil: that is not looked at
}

// row is a worker's last heartbeat.
type row struct {
	beat  int64
	lease time.Duration
}

// group is one group of the stream.
type group struct {
	name     string
	events   bool
	keys     engine.GroupKeys
	lanes    [engine.Lanes]string
	ids      *index
	jobs     []*job // that live
	workers  []*worker
	names    []string // of all consumers there have been
	missing  [engine.Lanes]bool
	epoch    int64
	position string
	longest  time.Duration    // the longest lease that Redis knows of
	rows     map[string]row   // by worker: what its last heartbeat wrote
	sweeper  string           // who keeps the gate shut,
	swept    time.Time        // since when
	shutFor  time.Duration    // and for how long
	fences   map[string]int64 // by origin
	marks    map[string]bool  // IDs of jobs that are to end as cancelled
	paused   map[string]bool  // IDs of jobs that a kill switch has put off
}

func (g *group) find(at place, entry string) *job {
	for _, j := range g.jobs {
		if j.at == at && j.entry == entry {
			return j
		}
	}
	return nil
}

func (g *group) parked(id string) *job {
	for _, j := range g.jobs {
		if j.at == inRetrying && j.want.id == id {
			return j
		}
	}
	return nil
}

// in is a lane's jobs in the order of their entries.
func (g *group) in(at place) []*job {
	var jobs []*job
	for _, j := range g.jobs {
		if j.at == at {
			jobs = append(jobs, j)
		}
	}
	slices.SortStableFunc(jobs, func(a, b *job) int { return compareIDs(a.entry, b.entry) })
	return jobs
}

func (g *group) anyMissing() bool { return slices.Contains(g.missing[:], true) }

// compareIDs compares entry IDs.
func compareIDs(a, b string) int {
	ams, aseq := splitID(a)
	bms, bseq := splitID(b)
	switch {
	case ams != bms:
		return cmpUint(ams, bms)
	default:
		return cmpUint(aseq, bseq)
	}
}

func cmpUint(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func splitID(id string) (ms, seq uint64) {
	a, b, _ := strings.Cut(id, "-")
	ms, _ = strconv.ParseUint(a, 10, 64)
	seq, _ = strconv.ParseUint(b, 10, 64)
	return ms, seq
}

// GoString of what rapid draws: what it is called, which is the same in every run.

func (g *group) GoString() string    { return g.name }
func (w *worker) GoString() string   { return w.name }
func (j *job) GoString() string      { return j.String() }
func (d *delivery) GoString() string { return fmt.Sprintf("%s/#%d", d.lane, d.n) }
func (s *sent) GoString() string     { return s.what }
func (p place) GoString() string     { return p.String() }
