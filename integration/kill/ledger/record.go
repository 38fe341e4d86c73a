package ledger

import "time"

// What a record says happened.
type What string

// What publishers and handlers see.
const (
	Published    What = "published"    // the publisher is about to call Publish
	Acknowledged What = "acknowledged" // Publish returned an ID
	Ambiguous    What = "ambiguous"    // Publish said that the job may be stored
	Refused      What = "refused"      // Publish said that nothing was stored
	Started      What = "started"      // a handler began
	Ended        What = "ended"        // it said how it ends, and then does
	Gone         What = "gone"         // it ended without a word: it was killed
)

// How a handler ends.
const (
	OK          = "ok"
	Failed      = "failed"
	Permanent   = "permanent"
	Interrupted = "interrupted" // it was told to stop
)

// Work is a job: what its handler does. It is the job's data.
type Work struct {
	N         int           `json:"n"`                   // the publisher's number for it
	Stream    string        `json:"stream"`              // it is published to
	ID        string        `json:"id,omitempty"`        // chosen; empty: none
	Delay     time.Duration `json:"delay,omitempty"`     // before it is due
	Millis    int           `json:"millis"`              // how long each run takes
	Fails     int           `json:"fails,omitempty"`     // so many tries fail
	Permanent bool          `json:"permanent,omitempty"` // the first try fails for good
	Stubborn  bool          `json:"stubborn,omitempty"`  // it ignores SIGTERM
	Poison    bool          `json:"poison,omitempty"`    // each run kills its worker
}

// Record is one line of the ledger. Fields that say nothing of its What are zero.
type Record struct {
	At      time.Duration `json:"at"` // since the ledger was opened
	What    What          `json:"what"`
	N       int           `json:"n"`                 // of the Work
	Work    *Work         `json:"work,omitempty"`    // published
	ID      string        `json:"id,omitempty"`      // of the job: acknowledged, started
	Due     time.Duration `json:"due,omitempty"`     // acknowledged, a deferred job: when it is due
	Twice   bool          `json:"twice,omitempty"`   // acknowledged: another job with this ID was there
	Text    string        `json:"text,omitempty"`    // ambiguous, refused: the error
	Run     int           `json:"run,omitempty"`     // started, ended, gone: which run
	Stream  string        `json:"stream,omitempty"`  // started
	Group   string        `json:"group,omitempty"`   // started
	Worker  string        `json:"worker,omitempty"`  // started: which process, as "main1.3"
	Attempt int           `json:"attempt,omitempty"` // started
	Fence   int64         `json:"fence,omitempty"`   // started
	Pid     int           `json:"pid,omitempty"`     // started: of the handler
	Result  string        `json:"result,omitempty"`  // ended
}
