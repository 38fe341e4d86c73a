package model_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
)

const (
	budget   = 50 * time.Second
	minSteps = 10_000 // however slow the machine is
)

func TestMain(m *testing.M) {
	flag.Parse()
	redistest.Main(m)
}

func TestModel(t *testing.T) {
	opt := redistest.Options(t)
	opt.Protocol = 2 // lists are lists
	rdb := redistest.Connect(t, opt)
	base := redistest.Name(t)
	given := make(map[string]string)
	flag.Visit(func(f *flag.Flag) { given[f.Name] = f.Value.String() })
	seed := rand.Uint64N(1 << 62)
	if s := given["rapid.seed"]; s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	set := func(name, value string) {
		if given[name] == "" {
			if err := flag.Set("rapid."+name, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	set("seed", fmt.Sprint(seed))
	if given["rapid.steps"] == "" {
		set("steps", "100")
	}
	fmt.Fprintf(os.Stderr, "model: -rapid.seed=%d\n", seed)

	m := &runs{rdb: rdb, base: base}
	start := time.Now()
	defer func() {
		if m.failed > 0 {
			t.Logf("it failed first in its step %d", m.failed)
		}
		t.Logf("%d runs, %d steps in %s", m.n, m.steps, time.Since(start).Round(time.Second))
	}()
	if given["rapid.checks"] != "" || given["rapid.failfile"] != "" || given["rapid.seed"] != "" {
		rapid.Check(t, m.run)
	} else {
		set("checks", "20")
		for time.Since(start) < budget || m.steps < minSteps {
			rapid.Check(t, m.run)
			seed += 1_000_003
			set("seed", fmt.Sprint(seed))
		}
	}
}

// runs counts what was run.
type runs struct {
	rdb      *redis.Client
	base     string
	n, steps int
	failed   int // the step that failed first
}

// run is one random run on a stream of its own.
func (m *runs) run(t *rapid.T) {
	m.n++
	x := newWorld(t, m.rdb, m.base+"-"+strconv.Itoa(m.n))
	defer func() {
		if x.broken && m.failed == 0 {
			m.failed = m.steps + 1
		}
		x.wipe()
	}()
	actions := x.actions()
	actions[""] = func(*rapid.T) {
		x.check()
		m.steps++
	}
	t.Repeat(actions)
	x.drain()
	x.checkLeftOver()
}
