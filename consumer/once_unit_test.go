package consumer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// oneClaim is a store that answers as it is told, and counts.
type oneClaim struct {
	claims, released int
	claim            func(n int) (OnceState, error)
	done             func(n int) (bool, error)
	marked           int
}

func (s *oneClaim) Claim(context.Context, OnceClaim) (OnceState, error) {
	s.claims++
	return s.claim(s.claims)
}

func (s *oneClaim) Done(context.Context, OnceClaim, []byte, time.Duration) (bool, error) {
	if s.marked++; s.done == nil {
		return true, nil
	}
	return s.done(s.marked)
}

func (s *oneClaim) Release(context.Context, OnceClaim) error { s.released++; return nil }

// TestOnceHoldsItsClaim: for as long as the work takes, and when it can't, the run ends.
func TestOnceHoldsItsClaim(t *testing.T) {
	t.Parallel()
	mine := func(int) (OnceState, error) { return OnceState{}, nil }
	ok := func(int) (bool, error) { return true, nil }
	for name, tc := range map[string]struct {
		store    oneClaim
		takes    time.Duration
		fails    error
		want     error // as the cause that the handler sees
		snoozed  bool
		claims   int
		marked   int
		released int
	}{
		"short":             {oneClaim{claim: mine, done: ok}, 9 * time.Second, nil, nil, false, 1, 1, 0},
		"long":              {oneClaim{claim: mine, done: ok}, 65 * time.Second, nil, nil, false, 7, 1, 0},
		"long, and fails":   {oneClaim{claim: mine}, 25 * time.Second, errors.New("no"), nil, false, 3, 0, 1},
		"an outage":         {oneClaim{claim: func(n int) (OnceState, error) { return OnceState{}, errIf(n == 3) }, done: ok}, 45 * time.Second, nil, nil, false, 5, 1, 0},
		"taken by another":  {oneClaim{claim: func(n int) (OnceState, error) { return OnceState{Taken: n == 3}, nil }}, time.Hour, nil, ErrLeaseLost, true, 3, 0, 1},
		"done by another":   {oneClaim{claim: func(n int) (OnceState, error) { return OnceState{Done: n == 2}, nil }}, time.Hour, nil, ErrLeaseLost, true, 2, 0, 1},
		"the mark is late":  {oneClaim{claim: mine, done: func(n int) (bool, error) { return n > 2, errIf(n < 3) }}, time.Second, nil, nil, false, 1, 3, 0},
		"the mark is taken": {oneClaim{claim: mine, done: func(int) (bool, error) { return false, nil }}, time.Second, nil, nil, true, 1, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var cause error
				run := Once(&tc.store, OnceConfig{})(func(ctx context.Context, _ *Delivery) error {
					if !sleep(ctx, tc.takes) {
						cause = context.Cause(ctx)
						return ctx.Err()
					}
					return tc.fails
				})
				err := run(t.Context(), &Delivery{ID: "x"})
				var snooze snoozeError
				if got := errors.As(err, &snooze); got != tc.snoozed || !tc.snoozed && !errors.Is(err, tc.fails) {
					t.Errorf("%v; snoozed %v, want %v", err, got, tc.snoozed)
				}
				if s := &tc.store; cause != tc.want || s.claims != tc.claims || s.marked != tc.marked || s.released != tc.released { //nolint:errorlint // the very cause
					t.Errorf("%+v, and the run's end was %v; want %d claims, %d marks, %d releases and %v", s, cause, tc.claims, tc.marked, tc.released, tc.want)
				}
			})
		})
	}
}

func errIf(yes bool) error {
	if yes {
		return errors.New("the store is away")
	}
	return nil
}

// TestOnceCannotMark: the run fails when its time is over, and says why.
func TestOnceCannotMark(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &oneClaim{claim: func(int) (OnceState, error) { return OnceState{}, nil }, done: func(int) (bool, error) { return false, errIf(true) }}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := Once(s, OnceConfig{})(func(context.Context, *Delivery) error { return nil })(ctx, &Delivery{ID: "x"})
		if err == nil || errors.As(err, new(snoozeError)) || s.marked < 10 || s.released != 0 {
			t.Errorf("%v after %d tries; %d releases", err, s.marked, s.released)
		}
	})
}

// TestOnceStops: a run that ends while the store is asked is no failure of the store.
func TestOnceStops(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ErrStopping)
	s := &oneClaim{claim: func(int) (OnceState, error) { return OnceState{}, errIf(true) }}
	if err := Once(s, OnceConfig{})(nil)(ctx, &Delivery{}); !errors.Is(err, ErrStopping) {
		t.Error(err)
	}
}
