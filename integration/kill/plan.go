package kill

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Target is what a fault strikes.
type Target string

// The targets.
const (
	OnWorker    Target = "worker"
	OnScheduler Target = "scheduler"
	OnRedis     Target = "redis"
	OnLoad      Target = "load" // what is published
)

// Action is one kind of fault.
type Action struct {
	Name        string
	On          Target
	Least, Most time.Duration // between these it lasts; both zero: it is over at once
	Rest        time.Duration // its target is left alone for at least so long afterwards
	Alone       bool          // spared lanes are left alone while it lasts, and some seconds before and after
	Do          func(context.Context, *Driver, Fault) error
}

// Lane is one target. Its faults happen one after the other, those of different lanes at the same time.
type Lane struct {
	Name   string // of the slot it strikes, such as "main1"
	On     Target
	Spared bool // from faults that would explain what an Action that is Alone must not do
}

// Fault is one action at its time.
type Fault struct {
	At     time.Duration // since the beginning
	For    time.Duration
	Action string
	Lane   string
}

// Plan is what will go wrong when, in order of time.
type Plan struct {
	Seed   uint64
	For    time.Duration
	Faults []Fault
}

const (
	firstFault  = 3 * time.Second // the fleet has begun to work by then
	leastGap    = 3 * time.Second // between two faults of a lane, besides the first one's Rest
	mostGap     = 5 * time.Second
	aloneBefore = 2 * time.Second
	aloneAfter  = 5 * time.Second
)

// NewPlan makes a plan from a seed. Each action of a target happens once, in an
// order that the seed decides, before any happens again. All are over by the end.
func NewPlan(seed uint64, length time.Duration, lanes []Lane, actions []Action) Plan {
	p := planner{
		Plan:   Plan{Seed: seed, For: length},
		random: rand.New(rand.NewPCG(seed, 1)), actions: actions, bag: make(map[Target][]Action),
	}
	isRedis := func(l Lane) bool { return l.On == OnRedis }
	others := slices.DeleteFunc(slices.Clone(lanes), isRedis)
	p.fill(slices.DeleteFunc(slices.Clone(lanes), func(l Lane) bool { return !isRedis(l) })) // first: they may be Alone
	p.fill(others)
	slices.SortStableFunc(p.Faults, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	return p.Plan
}

type planner struct {
	Plan
	random  *rand.Rand
	actions []Action
	bag     map[Target][]Action // what is still to happen before all may happen again
	alone   []Fault
}

func (p *planner) between(least, most time.Duration) time.Duration {
	return (least + time.Duration(p.random.Int64N(int64(most-least)+1))).Round(10 * time.Millisecond)
}

// fill draws the faults of lanes, in order of time.
func (p *planner) fill(lanes []Lane) {
	if len(lanes) == 0 {
		return
	}
	next := make([]time.Duration, len(lanes))
	for i := range lanes {
		next[i] = firstFault + p.between(0, leastGap)
	}
	for {
		i := slices.Index(next, slices.Min(next))
		if next[i] >= p.For {
			return
		}
		a := p.peek(lanes[i].On)
		f := Fault{At: next[i], For: p.between(a.Least, a.Most), Action: a.Name, Lane: lanes[i].Name}
		if free := p.free(f); lanes[i].Spared && free > f.At {
			next[i] = free
			continue
		}
		if f.At+f.For >= p.For {
			next[i] = p.For // this lane is done; what it would have drawn is for another
			continue
		}
		p.bag[lanes[i].On] = p.bag[lanes[i].On][1:]
		p.Faults = append(p.Faults, f)
		if a.Alone {
			p.alone = append(p.alone, f)
		}
		next[i] = f.At + f.For + a.Rest + p.between(leastGap, mostGap)
	}
}

// peek returns the next action of a target.
func (p *planner) peek(on Target) Action {
	if len(p.bag[on]) == 0 {
		for _, a := range p.actions {
			if a.On == on {
				p.bag[on] = append(p.bag[on], a)
			}
		}
		bag := p.bag[on]
		p.random.Shuffle(len(bag), func(a, b int) { bag[a], bag[b] = bag[b], bag[a] })
	}
	return p.bag[on][0]
}

// free is when a fault of a spared lane may begin, that was to begin at f.At.
func (p *planner) free(f Fault) time.Duration {
	at := f.At
	for _, a := range p.alone { // in order of time
		if at < a.At+a.For+aloneAfter && at+f.For > a.At-aloneBefore {
			at = a.At + a.For + aloneAfter
		}
	}
	return at
}

// Lane returns the faults of one lane.
func (p Plan) Lane(name string) []Fault {
	var faults []Fault
	for _, f := range p.Faults {
		if f.Lane == name {
			faults = append(faults, f)
		}
	}
	return faults
}

func (p Plan) String() string {
	var b strings.Builder
	for _, f := range p.Faults {
		fmt.Fprintf(&b, "%8s  %-10s %s", seconds(f.At), f.Lane, f.Action)
		if f.For > 0 {
			fmt.Fprintf(&b, " for %s", seconds(f.For))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2fs", d.Seconds()) }
