package kill

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/penstock-go/penstock/integration/kill/ledger"
)

// Summary counts what happened, in a few lines.
func (b Books) Summary() string {
	records := make(map[string]int)
	for _, r := range b.Records {
		name := string(r.What)
		if r.What == ledger.Ended {
			name = r.Result
		}
		records[name]++
	}
	blows := make(map[string]int)
	for _, blow := range b.Blows {
		blows[blow.Action]++
	}
	dead := make(map[string]int)
	for _, g := range b.Final.Groups {
		for _, l := range g.Dead {
			dead[l.Reason]++
		}
	}
	return fmt.Sprintf("ledger: %s\ndead letters: %s\nprocesses: %d\nfaults: %s", counts(records), counts(dead), len(b.Lives), counts(blows))
}

func counts(m map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%d %s", m[name], name))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// Report is what a person needs to understand findings.
type Report struct {
	Books    Books
	Findings []Finding
	Logs     string // the folder with the logs of the processes
}

const (
	mostHistories = 8
	mostFindings  = 60
	mostLines     = 40 // of the logs, of one job
)

// String has the findings, the faults with their times, and for the first few
// findings all that is known of their jobs.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d findings:\n", len(r.Findings))
	for i, f := range r.Findings {
		if i == mostFindings {
			fmt.Fprintf(&b, "  … and %d more\n", len(r.Findings)-i)
			break
		}
		fmt.Fprintf(&b, "  %s\n", f)
	}
	b.WriteString("\n" + r.Books.Summary() + "\n\nfaults:\n")
	for _, blow := range r.Books.Blows {
		fmt.Fprintf(&b, "  %10s  %-14s %s", seconds(blow.At), blow.Action, blow.Target)
		if blow.Until > blow.At {
			fmt.Fprintf(&b, " until %s", seconds(blow.Until))
		}
		b.WriteByte('\n')
	}
	shown := make(map[int]bool)
	for _, f := range r.Findings {
		if f.N == 0 || shown[f.N] {
			continue
		}
		if len(shown) == mostHistories {
			b.WriteString("\nmore jobs are left out; the ledger has them all\n")
			break
		}
		shown[f.N] = true
		fmt.Fprintf(&b, "\njob %d, %s:\n%s", f.N, f.Rule, r.Books.History(f.N))
		r.logs(&b, f.N)
	}
	fmt.Fprintf(&b, "\nlogs and ledger: %s (kept with go test -artifacts)\n", r.Logs)
	return b.String()
}

// logs adds what the processes said of a job.
func (r Report) logs(b *strings.Builder, n int) {
	ids := make(map[string]bool)
	for _, rec := range r.Books.Records {
		if rec.N == n && rec.ID != "" {
			ids[rec.ID] = true
		}
	}
	files, err := filepath.Glob(filepath.Join(r.Logs, "*.log"))
	if err != nil {
		return
	}
	lines := 0
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			continue
		}
		for scan := bufio.NewScanner(file); scan.Scan() && lines < mostLines; {
			for id := range ids {
				if strings.Contains(scan.Text(), id+`"`) || strings.Contains(scan.Text(), id+" ") {
					fmt.Fprintf(b, "    %s: %s\n", strings.TrimSuffix(filepath.Base(name), ".log"), scan.Text())
					lines++
				}
			}
		}
		_ = file.Close() // only read
	}
}
