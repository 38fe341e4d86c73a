package main

// cancels are the mutants of cancels and kill switches.
var cancels = []mutant{
	{
		name:      "switch not obeyed",
		breaks:    "a job that a kill switch is for starts all the same",
		invariant: "a kill switch holds jobs back",
		pkg:       "consumer",
		tests:     []string{"TestBarred"},
		edits: []edit{
			{"consumer/cancel.go", "return w.switchedOff(t, s.switches, lifts)", "return false"},
		},
	},
	{
		name:      "switches not read again",
		breaks:    "a heartbeat that tells of another version is not listened to",
		invariant: "hints can be lost: the heartbeat tells",
		pkg:       "consumer",
		tests:     []string{"TestSwitchesAreReadAgain"},
		edits: []edit{
			{"consumer/switch.go", "src.switches != b.Switches, src.paused", "src.switches != src.switches, src.paused"},
		},
	},
	{
		name:      "lifted switch lets go of nothing",
		breaks:    "what was put off waits on until it is due",
		invariant: "what a lifted switch had put off is due at once",
		pkg:       "consumer",
		tests:     []string{"TestSwitchesAreReadAgain"},
		edits: []edit{
			{"consumer/switch.go", "read.Paused > 0 && (lifted", "read.Paused < 0 && (lifted"},
		},
	},
	{
		name:      "marks not read",
		breaks:    "a heartbeat that tells of cancels is not listened to",
		invariant: "hints can be lost: the heartbeat tells",
		pkg:       "consumer",
		tests:     []string{"TestMarksAreRead"},
		edits: []edit{
			{"consumer/cancel.go", "if b.Marks > 0 {", "if b.Marks < 0 {"},
		},
	},
	{
		name:      "cancelled handler not told",
		breaks:    "the context of a run does not end with its job",
		invariant: "a cancelled job's handler knows",
		pkg:       "consumer",
		tests:     []string{"TestMarksAreRead"},
		edits: []edit{
			{"consumer/cancel.go", "w.endRun(t, ErrCancelled)", "_ = t"},
		},
	},
	{
		name:      "hint believed",
		breaks:    "what the wake-up channel says cancels a job that has no mark",
		invariant: "a hint proves nothing",
		pkg:       "consumer",
		tests:     []string{"TestHintProvesNothing"},
		edits: []edit{
			{"consumer/cancel.go", "; ok && w.marked(t.lane.src, t.ID) {", "; ok {"},
		},
	},
	{
		name:      "cancelled job starts",
		breaks:    "what is known to be cancelled is run when its turn comes",
		invariant: "a cancelled job is not run",
		pkg:       "consumer",
		tests:     []string{"TestCancelledBeforeItStarts"},
		edits: []edit{
			{"consumer/serve.go", "case t.cancelled.Load():", "case t.ended():"},
		},
	},
	{
		name:      "cancelled job is retried",
		breaks:    "what a cancelled run returns counts as any failure",
		invariant: "a cancelled job is not retried",
		pkg:       "consumer",
		tests:     []string{"TestCancelledBeforeItStarts"},
		edits: []edit{
			{"consumer/serve.go", "if err != nil && t.cancelled.Load() {", "if err != nil && t.ended() {"},
		},
	},
	{
		name:      "refused move is taken for done",
		breaks:    "a job that Redis holds back as cancelled is forgotten, and its end never written",
		invariant: "each job ends",
		pkg:       "consumer",
		tests:     []string{"TestMarkedWhileItSettles"},
		edits: []edit{
			{"consumer/settle.go", "if t := tasks[0]; engine.Marked(res.Val) {", "if t := tasks[0]; t == nil {"},
		},
	},
	{
		name:      "pause counts a try",
		breaks:    "a job that a kill switch has put off often is dead",
		invariant: "a kill switch takes no try",
		pkg:       "stream/engine",
		tests:     []string{"TestMoved"},
		edits: []edit{
			{"stream/engine/counters.go", "o.Pauses = more(o.Pauses)", "o.Errors = more(o.Errors)"},
		},
	},
	{
		name:      "cancelled entry stays",
		breaks:    "cancel leaves what waits in the stream",
		invariant: "a cancelled job is not run",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptTwice/cancel_waiting"},
		edits: []edit{
			{lua + "cancel.lua", "    else redis.call('XDEL', KEYS[1], jobs[i][1]) end\n", "    end\n"},
		},
	},
	{
		name:      "cancelled retry stays",
		breaks:    "cancel leaves what has failed where it waits for its time",
		invariant: "a cancelled job is not run",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptTwice/cancel_retrying"},
		edits: []edit{
			{lua + "cancel.lua", "    redis.call('ZREM', KEYS[k + 2], ARGV[1])\n    redis.call('HDEL', KEYS[k + 3], ARGV[1])\n", ""},
		},
	},
	{
		name:      "stranded body comes back",
		breaks:    "cancel does not see a job that somebody took out of its set, and promote puts it back",
		invariant: "a cancelled job is not run",
		pkg:       "stream/engine",
		tests:     []string{"TestCancelStranded/scheduled"},
		edits: []edit{
			{lua + "cancel.lua", " or redis.call('HEXISTS', KEYS[5], ARGV[1]) == 1", ""},
		},
	},
	{
		name:      "cancelled job keeps its ID",
		breaks:    "ids goes on to say where a cancelled job was",
		invariant: "no key is left over",
		pkg:       "stream",
		tests:     []string{"TestCancelInEveryState/waiting_chosen"},
		edits: []edit{
			{lua + "cancel.lua", "  redis.call('HDEL', ids, ARGV[1])\n", ""},
		},
	},
	{
		name:      "cancelled job keeps its lock",
		breaks:    "the lock is left behind by a cancel",
		invariant: "a lock ends with its job",
		pkg:       "stream",
		tests:     []string{"TestCancelEndsTheLock/waiting_0s", "TestCancelEndsTheLock/retrying_0s"},
		edits: []edit{
			{lua + "cancel.lua", "  if ARGV[9] ~= '' then unlock(", "  if false then unlock("},
		},
	},
	{
		name:      "cancel leaves no record",
		breaks:    "nobody can ask how the job ended, and its publisher's repeat runs it",
		invariant: "a job with an ID is published safely again",
		pkg:       "stream",
		tests:     []string{"TestCancelInEveryState/waiting_chosen"},
		edits: []edit{
			{lua + "cancel.lua", "  if keep == '0' then return end\n", "  if true then return end\n"},
		},
	},
	{
		name:      "active job not marked",
		breaks:    "cancel says that a job that runs will end, and nothing knows",
		invariant: "a cancelled job is not retried",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptTwice/move_marked", "TestScriptTwice/retry_marked"},
		edits: []edit{
			{lua + "cancel.lua", "    redis.call('ZADD', KEYS[k + 7], 'NX', now, ARGV[1])\n", ""},
		},
	},
	{
		name:      "held by nobody, deleted",
		breaks:    "cancel takes away what somebody may run still",
		invariant: "a job that runs ends by its worker",
		pkg:       "stream",
		tests:     []string{"TestCancelInNobodysList"},
		edits: []edit{
			{lua + "cancel.lua", "return kept and 'completed' or 'active', there", "return kept and 'completed' or 'waiting', there"},
		},
	},
	{
		name:      "other groups' entry deleted",
		breaks:    "a group that has not come to an entry takes it from the others",
		invariant: "a cancel belongs to its group",
		pkg:       "stream",
		tests:     []string{"TestCancelEvents/id_chosen"},
		edits: []edit{
			{lua + "cancel.lua", "events and (state[i] == 'waiting' and not lane[i] or state[i] == 'scheduled'", "events and (state[i] == 'scheduled'"},
		},
	},
	{
		name:      "move past the mark",
		breaks:    "a cancelled job is handed back, or buried",
		invariant: "a cancelled job is not run",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptTwice/move_marked"},
		edits: []edit{
			{lua + "move.lua", "== 'string' then return 'cancelled' end", "== 'number' then return 'cancelled' end"},
		},
	},
	{
		name:      "retry past the mark",
		breaks:    "a cancelled job is retried, or put off",
		invariant: "a cancelled job is not retried",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptTwice/retry_marked"},
		edits: []edit{
			{lua + "retry.lua", "== 'string' then return -3 end", "== 'number' then return -3 end"},
		},
	},
	{
		name:      "mark forgotten before its time",
		breaks:    "the mark of an entry that the group has not come to goes",
		invariant: "a cancelled job is not run",
		pkg:       "stream",
		tests:     []string{"TestCancelEvents/id_chosen"},
		edits: []edit{
			{lua + "marks.lua", "(not stays or below(position, e))", "not stays"},
		},
	},
	{
		name:      "mark of a job that is due later forgotten",
		breaks:    "the mark of a scheduled job goes",
		invariant: "a cancelled job is not run",
		pkg:       "stream",
		tests:     []string{"TestCancelEvents/scheduled"},
		edits: []edit{
			{lua + "marks.lua", "  if place == 'scheduled' then return redis.call('ZSCORE', KEYS[4], id) end\n", ""},
		},
	},
	{
		name:      "mark outlives its job",
		breaks:    "marks of jobs that have ended pile up",
		invariant: "no key is left over",
		pkg:       "stream/engine",
		tests:     []string{"TestManyMarks"},
		edits: []edit{
			{lua + "marks.lua", "if not wanted(id) then", "if false then"},
		},
	},
	{
		name:      "next of its ID is cancelled, published",
		breaks:    "the mark of a job that succeeded all the same is for the next one of its ID",
		invariant: "a cancel is for one job",
		pkg:       "stream/engine",
		tests:     []string{"TestMarkOfAnEarlierJob/publish"},
		edits: []edit{
			{lua + "publish.lua", "redis.pcall('ZREM', KEYS[4], ARGV[1])", ""},
		},
	},
	{
		name:      "next of its ID is cancelled, scheduled",
		breaks:    "the same of one for later",
		invariant: "a cancel is for one job",
		pkg:       "stream/engine",
		tests:     []string{"TestMarkOfAnEarlierJob/schedule"},
		edits: []edit{
			{lua + "schedule.lua", "redis.pcall('ZREM', KEYS[6], ARGV[1])", ""},
		},
	},
	{
		name:      "next of its ID is cancelled, unique",
		breaks:    "the same of one that has a unique key",
		invariant: "a cancel is for one job",
		pkg:       "stream/engine",
		tests:     []string{"TestMarkOfAnEarlierJob/unique"},
		edits: []edit{
			{lua + "unique.lua", "  redis.pcall('ZREM', KEYS[9], id)\n", ""},
		},
	},
	{
		name:      "cancel not announced",
		breaks:    "a worker hears of a cancel with its next heartbeat only",
		invariant: "a cancel takes milliseconds",
		pkg:       "stream/engine",
		tests:     []string{"TestStopsAreAnnounced"},
		edits: []edit{
			{lua + "cancel.lua", "    redis.pcall('PUBLISH', ARGV[7],", "    local _ = (ARGV[7],"},
		},
	},
	{
		name:      "version not told",
		breaks:    "the heartbeat does not say that kill switches have changed",
		invariant: "hints can be lost: the heartbeat tells",
		pkg:       "stream/engine",
		tests:     []string{"TestStopsAreAnnounced"},
		edits: []edit{
			{lua + "beat.lua", "type(version) == 'string' and version or ''", "''"},
		},
	},
	{
		name:      "version stays",
		breaks:    "a change of the kill switches cannot be told from none",
		invariant: "hints can be lost: the heartbeat tells",
		pkg:       "stream/engine",
		tests:     []string{"TestSwitches"},
		edits: []edit{
			{lua + "switch.lua", "redis.call('HSET', KEYS[1], 'version',", "redis.call('HSETNX', KEYS[1], 'version',"},
		},
	},
	{
		name:      "switch that is over holds",
		breaks:    "what is over is told among those that hold",
		invariant: "a kill switch ends when it was said to",
		pkg:       "stream/engine",
		tests:     []string{"TestSwitchIsOver"},
		edits: []edit{
			{lua + "switches.lua", "(till == 0 or till > now)", "true"},
		},
	},
	{
		name:      "resume makes nothing due",
		breaks:    "what was put off goes from the list of that, and waits on",
		invariant: "what a lifted switch had put off is due at once",
		pkg:       "stream/engine",
		tests:     []string{"TestPausedJobs"},
		edits: []edit{
			{lua + "resume.lua", "    redis.call('ZADD', KEYS[2], 'XX', now, id)\n", ""},
		},
	},
	{
		name:      "failed since is resumed",
		breaks:    "a job that was put off once, and failed later, does not wait for its backoff",
		invariant: "a retry waits for its time",
		pkg:       "stream/engine",
		tests:     []string{"TestPausedJobs"},
		edits: []edit{
			{lua + "retry.lua", " else redis.pcall('SREM', KEYS[6], ARGV[5]) end", " end"},
		},
	},
}
