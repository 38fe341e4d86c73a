package scheduler

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/go-multierror"

	"github.com/penstock-go/penstock/stream"
)

// Spec is a schedule in text: a file, the command line and Redis have this one form of it. Its keys are those of the JSON;
// what Schedule says of a field holds here.
type Spec struct {
	Name   string   `json:"name"`
	Stream string   `json:"stream"`
	Cron   string   `json:"cron,omitempty"`
	Every  Duration `json:"every,omitzero"`
	Fields
	Zone    string    `json:"zone,omitempty"`
	Jitter  Duration  `json:"jitter,omitzero"`
	Start   time.Time `json:"start,omitzero"`
	End     time.Time `json:"end,omitzero"`
	Overlap Overlap   `json:"overlap,omitempty"`
	Missed  Missed    `json:"missed,omitzero"`

	Type string `json:"type"`
	// Data: a string is the payload as it is, anything else is a payload of JSON.
	Data json.RawMessage `json:"data,omitempty"`
	// DataBase64 is a payload that is no text. Not with Data.
	DataBase64   []byte            `json:"data_base64,omitempty"`
	Delay        Duration          `json:"delay,omitzero"`
	ExpiresIn    Duration          `json:"expires_in,omitzero"`
	MaxTries     int               `json:"max_tries,omitempty"`
	Timeout      Duration          `json:"timeout,omitzero"` // or "off"
	RetryDelay   Duration          `json:"retry_delay,omitzero"`
	RetryFactor  float64           `json:"retry_factor,omitempty"`
	RetryMax     Duration          `json:"retry_max,omitzero"`
	RetryJitter  Fraction          `json:"retry_jitter,omitzero"` // or "off"
	KeepResult   Duration          `json:"keep_result,omitzero"`  // or "off"
	Unique       string            `json:"unique,omitempty"`
	UniqueByData bool              `json:"unique_by_data,omitempty"`
	UniqueUntil  string            `json:"unique_until,omitempty"` // done, started, or for how long
	OnConflict   stream.OnConflict `json:"on_conflict,omitempty"`
	Header       map[string]string `json:"header,omitempty"`
}

// specKeys are the keys of the fields that a Fault of a Schedule names.
var specKeys = map[string]string{
	"Name": "name", "Stream": "stream", "Cron": "cron", "Every": "every", "Fields.Month": "month", "Fields.Day": "day",
	"Fields.Weekday": "weekday", "Fields.Hour": "hour", "Fields.Minute": "minute", "Fields.Second": "second", "Zone": "zone",
	"Jitter": "jitter", "Start": "start", "End": "end", "Overlap": "overlap", "Missed.Policy": "missed",
	"Missed.Within": "missed", "Missed.Limit": "missed", "Job.Type": "type", "Job.Data": "data", "Job.Delay": "delay",
	"ExpiresIn": "expires_in", "Job.MaxTries": "max_tries", "Job.Timeout": "timeout", "Job.Backoff": "retry_delay",
	"Job.KeepResult": "keep_result", "Job.Unique": "unique", "Job.Header": "header",
}

// Opener gives the stream of a name, as in func(name string) (*stream.Stream, error) { return stream.New(rdb, name, cfg) }.
type Opener func(name string) (*stream.Stream, error)

// Schedule is what the spec says, or every fault of it: a *multierror.Error of *Fault, whose fields are the spec's keys.
func (s Spec) Schedule(open Opener) (Schedule, error) {
	f := faults{schedule: s.Name}
	out := Schedule{
		Name: s.Name, Cron: s.Cron, Every: time.Duration(s.Every), Fields: s.Fields, Zone: s.Zone, Jitter: time.Duration(s.Jitter),
		Start: s.Start, End: s.End, Overlap: s.Overlap, Missed: s.Missed, ExpiresIn: time.Duration(s.ExpiresIn),
		Job: stream.Job{
			Type: s.Type, Delay: time.Duration(s.Delay), MaxTries: s.MaxTries, Timeout: time.Duration(s.Timeout),
			Backoff: stream.Backoff{
				Delay: time.Duration(s.RetryDelay), Factor: s.RetryFactor, Max: time.Duration(s.RetryMax), Jitter: float64(s.RetryJitter),
			},
			KeepResult: time.Duration(s.KeepResult), Header: s.Header,
		},
	}
	var err error
	if out.Job.Unique, err = s.unique(); err != nil {
		f.add(true, "unique_until", quoted(s.UniqueUntil), "%s", err)
	}
	if out.Job.Data, err = s.data(); err != nil {
		f.add(true, "data", "", "%s", err)
	}
	if s.Stream == "" {
		f.add(true, "stream", "", "is missing")
	} else if out.Stream, err = open(s.Stream); err != nil {
		f.add(true, "stream", quoted(s.Stream), "%s", err)
	}
	if list, ok := errors.AsType[*multierror.Error](out.Validate()); ok {
		for _, err := range list.Errors {
			fault, ok := errors.AsType[*Fault](err)
			if !ok || fault.Field == "Stream" { // that is reported already
				continue
			}
			renamed := *fault
			renamed.Field = cmp.Or(specKeys[fault.Field], fault.Field)
			f.list.Errors = append(f.list.Errors, &renamed)
		}
	}
	if err := f.list.ErrorOrNil(); err != nil {
		return Schedule{}, err
	}
	return out, nil
}

func (s Spec) unique() (stream.Unique, error) {
	u := stream.Unique{Key: s.Unique, ByData: s.UniqueByData, OnConflict: s.OnConflict}
	switch until := stream.Until(s.UniqueUntil); until {
	case "", stream.UntilDone, stream.UntilStarted:
		u.Until = until
	default:
		var d Duration
		if err := d.UnmarshalText([]byte(s.UniqueUntil)); err != nil || d < 0 {
			return u, errors.New("must be done, started, or a duration such as 10m")
		}
		u.For = time.Duration(d)
	}
	return u, nil
}

// data is the payload that the spec stands for.
func (s Spec) data() (any, error) {
	raw := bytes.TrimSpace(s.Data)
	switch {
	case s.DataBase64 != nil && s.Data != nil:
		return nil, errors.New("and data_base64 are both given: give one")
	case s.DataBase64 != nil:
		return s.DataBase64, nil
	case len(raw) == 0 || string(raw) == "null":
		return nil, nil
	case raw[0] == '"':
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return nil, fmt.Errorf("is not JSON: %w", err)
		}
		return []byte(text), nil
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return nil, fmt.Errorf("is not JSON: %w", err)
	}
	return json.RawMessage(b.Bytes()), nil
}

// setData writes a payload so that data gives back the same bytes, also after the spec itself has been JSON.
func (s *Spec) setData(payload []byte) error {
	s.Data, s.DataBase64 = nil, nil
	if payload == nil {
		return nil
	}
	if len(payload) > 0 && payload[0] != '"' && string(payload) != "null" {
		if again, err := json.Marshal(json.RawMessage(payload)); err == nil && bytes.Equal(again, payload) {
			s.Data = payload
			return nil
		}
	}
	if !utf8.Valid(payload) {
		s.DataBase64 = payload
		return nil
	}
	text, err := json.Marshal(string(payload))
	s.Data = text
	return err
}

// settle gives the data the one form that setData gives them.
func (s *Spec) settle() error {
	data, err := s.data()
	if err == nil {
		switch d := data.(type) {
		case nil:
			err = s.setData(nil)
		case []byte:
			err = s.setData(d)
		case json.RawMessage:
			err = s.setData(d)
		}
	}
	if err != nil {
		return &Fault{Schedule: s.Name, Field: "data", Hint: err.Error()}
	}
	return nil
}

// SpecOf is the text form of a schedule. Its data are encoded by the stream's Codec.
func SpecOf(s Schedule) (Spec, error) {
	if err := s.Validate(); err != nil {
		return Spec{}, err
	}
	j := s.Job
	out := Spec{
		Name: s.Name, Stream: s.Stream.Name(), Cron: s.Cron, Every: Duration(s.Every), Fields: s.Fields, Zone: s.Zone,
		Jitter: Duration(s.Jitter), Start: s.Start, End: s.End, Overlap: s.Overlap, Missed: s.Missed,
		Type: j.Type, Delay: Duration(j.Delay), ExpiresIn: Duration(s.ExpiresIn), MaxTries: j.MaxTries, Timeout: Duration(j.Timeout),
		RetryDelay: Duration(j.Backoff.Delay), RetryFactor: j.Backoff.Factor, RetryMax: Duration(j.Backoff.Max),
		RetryJitter: Fraction(j.Backoff.Jitter), KeepResult: Duration(j.KeepResult),
		Unique: j.Unique.Key, UniqueByData: j.Unique.ByData, UniqueUntil: string(j.Unique.Until), OnConflict: j.Unique.OnConflict,
		Header: j.Header,
	}
	if j.Unique.For > 0 {
		out.UniqueUntil = short(j.Unique.For)
	}
	data, err := payload(s)
	if err == nil {
		err = out.setData(data)
	}
	return out, err
}

// ParseSpec reads the JSON of a Spec, as json.Marshal writes it. An unknown key is a fault.
func ParseSpec(data []byte) (Spec, error) {
	if len(data) > maxFile {
		return Spec{}, &Fault{Hint: fmt.Sprintf("has %d bytes, at most %d are allowed", len(data), maxFile)}
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var s Spec
	if err := dec.Decode(&s); err != nil {
		return Spec{}, &Fault{Schedule: s.Name, Hint: "is no schedule: " + strings.TrimPrefix(err.Error(), "json: ")}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Spec{}, &Fault{Schedule: s.Name, Hint: "is no schedule: something follows the JSON object"}
	}
	err := s.settle()
	return s, err
}

// Duration is a time.Duration in text, as in 1h30m. "off" is stream.None.
type Duration time.Duration

// String is the text.
func (d Duration) String() string {
	if time.Duration(d) == stream.None {
		return "off"
	}
	return short(time.Duration(d))
}

// MarshalText writes the text.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a positive duration, or off.
func (d *Duration) UnmarshalText(text []byte) error {
	if string(text) == "off" {
		*d = Duration(stream.None)
		return nil
	}
	v, err := time.ParseDuration(string(text))
	if err != nil || v <= 0 {
		return fmt.Errorf("%q must be a positive duration such as 5m", text)
	}
	*d = Duration(v)
	return nil
}

// Fraction is a part of one. A negative one is "off" in text.
type Fraction float64

// MarshalJSON writes a number or "off".
func (f Fraction) MarshalJSON() ([]byte, error) {
	if f < 0 {
		return []byte(`"off"`), nil
	}
	return json.Marshal(float64(f))
}

// UnmarshalJSON reads a positive number or "off".
func (f *Fraction) UnmarshalJSON(b []byte) error {
	if string(b) == `"off"` {
		*f = -1
		return nil
	}
	var v float64
	if err := json.Unmarshal(b, &v); err != nil || v <= 0 {
		return fmt.Errorf("%s must be a positive number or off", b)
	}
	*f = Fraction(v)
	return nil
}

// String is the policy in words, as in "all within 6h limit 50".
func (m Missed) String() string {
	words := []string{string(m.Policy)}
	if m.Policy == "" {
		words[0] = string(MissedOnce)
	}
	if m.Within != 0 {
		words = append(words, "within", short(m.Within))
	}
	if m.Limit != 0 {
		words = append(words, "limit", strconv.Itoa(m.Limit))
	}
	return strings.Join(words, " ")
}

// MarshalText writes the words.
func (m Missed) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads the words: POLICY [within DURATION] [limit N].
func (m *Missed) UnmarshalText(text []byte) error {
	words := strings.Fields(string(text))
	wrong := fmt.Errorf("%q must be once, skip or all, and may go on with \"within 6h\" and, after all, \"limit 50\"", text)
	if len(words)%2 == 0 {
		return wrong
	}
	read := Missed{Policy: MissedPolicy(words[0])}
	if read.Policy != MissedOnce && read.Policy != MissedSkip && read.Policy != MissedAll {
		return wrong
	}
	for i := 1; i < len(words); i += 2 {
		switch value := words[i+1]; {
		case words[i] == "within" && read.Within == 0:
			var d Duration
			if err := d.UnmarshalText([]byte(value)); err != nil || d < 0 {
				return wrong
			}
			read.Within = time.Duration(d)
		case words[i] == "limit" && read.Limit == 0:
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 {
				return wrong
			}
			read.Limit = n
		default:
			return wrong
		}
	}
	*m = read
	return nil
}
