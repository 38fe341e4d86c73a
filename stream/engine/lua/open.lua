-- open makes a group of a stream, and settles the stream's kind when it has none.
-- KEYS: 1 stream  2 config  3 redelivery  4 suspects
-- ARGV: 1 group ('' makes none)  2 wanted kind ('' for any)  3 format  4 force (1 takes a foreign stream)  5 the last epoch that the caller knows
-- returns {kind, epoch} or {'!', reason, kind, names of groups, entries}
-- reasons: kind, foreign, second, format
-- A queue's group has a floor: what lies up to there and is in nobody's list was not left by a consumer that somebody
-- deleted, but may be the history of programs that delete nothing. A group made here has none of that.
-- Nothing is written that is there already: at maxmemory XGROUP CREATE is refused, and a worker has to start all the same.
local function groups_of(key) -- names, and positions by name
  local names, positions = {}, {}
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local group = {}
    for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
    names[#names + 1], positions[group['name']] = group['name'], group['last-delivered-id']
  end
  return names, positions
end
local function has_group(key, group)
  if redis.call('EXISTS', key) == 0 then return false end
  for _, n in ipairs(groups_of(key)) do
    if n == group then return true end
  end
  return false
end
local function below(a, b) -- of IDs, whose numbers may be too large for Lua's
  local ams, aseq = string.match(a, '^(%d+)-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)-(%d+)$')
  if not ams or not bms then return true end
  if ams ~= bms then return #ams < #bms or #ams == #bms and ams < bms end
  return #aseq < #bseq or #aseq == #bseq and aseq < bseq
end
-- where a group begins: on a queue with all that is there, since what is done is gone; on an events stream where it
-- was, if somebody destroyed it, by its position of the last heartbeat: at what was not done, as far as that is still there
local function start()
  if redis.call('HGET', KEYS[2], 'kind') ~= 'events' then return '0' end
  local known = redis.call('HGET', KEYS[2], 'position:' .. ARGV[1])
  if not known or redis.call('EXISTS', KEYS[1]) == 0 then return '0' end
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' and not below(info[i + 1], known) then return known end
  end
  return '0' -- the stream was made anew: what it holds has never been read
end
local names, positions = {}, {}
local len = 0
local kind_of = redis.call('TYPE', KEYS[1])['ok']
if kind_of == 'stream' then
  len = redis.call('XLEN', KEYS[1])
  names, positions = groups_of(KEYS[1])
elseif kind_of ~= 'none' then
  return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is a ' .. kind_of)
end
local kind = redis.call('HGET', KEYS[2], 'kind')
local format = tonumber(redis.call('HGET', KEYS[2], 'format') or ARGV[3])
local list = table.concat(names, ', ')
if format and format > tonumber(ARGV[3]) then return {'!', 'format', tostring(format), list, len} end
if kind and ARGV[2] ~= '' and ARGV[2] ~= kind then return {'!', 'kind', kind, list, len} end
local want = kind or ARGV[2]
if not kind and ARGV[4] ~= '1' and (len > 0 or #names > 0) then
  local ours = #names == 0
  local function plain(e)
    local v = e[1] and e[1][2] or {}
    return #v == 8 and v[1] == 'type' and v[3] == 'data' and v[5] == 'traceparent' and v[7] == 'opts'
  end
  ours = ours and plain(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)) and plain(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1))
  if not ours and want == '' then return {'!', 'foreign', '', list, len} end
  if not ours and want == 'queue' and #names > 0 then
    local other = false
    for _, n in ipairs(names) do other = other or n ~= ARGV[1] end
    if other then return {'!', 'second', want, list, len} end
  end
end
if want == '' then want = 'queue' end
local exists = false
for _, n in ipairs(names) do
  if n == ARGV[1] then exists = true
  elseif want == 'queue' and ARGV[1] ~= '' then return {'!', 'second', want, list, len} end
end
local epoch = redis.call('HGET', KEYS[2], 'epoch:' .. ARGV[1])
if ARGV[1] ~= '' then
  for i = 3, 4 do
    local t = redis.call('TYPE', KEYS[i])['ok']
    if t ~= 'none' and t ~= 'stream' then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. t) end
  end
end
if not kind then redis.call('HSET', KEYS[2], 'kind', want, 'format', ARGV[3]) end
if ARGV[1] == '' then return {want, '0'} end
local made = not exists
if not exists then redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], start(), 'MKSTREAM') end
if want == 'queue' then
  local floor = redis.call('HGET', KEYS[2], 'floor:' .. ARGV[1])
  if exists and not floor then redis.pcall('HSET', KEYS[2], 'floor:' .. ARGV[1], positions[ARGV[1]]) -- refused at maxmemory: nothing is mended until it is there
  elseif not exists and floor ~= '0-0' then redis.call('HSET', KEYS[2], 'floor:' .. ARGV[1], '0-0') end
end
for i = 3, 4 do
  if not has_group(KEYS[i], ARGV[1]) then
    redis.call('XGROUP', 'CREATE', KEYS[i], ARGV[1], '0', 'MKSTREAM')
    made = true
  end
end
local last, known = tonumber(epoch) or 0, tonumber(ARGV[5])
if made or not epoch or last < known then -- what it holds is delivered again; or the config was deleted: fences must not fall
  epoch = string.format('%.0f', math.max(last, known) + 1)
  redis.call('HSET', KEYS[2], 'epoch:' .. ARGV[1], epoch)
end
return {want, epoch}
