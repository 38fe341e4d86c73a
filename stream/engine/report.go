package engine

import (
	"strconv"
	"strings"
	"time"
)

// Limits on what is kept of a handler's words on one job.
const (
	NoteMax     = 200      // bytes of the note on its progress
	LineMax     = 1 << 10  // bytes of a line of its log
	ReportLines = 200      // the latest lines of its log
	ReportBytes = 32 << 10 // and what these may have in all
)

// Report is what a handler says of a job in one run: all of it that Redis may not have yet.
type Report struct {
	Entry   string // "" when it is known to be ours and gone
	ID      string // of the job
	Age     int64  // when the job was published, ms: an ID may be used again
	Fence   int64
	Run     string // something no other run has, without spaces
	Keep    time.Duration
	Version int64 // of Said, from 1; 0: nothing
	Said    Said
	First   int64 // number of the first line in its run, from 1
	Lines   []string
}

// Said is how far a run is, as its handler says. The other fields are the run's.
type Said struct {
	Age, Fence int64
	Attempt    int
	At         int64 // ms by Redis's clock
	Fraction   float64
	Note       string
}

func (s Said) text() string {
	b := make([]byte, 0, 64+len(s.Note))
	for _, n := range [4]int64{s.Age, s.Fence, int64(s.Attempt), s.At} {
		b = append(strconv.AppendInt(b, n, 10), ' ')
	}
	b = append(strconv.AppendFloat(b, s.Fraction, 'g', 6, 64), ' ')
	return string(append(b, s.Note...))
}

// ParseSaid reads a report's progress, and reports whether there is any.
func ParseSaid(text string) (Said, bool) {
	parts := strings.SplitN(text, " ", 6)
	if len(parts) < 6 {
		return Said{}, false
	}
	var n [4]int64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseInt(parts[i], 10, 64); err != nil {
			return Said{}, false
		}
	}
	fraction, err := strconv.ParseFloat(parts[4], 64)
	if err != nil {
		return Said{}, false
	}
	return Said{n[0], n[1], int(n[2]), n[3], fraction, parts[5]}, true
}

// Of reports whether it is the run's whose part of the fence is moves.
func (s Said) Of(moves int64) bool { return s.Fence&(1<<32-1) == moves }

// Line is one of a job's log.
func Line(at int64, attempt int, text string) string {
	b := make([]byte, 0, 20+len(text))
	b = append(strconv.AppendInt(b, at, 10), ' ')
	b = append(strconv.AppendInt(b, int64(attempt), 10), ' ')
	return string(append(b, text...))
}

// ParseLine is the reverse of Line.
func ParseLine(line string) (at int64, attempt int, text string, ok bool) {
	parts := strings.SplitN(line, " ", 3)
	if len(parts) < 3 {
		return 0, 0, "", false
	}
	at, err1 := strconv.ParseInt(parts[0], 10, 64)
	attempt, err2 := strconv.Atoi(parts[1])
	return at, attempt, parts[2], err1 == nil && err2 == nil
}

// ParseReport reads from a report's state which lines there may be: first to last; none when last is below first.
func ParseReport(state string) (first, last int64) {
	parts := strings.Split(state, " ")
	if len(parts) != 8 {
		return 1, 0
	}
	return number(parts[5]), number(parts[4])
}

// ReportCall writes down what a worker's handlers say of jobs of one lane. The consumer of h is theirs.
func ReportCall(h Held, g GroupKeys, reports ...Report) Call {
	keys := []string{h.Key}
	args := []any{h.Group, h.Consumer, ReportLines, ReportBytes}
	for _, r := range reports {
		keys = append(keys, g.Report(r.ID))
		said := ""
		if r.Version > 0 {
			said = r.Said.text()
		}
		args = append(args, r.Entry, max(r.Age, 0), r.Fence, r.Run, ceilMS(r.Keep), r.Version, said, r.First, len(r.Lines))
		for _, line := range r.Lines {
			args = append(args, line)
		}
	}
	return Call{reportScript, keys, args}
}

// ReadReported decodes what ReportCall answers, by the place of each report: which are of jobs that are not ours any more, and
// why others could not be written.
func ReadReported(v any) (late map[int]bool, refused map[int]string, ok bool) {
	list, _ := v.([]any)
	if len(list) != 2 {
		return nil, nil, false
	}
	numbers, ok1 := list[0].([]any)
	faults, ok2 := list[1].([]any)
	for _, n := range numbers {
		if late == nil {
			late = make(map[int]bool)
		}
		late[int(number(n))-1] = true
	}
	for _, fault := range faults {
		if refused == nil {
			refused = make(map[int]string)
		}
		refused[int(number(at(fault, 0)))-1], _ = at(fault, 1).(string)
	}
	return late, refused, ok1 && ok2
}
