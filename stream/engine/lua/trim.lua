-- trim deletes entries of an events stream that every group has acknowledged and whose retention is over, oldest first.
-- KEYS: 1 stream  2 config
-- ARGV: 1 most entries to delete, or a node's more  2 how old what goes must be at least, in ms
-- returns how many were deleted; 0: nothing may go now
-- A group has acknowledged what lies before its first pending entry, or up to where it has read when none is. One that
-- somebody destroyed is made again by its workers where config says that it was: for as long as config names it, it counts.
-- Without any group nobody has acknowledged anything. Retention is '<age in ms> <entries>': 0 for none, no field for neither.
local config, ours = {}, {}
local flat = redis.call('HGETALL', KEYS[2])
for i = 1, #flat, 2 do
  config[flat[i]] = flat[i + 1]
  local name = string.match(flat[i], '^epoch:(.+)')
  if name then ours[#ours + 1] = name end
end
if config['kind'] ~= 'events' or redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local age, length = string.match(config['retention'] or '0 0', '^(%d+) (%d+)$')
if not age or #age > 15 or #length > 15 then return 0 end -- of a later version: it stays
age, length = tonumber(age), tonumber(length)
local function below(a, b) -- of IDs, whose numbers may be too large for Lua's
  local ams, aseq = string.match(a, '^(%d+)-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)-(%d+)$')
  if ams ~= bms then return #ams < #bms or #ams == #bms and ams < bms end
  return #aseq < #bseq or #aseq == #bseq and aseq < bseq
end
local function behind(id) -- the next ID; or itself, where Lua's numbers do not reach: it stays then
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return #seq < 15 and ms .. '-' .. string.format('%.0f', seq + 1) or id
end
local horizon, there = nil, {}
local function reach(id)
  if not horizon or below(id, horizon) then horizon = id end
end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
  local name = group['name']
  there[name] = true
  local pending = redis.call('XPENDING', KEYS[1], name, '-', '+', 1)[1]
  reach(pending and pending[1] or behind(group['last-delivered-id']))
  if pending then reach(behind(group['last-delivered-id'])) end -- set back, it may read again what it has pending further on
end
for _, name in ipairs(ours) do
  if not there[name] then
    local info, last = redis.call('XINFO', 'STREAM', KEYS[1]), '0-0'
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then last = info[i + 1] end
    end
    local known = config['position:' .. name]
    if not known or not string.match(known, '^%d+%-%d+$') or below(last, known) then return 0 end -- it begins anew, with all there is
    reach(behind(known))
  end
end
if not horizon then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function until_age(least)
  local id = string.format('%.0f-0', math.max(now - math.max(least, tonumber(ARGV[2])), 0))
  return below(id, horizon) and id or horizon
end
local most, deleted = tonumber(ARGV[1]), 0
if age > 0 or length == 0 then
  local id = until_age(age)
  deleted = redis.call('XTRIM', KEYS[1], 'MINID', '~', id, 'LIMIT', most) -- whole nodes, which is what takes no time
  if deleted == 0 then deleted = redis.call('XTRIM', KEYS[1], 'MINID', id) end -- the rest of one
end
local over = length > 0 and redis.call('XLEN', KEYS[1]) - length or 0
if over > 0 and deleted < most then
  deleted = deleted + redis.call('XTRIM', KEYS[1], 'MINID', '~', until_age(0), 'LIMIT', math.min(over, most - deleted))
end
return deleted
