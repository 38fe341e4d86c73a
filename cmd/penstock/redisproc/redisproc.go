// Package redisproc runs a redis-server or valkey-server as a child process:
// on loopback only, with its data in a private folder.
package redisproc

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrNotFound means that neither redis-server nor valkey-server is installed.
var ErrNotFound = errors.New("no redis-server or valkey-server on PATH: install one (Debian: apt-get install redis-server, macOS: brew install redis)")

const (
	startTimeout = 10 * time.Second
	stopTimeout  = 5 * time.Second
	portTries    = 5
	logName      = "redis.log"
)

// Config of a server.
type Config struct {
	Dir        string   // its data and log; made with mode 0700, and refused when others can enter it
	Path       string   // the program. Default: what Find finds.
	Port       int      // on 127.0.0.1. Default: a free one.
	AppendOnly bool     // keep data over a restart. Default: in memory only.
	Args       []string // more of the program's own arguments, as "--maxmemory", "64mb"
}

// Find returns the path of the server program: redis-server, else valkey-server.
func Find() (string, error) {
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNotFound
}

// Server is a running server. Its methods may be called concurrently, those that start or stop it one at a time.
type Server struct {
	cfg  Config
	port int

	mu      sync.Mutex
	child   *child
	version string
}

// child is one process; exited is closed when it is gone.
type child struct {
	process *os.Process
	exited  chan struct{}
	err     error
}

// Start runs a server and returns when it answers. Ending ctx later does not stop it: that is for Stop.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Path == "" {
		var err error
		if cfg.Path, err = Find(); err != nil {
			return nil, err
		}
	}
	if err := privateDir(cfg.Dir); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, port: cfg.Port}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of redis: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("make the folder of redis: %w", err)
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return fmt.Errorf("the folder of redis, %s, is open to others (mode %#o): chmod 700 it, or name another", dir, mode)
	}
	return nil
}

func (s *Server) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("no answer within %s", startTimeout))
	defer cancel()
	chosen := s.port != 0
	for try := 1; ; try++ {
		if !chosen {
			port, err := freePort()
			if err != nil {
				return err
			}
			s.port = port
		}
		err := s.startOnce(ctx)
		if err == nil {
			return nil
		}
		// a free port is free until somebody else takes it; one of our own is ours again a moment after its server has gone
		if !errors.Is(err, errPortTaken) || try == portTries || ctx.Err() != nil {
			return fmt.Errorf("start %s: %w", s.cfg.Path, err)
		}
	}
}

var errPortTaken = errors.New("the port is taken")

func (s *Server) startOnce(ctx context.Context) error {
	logFile := filepath.Join(s.cfg.Dir, logName)
	_ = os.Remove(logFile) // of the run before
	appendOnly := "no"
	if s.cfg.AppendOnly {
		appendOnly = "yes"
	}
	args := append([]string{
		"--bind", "127.0.0.1", "--port", strconv.Itoa(s.port), "--protected-mode", "yes", "--daemonize", "no",
		"--dir", s.cfg.Dir, "--logfile", logFile, "--save", "", "--appendonly", appendOnly,
	}, s.cfg.Args...)
	c, err := launch(s.cfg.Path, args)
	if err != nil {
		return err
	}
	version, err := s.await(ctx, c)
	if err != nil {
		_ = c.process.Kill()
		<-c.exited
		text, _ := os.ReadFile(logFile)
		if bytes.Contains(text, []byte("already in use")) {
			err = errors.Join(errPortTaken, err)
		}
		return fmt.Errorf("%w%s", err, tail(text))
	}
	s.mu.Lock()
	s.child, s.version = c, version
	s.mu.Unlock()
	return nil
}

// launch starts the program on a thread of its own that waits for it: the
// kernel's signal at the parent's death is tied to the thread that forked.
func launch(path string, args []string) (*child, error) {
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = sysProcAttr()
	cmd.Dir = os.TempDir() // keeps no folder of the caller busy
	c := &child{exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		c.process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		c.err = cmd.Wait()
		close(c.exited)
	}()
	return c, <-started
}

// await asks the server until it answers, and makes sure that it is our child that does. It returns its version.
func (s *Server) await(ctx context.Context, c *child) (string, error) {
	for {
		info, err := s.ask(ctx, "INFO server")
		if pid := infoField(info, "process_id"); err == nil && pid != "" && pid != strconv.Itoa(c.process.Pid) {
			return "", errPortTaken
		} else if err == nil && pid != "" {
			if pong, err := s.ask(ctx, "PING"); err == nil && strings.HasPrefix(pong, "+PONG") { // refused while it loads its data
				return cmp.Or(infoField(info, "valkey_version"), infoField(info, "redis_version")), nil
			}
		}
		select {
		case <-c.exited:
			return "", fmt.Errorf("it ended at once: %w", c.err)
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// ask sends one command on a connection of its own. (A go-redis client logs each attempt that fails.)
func (s *Server) ask(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 250*time.Millisecond)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Addr())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		return "", err
	}
	r := bufio.NewReader(io.LimitReader(conn, 1<<20))
	line, err := r.ReadString('\n')
	if size, bulk := strings.CutPrefix(line, "$"); err == nil && bulk {
		n, _ := strconv.Atoi(strings.TrimSpace(size)) // no number: nothing is read
		text := make([]byte, max(n, 0))
		_, err = io.ReadFull(r, text)
		return string(text), err
	}
	return line, err
}

// Addr is host:port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// URL of the server, for REDIS_URL.
func (s *Server) URL() string { return "redis://" + s.Addr() + "/0" }

// Version of the server program.
func (s *Server) Version() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version
}

// Pid of the running process, or of the last one.
func (s *Server) Pid() int { return s.current().process.Pid }

// Done is closed when the process that runs now has ended.
func (s *Server) Done() <-chan struct{} { return s.current().exited }

func (s *Server) current() *child {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.child
}

// Stop ends the server in good order, by force after five seconds, and returns when it is gone.
func (s *Server) Stop() error {
	c := s.current()
	if gone(c) {
		return nil
	}
	_ = c.process.Signal(syscall.SIGTERM)
	resume(c.process) // a paused process would not see it
	select {
	case <-c.exited:
		return nil
	case <-time.After(stopTimeout):
	}
	if err := s.Kill(); err != nil {
		return err
	}
	return fmt.Errorf("redis did not stop within %s and was killed", stopTimeout)
}

// Kill ends the server as a crash would, and returns when it is gone.
func (s *Server) Kill() error {
	c := s.current()
	if err := c.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill redis: %w", err)
	}
	<-c.exited
	return nil
}

// Restart stops the server if it runs, and starts it again on the same port.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Stop(); err != nil {
		return err
	}
	return s.start(ctx)
}

func gone(c *child) bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// tail is the end of a server's log, for an error.
func tail(log []byte) string {
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	text := strings.Join(lines[max(len(lines)-5, 0):], "\n  ")
	if text == "" {
		return ""
	}
	return "; its log ends:\n  " + text
}
