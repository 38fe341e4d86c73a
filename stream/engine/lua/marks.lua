-- marks tells which jobs are to end as cancelled, and forgets those that have ended.
-- KEYS: 1 cancel marks  2 stream  3 the stream's ids  4 scheduled  5 redelivery  6 suspects  7 the group's ids
-- ARGV: 1 group  2 entries of the stream go as they end (1 or 0)  3 most marks to look at  4 most to tell
-- returns the IDs of the jobs
-- A job that succeeds all the same leaves its mark behind, when it has no ID of its own. Those that were looked at longest ago come first.
local position = '0-0'
for _, fields in ipairs(redis.call('EXISTS', KEYS[2]) == 1 and redis.call('XINFO', 'GROUPS', KEYS[2]) or {}) do
  local group = {}
  for i = 1, #fields, 2 do group[fields[i]] = fields[i + 1] end
  if group['name'] == ARGV[1] then position = group['last-delivered-id'] end
end
local function below(a, b) -- of IDs, whose numbers may be too large for Lua's
  local ams, aseq = string.match(a, '^(%d+)-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)-(%d+)$')
  if ams ~= bms then return #ams < #bms or #ams == #bms and ams < bms end
  return #aseq < #bseq or #aseq == #bseq and aseq < bseq
end
local function lives(key, e, stays)
  local held = redis.pcall('XPENDING', key, ARGV[1], e, e, 1)
  if held['err'] then return not string.find(held['err'], 'Invalid stream ID', 1, true) end -- an ID that other programs chose may only look like an entry's
  if #held > 0 then return true end
  return #redis.call('XRANGE', key, e, e) > 0 and (not stays or below(position, e))
end
local function wanted(id)
  local place, e = string.match(redis.call('HGET', KEYS[7], id) or '', '^(%S+) (%S+)')
  if place == 'redelivery' then return lives(KEYS[5], e) end
  if place == 'suspects' then return lives(KEYS[6], e) end
  if place == 'retrying' then return true end -- an older worker may not have looked at the mark
  if place == 'dead' then return false end
  place, e = string.match(redis.call('HGET', KEYS[3], id) or '', '^(%S+) (%S+)')
  if place == 'scheduled' then return redis.call('ZSCORE', KEYS[4], id) end
  e = place == 'orders' and e or string.match(id, '^%d+%-%d+$')
  return e and lives(KEYS[2], e, ARGV[2] ~= '1')
end
local now = redis.call('TIME')
now = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
local many = redis.call('ZCARD', KEYS[1]) > tonumber(ARGV[3])
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[3] - 1)) do
  if not wanted(id) then redis.call('ZREM', KEYS[1], id)
  elseif many then redis.pcall('ZADD', KEYS[1], 'XX', now, id) end -- refused at maxmemory
end
return redis.call('ZRANGE', KEYS[1], 0, ARGV[4] - 1)
