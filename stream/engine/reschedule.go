package engine

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// RescheduleCall gives a job of the slot, whose opts are as seen, another due time: after delay by Redis's clock, or at due;
// when both are zero, now.
func RescheduleCall(slot Slot, id, seen string, o Opts, delay time.Duration, due time.Time) Call {
	delayMS, dueMS := whenMS(delay, due)
	if delay <= 0 && due.IsZero() {
		delayMS = ""
	}
	o.Due = maxMillis // in whose place the script writes when it is due
	before, behind, _ := strings.Cut(o.String(), `"due":`+strconv.FormatInt(maxMillis, 10))
	return Call{rescheduleScript, []string{slot.Set, slot.Bodies, slot.IDs}, []any{id, seen, before + `"due":`, behind, delayMS, dueMS, slot.Name, WakeChannel}}
}

// Rescheduled is what became of RescheduleCall.
type Rescheduled struct {
	Gone    bool  // the job is not in the slot
	Changed bool  // it is not as it was seen
	Due     int64 // ms
}

// ReadRescheduled decodes what RescheduleCall answers.
func ReadRescheduled(v any) (Rescheduled, error) {
	list, _ := v.([]any)
	if len(list) != 2 {
		return Rescheduled{}, fmt.Errorf("unexpected answer %v", v)
	}
	code := number(list[0])
	return Rescheduled{Gone: code == 0, Changed: code < 0, Due: score(list[1])}, nil
}
