-- tick publishes the job of a cron schedule for one tick, unless that tick or a later one is on record, and records it.
-- Around: publish.lua, schedule.lua or unique.lua, as the function publish
-- KEYS: 1.. those of the script that it publishes with, and behind them ids, config and ticks
-- ARGV: 1.. those of that script, and behind them: the schedule, the tick in ms (or '': now, whatever is on record), the time before which it must not fire in ms, the time before which the schedule was not there in ms (0: not known), skip it while the last job is unfinished (1 or 0), and whether nobody will look if the job that stands in its way is gone (1 or 0)
-- returns {what, now in µs, last tick on record in ms, what became of it, the schedule's last job or '', what the script inside answered or {}}; what is
--   published, stands (a job with its ID or unique key; or that has taken its data), skipped: the tick is recorded
--   new: the schedule had nothing on record, and has now; recorded: the tick is on record, or before the first; early: it must not fire yet
--   refused: by the script inside; unfinished, standing: nothing happened, the sixth says where the job is that is in its way: free.lua says whether it is gone
--   events: on an events stream a job has no single state to skip by
local n = #ARGV
local schedule, tick, fire, since = ARGV[n - 5], tonumber(ARGV[n - 4]), tonumber(ARGV[n - 3]), tonumber(ARGV[n - 2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last, outcome, job = string.match(redis.call('HGET', KEYS[#KEYS], schedule) or '', '^(%d+) (%l+) ?(.*)$')
last = tonumber(last)
local function answer(what, inside)
  return {what, string.format('%.0f', time[1] * 1000000 + time[2]), string.format('%.0f', last), outcome, job, inside or {}}
end
local function record(what, id) -- behind a write that a full Redis refuses, or it is one
  outcome, job = what, id
  redis.call('HSET', KEYS[#KEYS], schedule, string.format('%.0f', last) .. ' ' .. what .. ' ' .. id)
end
if not last then
  last = since > 0 and since or now
  record('new', '')
  return answer('new')
end
if since > last then last, outcome = since, 'new' end
if tick then
  if tick <= last then return answer('recorded') end
  if fire > now then return answer('early') end
end
if ARGV[n - 1] == '1' then
  if redis.call('HGET', KEYS[#KEYS - 1], 'kind') == 'events' then return answer('events') end
  local where = job ~= '' and redis.call('HGET', KEYS[#KEYS - 2], job)
  if where and string.sub(where, 1, 5) ~= 'dead ' then
    if ARGV[n] == '0' then return answer('unfinished', {1, where}) end
    last = tick or last
    record('skipped', job)
    return answer('skipped')
  end
end
local inside = publish()
local code = inside[1]
if not code then return inside end -- an error
if code == 2 or code == 4 then return answer('refused', inside) end
if code ~= 0 and code ~= 5 and ARGV[n] == '0' then return answer('standing', inside) end
last = tick or last
local what = code == 0 and 'published' or 'stands'
record(tick and what or outcome, inside[3] or ARGV[1])
return answer(what, inside)
