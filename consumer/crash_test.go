package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// crashesAtOnce is how many crashes are played at the same time: nearly all of their time they wait for a lease.
const crashesAtOnce = 48

// raceSample is of how many crash points one is played under the race detector.
const raceSample = 13

// crashPatience is how long something may take that needs no time.
const crashPatience = time.Minute

// crashTries is how often a scenario is played for one crash point: its
// commands do not always come in the same order, and a machine that stands
// still for much of a lease lets one run out, which is no finding.
const crashTries = 3

// TestCrashBetweenEveryTwoCommands plays each scenario once in peace and
// records the commands that its victim sends; then once for each place between
// two of them, where the victim dies, before a command is sent or after it was
// executed and its answer not seen. Others take over, and everything must come out right.
func TestCrashBetweenEveryTwoCommands(t *testing.T) {
	t.Parallel()
	names, sources := scriptNames()
	still := newStandstill(t)
	var late sync.WaitGroup // dead workers, which think that Redis is away, take a while to return
	defer func() {
		if !waited(&late) {
			t.Error("some workers have not returned")
		}
	}()
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, crashesAtOnce)
	for _, sc := range crashScenarios {
		all.Go(func() {
			t.Run(sc.name, func(t *testing.T) {
				opt, slots := redistest.Options(t), slots
				if sc.alone {
					opt, slots = &redis.Options{Addr: redistest.Server(t).Addr()}, make(chan struct{}, 1)
				}
				opt.PoolSize, opt.ReadTimeout = 2*crashesAtOnce, crashPatience // many at once on a machine that may be busy
				rdb := redistest.Connect(t, opt)
				for _, source := range sources { // or the first to run a script would send it twice
					if err := rdb.ScriptLoad(t.Context(), source).Err(); err != nil {
						t.Fatal(err)
					}
				}
				crashEverywhere(t, slots, func(t *testing.T, point *crashPoint) *crashRun {
					r := &crashRun{t: t, crashScenario: sc, names: names, rdb: rdb, point: point, late: &late, still: still, began: time.Now()}
					r.play()
					return r
				})
			})
		})
	}
}

// waited waits for a group, but not for ever.
func waited(wg *sync.WaitGroup) bool {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(crashPatience):
		return false
	}
}

// crashEverywhere plays a scenario in peace, then for each crash point that this shows.
func crashEverywhere(t *testing.T, slots chan struct{}, play func(*testing.T, *crashPoint) *crashRun) {
	slots <- struct{}{}
	var peace *crashRun
	for range crashTries {
		if peace = play(t, nil); len(peace.faults) == 0 || !peace.stoodStill() {
			break
		}
	}
	<-slots
	if peace.report(t); t.Failed() {
		return
	}
	var met [4]atomic.Int64 // by kind of point
	var missed, again atomic.Int64
	try := func(point crashPoint, last bool) (done bool) {
		slots <- struct{}{}
		defer func() { <-slots }()
		if t.Failed() {
			return true // the others would fail too, each after a minute
		}
		t.Run(strings.ReplaceAll(point.String(), " ", "_"), func(t *testing.T) {
			r := play(t, &point)
			if len(r.faults) > 0 && r.stoodStill() && !last {
				again.Add(1)
				return
			}
			r.report(t)
			if done = r.victim.struck; done {
				met[point.kind()].Add(1)
			}
		})
		return done
	}
	var points sync.WaitGroup
	for i, point := range peace.points {
		for j, lives := range []bool{false, true} {
			if redistest.Race && (i+j)%raceSample != 0 {
				continue
			}
			points.Go(func() {
				point := point
				point.lives = lives
				for n := range crashTries {
					if try(point, n == crashTries-1) {
						return
					}
				}
				missed.Add(1)
			})
		}
	}
	points.Wait()
	t.Logf("died before %d commands and after %d; %d commands were not sent and %d answers lost, and it lived on; not met again: %d; played again after a standstill: %d",
		met[0].Load(), met[1].Load(), met[2].Load(), met[3].Load(), missed.Load(), again.Load())
}

// crashScenario is what a victim does. The zero value of rescue is a healthy worker.
type crashScenario struct {
	name   string
	kind   stream.Kind
	groups []string // besides group, which is the victim's
	wide   int      // streams; 0: one
	alone  bool     // on a server of its own
	// takesOver: leases of others have to run out.
	takesOver bool
	config    func(*consumer.Config)
	prepare   func(r *crashRun)
	act       func(r *crashRun)                     // the victim's part; it returns at its natural end, or when the victim has died
	batch     int                                   // of the handlers
	rescue    func(r *crashRun)                     // after the victim is gone, beside healthy workers
	ended     func(r *crashRun)                     // at the end
	handles   func(r *crashRun, a *crashActor) bool // nil: everybody handles all
}

// crashActor is a process: the victim, or the one that takes over.
type crashActor struct {
	*mortal
	rdb     *redis.Client
	streams []*stream.Stream
}

// crashRun is one time that a scenario is played.
type crashRun struct {
	crashScenario
	t              *testing.T
	names          map[string]string
	rdb            *redis.Client // sees all and is never in the way
	point          *crashPoint
	late           *sync.WaitGroup
	still          *standstill
	began          time.Time
	victim, healer *crashActor
	streams        []*stream.Stream
	jobs           []*crashJob
	points         []crashPoint
	consumers      map[string]*crashActor
	stopVictim     func()
	place          map[crashKey]jobPlace // where each job was when the victim had died

	mu     sync.Mutex
	faults []string
	starts map[crashKey][]*crashStart
}

func (r *crashRun) play() {
	if r.alone {
		if err := errors.Join(r.rdb.FlushAll(r.t.Context()).Err(), r.rdb.ConfigResetStat(r.t.Context()).Err()); err != nil {
			r.t.Fatal(err)
		}
	}
	for i := range max(r.wide, 1) {
		name := redistest.Name(r.t)
		if r.alone {
			name = "orders" + strconv.Itoa(i)
		}
		s, err := stream.New(r.rdb, name, stream.Config{Kind: r.kind, PublishTimeout: crashPatience})
		if err != nil {
			r.t.Fatal(err)
		}
		r.streams = append(r.streams, s)
	}
	r.starts, r.place, r.consumers = make(map[crashKey][]*crashStart), make(map[crashKey]jobPlace), make(map[string]*crashActor)
	if r.prepare != nil {
		r.prepare(r)
	}
	r.victim = r.actor(r.point)
	r.act(r)
	r.victim.settled()
	r.points = r.victim.points()
	if (r.point == nil || r.point.lives) && r.stopVictim != nil {
		r.stopVictim()
	}
	r.victim.kill()
	r.victim.bury()
	r.look()
	r.healer = r.actor(nil)
	stops := []func(){r.work(r.healer, group)}
	for _, g := range r.groups {
		stops = append(stops, r.work(r.healer, g))
	}
	if r.rescue != nil {
		r.rescue(r)
	}
	r.await(nil)
	for _, stop := range stops {
		stop()
	}
	r.audit()
	if r.ended != nil {
		r.ended(r)
	}
}

// errorf notes a fault.
func (r *crashRun) errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, fmt.Sprintf(format, args...))
}

// report gives the faults to a test.
func (r *crashRun) report(t *testing.T) {
	for _, fault := range r.faults {
		t.Error(fault)
	}
}

// stoodStill reports whether this machine has while the scenario was played.
func (r *crashRun) stoodStill() bool { return r.still.last.Load() >= r.began.UnixNano() }

func (r *crashRun) short(key string) string {
	for i, s := range r.streams {
		name := "orders"
		if i > 0 {
			name += strconv.Itoa(i + 1)
		}
		if key == s.Name() {
			return name
		}
		if rest, ok := strings.CutPrefix(key, "{"+s.Name()+"}:"); ok {
			return name + ":" + rest
		}
	}
	return key
}

func (r *crashRun) actor(point *crashPoint) *crashActor {
	a := &crashActor{mortal: newMortal(r.names, r.short, point, r.still)}
	opt := *r.rdb.Options()
	opt.Dialer = a.dial
	a.rdb = redis.NewClient(&opt)
	for _, s := range r.streams {
		through, err := stream.New(a.rdb, s.Name(), stream.Config{Kind: r.kind, PublishTimeout: crashPatience})
		if err != nil {
			r.t.Fatal(err)
		}
		a.streams = append(a.streams, through)
	}
	r.t.Cleanup(func() {
		a.kill()
		a.bury()
		_ = a.rdb.Close()
	})
	return a
}

// work starts a worker; stop ends it, and waits for that when it is alive.
func (r *crashRun) work(a *crashActor, group string) (stop func()) {
	cfg := leased()
	cfg.MaxJobs = 1
	if r.point != nil && r.point.lives && !r.takesOver {
		cfg.Lease = 10 * time.Second // nobody waits for the end of one, however slow this machine is
	}
	if r.config != nil {
		r.config(&cfg)
	}
	w, err := consumer.New(group, cfg, a.streams...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.consumers[w.Name()] = a
	r.handle(a, w)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	r.late.Go(func() { done <- w.Run(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil && a.do(func() {}) {
				r.errorf("Run = %v, want nil", err)
			}
		case <-a.gone:
		case <-time.After(crashPatience):
			r.errorf("a worker that was told to stop has not returned")
		}
	})
	if a == r.victim {
		r.stopVictim = stop
	}
	r.t.Cleanup(stop)
	return stop
}

func (r *crashRun) handle(a *crashActor, w *consumer.Worker) {
	run := func(ctx context.Context, d *consumer.Delivery) error {
		s := r.start(a, d)
		if s == nil {
			return nil // nobody runs it: its process is dead
		}
		if a == r.victim {
			consumer.Heartbeat(w) // so that there is one while a job runs
		}
		switch s.outcome {
		case "error":
			return fmt.Errorf("attempt %d failed", d.Attempt)
		case "snooze":
			return consumer.Snooze(time.Millisecond)
		case "permanent":
			return consumer.Permanent(fmt.Errorf("attempt %d failed for good", d.Attempt))
		case "held":
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-a.gone:
			}
		}
		return nil
	}
	switch {
	case r.handles != nil && !r.handles(r, a):
	case r.batch > 0:
		consumer.HandleBatch(w, ping, r.batch, func(ctx context.Context, jobs []*consumer.Job[int]) []error {
			errs := make([]error, len(jobs))
			for i, job := range jobs {
				errs[i] = run(ctx, job.Delivery)
			}
			return errs
		})
	default:
		w.HandleOther(run)
	}
}
