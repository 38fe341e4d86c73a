package stream_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
)

// TestSetRetention: what is set takes the place of what was set before, as a whole.
func TestSetRetention(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s, err := stream.New(rdb, redistest.Name(t), stream.Config{Kind: stream.KindEvents, Retention: stream.Retention{Age: 24 * time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetRetention(t.Context(), stream.Retention{Length: 5}); !errors.Is(err, stream.ErrKind) {
		t.Errorf("a stream without a kind: %v, want ErrKind", err)
	}
	if d, err := s.Create(t.Context(), stream.CreateOptions{}); err != nil || d.Retention != (stream.Retention{Age: 24 * time.Hour}) {
		t.Errorf("Create: %+v, %v", d.Retention, err)
	}
	for _, c := range []struct{ set, want stream.Retention }{
		{stream.Retention{Length: 5}, stream.Retention{Length: 5}},
		{stream.Retention{Age: time.Hour, Length: 7}, stream.Retention{Age: time.Hour, Length: 7}},
		{stream.Retention{Age: stream.None}, stream.Retention{}},
		{stream.Retention{Age: time.Millisecond}, stream.Retention{Age: time.Millisecond}},
		{stream.Retention{}, stream.Retention{}},
	} {
		err := s.SetRetention(t.Context(), c.set)
		d, err2 := s.Describe(t.Context())
		if err := errors.Join(err, err2); err != nil || d.Retention != c.want {
			t.Errorf("set %+v: %+v, %v", c.set, d.Retention, err)
		}
	}
	for _, r := range []stream.Retention{{Age: -5}, {Age: 1}, {Age: 200 * 365 * 24 * time.Hour}, {Length: -1}, {Age: stream.None, Length: 5}} {
		if err := s.SetRetention(t.Context(), r); !errors.Is(err, stream.ErrInvalid) {
			t.Errorf("set %+v: %v, want ErrInvalid", r, err)
		}
		if _, err := stream.New(rdb, "orders", stream.Config{Retention: r}); err == nil || !strings.Contains(err.Error(), "Retention") {
			t.Errorf("New with %+v: %v", r, err)
		}
	}
	queue, err := stream.New(rdb, redistest.Name(t)+"-queue", stream.Config{Kind: stream.KindQueue, Retention: stream.Retention{Length: 5}})
	if err != nil {
		t.Fatal(err)
	}
	if d, err := queue.Create(t.Context(), stream.CreateOptions{}); err != nil || d.Retention != (stream.Retention{}) {
		t.Errorf("a queue: %+v, %v", d.Retention, err)
	}
	if err := queue.SetRetention(t.Context(), stream.Retention{Length: 5}); !errors.Is(err, stream.ErrKind) {
		t.Errorf("a queue: %v, want ErrKind", err)
	}
}
