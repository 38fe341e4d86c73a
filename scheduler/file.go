package scheduler

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/hashicorp/go-multierror"
	"go.yaml.in/yaml/v3"

	"github.com/penstock-go/penstock/stream"
)

// Bounds of a file.
const (
	maxFile      = 1 << 20
	maxSchedules = 10_000
	maxDepth     = 50
	maxFaults    = 100     // that are listed
	maxNodes     = 1 << 20 // once aliases stand for what they mean
	maxText      = 4 << 20 // bytes, likewise
)

// ParseFile reads a YAML file with a list of schedules under the key schedules, each with the keys of Spec. A field that
// takes several values takes one too, and data may be YAML, which becomes JSON. Files have at most 1 MiB and 10,000
// schedules.
//
// Every fault comes at once, each with line and key, up to the hundredth: a *multierror.Error of *Fault.
func ParseFile(data []byte, open Opener) ([]Schedule, error) {
	r := reader{open: open, opened: make(map[string]opened), lines: make(map[string]int)}
	list := r.file(data)
	if err := r.faults.ErrorOrNil(); err != nil {
		return nil, err
	}
	return list, nil
}

type opened struct {
	stream *stream.Stream
	err    error
}

// reader of a file.
type reader struct {
	open   Opener
	opened map[string]opened
	lines  map[string]int // of each schedule's name
	nodes  int            // once aliases stand for what they mean
	bytes  int            // of their text
	faults multierror.Error
}

func (r *reader) fault(line int, schedule, field, value, hint string, args ...any) {
	switch n := r.faults.Len(); {
	case n < maxFaults:
		r.faults.Errors = append(r.faults.Errors, &Fault{Line: line, Schedule: schedule, Field: field, Value: value, Hint: fmt.Sprintf(hint, args...)})
	case n == maxFaults:
		r.faults.Errors = append(r.faults.Errors, &Fault{Hint: "there are more faults than these"})
	}
}

func (r *reader) file(data []byte) []Schedule {
	if len(data) > maxFile {
		r.fault(0, "", "", "", "the file must have at most %d bytes", maxFile)
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		r.fault(0, "", "schedules", "", "is missing: the file is empty")
		return nil
	} else if err != nil {
		r.syntax(err)
		return nil
	}
	if err := dec.Decode(&second); err == nil {
		r.fault(second.Line, "", "", "", "a second document begins here: there must be one")
	} else if !errors.Is(err, io.EOF) {
		r.syntax(err)
	}
	if len(doc.Content) == 0 {
		r.fault(0, "", "schedules", "", "is missing: the file is empty")
		return nil
	}
	top := follow(doc.Content[0])
	if top.Kind != yaml.MappingNode {
		r.fault(top.Line, "", "schedules", "", "is missing: the file must be a mapping with that key")
		return nil
	}
	var list *yaml.Node
	for key, value := range r.pairs(top, "") {
		if key.Value == "schedules" {
			list = value
		} else {
			r.fault(key.Line, "", key.Value, "", "is not known: the only key here is schedules")
		}
	}
	switch {
	case list == nil:
		r.fault(top.Line, "", "schedules", "", "is missing")
		return nil
	case list.Kind != yaml.SequenceNode:
		r.fault(list.Line, "", "schedules", "", "must be a list")
		return nil
	case len(list.Content) > maxSchedules:
		r.fault(list.Line, "", "schedules", "", "there are %d, at most %d are allowed", len(list.Content), maxSchedules)
		return nil
	}
	schedules := make([]Schedule, 0, len(list.Content))
	for i, node := range list.Content {
		schedules = append(schedules, r.schedule(i+1, follow(node)))
	}
	return schedules
}

// syntax reports what the YAML parser says, which names the line in its own way.
func (r *reader) syntax(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 0
	if n, _ := fmt.Sscanf(text, "line %d:", &line); n == 1 {
		_, text, _ = strings.Cut(text, ": ")
	}
	if strings.Contains(text, "alphabetic or numeric character") || strings.Contains(text, "anchor") {
		text += ` (a value that begins with '*' must be quoted, as in cron: "*/5 * * * *")`
	}
	r.fault(line, "", "", "", "not YAML: %s", text)
}

// schedule reads the i-th one.
func (r *reader) schedule(i int, node *yaml.Node) Schedule {
	label := fmt.Sprintf("%d of the list", i)
	if node.Kind != yaml.MappingNode {
		r.fault(node.Line, label, "", "", "must be a mapping, with name, stream, type and a time")
		return Schedule{}
	}
	for j := 0; j+1 < len(node.Content); j += 2 {
		if name := follow(node.Content[j+1]); node.Content[j].Value == "name" && name.Kind == yaml.ScalarNode && name.Value != "" {
			label = clip(name.Value)
		}
	}
	var spec Spec
	failed := make(map[string]bool) // keys that could not be read: what is missing or wrong for that need not be said too
	lines := make(map[string]int)
	fields := keysOf(&spec)
	for key, value := range r.pairs(node, label) {
		lines[key.Value] = key.Line
		into, ok := fields[key.Value]
		if !ok {
			failed[key.Value] = true
			r.fault(key.Line, label, key.Value, "", "is not known%s", like(key.Value, fields))
			continue
		}
		if hint := r.set(&spec, key.Value, into, value); hint != "" {
			failed[key.Value] = true
			r.fault(value.Line, label, key.Value, "", "%s", hint)
		}
	}
	if spec.Name != "" {
		if line, twice := r.lines[spec.Name]; twice {
			r.fault(node.Line, label, "name", "", "the schedule in line %d has it already", line)
		} else {
			r.lines[spec.Name] = node.Line
		}
	}
	schedule, err := spec.Schedule(r.stream)
	if list, ok := errors.AsType[*multierror.Error](err); ok {
		for _, err := range list.Errors {
			fault, ok := errors.AsType[*Fault](err)
			if !ok {
				continue
			}
			line, given := lines[fault.Field]
			if !given {
				line = node.Line
			}
			if given && !failed[fault.Field] || !given && len(failed) == 0 {
				r.fault(line, label, fault.Field, fault.Value, "%s", fault.Hint)
			}
		}
	}
	return schedule
}

func (r *reader) stream(name string) (*stream.Stream, error) {
	s, ok := r.opened[name]
	if !ok {
		s.stream, s.err = r.open(name)
		r.opened[name] = s
	}
	return s.stream, s.err
}

// set writes a value to its field of the spec, and says what is wrong with it, or "".
func (r *reader) set(spec *Spec, key string, into any, value *yaml.Node) string {
	if key == "data" {
		return r.setData(spec, value)
	}
	kind := reflect.TypeOf(into).Elem()
	list := kind.Kind() == reflect.Slice && key != "data_base64"
	if list && value.Kind == yaml.ScalarNode {
		value = &yaml.Node{Kind: yaml.SequenceNode, Line: value.Line, Content: []*yaml.Node{value}}
	}
	if list && len(value.Content) == 0 {
		return "must not be empty: leave it out"
	}
	if value.Kind == yaml.ScalarNode && value.ShortTag() == "!!null" {
		return "must have a value: or leave it out"
	}
	var b bytes.Buffer
	if err := r.json(&b, value, maxDepth); err != nil {
		return err.Error()
	}
	bad := kind == reflect.TypeFor[Duration]() && b.String() == `"off"` && key != "timeout" && key != "keep_result"
	bad = bad || (kind.Kind() == reflect.Int || kind.Kind() == reflect.Float64) && b.String() == "0" // it would be the default
	if err := json.Unmarshal(b.Bytes(), into); err != nil || bad {
		hint := "must be " + expected(key, kind)
		if key == "header" || key == "data_base64" { // no log's business
			return hint
		}
		return hint + ", not " + clip(b.String())
	}
	return ""
}

func (r *reader) setData(spec *Spec, value *yaml.Node) string {
	var b bytes.Buffer
	if err := r.json(&b, value, maxDepth); err != nil {
		return err.Error()
	}
	payload := b.Bytes()
	if value.Kind == yaml.ScalarNode {
		switch value.ShortTag() {
		case "!!null":
			return ""
		case "!!str":
			payload = []byte(value.Value)
		}
	}
	if err := spec.setData(payload); err != nil {
		return err.Error()
	}
	return ""
}

// expected says what a value of that key looks like.
func expected(key string, kind reflect.Type) string {
	switch {
	case key == "weekday":
		return "a weekday or a list of them, as in [mon, fri]"
	case key == "start" || key == "end":
		return "a time such as 2006-01-02T15:04:05Z"
	case key == "missed":
		return `once, skip or all, as in "all within 6h limit 50"`
	case key == "header":
		return "a mapping of strings to strings"
	case key == "data_base64":
		return "base64"
	case key == "timeout" || key == "keep_result":
		return "a positive duration such as 5m, or off"
	case kind == reflect.TypeFor[Duration]():
		return "a positive duration such as 5m"
	case kind == reflect.TypeFor[Fraction]():
		return "a positive number, or off"
	}
	switch kind.Kind() {
	case reflect.Slice:
		return "a number or a list of them, as in [0, 30]"
	case reflect.Int, reflect.Float64:
		return "a number, at least 1"
	case reflect.Bool:
		return "true or false"
	default:
		return "a string: quote it"
	}
}

// keysOf are pointers to the fields of a spec, by their keys.
func keysOf(spec *Spec) map[string]any {
	keys := make(map[string]any)
	for _, v := range []reflect.Value{reflect.ValueOf(spec).Elem(), reflect.ValueOf(&spec.Fields).Elem()} {
		for i := range v.NumField() {
			if key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); key != "" {
				keys[key] = v.Field(i).Addr().Interface()
			}
		}
	}
	return keys
}

// like names the known key that was meant, where that can be guessed.
func like(key string, known map[string]any) string {
	plain := func(s string) string {
		return strings.TrimSuffix(strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(s)), "s")
	}
	for k := range known {
		if plain(k) == plain(key) {
			return ": write " + k
		}
	}
	switch plain(key) {
	case "id", "at":
		return ": it follows from the tick"
	case "expire":
		return ": write expires_in"
	case "timezone", "tz":
		return ": write zone"
	}
	return ""
}

// clip shortens what is shown of a value.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
