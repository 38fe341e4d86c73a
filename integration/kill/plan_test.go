//go:build unix

package kill_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/penstock-go/penstock/integration/kill"
)

var planLanes = []kill.Lane{
	{Name: "main1", On: kill.OnWorker, Spared: true}, {Name: "main2", On: kill.OnWorker, Spared: true},
	{Name: "main3", On: kill.OnWorker}, {Name: "mail1", On: kill.OnWorker},
	{Name: "scheduler", On: kill.OnScheduler}, {Name: kill.Redis, On: kill.OnRedis}, {Name: "load", On: kill.OnLoad},
}

func TestPlan(t *testing.T) {
	t.Parallel()
	const length = defaultFor
	actions := kill.Actions(10 * time.Second)
	if one, two := kill.NewPlan(7, length, planLanes, actions), kill.NewPlan(7, length, planLanes, actions); !reflect.DeepEqual(one, two) {
		t.Errorf("one seed, two plans:\n%s\n%s", one, two)
	}
	if one, two := kill.NewPlan(7, length, planLanes, actions), kill.NewPlan(8, length, planLanes, actions); reflect.DeepEqual(one, two) {
		t.Error("two seeds, one plan")
	}
	for seed := range uint64(1000) {
		plan := kill.NewPlan(seed, length, planLanes, actions)
		seen := make(map[string]bool)
		busy := make(map[string]time.Duration)
		for _, f := range plan.Faults {
			seen[f.Action] = true
			if f.At < busy[f.Lane] {
				t.Fatalf("seed %d: two faults of %s at once:\n%s", seed, f.Lane, plan)
			}
			if busy[f.Lane] = f.At + f.For; busy[f.Lane] >= length {
				t.Fatalf("seed %d: a fault goes on after the end:\n%s", seed, plan)
			}
		}
		for _, r := range plan.Lane(kill.Redis) {
			for _, f := range plan.Faults {
				spared := (f.Lane == "main1" || f.Lane == "main2") && (r.Action == "stall" || r.Action == "outage")
				if spared && f.At < r.At+r.For && r.At < f.At+f.For {
					t.Fatalf("seed %d: %s of %s during %s:\n%s", seed, f.Action, f.Lane, r.Action, plan)
				}
			}
		}
		for _, a := range actions {
			if !seen[a.Name] {
				t.Errorf("seed %d: no %s within %s:\n%s", seed, a.Name, length, plan)
			}
		}
	}
}
