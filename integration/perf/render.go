package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
)

// grid is a table, for a terminal or a page.
type grid struct {
	title string
	head  []string
	rows  [][]string
}

var (
	tableHead  = []string{"what", "engine", "median", "yardstick", "its median", "ratio", "target"}
	growthHead = []string{"what grows", "size", "a job costs", "of the first", "Redis alone", "of the first", "ratio", ""}
	heapHead   = []string{"backlog", "Penstock, heap at most", "raw loop, heap at most"}
	none       = "–"
)

// grids of all that was measured.
func (r *Report) grids() []grid {
	var list []grid
	if len(r.Rows) > 0 {
		t := grid{"Targets and other engines", tableHead, nil}
		for _, row := range r.Rows {
			t.rows = append(t.rows, tableRow(row))
		}
		list = append(list, t)
	}
	if len(r.Growth) == 0 {
		return list
	}
	t, heaps := grid{"What a job costs as things grow", growthHead, nil}, grid{"Memory of the process as the backlog grows", heapHead, nil}
	for _, g := range r.Growth {
		for _, p := range g.Points {
			t.rows = append(t.rows, growthRow(g, p))
			if p.Heap != nil {
				heaps.rows = append(heaps.rows, []string{p.Text, bench.Bytes.Format(p.Heap.Value.Median), bench.Bytes.Format(p.Heap.Yardstick.Value.Median)})
			}
		}
	}
	list = append(list, t)
	if len(heaps.rows) > 0 {
		list = append(list, heaps)
	}
	return list
}

func tableRow(row bench.Row) []string {
	name, beside, ratio, target := none, none, none, none
	if y := row.Yardstick; y != nil {
		name, beside, ratio = y.Name, row.Unit.Format(y.Value.Median), spread(y.Ratio)
	}
	if text := row.TargetText(); text != "" {
		target = text + ": " + row.Verdict()
	}
	return []string{row.Name, row.Contender, row.Unit.Format(row.Value.Median), name, beside, ratio, target}
}

// spread of ratios.
func spread(s bench.Summary) string {
	if factor(s.Min) == factor(s.Max) {
		return factor(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", factor(s.Median), factor(s.Min), factor(s.Max))
}

func growthRow(g Growth, p Point) []string {
	first := g.Points[0].Cost
	ours, raw, verdict := none, none, none
	if p.Size != g.Points[0].Size {
		ours = factor(p.Cost.Value.Median / first.Value.Median)
		raw = factor(p.Cost.Yardstick.Value.Median / first.Yardstick.Value.Median)
		verdict = grown(first, p.Cost)
	}
	y := p.Cost.Yardstick
	return []string{g.Axis, p.Text, p.Cost.Unit.Format(p.Cost.Value.Median), ours, p.Cost.Unit.Format(y.Value.Median), raw, spread(y.Ratio), verdict}
}

// factor writes a ratio with two places after the point, large ones with fewer.
func factor(f float64) string {
	if f >= 100 {
		return strconv.FormatFloat(math.Round(f), 'f', 0, 64)
	}
	return strconv.FormatFloat(math.Round(f*100)/100, 'f', 2, 64)
}

// about are what the numbers depend on.
func (r *Report) about() [][2]string {
	e, s := r.Environment, r.Settings
	machine := fmt.Sprintf("%s, %d cores, %s", e.CPU, e.Cores, e.OS)
	if e.Load > 0 {
		machine += fmt.Sprintf(", load %.1f before the run", e.Load)
		if e.Load > float64(e.Cores)/2 {
			machine += ": too busy for numbers to rely on"
		}
	}
	versions := []string{"Go " + e.Go, "go-redis " + e.GoRedis, e.Server}
	for _, v := range r.Versions {
		versions = append(versions, v.Name+" "+v.Version)
	}
	list := [][2]string{
		{"measured", fmt.Sprintf("%s, in %.0f minutes", e.Time.UTC().Format("2006-01-02 15:04 MST"), r.Minutes)},
		{"by", r.Command},
		{"commit", r.Commit},
		{"machine", machine},
		{"versions", strings.Join(versions, ", ")},
		{"redis", fmt.Sprintf("%s, %s, started for this run, in memory", e.Topology, e.Connection)},
		{"samples", fmt.Sprintf("%d of each side, %s each, jobs with %d bytes", s.Pairs, time.Duration(s.DurationMS*float64(time.Millisecond)), s.Payload)},
	}
	return list
}

// print writes the report for a terminal.
func (r *Report) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, line := range r.about() {
		fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, t := range r.grids() {
		fmt.Fprintf(w, "\n%s\n", t.title)
		for _, row := range append([][]string{upper(t.head)}, t.rows...) {
			fmt.Fprintln(w, strings.Join(row, "\t"))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	for _, note := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", note)
	}
	return w.Flush()
}

func upper(head []string) []string {
	list := make([]string, len(head))
	for i, h := range head {
		list[i] = strings.ToUpper(h)
	}
	return list
}

// markdown is the report for a page.
func (r *Report) markdown() string {
	var b strings.Builder
	line := func(cells ...string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line("", "")
	line("---", "---")
	for _, a := range r.about() {
		if a[0] == "by" {
			a[1] = "`" + a[1] + "`"
		}
		line(a[0], a[1])
	}
	for _, t := range r.grids() {
		fmt.Fprintf(&b, "\n### %s\n\n", t.title)
		line(t.head...)
		rule := make([]string, len(t.head))
		for i := range rule {
			rule[i] = "---"
		}
		line(rule...)
		for _, row := range t.rows {
			line(row...)
		}
	}
	if len(r.Growth) > 0 {
		b.WriteString("\nWhat was measured along each of these, and what Redis alone did:\n\n")
		for _, g := range r.Growth {
			fmt.Fprintf(&b, "- **%s**: %s. Redis alone: %s.\n", g.Axis, g.What, g.Raw)
		}
	}
	if len(r.Notes) > 0 {
		b.WriteString("\nNotes of the run:\n\n")
		for _, note := range r.Notes {
			fmt.Fprintf(&b, "- %s\n", note)
		}
	}
	return b.String()
}
