package stream

import (
	"context"
	"strconv"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

// Progress is how far a run is, as its handler said. The zero Progress is none.
type Progress struct {
	Fraction float64   `json:"fraction"` // from 0 to 1
	Note     string    `json:"note,omitempty"`
	At       time.Time `json:"at"`      // when it was said
	Attempt  int       `json:"attempt"` // of the run that said it
}

// LogLine is one line of what handlers said of a job with Logf.
type LogLine struct {
	// Number of the line, from 1, over all runs of the job. Numbers are left out where there were more lines than are kept.
	Number  int64     `json:"n"`
	At      time.Time `json:"at"`
	Attempt int       `json:"attempt"` // of the run
	Text    string    `json:"text"`
}

// Log returns the lines that handlers wrote about a job behind the one numbered after, oldest first; 0 is from the
// beginning. The latest 200 are kept, and 32 KiB of them, for a day while the job lives, and behind its end for as long as its record,
// a minute at least, or a day behind the last of them when it is dead. None is no error, nor is that there is no such job.
//
// The group may be "" when the stream has one.
func (s *Stream) Log(ctx context.Context, group, id string, after int64) ([]LogLine, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	l := &listing{s: s, group: group}
	if err := l.open(ctx); err != nil {
		return nil, err
	}
	key := l.keys.Report(id)
	state, err := s.rdb.HGet(ctx, key, "state").Result()
	if engine.Classify(err) != engine.OK {
		return nil, wrapRead("read the log of job "+id+" of "+s.name, err)
	}
	first, last := engine.ParseReport(state)
	if after > last {
		after = 0 // of a job that had this ID before
	}
	first = max(first, after+1, last-engine.ReportLines+1)
	if first > last {
		return nil, nil
	}
	names := make([]string, 0, last-first+1)
	for n := first; n <= last; n++ {
		names = append(names, strconv.FormatInt(n, 10))
	}
	found, err := s.rdb.HMGet(ctx, key, names...).Result()
	if err != nil {
		return nil, wrapRead("read the log of job "+id+" of "+s.name, err)
	}
	var lines []LogLine
	for i, v := range found {
		text, _ := v.(string)
		if at, attempt, text, ok := engine.ParseLine(text); ok { // else it was left out, or has gone meanwhile
			lines = append(lines, LogLine{first + int64(i), time.UnixMilli(at), attempt, text})
		}
	}
	return lines, nil
}

// said takes what a handler said of the job last, if it was the job's: the ID may have been another's before. Of one that
// runs, only what this very run says counts; moves is its part of the fence, else -1.
func (i *Info) said(text string, moves int64) {
	p, ok := engine.ParseSaid(text)
	if !ok || moves >= 0 && !p.Of(moves) || !i.Published.IsZero() && i.Published.UnixMilli() != p.Age {
		return
	}
	i.Progress = Progress{Fraction: p.Fraction, Note: p.Note, At: time.UnixMilli(p.At), Attempt: p.Attempt}
}
