-- sweep takes over what workers hold whose lease has run out, so that the caller can send it back to the group.
-- KEYS: 1 stream  2 redelivery  3 suspects  4 dead  5 gate
-- ARGV: 1 group  2 consumer  3 lease in ms  4 do nothing past this time in ms  5 most entries to take over  6 how long the gate stays shut in ms
-- returns {state, now in ms, {{entry, owner, fields}, … of each of the three streams}, how many entries had been deleted}
-- states: late (the time is past), shut (another worker sweeps), quiet (nothing can run out within a third of the lease), watch
-- An entry that was deleted while pending is a job that somebody lost: it gets a dead letter that says so.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local text = string.format('%.0f', now)
local taken, gone = {{}, {}, {}}, 0
if now > tonumber(ARGV[4]) then return {'late', text, taken, gone} end
for i = 1, 4 do
  local t = redis.call('TYPE', KEYS[i])['ok']
  if t ~= 'none' and t ~= 'stream' then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. t) end
end
local sweeper = redis.call('GET', KEYS[5])
if sweeper and sweeper ~= ARGV[2] then return {'shut', text, taken, gone} end
local lease, left = tonumber(ARGV[3]), tonumber(ARGV[5])
local state = 'quiet'
for lane = 1, 3 do
  if #redis.call('XPENDING', KEYS[lane], ARGV[1], 'IDLE', math.floor(lease * 2 / 3), '-', '+', 1) > 0 then state = 'watch' end
end
if state == 'quiet' then return {state, text, taken, gone} end
for lane = 1, 3 do
  while left > 0 do
    local over = redis.call('XPENDING', KEYS[lane], ARGV[1], 'IDLE', lease, '-', '+', math.min(left, 100))
    if #over == 0 then break end
    local owner = {}
    for _, e in ipairs(over) do owner[e[1]] = e[2] end
    local got = redis.call('XAUTOCLAIM', KEYS[lane], ARGV[1], ARGV[2], lease, over[1][1], 'COUNT', #over)
    for _, e in ipairs(got[2]) do
      table.insert(taken[lane], {e[1], owner[e[1]] or '', e[2]})
    end
    for _, id in ipairs(got[3]) do
      gone = gone + 1
      redis.pcall('XADD', KEYS[4], '*', 'type', '', 'data', '', 'traceparent', '', 'opts', '', 'info',
        cjson.encode({id = id, reason = 'lost', error = 'the entry was deleted from ' .. KEYS[lane] .. ' while a worker held it', worker = owner[id]}))
    end
    left = left - #got[2] - #got[3]
    if #got[2] + #got[3] == 0 then break end
  end
end
redis.pcall('SET', KEYS[5], ARGV[2], 'PX', ARGV[6])
return {state, text, taken, gone}
