package conformance_test

import (
	"context"
	"flag"
	"slices"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/integration/servers"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "100"); err != nil { // the tests wait for leases, not for processors
		panic(err)
	}
	if !testing.Verbose() {
		redis.SetLogger(quiet{})
	}
	servers.Main(m)
}

// quiet drops what go-redis says of connections that tests break.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// all tests of a setup, those first that take long; without topologies a test is for each of them.
var all = []struct {
	name string
	test func(*testing.T, *world)
	only []servers.Topology
}{
	{"KilledWorkers", killedWorkers, nil},
	{"KilledWhileItComesBack", killedWhileItComesBack, nil},
	{"LongJobs", longJobs, nil},
	{"StallStealsNothing", stallStealsNothing, nil},
	{"RestartStealsNothing", restartStealsNothing, nil},
	{"PartitionStealsNothing", partitionStealsNothing, nil},
	{"Poison", poison, nil},
	{"Suspects", suspects, nil},
	{"Restarts", restarts, nil},
	{"Migration", migration, []servers.Topology{servers.Cluster}},
	{"LimitedUser", limitedUser, nil},
	{"LateOutcomes", lateOutcomes, nil},
	{"FenceGrows", fenceGrows, nil},
	{"Storm", storm, nil},
	{"ReadOnly", readOnly, []servers.Topology{servers.Single}},
	{"Failovers", failovers, []servers.Topology{servers.Sentinel, servers.Cluster}},
	{"LateRedis", lateRedis, nil},
	{"LostReplies", lostReplies, nil},
	{"HandBack", handBack, nil},
	{"Deploy", deploy, nil},
	{"Stuck", stuck, nil},
	{"NoHoarding", noHoarding, nil},
	{"Groups", groups, nil},
	{"SecondGroup", secondGroup, nil},
	{"NothingTrimmed", nothingTrimmed, nil},
	{"Duplicates", duplicates, nil},
	{"UniqueKeys", uniqueKeys, nil},
	{"Cancels", cancels, nil},
	{"Switches", switches, nil},
	{"Deferred", deferred, nil},
	{"Ticks", ticks, nil},
	{"Schedules", schedules, nil},
	{"Upkeep", upkeep, nil},
	{"DeadLetters", deadLetters, nil},
	{"Results", results, nil},
	{"Reports", reports, nil},
	{"MissingGroup", missingGroup, nil},
	{"Full", full, []servers.Topology{servers.Single}},
	{"ManyStreams", manyStreams, nil},
	{"OtherVersions", otherVersions, nil},
	{"Forged", forged, nil},
	{"NoHints", noHints, nil},
}

// atOnce is how many tests run at once, on setupsAtOnce setups: more would have two processors stand still for seconds as they begin,
// and fewer would wait for leases most of the time.
const (
	atOnce       = 24
	setupsAtOnce = 2
)

// TestConformance runs all tests on all setups.
func TestConformance(t *testing.T) {
	t.Parallel()
	setups, slots := make(chan struct{}, setupsAtOnce), make(chan struct{}, atOnce)
	for _, setup := range servers.Matrix(t) {
		t.Run(setup.String(), func(t *testing.T) {
			t.Parallel()
			setups <- struct{}{}
			t.Cleanup(func() { <-setups })
			w := &world{setup, servers.Start(t, setup, servers.Config{})}
			t.Logf("version %s", w.server.Version(t))
			for _, c := range all {
				if len(c.only) > 0 && !slices.Contains(c.only, setup.Topology) {
					continue
				}
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					slots <- struct{}{}
					defer func() { <-slots }()
					c.test(t, w)
				})
			}
		})
	}
}

// TestDeadConsumers takes five leases: all kinds of servers at once, beside the others.
func TestDeadConsumers(t *testing.T) {
	t.Parallel()
	for _, setup := range servers.Matrix(t) {
		if setup.Topology != servers.Single {
			continue
		}
		t.Run(setup.Kind.Name, func(t *testing.T) {
			t.Parallel()
			deadConsumers(t, &world{setup, servers.Start(t, setup, servers.Config{})})
		})
	}
}
