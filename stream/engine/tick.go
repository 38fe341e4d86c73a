package engine

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// What a tick came to, as Ticked.What and, of the last one on record, Ticked.Outcome.
const (
	TickPublished  = "published"
	TickStands     = "stands"     // a job with its ID or unique key stands, or has taken its data
	TickSkipped    = "skipped"    // the schedule's last job was unfinished
	TickNew        = "new"        // the schedule had nothing on record, and has now
	TickRecorded   = "recorded"   // that tick or a later one is on record, or it is older than the schedule
	TickEarly      = "early"      // it must not fire yet
	TickRefused    = "refused"    // by the script that publishes
	TickUnfinished = "unfinished" // nothing happened: ask if the schedule's last job is gone
	TickStanding   = "standing"   // nothing happened: ask if the job that stands in its way is gone
	TickEvents     = "events"     // it cannot be skipped on an events stream
)

// Tick is one of a cron schedule.
type Tick struct {
	Schedule string
	At       time.Time // its nominal time; zero: now, whatever is on record
	Fire     time.Time // it is not published before
	Since    time.Time // nor what is not after this; zero: not known
	Skip     bool      // it is skipped while the schedule's last job is unfinished
	Final    bool      // whatever stands in its way was looked at
}

// TickCall does what a call of PublishCall, ScheduleCall or UniqueCall does, if the tick is due and not on record.
func TickCall(k Keys, publish Call, t Tick) Call {
	script := tickPublishScript
	switch publish.Script {
	case scheduleScript:
		script = tickScheduleScript
	case uniqueScript:
		script = tickUniqueScript
	}
	at := ""
	if !t.At.IsZero() {
		at = strconv.FormatInt(t.At.UnixMilli(), 10)
	}
	since := int64(0)
	if !t.Since.IsZero() {
		since = t.Since.UnixMilli()
	}
	_, fire := whenMS(0, t.Fire)
	if t.Fire.IsZero() {
		fire = "0"
	}
	keys := make([]string, 0, len(publish.Keys)+3)
	keys = append(append(keys, publish.Keys...), k.IDs, k.Config, k.Ticks)
	args := make([]any, 0, len(publish.Args)+6)
	args = append(append(args, publish.Args...), t.Schedule, at, fire, since, flag(t.Skip), flag(t.Final))
	return Call{script, keys, args}
}

// Ticked is what TickCall answers.
type Ticked struct {
	What  string
	Now   time.Time // by Redis's clock
	Last  LastTick
	Where string // of the job that is in its way: of the schedule's last one (TickUnfinished), else as Inside has it
	// Inside is what the script that publishes answered, for ReadStored.
	Inside any
}

// LastTick is what is on record of a schedule's last tick.
type LastTick struct {
	At      time.Time
	Outcome string
	Job     string // the schedule's last job; "": none yet
}

// ReadTicked decodes what TickCall answers.
func ReadTicked(v any) (Ticked, error) {
	list, _ := v.([]any)
	if len(list) != 6 {
		return Ticked{}, fmt.Errorf("unexpected answer %v", v)
	}
	t := texts(list[:5])
	now, err := strconv.ParseInt(t[1], 10, 64)
	if err != nil {
		return Ticked{}, fmt.Errorf("unexpected answer %v: %w", v, err)
	}
	ticked := Ticked{What: t[0], Now: time.UnixMicro(now), Last: LastTick{time.UnixMilli(score(t[2])), t[3], t[4]}, Inside: list[5]}
	if ticked.What == TickUnfinished {
		ticked.Where, _ = at(list[5], 1).(string)
	}
	return ticked, nil
}

// ReadLastTick decodes a field of the ticks hash.
func ReadLastTick(value string) (LastTick, bool) {
	ms, rest, _ := strings.Cut(value, " ")
	n, err := strconv.ParseInt(ms, 10, 64)
	if err != nil || n < 0 || n > maxMillis {
		return LastTick{}, false
	}
	outcome, job, _ := strings.Cut(rest, " ")
	return LastTick{time.UnixMilli(n), outcome, job}, true
}
