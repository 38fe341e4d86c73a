package engine

import (
	"fmt"
	"strconv"
	"time"
)

// Claimant is who does a piece of work that is to be done once.
type Claimant struct {
	Job   string // in which group of which stream
	Fence int64
	Run   string // something no other run has, without spaces
}

func (c Claimant) text() string { return c.Job + "\n" + strconv.FormatInt(c.Fence, 10) + "\n" + c.Run }

// ClaimCall takes a piece of work, or holds what was taken for longer.
func ClaimCall(k Keys, key string, by Claimant, lease time.Duration) Call {
	return Call{onceScript, []string{k.Once(key)}, []any{"claim", by.text(), ceilMS(lease), ""}}
}

// DoneCall marks work as done, with what it returned; nil is nothing.
func DoneCall(k Keys, key string, by Claimant, result []byte, keep time.Duration) Call {
	text := []byte{}
	if result != nil {
		text = append([]byte{'='}, result...)
	}
	return Call{onceScript, []string{k.Once(key)}, []any{"done", by.text(), ceilMS(keep), text}}
}

// UnclaimCall lets go of work that was not done.
func UnclaimCall(k Keys, key string, by Claimant) Call {
	return Call{onceScript, []string{k.Once(key)}, []any{"release", by.text(), 0, ""}}
}

// Claimed is what is known of a piece of work: it is done, or another's, or the caller's.
type Claimed struct {
	Done   bool
	Result []byte // of what is done; nil: it returned nothing
	Taken  bool
	Wait   time.Duration // for how long it is another's, unless that one holds it for longer
}

// ReadClaimed decodes what ClaimCall and DoneCall answer.
func ReadClaimed(v any) (Claimed, error) {
	list, _ := v.([]any)
	if len(list) != 2 {
		return Claimed{}, fmt.Errorf("unexpected answer %v", v)
	}
	text, _ := list[1].(string)
	switch list[0] {
	case "mine":
		return Claimed{}, nil
	case "done":
		c := Claimed{Done: true}
		if text != "" {
			c.Result = []byte(text[1:])
		}
		return c, nil
	case "taken":
		return Claimed{Taken: true, Wait: time.Duration(number(text)) * time.Millisecond}, nil
	}
	return Claimed{}, fmt.Errorf("unexpected answer %v", v)
}
