package engine

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// SwitchesMax is how many kill switches a stream may have.
const SwitchesMax = 100

// resumeBatch is how many jobs one resume script makes due.
const resumeBatch = 500

// switchHint begins what is said on the wake-up channel of kill switches that have changed: "switch <switches key>".
const switchHint = "switch "

// Switch is a kill switch as it lies in Redis. It is for jobs of a type, and with a Field for those alone in whose data,
// a JSON object, that member is Value: a string, or as it is written.
type Switch struct {
	ID     string    `json:"-"`
	Action string    `json:"do"` // pause or cancel
	Type   string    `json:"t"`
	Field  string    `json:"f,omitempty"`
	Value  string    `json:"v,omitempty"`
	Group  string    `json:"g,omitempty"` // "": of all groups
	Reason string    `json:"why,omitempty"`
	Made   time.Time `json:"-"`
	Till   time.Time `json:"-"` // zero: until it is lifted
}

// What a switch does.
const (
	SwitchPause  = "pause"
	SwitchCancel = "cancel"
)

// SwitchCall adds a switch, for so long, or with 0 until it is lifted; one with its ID it replaces.
func SwitchCall(k Keys, s Switch, hold time.Duration) Call {
	text, err := json.Marshal(s)
	if err != nil {
		panic("penstock: a switch cannot be encoded: " + err.Error()) // strings
	}
	return Call{switchScript, []string{k.Switches}, []any{s.ID, text, ceilMS(hold), SwitchesMax, WakeChannel}}
}

// LiftCall lifts a switch.
func LiftCall(k Keys, id string) Call {
	return Call{switchScript, []string{k.Switches}, []any{id, "", 0, SwitchesMax, WakeChannel}}
}

// ReadSwitched decodes what SwitchCall and LiftCall answer: whether there was one of that ID, and when the new one was made
// and is over. ok is false when there are too many.
func ReadSwitched(v any) (was bool, made, till time.Time, ok bool) {
	if at(v, 0) == int64(-1) {
		return false, made, till, false
	}
	return at(v, 0) == int64(1), switchTime(at(v, 1)), switchTime(at(v, 2)), true
}

func switchTime(v any) time.Time {
	s, _ := v.(string)
	ms, err := strconv.ParseInt(s, 10, 64)
	if err != nil || ms <= 0 || ms > maxMillis {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// Switches is what SwitchesCall answers.
type Switches struct {
	Version string // "": there are none
	Paused  int64  // jobs of the group that have been put off, and maybe some that were
	List    []Switch
	Foreign int // fields that are no switches
}

// SwitchesCall reads the switches that hold, and how many jobs the group has put off.
func SwitchesCall(k Keys, g GroupKeys) Call {
	return Call{switchesScript, []string{k.Switches, g.Paused}, []any{2 * SwitchesMax}}
}

// ReadSwitches decodes what SwitchesCall answers.
func ReadSwitches(v any) (Switches, error) {
	list, ok := v.([]any)
	if !ok || len(list) < 2 || len(list)%2 != 0 {
		return Switches{}, fmt.Errorf("unexpected answer %v", v)
	}
	var s Switches
	s.Version, _ = list[0].(string)
	s.Paused = number(list[1])
	for i := 2; i < len(list); i += 2 {
		id, _ := list[i].(string)
		text, _ := list[i+1].(string)
		head, body, _ := strings.Cut(text, "\n")
		made, till, _ := strings.Cut(head, " ")
		one := Switch{ID: id, Made: switchTime(made), Till: switchTime(till)}
		if json.Unmarshal([]byte(body), &one) != nil || one.Action != SwitchPause && one.Action != SwitchCancel || one.Type == "" {
			s.Foreign++ // of a newer version, or somebody's own: what it wants is not known
			continue
		}
		s.List = append(s.List, one)
	}
	return s, nil
}

// ResumeCall makes jobs of a group due that a switch has put off.
func ResumeCall(g GroupKeys) Call {
	return Call{resumeScript, []string{g.Paused, g.Retrying, g.IDs}, []any{resumeBatch, WakeChannel}}
}

// Resumed reports whether ResumeCall may have left some.
func Resumed(v any) (more bool) { return number(v) >= resumeBatch }

// SwitchHint takes apart what was said on the wake-up channel: whose switches have changed.
func SwitchHint(text string) (key string, ok bool) { return strings.CutPrefix(text, switchHint) }

// Matches reports whether a switch is for a job of a group. Fields are those of the data, as FieldsOf gives them.
func (s *Switch) Matches(group, typ string, fields func() map[string]json.RawMessage) bool {
	if s.Type != typ || s.Group != "" && s.Group != group {
		return false
	}
	if s.Field == "" {
		return true
	}
	raw, ok := fields()[s.Field]
	if !ok {
		return false
	}
	var text string
	if json.Unmarshal(raw, &text) == nil && len(raw) > 0 && raw[0] == '"' {
		return text == s.Value
	}
	return string(raw) == s.Value
}

// FieldsOf are the members of data that are a JSON object; nil: they are something else.
func FieldsOf(data []byte) map[string]json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil {
		return nil
	}
	return fields
}
