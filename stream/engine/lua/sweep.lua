-- sweep takes over what workers hold whose lease has run out, so that the caller can send it back to the group.
-- KEYS: 1 stream  2 redelivery  3 suspects  4 dead  5 gate  6 lease  7 workers
-- ARGV: 1 group  2 consumer  3 lease in ms  4 do nothing past this time in ms  5 most entries to take over  6 how long the gate stays shut after a sweep in ms  7 number of the caller's last heartbeat (0: Redis took none)
-- returns {state, now in ms, {{entry, owner, fields}, … of each of the three streams}, how many entries had been deleted, when to look again in ms}
-- states: late (the time is past, or Redis does not know the heartbeat any more: its data are older than they were), shut (another worker looked), quiet (nothing can run out within a third of the lease), watch
-- A look costs Redis some 50 ns for each entry that is pending, so that only one worker of the group looks at a time.
-- An entry that was deleted while pending is a job that somebody lost: it gets a dead letter that says so.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local text = string.format('%.0f', now)
local taken, gone = {{}, {}, {}}, 0
local beat = string.match(redis.call('HGET', KEYS[7], ARGV[1] .. ':' .. ARGV[2]) or '', '"beat":(%d+)')
if now > tonumber(ARGV[4]) or ARGV[7] ~= '0' and beat ~= ARGV[7] then return {'late', text, taken, gone, 0} end
local sweeper = redis.call('GET', KEYS[5])
if sweeper and sweeper ~= ARGV[2] then return {'shut', text, taken, gone, math.max(redis.call('PTTL', KEYS[5]), 0)} end
local lease, left = tonumber(ARGV[3]), tonumber(ARGV[5])
local longest = redis.pcall('GET', KEYS[6]) -- the owner's lease may be longer than the caller's
lease = math.max(lease, type(longest) == 'string' and tonumber(longest) or 0)
local state = 'quiet'
for lane = 1, 3 do
  if #redis.call('XPENDING', KEYS[lane], ARGV[1], 'IDLE', math.floor(lease * 2 / 3), '-', '+', 1) > 0 then state = 'watch' end
end
if state == 'quiet' then
  local rest = math.floor(lease / 3)
  if rest > 0 then redis.pcall('SET', KEYS[5], ARGV[2], 'PX', rest) end
  return {state, text, taken, gone, rest}
end
for i = 1, 4 do
  local t = redis.call('TYPE', KEYS[i])['ok']
  if t ~= 'none' and t ~= 'stream' then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. t) end
end
for lane = 1, 3 do
  local over = left > 0 and redis.call('XPENDING', KEYS[lane], ARGV[1], 'IDLE', lease, '-', '+', left) or {}
  for _, e in ipairs(over) do
    -- exactly this one: with a COUNT of more it goes on to entries whose lease is not over, and lets go of those that were deleted
    local got = redis.call('XAUTOCLAIM', KEYS[lane], ARGV[1], ARGV[2], lease, e[1], 'COUNT', 1)
    for _, entry in ipairs(got[2]) do
      table.insert(taken[lane], {entry[1], e[2], entry[2]})
    end
    for _, id in ipairs(got[3]) do
      gone = gone + 1
      redis.pcall('XADD', KEYS[4], '*', 'type', '', 'data', '', 'traceparent', '', 'opts', '', 'info',
        cjson.encode({id = id, reason = 'lost', error = 'the entry was deleted from ' .. KEYS[lane] .. ' while a worker held it', worker = e[2]}))
    end
  end
  left = left - #over
end
redis.pcall('SET', KEYS[5], ARGV[2], 'PX', ARGV[6])
return {state, text, taken, gone, tonumber(ARGV[6])}
