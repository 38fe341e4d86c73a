package consumer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

type colour struct{}

// TestRunContext: what can be cancelled is made when it is asked for, and nobody notices.
func TestRunContext(t *testing.T) {
	t.Parallel()
	root := context.WithValue(context.Background(), colour{}, "red")
	begin := func() (*slot, *runContext) {
		s := &slot{}
		return s, s.begin(root, time.Now(), 0)
	}
	t.Run("cancelled before anybody asks", func(t *testing.T) {
		t.Parallel()
		s, c := begin()
		if c.Err() != nil || context.Cause(c) != nil || c.Value(colour{}) != "red" {
			t.Fatalf("begins with %v, %v, %v", c.Err(), context.Cause(c), c.Value(colour{}))
		}
		c.cancel(ErrStopping)
		c.cancel(ErrLeaseLost)                                                                                      // the first stays
		if !errors.Is(c.Err(), context.Canceled) || context.Cause(c) != ErrStopping || c.Value(colour{}) != "red" { //nolint:errorlint // the very cause
			t.Errorf("err %v, cause %v", c.Err(), context.Cause(c))
		}
		if cause, _ := s.end(c); cause != ErrStopping { //nolint:errorlint // the very cause
			t.Errorf("ends with %v", cause)
		}
	})
	t.Run("children", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { // fails when a child leaves a goroutine behind
			s, c := begin()
			child, cancel := context.WithCancel(c)
			defer cancel()
			told := false
			context.AfterFunc(c, func() { told = true })
			c.cancel(ErrLeaseLost)
			<-child.Done()
			synctest.Wait()
			if !told || context.Cause(child) != ErrLeaseLost { //nolint:errorlint // the very cause
				t.Errorf("told %v, the child's cause is %v", told, context.Cause(child))
			}
			_, _ = s.end(c)
		})
	})
	t.Run("asked for after the run", func(t *testing.T) {
		t.Parallel()
		s, c := begin()
		if cause, _ := s.end(c); cause != nil {
			t.Errorf("ends with %v", cause)
		}
		if !errors.Is(c.Err(), context.Canceled) || !errors.Is(context.Cause(c), context.Canceled) {
			t.Errorf("before Done: %v, %v", c.Err(), context.Cause(c))
		}
		select {
		case <-c.Done():
		default:
			t.Fatal("Done is not closed")
		}
		c.cancel(ErrStopping)
		if !errors.Is(c.Err(), context.Canceled) || !errors.Is(context.Cause(c), context.Canceled) {
			t.Errorf("after Done: %v, %v", c.Err(), context.Cause(c))
		}
	})
}
