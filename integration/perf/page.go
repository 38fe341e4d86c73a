package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// The markers of what is generated in a page; the rest of it is written by hand.
const (
	pageBegin = "<!-- perf:begin, written by make perf -->\n"
	pageEnd   = "<!-- perf:end -->\n"
)

// page is a text around what is generated.
type page struct{ before, generated, after string }

func readPage(name string) (page, error) {
	text, err := os.ReadFile(name) //nolint:gosec // the user named it
	if err != nil {
		return page{}, err
	}
	before, rest, ok := strings.Cut(string(text), pageBegin)
	generated, after, ok2 := strings.Cut(rest, pageEnd)
	if !ok || !ok2 {
		return page{}, fmt.Errorf("%s has not the lines %q and %q to write between", name, strings.TrimSpace(pageBegin), strings.TrimSpace(pageEnd))
	}
	return page{before, generated, after}, nil
}

// numbersOf is the file of the numbers that a page shows.
func numbersOf(name string) string { return strings.TrimSuffix(name, ".md") + ".json" }

func writePage(name string, r *Report) error {
	p, err := readPage(name)
	if err != nil {
		return err
	}
	numbers, err := r.numbers()
	if err != nil {
		return err
	}
	text := p.before + pageBegin + r.markdown() + pageEnd + p.after
	return errors.Join(
		os.WriteFile(name, []byte(text), 0o644),       //nolint:gosec // documentation
		os.WriteFile(numbersOf(name), numbers, 0o644), //nolint:gosec // documentation
	)
}
