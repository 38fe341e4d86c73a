package main

// unique are the mutants of unique keys and what is kept behind them.
var unique = []mutant{
	{
		name:      "start leaves the lock",
		breaks:    "a key that is held until its job starts is held until it ends",
		invariant: "a key is free when it was said to be",
		pkg:       "consumer",
		tests:     []string{"TestUniqueUntilStarted"},
		edits: []edit{
			{lua + "start.lua", "if ARGV[6] == 'end' then", "if ARGV[6] == '' then"},
		},
	},
	{
		name:      "success frees a key that is held for a time",
		breaks:    "a key that outlives its job goes with it",
		invariant: "a key is free when it was said to be",
		pkg:       "consumer",
		tests:     []string{"TestUniqueForATime"},
		edits: []edit{
			{"consumer/unique.go", " || t.opts.Until > 0 && t.verdict.action == actComplete", ""},
		},
	},
	{
		name:      "latest data forgotten",
		breaks:    "a job that ran with later data is retried or buried with its first ones",
		invariant: "the job that stands sees the latest data",
		pkg:       "consumer",
		tests:     []string{"TestLatestDataStay"},
		edits: []edit{
			{"consumer/unique.go", "\tt.raw.Data = latest.Entry.Data\n", ""},
		},
	},
	{
		name:      "another type's data taken",
		breaks:    "a handler gets data that are another's",
		invariant: "the job that stands sees the latest data",
		pkg:       "consumer",
		tests:     []string{"TestCoalesceOtherType"},
		edits: []edit{
			{"consumer/unique.go", " || latest.Entry.Type != t.Type", ""},
		},
	},
	{
		name:      "started unasked",
		breaks:    "a job whose lock could not be looked at runs all the same",
		invariant: "the job that stands sees the latest data",
		pkg:       "consumer",
		tests:     []string{"TestStartIsRefused/busy"},
		edits: []edit{
			{"consumer/unique.go", "\t\t\tagain = append(again, t)\n", ""},
		},
	},
	{
		name:      "hand-back of what could not start",
		breaks:    "jobs whose keys Redis cannot look at now go round and round among the workers",
		invariant: "a hand-back is not asked for by a server that is away",
		pkg:       "consumer",
		tests:     []string{"TestStartIsRefused/moving"},
		edits: []edit{
			{"consumer/unique.go", "if w.stopsWithin(pauses.NextBackOff()) {", "if len(left) > 0 {"},
			{"consumer/unique.go", "pauses, away := newPauses(), make", "away := make"},
		},
	},
	{
		name:      "key held twice",
		breaks:    "publishing does not look who holds the key",
		invariant: "one job at a time has a key",
		pkg:       "stream",
		tests:     []string{"TestUniqueReceipts"},
		edits: []edit{
			{lua + "unique.lua", "local holder = redis.call('GET', KEYS[4])", "local holder = false"},
		},
	},
	{
		name:      "chosen ID not looked at where there is a key",
		breaks:    "a job whose ID stands is stored again under another key",
		invariant: "a chosen ID is taken while its job lives",
		pkg:       "stream",
		tests:     []string{"TestUniqueKeys"},
		edits: []edit{
			{lua + "unique.lua", "if where then return {gone(where) and 3 or 1, where} end", ""},
		},
	},
	{
		name:      "redrive does not look who holds the key",
		breaks:    "a dead letter goes back beside the job that has its key by now",
		invariant: "one job at a time has a key",
		pkg:       "stream",
		tests:     []string{"TestRedriveTakesTheLock"},
		edits: []edit{
			{lua + "redrive.lua", "if holder and holder ~= ARGV[2] then", "if false then"},
		},
	},
	{
		name:      "unique until done on events",
		breaks:    "each group's end frees what others still work on",
		invariant: "an events stream has no unique until done",
		pkg:       "stream",
		tests:     []string{"TestUniqueOnEvents"},
		edits: []edit{
			{lua + "unique.lua", "if ARGV[8] == '1' and kind == 'events' then", "if false then"},
		},
	},
	{
		name:      "lock of nobody counts",
		breaks:    "a lock whose job is nowhere keeps its key for ever",
		invariant: "a lock counts while its holder lives",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptTwice/unique_left_behind"},
		edits: []edit{
			{lua + "unique.lua", "or timed and not where then", "or not where then"},
		},
	},
	{
		name:      "lock of the dead counts",
		breaks:    "a dead letter of an older worker keeps its key",
		invariant: "a lock counts while its holder lives",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptTwice/unique_left_by_the_dead"},
		edits: []edit{
			{lua + "unique.lua", "string.sub(where, 1, 5) ~= 'dead '", "where ~= 'dead'"},
		},
	},
	{
		name:      "time of a lock ignored",
		breaks:    "a key that is held for a time counts only while its job lives",
		invariant: "a key is free when it was said to be",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptTwice/unique_held_for_a_time"},
		edits: []edit{
			{lua + "unique.lua", "or timed and not where then", "then"},
		},
	},
	{
		name:      "replaced twice",
		breaks:    "a publisher that repeats itself changes what it has changed again",
		invariant: "what may have happened is not repeated blindly",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptTwice/unique_replaces_at_once"},
		edits: []edit{
			{lua + "unique.lua", "string.match(where, '^%S+ %S+ (%S+)$') == ARGV[2] then return", "false then return"},
		},
	},
	{
		name:      "coalesced twice",
		breaks:    "a publisher that repeats itself makes a later version of the same data",
		invariant: "what may have happened is not repeated blindly",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptTwice/unique_coalesces"},
		edits: []edit{
			{lua + "unique.lua", "if last ~= ARGV[2] then", "if true then"},
		},
	},
	{
		name:      "replaced job stays scheduled",
		breaks:    "what replaces a scheduled job at once leaves that in its set",
		invariant: "a job is in one place",
		pkg:       "stream/engine",
		tests:     []string{"TestReplaced"},
		edits: []edit{
			{lua + "unique.lua", "      redis.call('ZREM', KEYS[5], holder)\n", ""},
		},
	},
	{
		name:      "older data behind a new lock",
		breaks:    "what was kept behind a lock that ended by itself runs after newer data",
		invariant: "the job that stands sees the latest data",
		pkg:       "stream/engine",
		tests:     []string{"TestOlderThanTheLock"},
		edits: []edit{
			{lua + "unique.lua", "  redis.pcall('HDEL', KEYS[7], ARGV[6])\n", ""},
		},
	},
	{
		name:      "unique job past the memory limit",
		breaks:    "publishing under a key begins with a write that a full Redis takes",
		invariant: "at maxmemory jobs end, and nothing is added",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptsAtMaxmemory/unique", "TestScriptsAtMaxmemory/unique_later"},
		edits: []edit{
			{lua + "unique.lua", "  local opts = opts_for(id)\n", "  local opts = opts_for(id)\n  redis.call('DEL', KEYS[4])\n"},
		},
	},
	{
		name:      "another's lock freed",
		breaks:    "a job that ends frees its key though another job has it",
		invariant: "a lock belongs to its job",
		pkg:       "stream/engine",
		tests:     []string{"TestLocksEnd/complete_locked_of_another", "TestLocksEnd/move_dead_locked_of_another", "TestLocksEnd/start_end_of_another"},
		edits: []edit{
			{lua + "unlock.lua", "if holder and holder ~= id then return end", ""},
		},
	},
	{
		name:      "what was seen runs again",
		breaks:    "data that the run has had are run once more",
		invariant: "at most one more is kept, and only for newer data",
		pkg:       "stream/engine",
		tests:     []string{"TestLocksEnd/complete_seen"},
		edits: []edit{
			{lua + "unlock.lua", "if tonumber(version) <= (tonumber(seen) or 0) then return end", ""},
		},
	},
	{
		name:      "what is behind is lost where the stream is full",
		breaks:    "data behind a lock go though the stream takes no entry",
		invariant: "no loss",
		pkg:       "stream/engine",
		tests:     []string{"TestNothingTakesWhatIsBehind"},
		edits: []edit{
			{lua + "unlock.lua", "    redis.call('HSET', next, unique, kept)\n", ""},
		},
	},
	{
		name:      "what was behind takes no lock over",
		breaks:    "the one more runs without the key",
		invariant: "one job at a time has a key",
		pkg:       "stream/engine",
		tests:     []string{"TestLocksEnd/complete_next", "TestLocksEnd/move_dead_next"},
		edits: []edit{
			{lua + "unlock.lua", "  redis.call('SET', lock, job)\n", ""},
		},
	},
	{
		name:      "completed job keeps its lock",
		breaks:    "the lock is left behind by success",
		invariant: "a lock ends with its job",
		pkg:       "stream/engine",
		tests:     []string{"TestLocksEnd/complete_locked", "TestLocksEnd/complete_next"},
		edits: []edit{
			{lua + "complete.lua", "if went[i] then unlock(", "if false then unlock("},
		},
	},
	{
		name:      "late success frees the key",
		breaks:    "a worker that lost its job frees the key that goes on with it",
		invariant: "a lock belongs to its job",
		pkg:       "stream/engine",
		tests:     []string{"TestLateEndsFreeNothing/complete"},
		edits: []edit{
			{lua + "complete.lua", "if went[i] then unlock(", "if true then unlock("},
		},
	},
	{
		name:      "dead job keeps its lock",
		breaks:    "the lock is left behind by a dead letter",
		invariant: "a lock ends with its job",
		pkg:       "stream/engine",
		tests:     []string{"TestLocksEnd/move_dead_locked", "TestLocksEnd/move_dead_next"},
		edits: []edit{
			{lua + "move.lua", "if KEYS[5] then unlock(", "if false then unlock("},
		},
	},
	{
		name:      "start without the ownership check",
		breaks:    "a worker that lost its job frees the key that goes on with it",
		invariant: "outcomes are guarded",
		pkg:       "stream/engine",
		tests:     []string{"TestScriptTwice/start_late", "TestLateEndsFreeNothing/start"},
		edits: []edit{
			{lua + "start.lua", "1, ARGV[2]) == 0 then return {0} end", "1, ARGV[2]) < 0 then return {0} end"},
		},
	},
	{
		name:      "start reads what is another's",
		breaks:    "a job without its lock takes data that another job will see",
		invariant: "a lock belongs to its job",
		pkg:       "stream/engine",
		tests:     []string{"TestStartReadsItsOwn"},
		edits: []edit{
			{lua + "start.lua", "redis.pcall('GET', KEYS[3]) == ARGV[4] and ", ""},
		},
	},
	{
		name:      "redrive takes no lock",
		breaks:    "a job that is sent back lives without its key",
		invariant: "one job at a time has a key",
		pkg:       "stream/engine",
		tests:     []string{"TestLocksEnd/redrive_locked"},
		edits: []edit{
			{lua + "redrive.lua", "if KEYS[4] and ARGV[7] == '0' then redis.call('SET', KEYS[4], ARGV[2])", "if KEYS[4] and ARGV[7] == '0' then"},
		},
	},
	{
		name:      "redrive loses the publisher's mark",
		breaks:    "a publisher whose answer was lost takes its own job for another's",
		invariant: "a job with an ID is published safely again",
		pkg:       "stream/engine",
		tests:     []string{"TestMarkStays/sent_back"},
		edits: []edit{
			{lua + "redrive.lua", "'redelivery ' .. entry .. mark", "'redelivery ' .. entry"},
		},
	},
	{
		name:      "purge frees another's lock",
		breaks:    "a dead letter that goes takes along the lock of a job that lives",
		invariant: "a lock belongs to its job",
		pkg:       "stream/engine",
		tests:     []string{"TestLocksEnd/purge_locked_of_another"},
		edits: []edit{
			{lua + "purge.lua", "redis.pcall('GET', KEYS[lock]) == ARGV[i + 1] then", "true then"},
		},
	},
	{
		name:      "purge leaves the lock",
		breaks:    "the lock of a letter that an older worker made stays",
		invariant: "no key is left over",
		pkg:       "stream/engine",
		tests:     []string{"TestLocksEnd/purge_locked"},
		edits: []edit{
			{lua + "purge.lua", "redis.pcall('GET', KEYS[lock]) == ARGV[i + 1] then", "false then"},
		},
	},
}
