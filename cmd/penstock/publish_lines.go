package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/penstock-go/penstock/stream"
)

const (
	sliceJobs  = 1000     // that go to Redis together
	sliceBytes = 16 << 20 // of their lines, unless one line has more
	maxLine    = 64 << 20
	maxListed  = 20 // failures that are listed one by one
)

// jobLine is one line of NDJSON.
type jobLine struct {
	Type     string            `json:"type"`
	Data     json.RawMessage   `json:"data"`
	ID       string            `json:"id"`
	Unique   string            `json:"unique"`
	Delay    string            `json:"delay"`
	At       string            `json:"at"`
	Expires  string            `json:"expires"`
	MaxTries *int              `json:"max_tries"`
	Timeout  string            `json:"timeout"`
	Header   map[string]string `json:"header"`
}

// summary of many jobs.
type summary struct {
	Published  int64         `json:"published"`
	Duplicates int64         `json:"duplicates"`
	Failed     int64         `json:"failed"`
	Failures   []lineFailure `json:"failures,omitempty"` // the first of them
	Stopped    string        `json:"stopped,omitempty"`  // why not all lines were read
}

type lineFailure struct {
	Line  int    `json:"line"`
	ID    string `json:"id,omitempty"`
	Error string `json:"error"`
}

// parseLine makes a job of a line; what the line does not say is as in base.
func parseLine(line []byte, base stream.Job, now time.Time) (stream.Job, error) {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	var l jobLine
	if err := dec.Decode(&l); err != nil {
		return base, badLine(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return base, errors.New("something follows the JSON object")
	}
	job := base
	if l.Type != "" {
		job.Type = l.Type
	}
	if job.ID = l.ID; l.Data != nil {
		job.Data = []byte(l.Data)
	}
	if l.Unique != "" {
		job.Unique.Key, job.Unique.ByData = l.Unique, false
	} else if !job.Unique.ByData {
		job.Unique = stream.Unique{}
	}
	var errs []error
	check := func(key string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %w", key, err))
		}
	}
	if l.Delay != "" || l.At != "" {
		job.Delay, job.At = 0, time.Time{}
		var err error
		job.At, err = parseTime(l.At)
		check("at", err)
		if l.Delay != "" {
			if job.Delay, err = time.ParseDuration(l.Delay); err != nil || job.Delay <= 0 {
				check("delay", fmt.Errorf("%q must be a duration such as 5m", l.Delay))
			}
		}
	}
	var err error
	if l.Expires != "" {
		job.ExpiresAt, err = parseDeadline(l.Expires, now)
		check("expires", err)
	}
	if l.Timeout != "" {
		job.Timeout, err = parseTimeout(l.Timeout)
		check("timeout", err)
	}
	if l.MaxTries != nil {
		if job.MaxTries = *l.MaxTries; job.MaxTries < 1 {
			check("max_tries", errors.New("must be at least 1"))
		}
	}
	if l.Header != nil {
		job.Header = l.Header
	}
	if job.Type == "" {
		check("type", errors.New("is missing"))
	}
	return job, oneLine(errs)
}

// badLine says what is wrong with a line without the decoder's words for its own types.
func badLine(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrong.Field == "" {
			return fmt.Errorf("must be a JSON object, not %s", wrong.Value)
		}
		if key, _, _ := strings.Cut(wrong.Field, "."); key == "header" {
			return errors.New("header must be an object, and header values must be strings")
		}
		return fmt.Errorf("%s must not be %s", wrong.Field, wrong.Value)
	}
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("is not JSON: %w", err)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the JSON object does not end on its line")
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}

// publishLines publishes a job for each line: list is STREAM [TYPE] [-|@FILE].
func (a *app) publishLines(ctx context.Context, list []string, base stream.Job) error {
	name, rest, from := list[0], list[1:], "-"
	if n := len(rest); n > 0 && (rest[n-1] == "-" || strings.HasPrefix(rest[n-1], "@")) {
		rest, from = rest[:n-1], rest[n-1]
	}
	switch len(rest) {
	case 0:
	case 1:
		base.Type = rest[0]
	default:
		return usagef("with --ndjson the data is in the lines: penstock publish STREAM [TYPE] --ndjson [-|@FILE]")
	}
	if from == "-" && terminal(a.in) {
		fmt.Fprintln(a.err, "reading one job a line; Ctrl-D ends")
	}
	s, rdb, err := a.publisher(ctx, name)
	if err != nil {
		return err
	}
	defer rdb.Close()
	in, err := a.source(ctx, from)
	if err != nil {
		return err
	}
	defer in.Close()

	b := bulk{app: a, stream: s}
	progress, finish := a.lineProgress(in)
	err = b.run(ctx, in, base, progress)
	finish()
	return b.report(err)
}

// bulk publishes slices of jobs and counts what becomes of them.
type bulk struct {
	app    *app
	stream *stream.Stream
	sum    summary

	jobs  []stream.Job
	lines []int
	size  int
}

func (b *bulk) run(ctx context.Context, in io.Reader, base stream.Job, progress func(jobs, bytes int)) error {
	reading, stop := context.WithCancel(ctx)
	defer stop()
	lines := make(chan inputLine, 256)
	go readLines(reading, in, lines)
	for number := 1; ; number++ {
		var line inputLine
		select {
		case line = <-lines:
		case <-ctx.Done():
			return fmt.Errorf("interrupted after line %d", number-1)
		}
		b.add(line, number, base)
		progress(int(b.sum.Published), len(line.text))
		if len(b.jobs) >= sliceJobs || b.size >= sliceBytes || line.last || line.err != nil {
			if err := b.flush(ctx); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(line.err, io.EOF):
			return nil
		case line.err != nil:
			return fmt.Errorf("read line %d: %w", number, line.err)
		}
	}
}

// add makes a job of a line, unless it is blank.
func (b *bulk) add(line inputLine, number int, base stream.Job) {
	text := bytes.TrimSpace(line.text)
	if len(text) == 0 || line.err != nil && !errors.Is(line.err, io.EOF) {
		return
	}
	job, err := parseLine(text, base, time.Now())
	if line.long {
		err = fmt.Errorf("the line has more than %s", size(maxLine))
	}
	if err != nil {
		b.fail(number, job.ID, err)
		return
	}
	b.jobs, b.lines, b.size = append(b.jobs, job), append(b.lines, number), b.size+len(text)
}

type inputLine struct {
	text []byte
	long bool // cut off at maxLine
	last bool // of those that have arrived: the next may take a while
	err  error
}

// readLines sends lines until one carries an error, io.EOF in the end. A read
// that waits for a terminal or a pipe can't be interrupted: the goroutine is
// left behind when the program ends.
func readLines(ctx context.Context, in io.Reader, lines chan<- inputLine) {
	r := bufio.NewReaderSize(in, 1<<16)
	for {
		line := readLine(r)
		line.last = r.Buffered() == 0
		select {
		case lines <- line:
		case <-ctx.Done():
			return
		}
		if line.err != nil {
			return
		}
	}
}

// readLine reads a line of any length. Of one that is too long it keeps the
// beginning, and reads on to its end.
func readLine(r *bufio.Reader) inputLine {
	var line inputLine
	for {
		part, err := r.ReadSlice('\n')
		if line.long = line.long || len(line.text)+len(part) > maxLine; !line.long {
			line.text = append(line.text, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			line.err = err
			return line
		}
	}
}

// flush publishes what has been read. When Redis takes none of it, going on would be of no use.
func (b *bulk) flush(ctx context.Context) error {
	if len(b.jobs) == 0 {
		return nil
	}
	ctx, cancel := b.app.requestContext(ctx)
	defer cancel()
	receipts, err := b.stream.PublishAll(ctx, b.jobs)
	failed := 0
	for i, r := range receipts {
		switch {
		case r.Err != nil:
			failed++
			b.fail(b.lines[i], b.jobs[i].ID, r.Err)
		case r.Duplicate:
			b.sum.Duplicates++
		default:
			b.sum.Published++
		}
	}
	last, all := b.lines[len(b.lines)-1], failed == len(b.jobs)
	b.jobs, b.lines, b.size = b.jobs[:0], b.lines[:0], 0
	for _, hopeless := range []error{stream.ErrUnavailable, stream.ErrAmbiguous, stream.ErrStreamFull, stream.ErrDenied, stream.ErrNewerFormat} {
		if all && errors.Is(err, hopeless) {
			return fmt.Errorf("stopped after line %d: %w", last, hopeless)
		}
	}
	return nil
}

func (b *bulk) fail(line int, id string, err error) {
	b.sum.Failed++
	if len(b.sum.Failures) < maxListed {
		b.sum.Failures = append(b.sum.Failures, lineFailure{Line: line, ID: id, Error: err.Error()})
		slices.SortFunc(b.sum.Failures, func(x, y lineFailure) int { return cmp.Compare(x.Line, y.Line) })
	}
}

// report says what became of the lines; err is why not all were read.
func (b *bulk) report(err error) error {
	a := b.app
	if err != nil {
		b.sum.Stopped = err.Error()
	}
	if a.json {
		if perr := a.printJSON(b.sum); perr != nil {
			return perr
		}
	} else {
		for _, f := range b.sum.Failures {
			fmt.Fprintf(a.err, "line %d: %s\n", f.Line, safe(f.Error))
		}
		if more := b.sum.Failed - int64(len(b.sum.Failures)); more > 0 {
			fmt.Fprintf(a.err, "and %s\n", plural(more, "more failure"))
		}
		if perr := a.printf("published %s, duplicates %s, failed %s\n", count(b.sum.Published), count(b.sum.Duplicates), count(b.sum.Failed)); perr != nil {
			return perr
		}
	}
	switch {
	case err != nil:
		return err
	case b.sum.Failed > 0:
		return errReported
	}
	return nil
}

// lineProgress is a bar on a terminal: of the file's bytes where its length is
// known, and of jobs otherwise.
func (a *app) lineProgress(in io.Reader) (progress func(jobs, bytes int), finish func()) {
	if !terminal(a.err) {
		return func(int, int) {}, func() {}
	}
	total := int64(-1)
	f, ok := in.(*os.File)
	if !ok {
		f, ok = a.in.(*os.File)
	}
	if ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			total = info.Size()
		}
	}
	bar := progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(a.err),
		progressbar.OptionSetDescription("publish"),
		progressbar.OptionShowBytes(total >= 0),
		progressbar.OptionShowCount(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetWidth(30),
		progressbar.OptionClearOnFinish(),
	)
	if total >= 0 {
		return func(_, bytes int) { _ = bar.Add(bytes) }, func() { _ = bar.Exit() }
	}
	return func(jobs, _ int) { _ = bar.Set(jobs) }, func() { _ = bar.Exit() }
}
