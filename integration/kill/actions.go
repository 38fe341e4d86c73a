//go:build unix

package kill

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/penstock-go/penstock/integration/kill/ledger"
)

// Actions are all kinds of faults, for workers whose lease is lease. After a long fault of Redis its
// lane rests for a lease: nobody takes over what dead workers held before that.
func Actions(lease time.Duration) []Action {
	past := lease + lease/10
	return []Action{
		{Name: "kill", On: OnWorker, Rest: 2 * time.Second, Do: kill},
		{Name: "term", On: OnWorker, Rest: 2 * time.Second, Do: term},
		{Name: "freeze", On: OnWorker, Least: past, Most: lease * 3 / 2, Rest: 2 * time.Second, Do: freeze},
		{Name: "freeze-all", On: OnWorker, Least: past, Most: lease * 3 / 2, Rest: 2 * time.Second, Do: freezeAll},
		{Name: "blink", On: OnWorker, Least: lease / 5, Most: lease * 2 / 5, Do: freeze},
		{Name: "kill-scheduler", On: OnScheduler, Rest: lease / 2, Do: kill},
		{Name: "term-scheduler", On: OnScheduler, Rest: lease / 2, Do: term},
		{Name: "stall", On: OnRedis, Least: past, Most: lease * 6 / 5, Rest: lease, Alone: true, Do: stall},
		{Name: "crash", On: OnRedis, Least: time.Second / 5, Most: 3 * time.Second, Do: crash},
		{Name: "outage", On: OnRedis, Least: past, Most: lease * 6 / 5, Rest: lease, Alone: true, Do: crash},
		{Name: "restart", On: OnRedis, Do: restart},
		{Name: "poison-job", On: OnLoad, Least: 2 * lease, Most: 2 * lease, Do: poison}, // until it is dead, about
	}
}

func (d *Driver) process(ctx context.Context, slot string) (*process, error) {
	ctx, cancel := context.WithTimeout(ctx, targetTimeout)
	defer cancel()
	return d.fleet.running(ctx, slot)
}

// kill ends a process by SIGKILL.
func kill(ctx context.Context, d *Driver, f Fault) error { return d.end(ctx, f, syscall.SIGKILL) }

// term ends a process in good order.
func term(ctx context.Context, d *Driver, f Fault) error { return d.end(ctx, f, syscall.SIGTERM) }

func (d *Driver) end(ctx context.Context, f Fault, sig syscall.Signal) error {
	p, err := d.process(ctx, f.Lane)
	if err != nil {
		return err
	}
	if at, ok := d.fleet.signal(p, sig); ok {
		d.struck(Blow{Action: f.Action, Target: p.life.Process, At: at, Until: at})
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(stopTimeout):
		d.fleet.signal(p, syscall.SIGKILL)
		return fmt.Errorf("%s has not ended %s after %s", p.life.Process, stopTimeout, sig)
	case <-ctx.Done():
		return nil
	}
}

// freeze stops a worker, not its handlers.
func freeze(ctx context.Context, d *Driver, f Fault) error { return d.freeze(ctx, f, false) }

// freezeAll stops a worker and its handlers.
func freezeAll(ctx context.Context, d *Driver, f Fault) error { return d.freeze(ctx, f, true) }

func (d *Driver) freeze(ctx context.Context, f Fault, all bool) error {
	p, err := d.process(ctx, f.Lane)
	if err != nil {
		return err
	}
	at, ok := d.fleet.signal(p, syscall.SIGSTOP)
	if !ok {
		return nil // it has just died of something else
	}
	var handlers []*os.Process
	if all {
		handlers = d.Ledger.Handlers(p.life.Process)
	}
	for _, h := range handlers {
		_ = h.Signal(syscall.SIGSTOP) // it may have ended
	}
	sleep(ctx, f.For)
	for _, h := range handlers {
		_ = h.Signal(syscall.SIGCONT)
	}
	d.fleet.signal(p, syscall.SIGCONT)
	d.struck(Blow{Action: f.Action, Target: p.life.Process, At: at, Until: d.Ledger.Now()})
	return nil
}

// stall stops Redis as a frozen machine would: connections stay open, nothing answers.
func stall(ctx context.Context, d *Driver, f Fault) error {
	d.occupy(ctx, f.For)
	at := d.Ledger.Now()
	if err := d.Redis.Pause(); err != nil {
		return err
	}
	sleep(ctx, f.For)
	err := d.Redis.Resume()
	d.struck(Blow{Action: f.Action, Target: Redis, At: at, Until: d.Ledger.Now()})
	return err
}

const (
	occupied   = 6           // jobs that run over a fault of Redis
	occupyWait = time.Second // for them to start
)

// occupy has some jobs run for longer than a fault of Redis lasts: they are what
// workers must not take from each other when it is over.
func (d *Driver) occupy(ctx context.Context, during time.Duration) {
	for range occupied {
		d.Load.PublishNow(ctx, ledger.Work{Millis: int((occupyWait + during + 3*time.Second).Milliseconds())})
	}
	sleep(ctx, occupyWait)
}

// crash kills Redis, and starts it again from its append-only file.
func crash(ctx context.Context, d *Driver, f Fault) error {
	d.occupy(ctx, f.For)
	at := d.Ledger.Now()
	if err := d.Redis.Kill(); err != nil {
		return err
	}
	sleep(ctx, f.For)
	return d.restart(f, at)
}

// restart restarts Redis in good order.
func restart(_ context.Context, d *Driver, f Fault) error { return d.restart(f, d.Ledger.Now()) }

func (d *Driver) restart(f Fault, at time.Duration) error {
	var err error
	for range 3 { // on a loaded machine it may take longer than redisproc waits
		if err = d.Redis.Restart(context.Background()); err == nil {
			break
		}
	}
	d.struck(Blow{Action: f.Action, Target: Redis, At: at, Until: d.Ledger.Now()})
	return err
}

// poison publishes a job each of whose runs kills its worker.
func poison(ctx context.Context, d *Driver, _ Fault) error {
	d.Load.PublishNow(ctx, ledger.Work{Poison: true, Millis: 60_000})
	return nil
}
