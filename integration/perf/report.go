package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
)

// Report of a run.
type Report struct {
	Command     string            `json:"command"`
	Commit      string            `json:"commit"`
	Minutes     float64           `json:"minutes"` // that it took
	Environment bench.Environment `json:"environment"`
	Settings    bench.Settings    `json:"settings"`
	Versions    []Version         `json:"versions,omitempty"` // of the peers
	Rows        []bench.Row       `json:"rows,omitempty"`
	Growth      []Growth          `json:"growth,omitempty"`
	Notes       []string          `json:"notes,omitempty"`
}

// Version of something that was measured.
type Version struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// commit that is measured, as far as git tells.
func commit(ctx context.Context) string {
	id, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=10", "HEAD").Output()
	if err != nil {
		return "not known"
	}
	text := strings.TrimSpace(string(id))
	changed, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--", ":(top)", ":(top,exclude)docs").Output()
	if err != nil || len(changed) > 0 {
		text += " with changes"
	}
	return text
}

// numbers is the report as it is kept beside the page: a line for each row, without the samples.
func (r *Report) numbers() ([]byte, error) {
	short := *r
	short.Rows = nil
	for _, row := range r.Rows {
		short.Rows = append(short.Rows, withoutSamples(row))
	}
	short.Growth = nil
	for _, g := range r.Growth {
		points := g.Points
		g.Points = nil
		for _, p := range points {
			p.Cost = withoutSamples(p.Cost)
			if p.Heap != nil {
				row := withoutSamples(*p.Heap)
				p.Heap = &row
			}
			g.Points = append(g.Points, p)
		}
		short.Growth = append(short.Growth, g)
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(short); err != nil {
		return nil, err
	}
	lines := text.String()
	for _, begin := range []string{`{"group":`, `{"axis":`, `{"size":`, `"notes":`, `"growth":`} { // a quote inside of a string is escaped
		lines = strings.ReplaceAll(lines, begin, "\n"+begin)
	}
	return []byte(lines), nil
}

func withoutSamples(row bench.Row) bench.Row {
	row.Value.Samples = nil
	if row.Yardstick != nil {
		y := *row.Yardstick
		y.Value.Samples, y.Ratio.Samples = nil, nil
		row.Yardstick = &y
	}
	return row
}

func readReport(name string) (*Report, error) {
	text, err := os.ReadFile(name) //nolint:gosec // the user named it
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	var r Report
	if err := dec.Decode(&r); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &r, nil
}
