package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc"
)

// What Matrix reads: lists, separated by commas.
const (
	// EnvServers lists kinds of servers: redis:7.0, redis:8.0, valkey:9, or
	// local, which is the redis-server or valkey-server on PATH. A kind may name
	// its program, as in redis:8.0=/opt/redis-8.0/redis-server: then Docker is not used for it.
	EnvServers = "PENSTOCK_TEST_SERVERS"
	// EnvTopologies lists topologies: single, sentinel, cluster.
	EnvTopologies = "PENSTOCK_TEST_TOPOLOGIES"
)

// Topology is how the servers of one setup belong together.
type Topology string

// The topologies.
const (
	Single   Topology = "single"   // one server
	Sentinel Topology = "sentinel" // a master, a replica, three Sentinels
	Cluster  Topology = "cluster"  // three masters
)

var topologies = []Topology{Single, Sentinel, Cluster}

// Kind is a server program of some version.
type Kind struct {
	Name    string // as in EnvServers
	Program string // that runs on this machine; empty: a container of the image
}

// known are the kinds, with what they are called elsewhere.
var known = []struct{ name, image, program, version string }{
	{"redis:7.0", "redis:7.0", "redis-server", "7.0"},
	{"redis:8.0", "redis:8.0", "redis-server", "8.0"},
	{"valkey:9", "valkey/valkey:9", "valkey-server", "9"},
}

const local = "local"

// Setup is what one run of the tests is for.
type Setup struct {
	Kind     Kind
	Topology Topology
}

// String is kind/topology.
func (s Setup) String() string { return s.Kind.Name + "/" + string(s.Topology) }

// Matrix returns every kind in every topology that the environment asks for.
// Under CI=true the default is all of them; elsewhere it is the local program in
// all topologies. A kind that is unknown, or not to be had here, fails the test.
func Matrix(t testing.TB) []Setup {
	t.Helper()
	names, places := list(EnvServers), list(EnvTopologies)
	if len(names) == 0 && os.Getenv("CI") == "true" {
		for _, k := range known {
			names = append(names, k.name)
		}
	} else if len(names) == 0 {
		names = []string{local}
	}
	var setups []Setup
	for _, name := range names {
		kind, err := find(t.Context(), name)
		if err != nil {
			t.Fatalf("%s: %v", EnvServers, err)
		}
		if name == local {
			t.Logf("%s is not set: testing %s in the topologies %v", EnvServers, kind.Program, or(places, topologies))
		}
		for _, place := range or(places, topologies) {
			switch topology := Topology(place); topology {
			case Single, Sentinel, Cluster:
				setups = append(setups, Setup{kind, topology})
			default:
				t.Fatalf("%s: unknown topology %q: it takes single, sentinel and cluster", EnvTopologies, place)
			}
		}
	}
	return setups
}

func or(places []string, otherwise []Topology) []string {
	if len(places) > 0 {
		return places
	}
	for _, o := range otherwise {
		places = append(places, string(o))
	}
	return places
}

// list reads a variable that holds words separated by commas.
func list(name string) (words []string) {
	for word := range strings.SplitSeq(os.Getenv(name), ",") {
		if word = strings.TrimSpace(word); word != "" {
			words = append(words, word)
		}
	}
	return words
}

// find says how to start the kind that a word names: "redis:8.0", "redis:8.0=/path", "local".
func find(ctx context.Context, word string) (Kind, error) {
	name, program, named := strings.Cut(word, "=")
	if name == local && !named {
		program, err := redisproc.Find()
		return Kind{local, program}, err
	}
	for _, k := range known {
		if k.name != name {
			continue
		}
		if named {
			return Kind{name, program}, checkVersion(ctx, program, k.version)
		}
		docker := dockerRuns(ctx)
		if docker == nil {
			return Kind{Name: name}, nil
		}
		program, err := exec.LookPath(k.program)
		if err == nil {
			err = checkVersion(ctx, program, k.version)
		}
		if err != nil {
			return Kind{}, fmt.Errorf("there is no %s here: %w; and Docker does not run: %w. Start Docker, or name a program: "+
				"%s=%s=/path/to/%s (integration/images/unpack.sh gets one out of Debian's packages)", name, err, docker, EnvServers, name, k.program)
		}
		return Kind{name, program}, nil
	}
	return Kind{}, fmt.Errorf("unknown server %q: it takes redis:7.0, redis:8.0, valkey:9, each with or without =PROGRAM, and local", word)
}

var versionIs = regexp.MustCompile(`\bv=(\S+)`)

// checkVersion asks a program for its version.
func checkVersion(ctx context.Context, program, want string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s --version: %w: %s", program, err, out)
	}
	m := versionIs.FindSubmatch(out)
	if m == nil {
		return fmt.Errorf("%s --version says %q, which names no version", program, out)
	}
	return sameVersion(program, string(m[1]), want)
}

// sameVersion reports an error when got is not a release of want.
func sameVersion(what, got, want string) error {
	if got == want || strings.HasPrefix(got, want+".") {
		return nil
	}
	return fmt.Errorf("%s is version %s", what, got)
}

// image of the kind, and the names of the program and version in it.
func (k Kind) image() (image, program, version string, err error) {
	for _, known := range known {
		if known.name == k.Name {
			return known.image, known.program, known.version, nil
		}
	}
	return "", "", "", errors.New("no image is known for " + k.Name)
}
