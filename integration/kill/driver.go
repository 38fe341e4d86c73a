//go:build unix

package kill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc"
	"github.com/penstock-go/penstock/integration/kill/ledger"
	"github.com/penstock-go/penstock/stream"
)

// Config of a Driver.
type Config struct {
	Penstock string            // the program
	Handler  string            // the program in the folder handler
	Dir      string            // for logs and the ledger's copy
	Streams  []Stream          // declared before any worker starts; the first is the queue
	Slots    []Slot            // of workers and schedulers
	Env      map[string]string // settings of the program, besides REDIS_URL
	Rules    Rules             // as they follow from Env
	Seed     uint64            // of the load
	Mix      Mix
	Rate     int // jobs per second, of all publishers together
	Logf     func(format string, args ...any)
}

// Stream is a stream with its groups.
type Stream struct {
	Name   string
	Kind   stream.Kind
	Groups []string
}

// Blow is what a fault did, or a fault that nobody planned.
type Blow struct {
	Action string
	Target string // a process, as "main1.3", Redis or Machine
	At     time.Duration
	Until  time.Duration
}

// Targets of blows that are no process of the fleet.
const (
	Redis   = "redis"
	Machine = "machine" // everything stood still
)

const (
	publishers    = 3
	publishLimit  = 90 * time.Second // for a job under way when the load ends
	targetTimeout = 60 * time.Second // for the process of a slot to be there
	stopTimeout   = 60 * time.Second
	progressEvery = 10 * time.Second
	watchEvery    = 50 * time.Millisecond
	watchGap      = time.Second // a tick so late: the machine stood still
)

// Driver owns Redis, the fleet, the ledger and the load.
type Driver struct {
	cfg    Config
	Ledger *ledger.Ledger
	Load   *Load
	Redis  *redisproc.Server

	socketDir string
	file      *os.File
	fleet     *fleet
	rdb       *redis.Client
	wg        sync.WaitGroup
	done      chan struct{}

	mu    sync.Mutex
	blows []Blow
	errs  []error
}

// Start starts Redis, declares the streams and fills the slots. Close must be called even after an error.
func Start(ctx context.Context, cfg Config) (*Driver, error) {
	d := &Driver{cfg: cfg, done: make(chan struct{})}
	return d, d.start(ctx)
}

func (d *Driver) start(ctx context.Context) error {
	var err error
	if d.Redis, err = redisproc.Start(ctx, redisproc.Config{
		Dir: filepath.Join(d.cfg.Dir, "redis"), AppendOnly: true, Args: []string{"--appendfsync", "always"},
	}); err != nil {
		return err
	}
	if d.socketDir, err = os.MkdirTemp("", "kill"); err != nil { // the path of a socket must be short
		return err
	}
	socket := filepath.Join(d.socketDir, "ledger")
	if d.file, err = os.Create(filepath.Join(d.cfg.Dir, "ledger.jsonl")); err != nil {
		return err
	}
	if d.Ledger, err = ledger.Open(socket, d.file, d.poisoned); err != nil {
		return err
	}
	d.rdb = redis.NewClient(&redis.Options{Addr: d.Redis.Addr(), ContextTimeoutEnabled: true})
	if err := d.makeLoad(ctx); err != nil {
		return err
	}
	env := []string{"REDIS_URL=" + d.Redis.URL(), "KILL_SOCKET=" + socket, "PATH=" + os.Getenv("PATH")}
	for _, name := range slices.Sorted(maps.Keys(d.cfg.Env)) {
		env = append(env, name+"="+d.cfg.Env[name])
	}
	d.fleet = newFleet(d.cfg.Penstock, d.cfg.Dir, env, d.Ledger.Now)
	for _, s := range d.cfg.Slots {
		d.fleet.add(s)
	}
	d.wg.Go(d.watch)
	d.wg.Go(d.progress)
	return d.Ready(ctx)
}

func (d *Driver) makeLoad(ctx context.Context) error {
	d.Load = &Load{
		Ledger: d.Ledger, Seed: d.cfg.Seed, Mix: d.cfg.Mix, Lease: d.cfg.Rules.Lease,
		Publishers: publishers, Every: publishers * time.Second / time.Duration(max(d.cfg.Rate, 1)),
	}
	for i, def := range d.cfg.Streams {
		s, err := stream.New(d.rdb, def.Name, stream.Config{Kind: def.Kind})
		if err != nil {
			return err
		}
		if _, err := s.Create(ctx, stream.CreateOptions{}); err != nil {
			return err
		}
		switch i {
		case 0:
			d.Load.Queue = s
		case 1:
			d.Load.Events = s
		}
	}
	return nil
}

// WorkerSlot is a slot for a worker of a group over streams.
func WorkerSlot(name, group, handler string, streams ...string) Slot {
	args := append([]string{"worker"}, streams...)
	return Slot{Name: name, On: OnWorker, Group: group, Args: append(args, "--group", group, "-v", "--", handler)}
}

// SchedulerSlot is a slot for a scheduler.
func SchedulerSlot(name string) Slot {
	return Slot{Name: name, On: OnScheduler, Args: []string{"scheduler", "-v"}}
}

// Lanes are those of the slots, of Redis and of the load.
func Lanes(slots []Slot) []Lane {
	var lanes []Lane
	for _, s := range slots {
		lanes = append(lanes, Lane{Name: s.Name, On: s.On, Spared: s.Spared})
	}
	return append(lanes, Lane{Name: Redis, On: OnRedis}, Lane{Name: "load", On: OnLoad})
}

// Ready waits until every worker takes jobs.
func (d *Driver) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, targetTimeout, fmt.Errorf("not within %s", targetTimeout))
	defer cancel()
	for _, s := range d.cfg.Slots {
		for s.On == OnWorker {
			p, err := d.fleet.running(ctx, s.Name)
			if err != nil {
				return err
			}
			select {
			case <-p.ready:
			case <-p.exited:
				continue // the next one, then
			case <-ctx.Done():
				return fmt.Errorf("%s takes no jobs: %w", p.life.Process, context.Cause(ctx))
			}
			break
		}
	}
	return nil
}

// Roll restarts the process of a slot as a deploy does: it is told to stop, and
// the next one takes jobs when Roll returns.
func (d *Driver) Roll(ctx context.Context, slot string) error {
	if err := term(ctx, d, Fault{Action: "roll", Lane: slot}); err != nil {
		return err
	}
	return d.Ready(ctx)
}

// Run publishes while it carries out the plan, until the plan's time is over
// and all its faults are.
func (d *Driver) Run(ctx context.Context, plan Plan, actions []Action) error {
	begin := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	load, endLoad := context.WithTimeout(ctx, plan.For)
	defer endLoad()
	var wg sync.WaitGroup
	wg.Go(func() { d.Load.Run(load, publishLimit) })
	lanes := make(map[string]bool)
	for _, f := range plan.Faults {
		if lanes[f.Lane] {
			continue
		}
		lanes[f.Lane] = true
		wg.Go(func() {
			for _, f := range plan.Lane(f.Lane) {
				if !sleep(ctx, time.Until(begin.Add(f.At))) {
					return
				}
				i := slices.IndexFunc(actions, func(a Action) bool { return a.Name == f.Action })
				if i < 0 {
					d.fail(fmt.Errorf("there is no action %s", f.Action))
					return
				}
				if err := actions[i].Do(ctx, d, f); err != nil {
					d.fail(fmt.Errorf("%s %s: %w", f.Lane, f.Action, err))
				}
			}
		})
	}
	wg.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(append(d.errs, ctx.Err())...)
}

// Drain waits until no job is left anywhere, and says what is left after the limit.
func (d *Driver) Drain(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for empty := 0; empty < 2; { // twice, since the numbers are not of one instant
		left, err := d.left(ctx)
		switch {
		case err == nil && left == "":
			empty++
		default:
			empty = 0
		}
		if !sleep(ctx, 250*time.Millisecond) {
			return errors.Join(fmt.Errorf("not all jobs have ended %s after the last fault: %s", limit, left), err)
		}
	}
	return nil
}

func (d *Driver) left(ctx context.Context) (string, error) {
	var parts []string
	if _, running := d.Ledger.Count(); running > 0 {
		parts = append(parts, fmt.Sprintf("%d handlers run", running))
	}
	for _, def := range d.cfg.Streams {
		s, err := stream.New(d.rdb, def.Name, stream.Config{})
		if err != nil {
			return "", err
		}
		for _, group := range def.Groups {
			depths, err := s.Group(group).Depths(ctx)
			if err != nil {
				return strings.Join(parts, ", "), err
			}
			if depths.Waiting != 0 || depths.Active+depths.Scheduled+depths.Retrying > 0 {
				parts = append(parts, fmt.Sprintf("%s/%s: %d waiting, %d active, %d scheduled, %d retrying",
					def.Name, group, depths.Waiting, depths.Active, depths.Scheduled, depths.Retrying))
			}
		}
	}
	return strings.Join(parts, ", "), nil
}

// Finish stops the fleet in good order and returns the books.
func (d *Driver) Finish(ctx context.Context) (Books, error) {
	err := d.fleet.stopAll(stopTimeout)
	final, ferr := ReadFinal(ctx, d.rdb, d.cfg.Streams)
	books := Books{
		Rules: d.cfg.Rules, Streams: d.cfg.Streams, Records: d.Ledger.Records(), Lives: d.fleet.lives(),
		Blows: d.Blows(), Final: final,
	}
	return books, errors.Join(err, ferr)
}

// Close ends whatever still runs.
func (d *Driver) Close() error {
	close(d.done)
	var errs []error
	if d.fleet != nil {
		errs = append(errs, d.fleet.stopAll(stopTimeout))
	}
	d.wg.Wait()
	if d.Ledger != nil {
		errs = append(errs, d.Ledger.Close())
	}
	if d.rdb != nil {
		errs = append(errs, d.rdb.Close())
	}
	if d.file != nil {
		errs = append(errs, d.file.Close())
	}
	if d.Redis != nil {
		errs = append(errs, d.Redis.Stop())
	}
	if d.socketDir != "" {
		errs = append(errs, os.RemoveAll(d.socketDir))
	}
	return errors.Join(errs...)
}

// Blows are those struck so far, in order of time.
func (d *Driver) Blows() []Blow {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.SortedFunc(slices.Values(d.blows), func(a, b Blow) int { return cmp.Compare(a.At, b.At) })
}

func (d *Driver) struck(b Blow) {
	d.mu.Lock()
	d.blows = append(d.blows, b)
	d.mu.Unlock()
}

func (d *Driver) fail(err error) {
	d.mu.Lock()
	d.errs = append(d.errs, err)
	d.mu.Unlock()
}

// poisoned kills a worker that runs a poison job.
func (d *Driver) poisoned(worker string) {
	if at, ok := d.fleet.killNamed(worker); ok {
		d.struck(Blow{Action: "poison", Target: worker, At: at, Until: at})
	}
}

// watch notices when the machine stands still: nothing can be held against the program then.
func (d *Driver) watch() {
	last := d.Ledger.Now()
	for tick := time.NewTicker(watchEvery); ; {
		select {
		case <-d.done:
			tick.Stop()
			return
		case <-tick.C:
		}
		now := d.Ledger.Now()
		if now-last > watchGap {
			d.struck(Blow{Action: "stall", Target: Machine, At: last, Until: now})
		}
		last = now
	}
}

func (d *Driver) progress() {
	for tick := time.NewTicker(progressEvery); ; {
		select {
		case <-d.done:
			tick.Stop()
			return
		case <-tick.C:
		}
		counts, running := d.Ledger.Count()
		blows := d.Blows()
		d.cfg.Logf("%4.0fs  %d jobs acknowledged, %d starts, %d ended, %d killed, %d run now; %d faults so far",
			d.Ledger.Now().Seconds(), counts[ledger.Acknowledged], counts[ledger.Started], counts[ledger.Ended], counts[ledger.Gone], running, len(blows))
	}
}

// sleep reports whether it slept to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
