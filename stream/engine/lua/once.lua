-- once tells one piece of work, known by a key, from its repeats.
-- KEYS: 1 what is known of it
-- ARGV: 1 what to do: claim, done or release  2 who claims it: the job, its fence and something that no other run has, separated by line breaks  3 how long that holds in ms  4 what the work returned, with a mark before it, or ''
-- returns {'mine', ''}, {'done', what the work returned, with its mark} or {'taken', for how long in ms}
-- A claim gives way to a run of the same job with a higher fence: the one before has lost its lease, or gave the job back.
local known = redis.call('GET', KEYS[1])
local result = known and string.match(known, '^done\n(.*)$')
if result then return {'done', result} end
local function parts(who) return string.match(who, '^(.-)\n(%d+)\n(%S+)$') end
local job, fence, run = parts(ARGV[2])
local claimed = known and string.match(known, '^claimed\n(.*)$')
local by, its, other = parts(claimed or '')
local mine = not known or by == job and other == run
if ARGV[1] == 'release' then
  if known and mine then redis.call('DEL', KEYS[1]) end
  return {'mine', ''}
end
local below = its and (#its < #fence or #its == #fence and its < fence)
if not mine and not (by == job and below) then return {'taken', string.format('%.0f', math.max(redis.call('PTTL', KEYS[1]), 0))} end
if ARGV[1] == 'claim' then
  redis.call('SET', KEYS[1], 'claimed\n' .. ARGV[2], 'PX', ARGV[3])
  return {'mine', ''}
end
if not mine then return {'taken', '0'} end
local probe = redis.pcall('SETRANGE', KEYS[1], 0, '') -- writes nothing, and is refused by a full Redis
redis.call('DEL', KEYS[1]) -- the first write, so that a full Redis takes the mark: without it the work would be done again
redis.call('SET', KEYS[1], 'done\n' .. (type(probe) == 'table' and '' or ARGV[4]), 'PX', ARGV[3])
return {'done', ''}
