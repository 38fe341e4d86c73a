package model_test

import (
	"slices"
	"time"
)

// drain kills all workers and lets one of each group finish what there is.
func (x *world) drain() {
	for _, g := range x.groups {
		for range len(g.workers) {
			x.fire(g.workers[0])
		}
	}
	for round := 0; x.living() > 0; round++ {
		if round > 50 {
			x.fail("the jobs do not end", "%v %v", x.scheduled, x.groups[0].jobs)
		}
		for _, j := range x.scheduled {
			x.due(x.k.Scheduled, j, 1000)
		}
		x.promoteScheduled(500)
		x.check()
		for _, g := range x.groups {
			x.drainGroup(g)
		}
	}
}

func (x *world) drainGroup(g *group) {
	w := g.workers[0]
	x.open(w)
	x.check()
	x.outage(w)
	x.check()
	x.endAll(w)
	for _, j := range g.jobs {
		if j.at == inRetrying {
			x.due(g.keys.Retrying, j, 1000)
		}
	}
	x.promoteRetrying(g, 500)
	x.check()
	x.learn(w)
	x.readSome(w, []place{inRedelivery, inOrders, inSuspects}, 100, false)
	x.check()
	x.endAll(w)
	if letters := g.in(inDead); len(letters) > 0 {
		x.runPurge(g, letters)
		x.check()
	}
}

// endAll ends all that a worker holds: what it can complete it does.
func (x *world) endAll(w *worker) {
	for _, d := range slices.Clone(w.held) {
		how := completes
		switch {
		case d.swept:
			how = reclaims
		case d.bad, d.o.Crashes >= maxCrashes:
			how = buries
		}
		w.forget(d)
		x.send(x.ending(d, how), true)
		x.check()
	}
}

// checkLeftOver looks at what is left when all is done: no key but those that stay, and nothing in them.
func (x *world) checkLeftOver() {
	for _, g := range x.groups {
		x.runMarks(g)
		if len(g.marks) > 0 {
			x.fail("a mark is left over", "%v", g.marks)
		}
		x.runResume(g)
		for _, name := range g.names {
			x.runLeave(g, name, time.Time{})
		}
		for _, key := range g.lanes {
			consumers, err := x.rdb.XInfoConsumers(x.ctx, key, g.name).Result()
			if x.must(consumers, err); len(consumers) > 0 {
				x.fail("a consumer is left over", "%v", consumers)
			}
		}
	}
	stay := map[string]bool{x.k.Stream: true, x.k.Config: true}
	if x.events {
		stay[x.k.IDs] = true // an ID stays taken as long as its entry is there, and its field in this version for good
	} else if len(x.orders) > 0 {
		x.fail("something is left over", "%v", x.orders)
	}
	for _, g := range x.groups {
		stay[g.keys.Redelivery], stay[g.keys.Suspects] = true, true
		stay[g.keys.Dead] = true                           // empty, if there ever was a letter
		stay[g.keys.Gate], stay[g.keys.Lease] = true, true // for some time
		if len(g.ids.stale) > 0 {
			stay[g.keys.IDs] = true // of what people deleted: see lose
		}
	}
	for key := range x.records {
		stay[key] = true
	}
	s := x.read()
	for key := range s.keys {
		if !stay[key] {
			x.fail("a key is left over", "%s: %v", key, s.hashes[key])
		}
	}
	for _, g := range x.groups {
		x.compareIDs(g.ids, s.hashes[g.keys.IDs], g.ids.stale)
		for id, field := range s.hashes[g.keys.IDs] {
			if g.ids.stale[id] == "" {
				x.fail("an ID is left over", "%s: %s", id, field)
			}
		}
		for _, key := range []string{g.keys.Redelivery, g.keys.Suspects, g.keys.Dead} {
			if len(s.streams[key]) > 0 {
				x.fail("something is left over", "%s: %v", key, s.streams[key])
			}
		}
		for _, key := range []string{g.keys.Gate, g.keys.Lease} {
			if ttl := x.rdb.PTTL(x.ctx, key).Val(); ttl == -1 {
				x.fail("a key stays for good that should not", "%s", key)
			}
		}
	}
}

// wipe deletes the keys of this run.
func (x *world) wipe() {
	keys := []string{x.name}
	for it := x.rdb.Scan(x.ctx, 0, "{"+x.name+"}:*", 10000).Iterator(); it.Next(x.ctx); {
		keys = append(keys, it.Val())
	}
	_ = x.rdb.Unlink(x.ctx, keys...).Err()
}
