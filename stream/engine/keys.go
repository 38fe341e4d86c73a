package engine

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Names of keys and channels that belong to no single stream.
const (
	RegistryKey = "penstock:streams" // set: names of the streams this Redis holds
	WakeChannel = "penstock:wake"    // "<due ms> <zset key>" when something becomes due sooner than all before it

	SchedulesKey = "penstock:schedules" // hash: cron schedules made at run time
	LeaderPrefix = "penstock:leader:"   // of strings, for seconds: who fires the ticks of a set of cron schedules
	CronChannel  = "penstock:cron"      // the name of a schedule that has changed, or CronReleased
	CronReleased = ":released"          // a leader has gone; no schedule is called so
)

// Limits on names and IDs, in bytes.
const (
	MaxNameLen  = 256
	MaxGroupLen = 128
	MaxIDLen    = 128
	MaxKeyLen   = 256 // of a unique key
)

// Keys are the names of everything that belongs to one stream, all in its hash slot.
type Keys struct {
	Stream        string // the entries: exactly the name the user gave
	Config        string // hash: format, kind, per group its epoch and, of an events stream, its position
	IDs           string // hash: job ID -> where the job is
	Scheduled     string // sorted set: deferred jobs by due time in ms
	ScheduledJobs string // hash: their bodies
	Next          string // hash: unique key -> the latest data behind its lock
	Switches      string // hash: kill switches, and a version
	Ticks         string // hash: cron schedule -> its last tick here, in ms, what became of it, and the ID of its last job
	Ended         string // a channel: the IDs of jobs that have just ended, one a line
	Upkeep        string // string, for a while: which scheduler does the stream's upkeep
	prefix        string
}

// GroupKeys are the names of everything that belongs to one group of a stream.
type GroupKeys struct {
	Redelivery   string // stream: what comes back to this group
	Suspects     string // stream: what crashed a worker twice, read one at a time
	Retrying     string // sorted set: failed and snoozed jobs by due time in ms
	RetryingJobs string // hash: their bodies
	Dead         string // stream: dead letters
	Gate         string // string, for a second or a third of a lease: who looked last for leases that had run out
	Lease        string // string: the longest lease of the group's workers, in ms
	IDs          string // hash: job ID -> where this group's job is (a queue's is the stream's own)
	Marks        string // sorted set: jobs that are to end as cancelled, by when that was asked for (a queue's is the stream's own)
	Paused       string // set: jobs that a kill switch has put off, to be let go when it is lifted
	Workers      string // hash: live workers of all groups
	Ended        string // the stream's channel
	Stream, Next string // the stream's own
	jobs, unique string
	reports      string
}

// NewKeys returns the key names of the stream called name.
func NewKeys(name string) Keys {
	prefix := "{" + name + "}:"
	if strings.Contains(name, "{") {
		prefix = name + ":" // CheckName lets only one well-formed tag through
	}
	return Keys{
		Stream:        name,
		Config:        prefix + "config",
		IDs:           prefix + "ids",
		Scheduled:     prefix + "scheduled",
		ScheduledJobs: prefix + "scheduled:jobs",
		Next:          prefix + "next",
		Switches:      prefix + "switches",
		Ticks:         prefix + "ticks",
		Ended:         prefix + "ended",
		Upkeep:        prefix + "upkeep",
		prefix:        prefix,
	}
}

// Group returns the key names of a group; a queue keeps one index of IDs, one record of a job and one set of marks, an
// events stream one for each group, since there a job has a state per group.
func (k Keys) Group(group string, events bool) GroupKeys {
	p := k.prefix + "g:" + group + ":"
	g := GroupKeys{
		Redelivery:   p + "redelivery",
		Suspects:     p + "suspects",
		Retrying:     p + "retrying",
		RetryingJobs: p + "retrying:jobs",
		Dead:         p + "dead",
		Gate:         p + "sweep",
		Lease:        p + "lease",
		IDs:          k.IDs,
		Marks:        k.marks(),
		Paused:       p + "paused",
		Workers:      k.prefix + "workers",
		Ended:        k.Ended,
		Stream:       k.Stream,
		Next:         k.Next,
		jobs:         k.prefix + "job:",
		reports:      k.prefix + "report:",
		unique:       k.prefix + "unique:",
	}
	if events {
		g.IDs, g.jobs, g.Marks = p+"ids", p+"job:", p+"cancelled"
		g.reports = p + "report:"
	}
	return g
}

// marks is the key of a queue's cancel marks.
func (k Keys) marks() string { return k.prefix + "cancelled" }

// Job is the key of a finished job's record on a queue. Publishers look there, whatever the stream is.
func (k Keys) Job(id string) string { return k.prefix + "job:" + id }

// Once is the key of what is known of a piece of work that is to be done once.
func (k Keys) Once(key string) string { return k.prefix + "once:" + key }

// Job is the key of the record that this group's part of a job leaves: on a queue the stream's own.
func (g GroupKeys) Job(id string) string { return g.jobs + id }

// Report is the key of what handlers say of a job while they run it: on a queue the stream's own, on an events stream its group's.
func (g GroupKeys) Report(id string) string { return g.reports + id }

// Unique is the key of the lock that a job with this unique key holds.
func (k Keys) Unique(key string) string { return k.prefix + "unique:" + key }

// Unique is the stream's own.
func (g GroupKeys) Unique(key string) string { return g.unique + key }

// CheckName says what is wrong with a stream's name, or nil.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("stream name is empty")
	case len(name) > MaxNameLen:
		return fmt.Errorf("stream name has %d bytes, at most %d are allowed", len(name), MaxNameLen)
	case strings.HasPrefix(name, "penstock:"):
		return fmt.Errorf("stream name %q: names that begin with penstock: are ours", name)
	}
	if err := checkText(name); err != nil {
		return fmt.Errorf("stream name %q: %w", name, err)
	}
	open, end := strings.IndexByte(name, '{'), strings.IndexByte(name, '}')
	if open < 0 && end < 0 {
		return nil
	}
	if open < 0 || end < open+2 || strings.Count(name, "{") > 1 || strings.Count(name, "}") > 1 {
		return fmt.Errorf("stream name %q: braces are allowed only as one non-empty hash tag, as in {tenant}orders", name)
	}
	if open == 0 && end == len(name)-1 {
		return fmt.Errorf("stream name %q: its keys would be those of the stream %q: put something behind the hash tag, as in {tenant}orders", name, name[1:end])
	}
	for i := end; i < len(name); i++ {
		if name[i] == ':' && ownKey(name[i+1:]) {
			return fmt.Errorf("stream name %q: another stream's own keys are called like this", name)
		}
	}
	return nil
}

// ownKeys are the names under a stream's prefix. What begins like one, such as
// g:billing:dead, is refused too: a stream called {a}:job has keys that are records of the stream a.
var ownKeys = []string{
	"config", "ids", "scheduled", "g", "job", "unique", "next", "cancelled", "switches", "ticks", "workers", "sweep", "report", "once", "upkeep",
}

func ownKey(suffix string) bool {
	first, _, _ := strings.Cut(suffix, ":")
	return slices.Contains(ownKeys, first)
}

// CheckGroup says what is wrong with a group's name, or nil.
func CheckGroup(group string) error {
	switch {
	case group == "":
		return errors.New("group name is empty")
	case len(group) > MaxGroupLen:
		return fmt.Errorf("group name has %d bytes, at most %d are allowed", len(group), MaxGroupLen)
	case strings.ContainsAny(group, ":{}"):
		return fmt.Errorf("group name %q must not contain ':', '{' or '}'", group)
	}
	if err := checkText(group); err != nil {
		return fmt.Errorf("group name %q: %w", group, err)
	}
	return nil
}

// CheckID says what is wrong with a job ID that a caller chose, or nil.
func CheckID(id string) error {
	switch {
	case len(id) > MaxIDLen:
		return fmt.Errorf("ID has %d bytes, at most %d are allowed", len(id), MaxIDLen)
	case IsEntryID(id):
		return fmt.Errorf("ID %q has the form of an entry ID (digits-digits), which Redis gives out", id)
	}
	if err := checkText(id); err != nil {
		return fmt.Errorf("ID %q: %w", id, err)
	}
	return nil
}

// CheckKey says what is wrong with a unique key, or nil.
func CheckKey(key string) error {
	if len(key) > MaxKeyLen {
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(key), MaxKeyLen)
	}
	if err := checkText(key); err != nil {
		return fmt.Errorf("%q: %w", key, err)
	}
	return nil
}

func checkText(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("is not valid UTF-8")
	}
	for _, r := range s {
		if r <= ' ' || r == 0x7f {
			return errors.New("spaces and control characters are not allowed")
		}
	}
	return nil
}

// IsEntryID reports whether s has the form of a stream entry's ID: digits-digits.
func IsEntryID(s string) bool {
	ms, seq, ok := strings.Cut(s, "-")
	return ok && digits(ms) && digits(seq)
}

// EntryLess compares two entry IDs.
func EntryLess(a, b string) bool {
	am, as, _ := strings.Cut(a, "-")
	bm, bs, _ := strings.Cut(b, "-")
	return cmp.Or(cmp.Compare(len(am), len(bm)), cmp.Compare(am, bm), cmp.Compare(len(as), len(bs)), cmp.Compare(as, bs)) < 0
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
