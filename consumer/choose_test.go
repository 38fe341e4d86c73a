package consumer

import (
	"testing"
	"time"
)

// TestChooseAmongManyStreams: of many streams, those that are believed empty are looked at now and then, and not with each read
// of one that comes after them: a read costs Redis as much as it has streams.
func TestChooseAmongManyStreams(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ streams, full, between int }{
		{streams: 10, full: 9, between: 20},      // few: an earlier one comes first, always
		{streams: 1000, full: 0, between: 2},     // there is none before it
		{streams: 1000, full: 16, between: 34},   // few before it
		{streams: 1000, full: 17, between: 2},    // more
		{streams: 1000, full: 999, between: 2},   // all
		{streams: 1000, full: -1, between: 2000}, // nobody has more: all, blocked
	} {
		r := &reader{}
		for range c.streams {
			src := &source{}
			src.lanes = []*lane{{src: src}, {src: src}}
			r.sources = append(r.sources, src)
		}
		first := 2 * c.streams
		if c.full >= 0 {
			r.sources[c.full].lanes[1].more = true
			first = 2 * (c.full + 1)
		}
		now := time.Now()
		for _, step := range []struct {
			after time.Duration
			want  int
		}{{0, first}, {0, c.between}, {looksEach / 2, c.between}, {looksEach, first}, {looksEach, c.between}} {
			lanes, block := r.choose(now.Add(step.after))
			if len(lanes) != step.want || block != (c.full < 0) {
				t.Errorf("%+v: after %s %d lanes, blocked %t; want %d", c, step.after, len(lanes), block, step.want)
			}
			if c.full >= 0 && lanes[len(lanes)-1] != r.sources[c.full].lanes[1] {
				t.Errorf("%+v: after %s the stream that has more is not read", c, step.after)
			}
		}
	}
}
