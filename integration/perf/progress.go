package main

import (
	"fmt"
	"io"
	"os"

	"github.com/penstock-go/penstock/cmd/penstock/bench"
)

// progress says what is being measured: each sample in one line of a terminal, elsewhere a line for each case.
type progress struct {
	out  io.Writer
	live bool
	last string

	points, at int // of what grows
}

func (p *progress) step(s bench.Step) {
	where := ""
	if p.at > 0 {
		where = fmt.Sprintf("growth %d of %d, ", p.at, p.points)
	}
	switch {
	case p.live:
		fmt.Fprintf(p.out, "\r\x1b[K%s%d of %d: %s: %s", where, s.Done+1, s.Of, s.Case, s.Contender)
	case s.Case != p.last:
		fmt.Fprintf(p.out, "%s%d of %d: %s\n", where, s.Done+1, s.Of, s.Case)
	}
	p.last = s.Case
}

func (p *progress) point(Point) { p.at++ }

// say writes a line that stays.
func (p *progress) say(text string) {
	p.clear()
	fmt.Fprintln(p.out, text)
}

func (p *progress) clear() {
	if p.live {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
