package main

import "slices"

// lua is where the scripts are.
const lua = "stream/engine/lua/"

// apart makes the engine read its scripts when a program starts.
var apart = scripts{
	dir: "stream/engine/lua",
	edits: []edit{
		{"stream/engine/script.go", "\t\"embed\"\n", "\t\"io/fs\"\n\t\"os\"\n"},
		{"stream/engine/script.go", "//go:embed lua/*.lua\nvar sources embed.FS\n", "var sources = os.DirFS(os.Getenv(\"" + scriptsEnv + "\")).(fs.ReadFileFS)\n"},
	},
}

// table is every mutant, those whose tests take longest first.
var table = slices.Concat(engine, unique, reports, cancels)

// engine is all of them but those of one feature.
var engine = []mutant{
	{
		name:      "reclaim right after an outage",
		breaks:    "idle times are trusted at once, and a sweep has no time past which it does nothing",
		invariant: "an outage steals nothing",
		pkg:       "consumer",
		tests:     []string{"TestNoSweepAfterAnOutage", "TestContact"},
		edits: []edit{
			{"consumer/lease.go", "return !c.since.IsZero() && now.Sub(c.since) >= lease", "return true"},
			{lua + "sweep.lua", "now > tonumber(ARGV[4]) or", ""},
		},
	},
	{
		name:      "no renewal",
		breaks:    "the heartbeat renews the lease of nothing",
		invariant: "a live job is not stolen",
		pkg:       "consumer",
		tests:     []string{"TestLongJobKeepsItsLease"},
		edits: []edit{
			{"consumer/lease.go", "held[i] = append(held[i], entry)", "_ = entry"},
		},
	},
	{
		name:      "suspects run in bulk",
		breaks:    "what crashed its worker twice comes back like anything else",
		invariant: "a poison job takes no neighbours along",
		pkg:       "consumer",
		tests:     []string{"TestSuspectsRunOneByOne"},
		edits: []edit{
			{"consumer/settle.go", "if t.opts.Crashes > 0 { // not the first time: it may be what kills its workers", "if t.opts.Crashes > 1000 {"},
			{"consumer/task.go", "return t.lane == t.lane.src.suspects || t.opts.Crashes > 1", "return false"},
		},
	},
	{
		name:      "suspects do not wait for each other",
		breaks:    "the next suspect is read before the end of the one before is in Redis",
		invariant: "a poison job takes no neighbours along",
		pkg:       "consumer",
		tests:     []string{"TestSuspectsRunOneByOne"},
		edits: []edit{
			{"consumer/suspects.go", "\t\t\t\tcase <-t.over:\n", "\t\t\t\tdefault:\n"},
		},
	},
	{
		name:      "suspects run among others after a retry",
		breaks:    "a suspect that failed comes back like anything else",
		invariant: "a poison job takes no neighbours along",
		pkg:       "consumer",
		tests:     []string{"TestSuspectsRetriedOneByOne"},
		edits: []edit{
			{"consumer/serve.go", "case t.suspect() && t.lane != t.lane.src.suspects:", "case false:"},
		},
	},
	{
		name:      "acknowledge before running",
		breaks:    "a job is acknowledged when it starts",
		invariant: "no loss",
		pkg:       "consumer",
		tests:     []string{"TestPendingWhileItRuns"},
		edits: []edit{
			{"consumer/serve.go", "t.run = run", "t.run = run\n\t\t_, _ = engine.Do(w.root, w.rdb, \"XACK\", t.lane.key, w.group, t.entry)"},
		},
	},
	{
		name:      "acknowledge when handed out",
		breaks:    "entries are acknowledged as soon as they are read",
		invariant: "no loss",
		pkg:       "consumer",
		tests:     []string{"TestPendingWhileItRuns"},
		edits: []edit{
			{"consumer/task.go", "w.fill(t, l, e, epoch, now)", "w.fill(t, l, e, epoch, now)\n\t\t_, _ = engine.Do(w.root, w.rdb, \"XACK\", l.key, w.group, e.id)"},
		},
	},
	{
		name:      "retry into the shared stream",
		breaks:    "what is due again goes to the stream itself, where every group reads it",
		invariant: "a retry belongs to its group",
		pkg:       "consumer",
		tests:     []string{"TestEventsReachEveryGroup"},
		edits: []edit{
			{"consumer/worker.go", "slot := engine.RetryingSlot(src.group)", "slot := engine.RetryingSlot(src.group)\n\t\tslot.Dest, slot.Place = src.keys.Stream, \"orders\""},
		},
	},
	{
		name:      "hand-back that counts a try",
		breaks:    "what a stopping worker hands back has one try less",
		invariant: "a hand-back changes no attempt",
		pkg:       "consumer",
		tests:     []string{"TestGraceThenHandBack", "TestMovedCounts"},
		edits: []edit{
			{"consumer/outcome.go", "return engine.StepRelease", "return engine.StepFail"},
		},
	},
	{
		name:      "snooze that counts a try",
		breaks:    "a job that puts itself off has one try less",
		invariant: "a snooze changes no attempt",
		pkg:       "consumer",
		tests:     []string{"TestSnoozeCostsNoTry", "TestMovedCounts"},
		edits: []edit{
			{"consumer/outcome.go", "case actRetry:\n\t\treturn engine.StepFail", "case actRetry, actSnooze:\n\t\treturn engine.StepFail"},
		},
	},
	{
		name:      "crash not counted",
		breaks:    "a lease that ran out leaves no mark on the job",
		invariant: "a poison job cannot loop",
		pkg:       "consumer",
		tests:     []string{"TestMovedCounts"},
		edits: []edit{
			{"stream/engine/counters.go", "o.Crashes = more(o.Crashes)", ""},
		},
	},
	{
		name:      "limit of crashes ignored",
		breaks:    "a job runs however often it crashed its worker",
		invariant: "a poison job cannot loop",
		pkg:       "consumer",
		tests:     []string{"TestMaxCrashes"},
		edits: []edit{
			{"consumer/serve.go", "case t.opts.Crashes >= w.cfg.MaxCrashes:", "case t.opts.Crashes >= 1000*w.cfg.MaxCrashes:"},
		},
	},
	{
		name:      "fence not counted",
		breaks:    "a job moves on under the fence it had",
		invariant: "a handler can fence",
		pkg:       "consumer",
		tests:     []string{"TestMovedCounts"},
		edits: []edit{
			{"stream/engine/counters.go", "o.Moves = more(o.Moves)", ""},
		},
	},
	{
		name:      "start without a confirmed lease",
		breaks:    "a job that was read long ago starts, whoever has it by now",
		invariant: "a live job is not stolen",
		pkg:       "consumer",
		tests:     []string{"TestStartWaitsForTheLease"},
		edits: []edit{
			{"consumer/lease.go", "if t.lost.Load() || mono()-sure < int64(w.cfg.Lease/2) {", "if t.lost.Load() || sure <= mono() {"},
		},
	},
	{
		name:      "lost lease not told",
		breaks:    "a handler goes on when its job is somebody else's",
		invariant: "a worker that lost its lease knows",
		pkg:       "consumer",
		tests:     []string{"TestLostLeaseIsTold"},
		edits: []edit{
			{"consumer/lease.go", "w.endRun(t, ErrLeaseLost)", ""},
		},
	},
	{
		name:      "what a loser returns is written",
		breaks:    "a run whose lease was lost ends its job all the same",
		invariant: "a worker that lost its lease knows",
		pkg:       "consumer",
		tests:     []string{"TestLostLeaseIsTold"},
		edits: []edit{
			{"consumer/serve.go", "\tif t.lost.Load() {\n", "\tif t.lost.Load() && err != nil {\n"},
		},
	},
	{
		name:      "slow answer taken for contact",
		breaks:    "Redis stood still while it was asked, and idle times are trusted",
		invariant: "an outage steals nothing",
		pkg:       "consumer",
		tests:     []string{"TestContact"},
		edits: []edit{
			{"consumer/lease.go", "now.Sub(asked) > lease/3 ||", ""},
		},
	},
	{
		name:      "complete without tombstone",
		breaks:    "the ID of a finished job is free at once",
		invariant: "a job with an ID is published safely again",
		pkg:       "consumer",
		tests:     []string{"TestIDStaysTakenForAWhile"},
		edits: []edit{
			{"consumer/record.go", "e.Keep = tombstone", "e.Keep = 0 * tombstone"},
		},
	},
	{
		name:      "expiry by the host's clock",
		breaks:    "a host whose clock is off drops jobs",
		invariant: "Redis's clock decides",
		pkg:       "consumer",
		tests:     []string{"TestExpiryIsJudgedByRedis"},
		edits: []edit{
			{"consumer/task.go", "return time.Now().Add(time.Duration(src.clock.Load()))", "return time.Now()"},
		},
	},
	{
		name:      "hoarding",
		breaks:    "a worker takes thousands more than it can start",
		invariant: "nobody hoards",
		pkg:       "consumer",
		tests:     []string{"TestNobodyHoards"},
		edits: []edit{
			{"consumer/pace.go", "return min(int64(w.pace.measure(now, w.counts.taken())*prefetchFor.Seconds()), maxPrefetch)", "return maxPrefetch"},
		},
	},
	{
		name:      "position of an events group ignored",
		breaks:    "a group that somebody destroyed begins again with all that is kept",
		invariant: "a missing group is made again where it was",
		pkg:       "consumer",
		tests:     []string{"TestEventsGroupIsMadeAgainWhereItWas"},
		edits: []edit{
			{lua + "open.lua", "and not below(info[i + 1], known) then return known end", "and not below(info[i + 1], known) then return '0' end"},
		},
	},

	{
		name:      "epoch kept when a group is made again",
		breaks:    "what is delivered a second time has the fence of the first",
		invariant: "a handler can fence",
		pkg:       "stream/engine",
		tests:     []string{"TestEpochNeverFalls"},
		edits: []edit{
			{lua + "open.lua", "math.max(last, known) + 1)", "math.max(last, known, 1))"},
		},
	},
	{
		name:      "epoch falls with the config",
		breaks:    "the epoch begins anew when somebody deletes it",
		invariant: "a handler can fence",
		pkg:       "stream/engine",
		tests:     []string{"TestEpochNeverFalls"},
		edits: []edit{
			{lua + "open.lua", "math.max(last, known) + 1)", "last + 1)"},
		},
	},
	{
		name:      "retry without the ownership check",
		breaks:    "a worker that lost its job parks it all the same",
		invariant: "outcomes are guarded",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptGuards/retry"},
		edits: []edit{
			{lua + "retry.lua", "1, ARGV[2]) == 0 then return 0 end", "1, ARGV[2]) < 0 then return 0 end"},
		},
	},
	{
		name:      "move without the ownership check",
		breaks:    "a worker that lost its job hands it back, or dead-letters it, all the same",
		invariant: "outcomes are guarded",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptGuards/move_release", "TestScriptGuards/move_dead"},
		edits: []edit{
			{lua + "move.lua", "1, ARGV[2]) == 0 then return '' end", "1, ARGV[2]) < 0 then return '' end"},
		},
	},
	{
		name:      "DELCONSUMER without its check",
		breaks:    "a consumer is removed with what it holds",
		invariant: "dead consumers take nothing along",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptTwice/leave"},
		edits: []edit{
			{lua + "leave.lua", " and #held == 0 then", " then"},
		},
	},
	{
		name:      "mending without looking who has it",
		breaks:    "a search for jobs in nobody's list takes those of living workers along",
		invariant: "a live job is not stolen",
		pkg:       "stream/engine",
		tests:     []string{"TestMend"},
		edits: []edit{
			{lua + "mend.lua", "entry[1], entry[1], 1) == 0 then", "entry[1], entry[1], 1) >= 0 then"},
		},
	},
	{
		name:      "mending what was done before",
		breaks:    "the history of a stream that was another program's runs again",
		invariant: "a job that has ended does not run again",
		pkg:       "stream/engine",
		tests:     []string{"TestMendLeavesTheDone"},
		edits: []edit{
			{lua + "mend.lua", "if after == '' then after = config[2] end", "if after == '' then after = '0-0' end"},
		},
	},
	{
		name:      "settling without looking at what XDEL answered",
		breaks:    "a batch counts what somebody else has ended",
		invariant: "only what was still there is completed",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptGuards/settle"},
		edits: []edit{
			{lua + "settle.lua", "if redis.call('XDEL', KEYS[1], id) == 0 then", "if redis.call('XDEL', KEYS[1], id) < 0 then"},
		},
	},
	{
		name:      "completing without looking at what XDEL answered",
		breaks:    "a late success frees the ID of a job that goes on elsewhere",
		invariant: "only what was still there is completed",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptGuards/complete"},
		edits: []edit{
			{lua + "complete.lua", "went[i] = redis.call('XDEL', KEYS[1], entries[i]) == 1 or here(i)", "went[i] = redis.call('XDEL', KEYS[1], entries[i]) >= 0 or here(i)"},
		},
	},
	{
		name:      "a record for a success that came late",
		breaks:    "a job that others have retried or buried is on record as completed",
		invariant: "the record is of the end that counted",
		pkg:       "stream",
		tests:     []string{"TestStaleSuccess"},
		edits: []edit{
			{lua + "complete.lua", "  if not ended[i] then\n    late[#late + 1] = entries[i]\n  else", "  if not ended[i] then late[#late + 1] = entries[i] end\n  do"},
		},
	},
	{
		name:      "a record in the place of another key",
		breaks:    "a key of somebody else's is overwritten by a record",
		invariant: "types are checked before they are written over",
		pkg:       "consumer",
		tests:     []string{"TestRecordRefused"},
		edits: []edit{
			{lua + "complete.lua", "record, 'PX', keep, 'GET')", "record, 'PX', keep)"},
		},
	},
	{
		name:      "records past the memory limit",
		breaks:    "a full Redis grows with each job that ends",
		invariant: "at maxmemory jobs end, and nothing is added",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptsAtMaxmemory/complete_plain"},
		edits: []edit{
			{lua + "complete.lua", "local full = type(probe) == 'table' and", "local full = false and"},
		},
	},
	{
		name:      "results of failed runs",
		breaks:    "what a handler returned is kept though middleware failed the run",
		invariant: "a result belongs to its success",
		pkg:       "consumer",
		tests:     []string{"TestResultIsTheSuccess"},
		edits: []edit{
			{"consumer/record.go", "if t.verdict.action != actComplete {\n\t\tt.kept = nil\n\t\treturn\n\t}\n", "t.verdict.action = actComplete\n"},
		},
	},
	{
		name:      "waiting for announcements alone",
		breaks:    "who waits is not told of an end whose announcement was lost",
		invariant: "hints are hints",
		pkg:       "stream",
		tests:     []string{"TestWaitForNothing"},
		edits: []edit{
			{"stream/wait.go", "case <-poll.C:\n\t\t\tl.tell(l.all)", "case <-poll.C:"},
		},
	},
	{
		name:      "looking where the groups were",
		breaks:    "a job is looked up in the groups of the first look for ever",
		invariant: "a look-up sees all groups that there are",
		pkg:       "stream",
		tests:     []string{"TestGetLearnsOfGroups"},
		edits: []edit{
			{lua + "get.lua", "if not asked[name] then return", "if false then return"},
		},
	},
	{
		name:      "a key built inside a script",
		breaks:    "a script puts a key's name together, right as it is",
		invariant: "every key a script touches is in KEYS",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptKeysAreDeclared"},
		edits: []edit{
			{lua + "retry.lua", "redis.call('HSET', KEYS[3], ARGV[5], ARGV[7])", "redis.call('HSET', KEYS[2] .. ':jobs', ARGV[5], ARGV[7])"},
		},
	},
	{
		name:      "a key that the call does not declare",
		breaks:    "a script touches a key of the stream that is not in KEYS",
		invariant: "every key a script touches is in KEYS",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptKeysAreEnough/settle"},
		edits: []edit{
			{lua + "settle.lua", "local late = {}", "local late = {}\nredis.pcall('EXISTS', '{' .. KEYS[1] .. '}:config')"},
		},
	},
	{
		name:      "a write before the decode",
		breaks:    "a due job leaves its set before its body is read and decoded",
		invariant: "a script cannot die half-way",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptFailsWhole/promote/string", "TestScriptFailsWhole/promote/list"},
		edits: []edit{
			{lua + "promote.lua", "  local body = redis.call('HGET', KEYS[2], id)", "  redis.call('ZREM', KEYS[1], id)\n  local body = redis.call('HGET', KEYS[2], id)"},
		},
	},
	{
		name:      "a write before the destinations are looked at",
		breaks:    "a job is acknowledged before it is known where it can go",
		invariant: "a script cannot die half-way",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptFailsWhole/move_release/string", "TestScriptFailsWhole/move_dead/string"},
		edits: []edit{
			{lua + "move.lua", "local want = {'stream', 'hash'}", "redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])\nlocal want = {'stream', 'hash'}"},
		},
	},
	{
		name:      "the first write is not one that frees",
		breaks:    "a retry begins with a write that a full Redis refuses",
		invariant: "a full queue drains",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptsAtMaxmemory/retry"},
		edits: []edit{
			{lua + "retry.lua", "redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])", "redis.call('HSET', KEYS[3], ARGV[5], ARGV[7])\nredis.call('XACK', KEYS[1], ARGV[1], ARGV[3])"},
		},
	},
	{
		name:      "the job leaves before its destination has it",
		breaks:    "a hand-back lets go of a job that its stream would not take",
		invariant: "no loss",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptDestinationTakesNothing/move_release"},
		edits: []edit{
			{lua + "move.lua", "'FORCE', 'JUSTID'", "'JUSTID'"},
		},
	},
	{
		name:      "sweep ignores its time",
		breaks:    "a sweep that Redis got too late takes over what lives",
		invariant: "an outage steals nothing",
		pkg:       "stream/engine",
		tests:     []string{"TestSweep"},
		edits: []edit{
			{lua + "sweep.lua", "if now > tonumber(ARGV[4]) or", "if now > tonumber(ARGV[4]) + 86400000 or"},
		},
	},
	{
		name:      "older data trusted",
		breaks:    "Redis was restored from a snapshot, and a worker sweeps by the idle times in it",
		invariant: "an outage steals nothing",
		pkg:       "stream/engine",
		tests:     []string{"TestSweepNeedsItsHeartbeat"},
		edits: []edit{
			{lua + "sweep.lua", "ARGV[7] ~= '0' and beat ~= ARGV[7]", "false"},
		},
	},
	{
		name:      "jumping clock trusted",
		breaks:    "a failover to a host with a faster clock makes every lease look over",
		invariant: "an outage steals nothing",
		pkg:       "consumer",
		tests:     []string{"TestContactWithAnotherRedis"},
		edits: []edit{
			{"consumer/lease.go", "!c.heard.IsZero() && step.Abs() > lease/6", "false && step > 0"},
		},
	},
	{
		name:      "heartbeat confirms what it did not know",
		breaks:    "a job that was read before a stall starts after another worker has completed it",
		invariant: "prefetched jobs start only under a confirmed lease",
		pkg:       "consumer",
		tests:     []string{"TestStaleReadDoesNotStart"},
		edits: []edit{
			{"consumer/lease.go", "c > t.since", "true"},
		},
	},
	{
		name:      "longest lease ignored",
		breaks:    "a worker with a short lease takes over what another runs under a long one",
		invariant: "a live job is not stolen",
		pkg:       "stream/engine",
		tests:     []string{"TestSweepGoesByTheLongestLease"},
		edits: []edit{
			{lua + "sweep.lua", "lease = math.max(lease, type(longest) == 'string' and tonumber(longest) or 0)", ""},
		},
	},
	{
		name:      "sweeps by everybody",
		breaks:    "the gate keeps no other worker from looking",
		invariant: "a group is swept once a second over all its workers",
		pkg:       "stream/engine",
		tests:     []string{"TestSweep"},
		edits: []edit{
			{lua + "sweep.lua", "if sweeper and sweeper ~= ARGV[2] then", "if sweeper and sweeper == '' then"},
		},
	},
	{
		name:      "heartbeat that steals back",
		breaks:    "a worker that lost a job claims it from its new owner",
		invariant: "a worker that lost its lease knows",
		pkg:       "stream/engine",
		tests:     []string{"TestBeatTellsWhatWasLost"},
		edits: []edit{
			{lua + "beat.lua", "local list = owned[ARGV[i]] and mine or lost", "local list = mine"},
		},
	},
	{
		name:      "what is in nobody's list is given up",
		breaks:    "a job that somebody took off its owner's list by hand counts as lost",
		invariant: "what can be healed is healed",
		pkg:       "stream/engine",
		tests:     []string{"TestBeatMendsItsList"},
		edits: []edit{
			{lua + "beat.lua", "elseif lane > 1 or ARGV[5] == '1' then list = back", "elseif lane > 1 or ARGV[5] == '1' then list = lost"},
		},
	},
	{
		name:      "promote leaves the body",
		breaks:    "the body of a job that was due stays for ever",
		invariant: "no key is left over",
		pkg:       "stream/engine",
		tests:     []string{"TestPromoteTogether"},
		edits: []edit{
			{lua + "promote.lua", "redis.call('HDEL', KEYS[2], id)", ""},
		},
	},
	{
		name:      "stranded bodies stay",
		breaks:    "a job that somebody took out of its sorted set is never found again",
		invariant: "no job is lost that Redis still has",
		pkg:       "stream/engine",
		tests:     []string{"TestPromoteStranded", "TestPromoteStrandedMany"},
		edits: []edit{
			{lua + "promote.lua", "if stranded > 0 then", "if stranded < 0 then"},
		},
	},
	{
		name:      "the ID of a stranded body is freed",
		breaks:    "a job that goes back into its set has a second one with its ID beside it",
		invariant: "a chosen ID is taken while its job lives",
		pkg:       "stream",
		tests:     []string{"TestStandingJobsKeepTheirID"},
		edits: []edit{
			{lua + "free.lua", " or redis.call('HEXISTS', KEYS[i + 1], ARGV[1]) == 1", ""},
		},
	},
	{
		name:      "the ID of a running job is freed",
		breaks:    "a worker does not say that it runs jobs whose entries were deleted",
		invariant: "a chosen ID is taken while its job lives",
		pkg:       "consumer",
		tests:     []string{"TestIDOfDeletedJobs"},
		edits: []edit{
			{"consumer/lease.go", "gone++", "_ = gone"},
		},
	},
	{
		name:      "the ID of a job whose entry was deleted is free at once",
		breaks:    "a job that runs has a second one with its ID beside it",
		invariant: "a chosen ID is taken while its job lives",
		pkg:       "consumer",
		tests:     []string{"TestIDOfDeletedJob"},
		edits: []edit{
			{lua + "free.lua", " or place == 'orders' and redis.call('HGET', KEYS[3], 'kind') ~= 'events' then", " then"},
		},
	},
	{
		name:      "promote before it is due",
		breaks:    "what is parked comes back at once",
		invariant: "Redis's clock decides",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptTwice/promote_early"},
		edits: []edit{
			{lua + "promote.lua", "'-inf', string.format('%.0f', now), 'WITHSCORES'", "'-inf', '+inf', 'WITHSCORES'"},
		},
	},
	{
		name:      "commands sent again",
		breaks:    "go-redis repeats a script whose answer was lost",
		invariant: "what may have happened is not repeated blindly",
		pkg:       "stream/engine",
		tests:     []string{"TestSentOnce"},
		edits: []edit{
			{"stream/engine/script.go", "func (once) NoRetry() bool { return true }", "func (once) NoRetry() bool { return false }"},
		},
	},
	{
		name:      "unknown opts dropped",
		breaks:    "an older worker takes off what a newer one wrote",
		invariant: "old and new versions run side by side",
		pkg:       "stream/engine",
		tests:     []string{"TestOptsKeepUnknown"},
		edits: []edit{
			{"stream/engine/wire.go", "maps.Copy(all, o.unknown)", "maps.Copy(all, map[string]json.RawMessage(nil))"},
		},
	},

	{
		name:      "second group of a queue",
		breaks:    "a group reads from a queue whose jobs another one deletes",
		invariant: "a queue has one group",
		pkg:       "stream",
		tests:     []string{"TestKinds"},
		edits: []edit{
			{lua + "open.lua", "elseif want == 'queue' and ARGV[1] ~= '' then return", "elseif want == '' then return"},
		},
	},
	{
		name:      "full stream takes more",
		breaks:    "the limit of a stream is not looked at",
		invariant: "a full stream refuses",
		pkg:       "stream",
		tests:     []string{"TestStreamFull"},
		edits: []edit{
			{lua + "publish.lua", "if len >= max then", "if len < 0 then"},
		},
	},
	{
		name:      "ID taken twice",
		breaks:    "publishing again stores a job that has been done again",
		invariant: "a job with an ID is published safely again",
		pkg:       "stream",
		tests:     []string{"TestDuplicateStates"},
		edits: []edit{
			{lua + "publish.lua", "if state and state ~= 'missed' then", "if state == '' then"},
		},
	},
	{
		name:      "redrive lets the fence fall",
		breaks:    "a job that is sent back has a fence that was seen before",
		invariant: "a handler can fence",
		pkg:       "stream",
		tests:     []string{"TestRedrive"},
		edits: []edit{
			{"stream/redrive.go", "letter.opts.Moved(engine.StepRedrive)", "letter.opts.Moved(engine.StepRedrive)\n\t\t\to.Moves = 1"},
		},
	},
}
