package main

import (
	"context"
	"errors"
	"time"

	"github.com/penstock-go/penstock/stream"
)

const (
	publishEvery = 20 * time.Millisecond
	publishBatch = 500
	// publishAhead is how many unfinished jobs there may be: workers that can't keep up must not fill Redis.
	publishAhead = 20_000
	publishTries = 100 * time.Millisecond // between tries while Redis is away
)

// devPublisher publishes the load.
type devPublisher struct {
	mix     devMix
	ledger  *devLedger
	streams []*stream.Stream
	jobs    int // how many; 0: until the context ends
	rate    float64

	next   int
	repeat []devJob // to publish a second time
}

// run publishes at the rate until ctx ends or all jobs are stored. A call under way is let finish: its answer counts.
func (p *devPublisher) run(ctx context.Context) error {
	tick := time.NewTicker(publishEvery)
	defer tick.Stop()
	begun := time.Now()
	for held := time.Duration(0); p.jobs == 0 || p.next < p.jobs; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if open, _ := p.ledger.open(); open > publishAhead {
			held += publishEvery
			continue
		}
		due := int((time.Since(begun)-held).Seconds()*p.rate) - p.next
		if p.jobs > 0 {
			due = min(due, p.jobs-p.next)
		}
		for due > 0 && ctx.Err() == nil {
			n := min(due, publishBatch)
			if err := p.batch(ctx, n); err != nil {
				return err
			}
			due -= n
		}
	}
	return p.duplicates(ctx)
}

// batch publishes the next n jobs, and the duplicates of the batch before.
func (p *devPublisher) batch(ctx context.Context, n int) error {
	if err := p.duplicates(ctx); err != nil {
		return err
	}
	lists := make([][]devJob, len(p.streams))
	for range n {
		j := p.mix.job(p.next)
		p.next++
		p.ledger.announce(j)
		at := devKinds[j.kind].stream
		lists[at] = append(lists[at], j)
		if j.twice {
			p.repeat = append(p.repeat, j)
		}
	}
	for i, list := range lists {
		if len(list) == 0 {
			continue
		}
		if err := p.one(ctx, p.streams[i], list[0], false); err != nil {
			return err
		}
		if err := p.many(ctx, p.streams[i], list[1:]); err != nil {
			return err
		}
	}
	return nil
}

// duplicates publishes jobs again: each must be refused.
func (p *devPublisher) duplicates(ctx context.Context) error {
	for _, j := range p.repeat {
		receipt, err := p.streams[devKinds[j.kind].stream].Publish(context.WithoutCancel(ctx), j.publishable())
		switch {
		case err != nil && transient(err):
			continue // nothing is known of it, and nothing depends on it
		case err != nil:
			return err
		case !receipt.Duplicate:
			p.ledger.fault("%s was published twice: its ID was not taken", j.id)
		default:
			p.ledger.duplicate(j)
		}
	}
	p.repeat = p.repeat[:0]
	return nil
}

// transient reports whether a publish may work later.
func transient(err error) bool {
	return errors.Is(err, stream.ErrUnavailable) || errors.Is(err, stream.ErrAmbiguous) || errors.Is(err, stream.ErrStreamFull)
}

// one publishes a single job, until it is stored or ctx ends. lost: an answer about it was lost before.
func (p *devPublisher) one(ctx context.Context, s *stream.Stream, j devJob, lost bool) error {
	for {
		receipt, err := s.Publish(context.WithoutCancel(ctx), j.publishable())
		again, err := p.answer(j, receipt, err, &lost)
		if err != nil || !again {
			return err
		}
		if !pauseFor(ctx, publishTries) {
			p.ledger.refused(j)
			return nil
		}
	}
}

// answer notes what came of one publish, and says whether to try again.
func (p *devPublisher) answer(j devJob, receipt stream.Receipt, err error, lost *bool) (again bool, _ error) {
	switch {
	case err == nil && receipt.Duplicate && !*lost:
		p.ledger.fault("%s was refused as a duplicate of %s, and is none", devKinds[j.kind].typ, receipt.ID)
		p.ledger.refused(j)
	case err == nil:
		p.ledger.published(j, receipt.ID)
	case errors.Is(err, stream.ErrAmbiguous) && j.id == "":
		p.ledger.unsure(j)
	case transient(err):
		*lost = *lost || errors.Is(err, stream.ErrAmbiguous)
		return true, nil
	default:
		p.ledger.refused(j)
		return false, err
	}
	return false, nil
}

// many publishes a batch; what was not stored goes one by one.
func (p *devPublisher) many(ctx context.Context, s *stream.Stream, list []devJob) error {
	jobs := make([]stream.Job, len(list))
	for i, j := range list {
		jobs[i] = j.publishable()
	}
	receipts, _ := s.PublishAll(context.WithoutCancel(ctx), jobs) // each receipt has its own error
	for i, j := range list {
		lost := false
		again, err := p.answer(j, receipts[i], receipts[i].Err, &lost)
		if err != nil {
			return err
		}
		if again {
			if err := p.one(ctx, s, j, lost); err != nil {
				return err
			}
		}
	}
	return nil
}

// pauseFor waits, and reports whether ctx lasted.
func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
