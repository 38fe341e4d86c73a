//go:build unix

package kill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Life of one process, in the ledger's time; zero: it did not happen.
type Life struct {
	Process string // such as "main1.3", the third of slot main1
	Slot    string
	Group   string // that it works for
	Born    time.Duration
	Told    time.Duration // SIGTERM was sent
	Killed  time.Duration // SIGKILL was sent
	Died    time.Duration
	Exit    string // "exit status 0"
	Mute    bool   // it has written nothing
}

// Slot is a place where one process after the other runs, as in a Deployment.
type Slot struct {
	Name  string
	On    Target
	Group string
	Args  []string // of the program
	// Spared from faults that would explain what an outage of Redis must not lead to. See Lane.
	Spared bool
}

const (
	restartPause = 300 * time.Millisecond
	outputDelay  = 2 * time.Second
)

// fleet keeps a process in each slot. Whatever ends is started again.
type fleet struct {
	program string
	dir     string // logs
	env     []string
	now     func() time.Duration

	wg   sync.WaitGroup
	stop chan struct{} // closed: nothing is started any more

	mu      sync.Mutex
	slots   map[string]*place
	stopped bool
	err     error
}

type place struct {
	Slot
	lives   []*Life
	current *process
	changed chan struct{} // closed when current is another
}

type process struct {
	life   *Life
	handle *os.Process
	ready  chan struct{} // closed when it says something on standard output
	exited chan struct{}
}

func newFleet(program, dir string, env []string, now func() time.Duration) *fleet {
	return &fleet{program: program, dir: dir, env: env, now: now, stop: make(chan struct{}), slots: make(map[string]*place)}
}

// add begins to keep a process in the slot.
func (f *fleet) add(s Slot) {
	p := &place{Slot: s, changed: make(chan struct{})}
	f.mu.Lock()
	f.slots[s.Name] = p
	f.mu.Unlock()
	f.wg.Go(func() { f.keep(p) })
}

func (f *fleet) keep(p *place) {
	for n := 1; ; n++ {
		if err := f.live(p, n); err != nil {
			f.mu.Lock()
			f.err = errors.Join(f.err, err)
			f.mu.Unlock()
			return
		}
		select {
		case <-f.stop:
			return
		case <-time.After(restartPause):
		}
	}
}

// live runs one process from its start to its end.
func (f *fleet) live(p *place, n int) error {
	// The kernel's signal at a parent's death is tied to the thread that forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	name := fmt.Sprintf("%s.%d", p.Name, n)
	log, err := os.Create(filepath.Join(f.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	proc := &process{life: &Life{Process: name, Slot: p.Name, Group: p.Group}, ready: make(chan struct{}), exited: make(chan struct{})}
	cmd := exec.Command(f.program, p.Args...)
	cmd.Env = append(f.env[:len(f.env):len(f.env)], "KILL_WORKER="+name, "PENSTOCK_WORKER_NAME="+name)
	cmd.Stdout, cmd.Stderr = &firstWrite{file: log, seen: proc.ready}, log
	cmd.SysProcAttr = sysProcAttr()
	cmd.WaitDelay = outputDelay

	f.mu.Lock()
	if f.stopped {
		f.mu.Unlock()
		return nil
	}
	err = cmd.Start() // under the lock, so that stopAll misses none
	if err != nil {
		f.mu.Unlock()
		return fmt.Errorf("start %s: %w", name, err)
	}
	proc.handle = cmd.Process
	proc.life.Born = f.now()
	p.lives = append(p.lives, proc.life)
	p.current = proc
	close(p.changed)
	p.changed = make(chan struct{})
	f.mu.Unlock()

	_ = cmd.Wait() // how it ended is in its state
	written, err := log.Stat()
	f.mu.Lock()
	proc.life.Died, proc.life.Exit = f.now(), cmd.ProcessState.String()
	proc.life.Mute = err == nil && written.Size() == 0
	close(proc.exited)
	f.mu.Unlock()
	return nil
}

// firstWrite tells when something is written.
type firstWrite struct {
	file *os.File
	seen chan struct{}
	once sync.Once
}

func (w *firstWrite) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.seen) })
	return w.file.Write(p)
}

// running returns the process of a slot, and waits for one.
func (f *fleet) running(ctx context.Context, slot string) (*process, error) {
	for {
		f.mu.Lock()
		p := f.slots[slot]
		if p == nil {
			f.mu.Unlock()
			return nil, fmt.Errorf("there is no slot %s", slot)
		}
		current, changed := p.current, p.changed
		f.mu.Unlock()
		if current != nil {
			select {
			case <-current.exited:
			default:
				return current, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("no process in slot %s: %w", slot, context.Cause(ctx))
		}
	}
}

// signal sends a signal and returns when it was sent, and whether the process still lived.
func (f *fleet) signal(p *process, sig syscall.Signal) (time.Duration, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if err := p.handle.Signal(sig); err != nil {
		return now, false
	}
	switch {
	case sig == syscall.SIGKILL && p.life.Killed == 0:
		p.life.Killed = now
	case sig == syscall.SIGTERM && p.life.Told == 0:
		p.life.Told = now
	}
	return now, true
}

// killNamed kills a process by its name, when it still lives.
func (f *fleet) killNamed(name string) (time.Duration, bool) {
	f.mu.Lock()
	var found *process
	for _, p := range f.slots {
		if p.current != nil && p.current.life.Process == name {
			found = p.current
		}
	}
	f.mu.Unlock()
	if found == nil {
		return 0, false
	}
	return f.signal(found, syscall.SIGKILL)
}

// lives returns what is known of all processes.
func (f *fleet) lives() []Life {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lives []Life
	for _, p := range f.slots {
		for _, l := range p.lives {
			lives = append(lives, *l)
		}
	}
	return lives
}

// stopAll tells all processes to stop, kills what has not after the limit, and
// returns when all are gone.
func (f *fleet) stopAll(limit time.Duration) error {
	f.mu.Lock()
	if !f.stopped {
		f.stopped = true
		close(f.stop)
	}
	var all []*process
	for _, p := range f.slots {
		if p.current != nil {
			all = append(all, p.current)
		}
	}
	f.mu.Unlock()
	for _, p := range all {
		f.signal(p, syscall.SIGCONT)
		f.signal(p, syscall.SIGTERM)
	}
	var errs []error
	deadline := time.After(limit)
	for _, p := range all {
		select {
		case <-p.exited:
			continue
		default:
		}
		select {
		case <-p.exited:
		case <-deadline:
			errs = append(errs, fmt.Errorf("%s did not stop within %s and was killed", p.life.Process, limit))
			for _, p := range all {
				f.signal(p, syscall.SIGKILL)
			}
			deadline = nil
			<-p.exited
		}
	}
	f.wg.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(append(errs, f.err)...)
}
