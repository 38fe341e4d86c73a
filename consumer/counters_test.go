package consumer

import (
	"testing"

	"github.com/penstock-go/penstock/stream/engine"
)

// TestMovedCounts: each way a job goes on counts what it is meant to count, and no other; the fence grows with all.
func TestMovedCounts(t *testing.T) {
	t.Parallel()
	w := fakeWorker(t, &fakeRedis{}, Config{})
	before := engine.Opts{ID: "x", Errors: 2, Crashes: 1, Moves: 7, Bounces: 3, BouncedAt: 1}
	for name, tc := range map[string]struct {
		verdict                           verdict
		errors, crashes, bounces, history int
	}{
		"retry":                {verdict{action: actRetry, err: errUnknown}, 3, 1, 0, 1},
		"snooze":               {verdict{action: actSnooze}, 2, 1, 0, 0},
		"hand-back":            {verdict{action: actRelease}, 2, 1, 3, 0},
		"hand-back of a run":   {verdict{action: actRelease, err: ErrStopping}, 2, 1, 3, 0},
		"lease over":           {verdict{action: actReclaim}, 2, 2, 3, 1},
		"bounce":               {verdict{action: actBounce, err: errUnknown}, 2, 1, 4, 0},
		"dead, failed":         {verdict{action: actDead, reason: reasonFailed, err: errUnknown}, 3, 1, 0, 1},
		"dead, permanent":      {verdict{action: actDead, reason: reasonPermanent, err: errUnknown}, 3, 1, 0, 1},
		"dead, without a run":  {verdict{action: actDead, reason: reasonExpired, err: errUnknown}, 2, 1, 0, 0},
		"dead, crashed":        {verdict{action: actDead, reason: reasonCrashed, err: errUnknown}, 2, 1, 0, 0},
		"dead, never decoded":  {verdict{action: actDead, reason: reasonUndecodable, err: errUnknown}, 3, 1, 0, 1},
		"dead, no type for it": {verdict{action: actDead, reason: reasonUnknown, err: errUnknown}, 2, 1, 0, 0},
	} {
		task := endedTask(w, "1-1")
		task.ID, task.opts = "x", &before
		_, o, err := engine.ParseEntry(fieldsOf(task.moved(tc.verdict)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if o.Errors != tc.errors || o.Crashes != tc.crashes || o.Bounces != tc.bounces || len(o.History) != tc.history || o.Moves != 8 || o.ID != "x" {
			t.Errorf("%s: %+v; want %d errors, %d crashes, %d bounces, %d lines of history, 8 moves", name, o, tc.errors, tc.crashes, tc.bounces, tc.history)
		}
	}
}

func fieldsOf(e engine.Entry) (values []string) {
	for _, v := range e.Fields() {
		values = append(values, v.(string))
	}
	return values
}

// TestMaxCrashes: past the limit a job is dead without a run.
func TestMaxCrashes(t *testing.T) {
	t.Parallel()
	w := fakeWorker(t, &fakeRedis{}, Config{MaxCrashes: 2})
	for crashes, dead := range map[int]bool{0: false, 1: false, 2: true, 3: true} {
		task := endedTask(w, "1-1")
		task.route, task.opts, task.verdict = &route{}, &engine.Opts{Crashes: crashes}, verdict{}
		if got := w.refuse(task); got != dead || dead && (task.verdict.action != actDead || task.verdict.reason != reasonCrashed) {
			t.Errorf("after %d crashes a job is refused: %v, %+v; want %v", crashes, got, task.verdict, dead)
		}
	}
}
