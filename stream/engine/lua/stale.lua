-- stale looks through ids for jobs that are not where it says, a step at a time.
-- KEYS: 1 ids  2 stream  3 config  4 scheduled  5 scheduled:jobs  6.. of each group: redelivery, suspects, dead, retrying, retrying:jobs
-- ARGV: 1 where to go on, 0 to begin with  2 about how many fields to look at  3 delete those of an events stream's own entries that are older than this in ms and gone ('' deletes none)
-- returns {where to go on, 0 at the end, fields looked at, deleted, {ID, what ids says of it, …} that free.lua may know to be gone}
-- What lies before the first entry of its stream is gone; what was deleted behind it is found when those before it have ended.
-- An entry of an events stream that is gone was trimmed, and its ID is free for publishers already: they are asked for no proof.
local index = redis.call('TYPE', KEYS[1])['ok']
if index ~= 'none' and index ~= 'hash' then return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is a ' .. index) end
local events = redis.call('HGET', KEYS[3], 'kind') == 'events'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function below(a, b) -- of IDs, whose numbers may be too large for Lua's
  local ams, aseq = string.match(a, '^(%d+)-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)-(%d+)$')
  if ams ~= bms then return #ams < #bms or #ams == #bms and ams < bms end
  return #aseq < #bseq or #aseq == #bseq and aseq < bseq
end
local firsts = {}
local function gone(key, at)
  if not string.match(at, '^%d+%-%d+$') then return false end
  if not firsts[key] then
    local entry = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
    firsts[key] = entry and entry[1] or 'none'
  end
  return firsts[key] == 'none' or below(at, firsts[key])
end
local lane = {redelivery = 6, suspects = 7, dead = 8}
local function missing(id, place, at)
  if place == 'orders' then return gone(KEYS[2], at) end
  if place == 'scheduled' then return not redis.call('ZSCORE', KEYS[4], id) and redis.call('HEXISTS', KEYS[5], id) == 0 end
  if place == 'retrying' then
    for i = 9, #KEYS, 5 do
      if redis.call('ZSCORE', KEYS[i], id) or redis.call('HEXISTS', KEYS[i + 1], id) == 1 then return false end
    end
    return true
  end
  if not lane[place] then return false end -- of a later version
  for i = lane[place], #KEYS, 5 do
    if not gone(KEYS[i], at) then return false end
  end
  return true
end
local step = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local list, drop, ask = step[2], {}, {}
for i = 1, #list, 2 do
  local place, at = string.match(list[i + 1], '^(%S+) (%S+)')
  if place and missing(list[i], place, at) then
    if place ~= 'orders' or not events then
      ask[#ask + 1], ask[#ask + 2] = list[i], list[i + 1]
    elseif ARGV[3] ~= '' and now - string.match(at, '^%d+') > tonumber(ARGV[3]) then
      drop[#drop + 1] = list[i]
    end
  end
end
for i = 1, #drop, 1000 do redis.call('HDEL', KEYS[1], unpack(drop, i, math.min(i + 999, #drop))) end
return {step[1], #list / 2, #drop, ask}
