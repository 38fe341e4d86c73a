package stream

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/penstock-go/penstock/stream/engine"
)

// SwitchAction is what a kill switch does with the jobs that it is for.
type SwitchAction string

// What a Switch does.
const (
	// PauseJobs puts jobs off when their turn comes: they are not started and lose no try, and go on within seconds once the
	// switch is lifted or over. Those that run already go on.
	PauseJobs SwitchAction = engine.SwitchPause
	// CancelJobs ends jobs as cancelled when their turn comes, and the context of those that run with the cause
	// consumer.ErrCancelled.
	CancelJobs SwitchAction = engine.SwitchCancel
)

// Switch is a kill switch: it keeps workers from running the jobs of a type, or those of them alone in whose data a field
// has a value.
type Switch struct {
	// ID is made from what the switch is for, so that the same one set again replaces it.
	ID string `json:"id"`
	// Action: PauseJobs or CancelJobs.
	Action SwitchAction `json:"action"`
	// Type of the jobs. Required.
	Type string `json:"type"`
	// Field of the data, which are a JSON object: a member at its top. "": all jobs of the type.
	Field string `json:"field,omitempty"`
	// Value that the field has: the text of a string, or else the JSON as it is written, as in 7 or true.
	Value string `json:"value,omitempty"`
	// Group it is for. "": every group of the stream.
	Group string `json:"group,omitempty"`
	// Reason, for people: who, and why. At most 500 bytes.
	Reason string `json:"reason,omitempty"`
	// For is how long it holds. 0: until it is lifted. Switches leaves it 0.
	For time.Duration `json:"-"`
	// Made and Expires are set by Switches and AddSwitch, by Redis's clock. Expires is zero when it holds until it is lifted.
	Made    time.Time `json:"made"`
	Expires time.Time `json:"expires,omitzero"`
}

const (
	maxSwitchText = 500
	minSwitchFor  = time.Second
)

func (sw Switch) check() error {
	var faults []string
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, text)
		}
	}
	fault(sw.Action != PauseJobs && sw.Action != CancelJobs, fmt.Sprintf("Action is %q: it must be %s or %s", sw.Action, PauseJobs, CancelJobs))
	fault(sw.Type == "", "Type is empty: a switch is for the jobs of a type")
	fault(sw.Field == "" && sw.Value != "", "Value is set, and Field is not")
	for name, text := range map[string]string{"Type": sw.Type, "Field": sw.Field, "Value": sw.Value, "Reason": sw.Reason} {
		fault(len(text) > maxSwitchText, fmt.Sprintf("%s has %d bytes: at most %d are allowed", name, len(text), maxSwitchText))
		fault(!utf8.ValidString(text), name+" is no UTF-8")
	}
	fault(sw.For != 0 && sw.For < minSwitchFor, fmt.Sprintf("For is %s: it must be at least %s, or 0 until the switch is lifted", sw.For, minSwitchFor))
	if sw.Group != "" {
		if err := engine.CheckGroup(sw.Group); err != nil {
			faults = append(faults, "Group: "+err.Error())
		}
	}
	if len(faults) > 0 {
		slices.Sort(faults)
		return fmt.Errorf("%w: %s", ErrInvalid, strings.Join(faults, "; "))
	}
	return nil
}

// id is a short name for what the switch is for.
func (sw Switch) id() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", sw.Group, sw.Type, sw.Field, sw.Value))
	return hex.EncodeToString(sum[:4])
}

// AddSwitch sets a kill switch, and returns it as it stands. One for the same group, type, field and value it replaces,
// whatever that did. Workers obey it within milliseconds, or when their connection to the wake-up channel is down within a second; new ones
// before they start their first job. A stream may have 100.
//
// Errors: ErrInvalid, ErrUnavailable, ErrDenied. It can be repeated.
func (s *Stream) AddSwitch(ctx context.Context, sw Switch) (Switch, error) {
	doing := "set a kill switch of " + s.name
	if err := sw.check(); err != nil {
		return Switch{}, fmt.Errorf("%s: %w", doing, err)
	}
	sw.ID = sw.id()
	v, err := s.repeat(ctx, engine.SwitchCall(s.keys, engine.Switch{
		ID: sw.ID, Action: string(sw.Action), Type: sw.Type, Field: sw.Field, Value: sw.Value, Group: sw.Group, Reason: sw.Reason,
	}, sw.For))
	if err != nil {
		return Switch{}, wrap(doing, err)
	}
	_, made, till, ok := engine.ReadSwitched(v)
	if !ok {
		return Switch{}, fmt.Errorf("%s: %w: there are %d, and no more are allowed: lift some", doing, ErrInvalid, engine.SwitchesMax)
	}
	sw.For, sw.Made, sw.Expires = 0, made, till
	return sw, nil
}

// RemoveSwitch lifts a kill switch. What it had put off is due at once.
//
// Errors: ErrNotFound, ErrUnavailable, ErrDenied. After ErrUnavailable it may have been lifted.
func (s *Stream) RemoveSwitch(ctx context.Context, id string) error {
	doing := fmt.Sprintf("lift kill switch %s of %s", id, s.name)
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	v, err := engine.LiftCall(s.keys, id).Run(ctx, s.rdb)
	if err != nil {
		return wrapRead(doing, err)
	}
	if was, _, _, _ := engine.ReadSwitched(v); !was {
		return fmt.Errorf("%s: %w", doing, ErrNotFound)
	}
	return nil
}

// Switches lists the kill switches that hold, oldest first.
func (s *Stream) Switches(ctx context.Context) ([]Switch, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	v, err := engine.SwitchesCall(s.keys, s.keys.Group("", false)).Run(ctx, s.rdb)
	if err != nil {
		return nil, wrapRead("list the kill switches of "+s.name, err)
	}
	read, err := engine.ReadSwitches(v)
	if err != nil {
		return nil, fmt.Errorf("list the kill switches of %s: %w", s.name, err)
	}
	var list []Switch
	for _, sw := range read.List {
		list = append(list, Switch{
			ID: sw.ID, Action: SwitchAction(sw.Action), Type: sw.Type, Field: sw.Field, Value: sw.Value, Group: sw.Group, Reason: sw.Reason,
			Made: sw.Made, Expires: sw.Till,
		})
	}
	slices.SortFunc(list, func(a, b Switch) int { return cmp.Or(a.Made.Compare(b.Made), cmp.Compare(a.ID, b.ID)) })
	return list, nil
}

// repeat runs a script that can be repeated, until it is answered or ctx ends.
func (s *Stream) repeat(ctx context.Context, call engine.Call) (any, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	for try := 0; ; try++ {
		v, err := call.Run(ctx, s.rdb)
		if class := engine.Classify(err); class != engine.Lost && class != engine.Busy || !pause(ctx, try) {
			return v, err
		}
	}
}
