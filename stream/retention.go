package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

// Retention says what an events stream keeps for groups that are set back to replay it, or that come later. Its schedulers
// delete what every group has acknowledged, and what is older than Age or lies before the last Length entries; at the
// earliest a minute after it was published. What a group has not acknowledged stays, however old it is.
//
// The zero Retention is the one declared for the stream, by default none. Another one takes its place as a whole.
type Retention struct {
	// Age is how long entries of an events stream are kept that all its groups are done with; None: no longer than it takes. Default: as declared.
	Age time.Duration `env:"PENSTOCK_RETENTION_AGE" off:"true" zero:"write \"off\" to keep none"`
	// Length is how many entries of an events stream are kept that all its groups are done with; about a hundred more may be. Default: no limit.
	Length int64 `env:"PENSTOCK_RETENTION_LENGTH" zero:"leave it unset for no limit"`
}

// configRetention is the field of a stream's config: "<age in ms> <length>", 0 for none of it.
const configRetention = "retention"

// MarshalJSON writes the age in milliseconds.
func (r Retention) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		AgeMS  int64 `json:"age_ms,omitempty"`
		Length int64 `json:"length,omitempty"`
	}{max(r.Age, 0).Milliseconds(), r.Length})
}

// IsZero reports whether it says nothing.
func (r Retention) IsZero() bool { return r == Retention{} }

func (r Retention) field() string {
	return strconv.FormatInt(max(r.Age, 0).Milliseconds(), 10) + " " + strconv.FormatInt(r.Length, 10)
}

// parseRetention reads the field of config. What it does not know, a later version's, is no retention of this one.
func parseRetention(field string) Retention {
	age, length, _ := strings.Cut(field, " ")
	ms, err1 := strconv.ParseInt(age, 10, 64)
	n, err2 := strconv.ParseInt(length, 10, 64)
	if err1 != nil || err2 != nil || ms < 0 || n < 0 || ms > maxRetention.Milliseconds() {
		return Retention{}
	}
	return Retention{Age: time.Duration(ms) * time.Millisecond, Length: n}
}

const maxRetention = 100 * 365 * 24 * time.Hour

// SetRetention declares what the stream keeps. The zero Retention keeps nothing that all groups are done with, as does Age None.
// ErrKind: it is no events stream, or none yet.
func (s *Stream) SetRetention(ctx context.Context, r Retention) error {
	if err := (Config{Retention: r}).Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	kind, err := s.rdb.HGet(ctx, s.keys.Config, "kind").Result()
	if engine.Classify(err) != engine.OK {
		return wrapRead("read the configuration of "+s.name, err)
	}
	if Kind(kind) != KindEvents {
		return fmt.Errorf("%w: %s is no events stream: the entries of a queue go as they complete", ErrKind, s.name)
	}
	if r.Age <= 0 && r.Length == 0 {
		return wrap("declare the retention of "+s.name, s.rdb.HDel(ctx, s.keys.Config, configRetention).Err())
	}
	return wrap("declare the retention of "+s.name, s.rdb.HSet(ctx, s.keys.Config, configRetention, r.field()).Err())
}

// DeclareRetention declares Config.Retention, if it says something, where the stream is an events stream of that kind. Workers
// call it when they open the stream.
func (s *Stream) DeclareRetention(ctx context.Context, kind Kind) error {
	if s.cfg.Retention.IsZero() || kind != KindEvents {
		return nil
	}
	return s.SetRetention(ctx, s.cfg.Retention)
}
