package servers

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	tclog "github.com/testcontainers/testcontainers-go/log"
	tcredis "github.com/testcontainers/testcontainers-go/modules/redis"
	tcwait "github.com/testcontainers/testcontainers-go/wait"
	"go.uber.org/goleak"
)

// ownerLabel names the process whose test started a container.
const ownerLabel = "penstock.test.process"

// docker is the connection to the daemon, made by the first test that asks.
var docker struct {
	once sync.Once
	*testcontainers.DockerClient
	err error
}

// dockerRuns connects to Docker, and says why that is not possible.
func dockerRuns(ctx context.Context) error {
	docker.once.Do(func() {
		// The reaper is a container of an image that may not be to be had; removeForgotten does its work.
		// And the servers are on this machine's loopback, whatever testcontainers thinks of where it runs.
		for name, value := range map[string]string{"TESTCONTAINERS_RYUK_DISABLED": "true", "TESTCONTAINERS_HOST_OVERRIDE": "127.0.0.1"} {
			if os.Getenv(name) == "" {
				_ = os.Setenv(name, value)
			}
		}
		tclog.SetDefault(tclog.NewNoopLogger())
		defer func() {
			if v := recover(); v != nil { // testcontainers panics when it finds no daemon
				docker.err = fmt.Errorf("%v", v)
			}
		}()
		if docker.DockerClient, docker.err = testcontainers.NewDockerClientWithOpts(ctx); docker.err == nil {
			docker.err = removeForgotten(ctx)
		}
	})
	return docker.err
}

// removeForgotten removes the containers of test processes that were killed.
func removeForgotten(ctx context.Context) error {
	list, err := docker.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", ownerLabel)})
	if err != nil {
		return err
	}
	for _, c := range list.Items {
		pid, err := strconv.Atoi(c.Labels[ownerLabel])
		if err != nil || syscall.Kill(pid, 0) != syscall.ESRCH {
			continue
		}
		_, _ = docker.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true}) // another process may be faster
	}
	return nil
}

// contained is a node in a container.
type contained struct {
	testcontainers.Container
	at string
}

// launchContainer starts a container of the kind's image. A mapped one has a
// network of its own and a fixed port here; the others share this machine's
// network, since Sentinels and Clusters tell their addresses to each other and to clients alike.
func launchContainer(t testing.TB, kind Kind, s spec, port int) (node, error) {
	t.Helper()
	image, program, _, err := kind.image()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // the image may have to be pulled
	defer cancel()
	opts := []testcontainers.ContainerCustomizer{
		testcontainers.WithLabels(map[string]string{ownerLabel: strconv.Itoa(os.Getpid())}),
	}
	var c testcontainers.Container
	if s.mapped {
		opts = append(opts,
			testcontainers.WithCmdArgs(serverArgs(s, "0.0.0.0", 6379)...),
			testcontainers.WithHostConfigModifier(func(h *container.HostConfig) {
				h.PortBindings = network.PortMap{network.MustParsePort("6379/tcp"): {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: strconv.Itoa(port)}}}
			}))
		var single *tcredis.RedisContainer
		if single, err = tcredis.Run(ctx, image, opts...); single != nil {
			c = single.Container
		}
	} else {
		cmd := append([]string{program}, serverArgs(s, "127.0.0.1", port)...)
		if s.sentinel != "" {
			const conf = "/data/sentinel.conf"
			cmd = append([]string{program, conf, "--sentinel"}, cmd[1:]...)
			opts = append(opts, testcontainers.WithFiles(testcontainers.ContainerFile{
				Reader: strings.NewReader(s.sentinel), ContainerFilePath: conf, FileMode: 0o644,
			}))
		}
		opts = append(opts,
			testcontainers.WithCmd(cmd...),
			testcontainers.WithHostConfigModifier(func(h *container.HostConfig) { h.NetworkMode = "host" }),
			testcontainers.WithWaitStrategy(tcwait.ForExec([]string{strings.Replace(program, "-server", "-cli", 1), "-p", strconv.Itoa(port), "PING"})))
		c, err = testcontainers.Run(ctx, image, opts...)
	}
	if err != nil {
		said := ""
		if c != nil {
			said = logOf(ctx, c)
			_ = c.Terminate(context.WithoutCancel(ctx), testcontainers.StopTimeout(0))
		}
		return nil, fmt.Errorf("start a container of %s (without a registry, integration/images/make.sh makes the image): %w%s", image, err, said)
	}
	n := contained{c, net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	if err := await(ctx, n.at); err != nil {
		_ = n.remove(context.WithoutCancel(ctx))
		return nil, err
	}
	return n, nil
}

// logOf is what a container has said, for an error.
func logOf(ctx context.Context, c testcontainers.Container) string {
	r, err := c.Logs(ctx)
	if err != nil {
		return ""
	}
	defer r.Close()
	text, _ := io.ReadAll(io.LimitReader(r, logMax)) // as far as it goes
	return "; its log:\n" + string(text)
}

const logMax = 4 << 10

// serverArgs are the arguments of a server or Sentinel.
func serverArgs(s spec, bind string, port int) []string {
	args := []string{"--bind", bind, "--port", strconv.Itoa(port), "--protected-mode", "no"}
	if s.sentinel == "" {
		args = append(args, "--save", "", "--appendonly", "yes")
	}
	return append(args, s.args...)
}

func (c contained) addr() string { return c.at }

func (c contained) pause(ctx context.Context) error {
	_, err := docker.ContainerPause(ctx, c.GetContainerID(), client.ContainerPauseOptions{})
	return err
}

func (c contained) resume(ctx context.Context) error {
	_, err := docker.ContainerUnpause(ctx, c.GetContainerID(), client.ContainerUnpauseOptions{})
	return err
}

func (c contained) stop(ctx context.Context) error {
	seconds := 10
	_, err := docker.ContainerStop(ctx, c.GetContainerID(), client.ContainerStopOptions{Timeout: &seconds})
	return err
}

func (c contained) kill(ctx context.Context) error {
	if _, err := docker.ContainerKill(ctx, c.GetContainerID(), client.ContainerKillOptions{Signal: "KILL"}); err != nil {
		return err
	}
	gone := docker.ContainerWait(ctx, c.GetContainerID(), client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	select {
	case <-gone.Result:
		return nil
	case err := <-gone.Error:
		return err
	}
}

func (c contained) start(ctx context.Context) error {
	if _, err := docker.ContainerStart(ctx, c.GetContainerID(), client.ContainerStartOptions{}); err != nil {
		return err
	}
	return await(ctx, c.at)
}

// remove needs no good order: the data go too.
func (c contained) remove(ctx context.Context) error {
	return c.Terminate(ctx, testcontainers.StopTimeout(0))
}

// Main runs a package's tests, and fails when one of them has left a goroutine behind:
//
//	func TestMain(m *testing.M) { servers.Main(m) }
func Main(m *testing.M) { goleak.VerifyTestMain(disconnecting{m}) }

type disconnecting struct{ m *testing.M }

func (d disconnecting) Run() int {
	code := d.m.Run()
	if docker.DockerClient != nil {
		_ = docker.Close()
	}
	return code
}
