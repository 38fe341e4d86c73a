package scheduler

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"
)

// Where a schedule comes from, as people are told.
const (
	inProgram = "the program (Add)"
	inRedis   = "Redis"
)

// sources are where schedules come from: the program, a file, and Redis. A name is in one of them only; where Redis has one
// of the others' as well, it counts for nothing.
type sources struct {
	open   Opener
	path   string // of the file; "": none
	logger *slog.Logger

	mu    sync.Mutex
	added map[string]*entry
	filed map[string]*entry
	kept  map[string]*entry // good ones
	bad   map[string]badKept
	text  []byte // of the file, as last read
	stamp stamp
	err   error  // what is wrong with it
	fault string // of the file's last reading
}

// badKept is a schedule kept in Redis that is wrong and not in force, as it was logged.
type badKept struct {
	text string
	err  error
}

// stamp tells that a file has changed.
type stamp struct {
	at   time.Time
	size int64
}

func newSources(open Opener, path string, logger *slog.Logger) *sources {
	return &sources{
		open: open, path: path, logger: logger,
		added: make(map[string]*entry), filed: make(map[string]*entry), kept: make(map[string]*entry), bad: make(map[string]badKept),
	}
}

// add takes in schedules of the program: all of them, or none.
func (s *sources) add(schedules []Schedule) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs *multierror.Error
	fresh := make(map[string]*entry, len(schedules))
	for _, sc := range schedules {
		e, err := newEntry(sc, inProgram, time.Time{})
		if err != nil {
			errs = multierror.Append(errs, err)
			continue
		}
		switch {
		case s.added[sc.Name] != nil || fresh[sc.Name] != nil:
			errs = multierror.Append(errs, &Fault{Schedule: sc.Name, Field: "Name", Hint: "is added twice"})
		case s.filed[sc.Name] != nil:
			errs = multierror.Append(errs, twice(sc.Name, inProgram, s.filed[sc.Name].origin))
		}
		fresh[sc.Name] = e
	}
	if err := errs.ErrorOrNil(); err != nil {
		return err
	}
	maps.Copy(s.added, fresh)
	return nil
}

func twice(name, one, other string) *Fault {
	return &Fault{Schedule: name, Field: "Name", Hint: fmt.Sprintf("is in %s and in %s: it may be in one of them only", one, other)}
}

// readFile takes in the file when it has changed. After an error the schedules that it had before stay in force.
func (s *sources) readFile() (changed bool, err error) {
	if s.path == "" {
		return false, nil
	}
	info, err := os.Stat(s.path)
	if err != nil {
		return false, fmt.Errorf("schedules: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := stamp{info.ModTime(), info.Size()}
	if s.text != nil && now == s.stamp {
		return false, s.err
	}
	text, err := readAtMost(s.path, maxFile+1) // what is longer is refused
	if err != nil {
		return false, fmt.Errorf("schedules: %w", err)
	}
	s.stamp = now
	if s.text != nil && bytes.Equal(text, s.text) {
		return false, s.err
	}
	s.text = text
	filed, err := s.parseFile(text)
	if s.err = err; err != nil {
		return false, err
	}
	s.filed = filed
	return true, nil
}

func readAtMost(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

func (s *sources) parseFile(text []byte) (map[string]*entry, error) {
	schedules, err := ParseFile(text, s.open)
	if err != nil {
		return nil, fmt.Errorf("schedules in %s: %w", s.path, err)
	}
	filed := make(map[string]*entry, len(schedules))
	var errs *multierror.Error
	for _, sc := range schedules {
		e, err := newEntry(sc, s.path, time.Time{})
		switch {
		case err != nil:
			errs = multierror.Append(errs, err)
			continue
		case filed[sc.Name] != nil:
			errs = multierror.Append(errs, &Fault{Schedule: sc.Name, Field: "name", Hint: "is in the file twice"})
		case s.added[sc.Name] != nil:
			errs = multierror.Append(errs, twice(sc.Name, inProgram, s.path))
		}
		if old := s.filed[sc.Name]; old != nil && same(old.Schedule, sc) {
			e = old // it goes on as it is
		}
		filed[sc.Name] = e
	}
	if err := errs.ErrorOrNil(); err != nil {
		return nil, fmt.Errorf("schedules in %s: %w", s.path, err)
	}
	return filed, nil
}

// same compares two schedules of a file.
func same(a, b Schedule) bool {
	x, err1 := SpecOf(a)
	y, err2 := SpecOf(b)
	return err1 == nil && err2 == nil && specText(x) == specText(y)
}

// reloadFile is readFile that logs what is wrong, once.
func (s *sources) reloadFile() bool {
	changed, err := s.readFile()
	fault := ""
	if err != nil {
		fault = err.Error()
	}
	s.mu.Lock()
	said, n := s.fault, len(s.filed)
	s.fault = fault
	s.mu.Unlock()
	switch {
	case err != nil && fault != said:
		s.logger.Error("the file of schedules cannot be used: those that it had before stay in force", "file", s.path, "err", err)
	case changed:
		s.logger.Info("the file of schedules was read", "file", s.path, "schedules", n)
	}
	return changed
}

// setKept takes in the schedules kept in Redis, and reports whether that changes anything. What is wrong is logged once.
func (s *sources) setKept(texts map[string]string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, bad := make(map[string]*entry, len(texts)), make(map[string]badKept)
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		text := texts[name]
		if old := s.kept[name]; old != nil && old.text == text {
			kept[name] = old
			continue
		}
		if old, ok := s.bad[name]; ok && old.text == text {
			bad[name] = old
			continue
		}
		k, err := parseKept(name, text)
		if err == nil && k.Paused {
			continue
		}
		var e *entry
		if err == nil {
			e, err = k.entry(s.open)
		}
		if err == nil {
			e.text = text
		}
		if err != nil {
			bad[name] = badKept{text, err}
			s.logger.Error("a schedule kept in Redis is wrong, and not in force", "schedule", name, "err", err)
			continue
		}
		kept[name] = e
	}
	changed := !maps.Equal(kept, s.kept)
	s.kept, s.bad = kept, bad
	return changed
}

// current are the schedules in force.
func (s *sources) current() map[string]*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := make(map[string]*entry, len(s.added)+len(s.filed)+len(s.kept))
	maps.Copy(set, s.added)
	maps.Copy(set, s.filed)
	for name, e := range s.kept {
		if other := set[name]; other != nil {
			if !e.fails(true) {
				continue
			}
			s.logger.Error("a schedule kept in Redis is not in force", "schedule", name, "err", twice(name, other.origin, inRedis))
			continue
		}
		set[name] = e
	}
	return set
}

// own is the schedule of that name that is not kept in Redis, or nil.
func (s *sources) own(name string) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.added[name]; e != nil {
		return e
	}
	return s.filed[name]
}

// owned are the schedules that are not kept in Redis.
func (s *sources) owned() map[string]*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := maps.Clone(s.added)
	maps.Copy(set, s.filed)
	return set
}

// wrong are the errors of schedules kept in Redis, by name.
func (s *sources) wrong() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s.bad)) {
		errs = append(errs, s.bad[name].err)
	}
	return errs
}

// hasKept reports whether any is kept in Redis.
func (s *sources) hasKept() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.kept) > 0
}
