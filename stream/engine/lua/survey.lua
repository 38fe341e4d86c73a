-- survey tells how a stream and its groups stand, for upkeep.
-- KEYS: 1 stream  2 config  3 ids  4 workers  5 gate  6.. of each group: redelivery, suspects, dead
-- ARGV: 1 who does upkeep ('' only looks)  2 how long the gate stays shut for others in ms  3 go through a shut one (1 or 0)  4.. the groups
-- returns {'shut', for how long in ms}, {'groups', names…} when those asked about are not all there are, else
--   {now in ms, kind, retention or '', entries, the first or '', fields of ids, {rows of workers}, groups…}
-- of a group: {name, one of Penstock's (1 or 0), 1 when the stream has it or 0, its position or '', its floor or '', pending in the stream, the first of them or '', first that it has not read or '',
--   pending in redelivery and suspects, first not read in redelivery or '', in suspects or '', first dead letter or ''}
-- The gate only saves work: every script of upkeep finds out by itself what may go.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local who = redis.call('GET', KEYS[5]) -- a key of another type fails here, before the first write
if who and ARGV[1] ~= '' and who ~= ARGV[1] and ARGV[3] ~= '1' then return {'shut', math.max(redis.call('PTTL', KEYS[5]), 0)} end
local config, names, ours, there = {}, {}, {}, {}
local flat = redis.call('HGETALL', KEYS[2])
for i = 1, #flat, 2 do
  config[flat[i]] = flat[i + 1]
  local name = string.match(flat[i], '^epoch:(.+)')
  if name then names[#names + 1], ours[name] = name, true end
end
local function groups_of(key) -- by name
  local found = {}
  for _, info in ipairs(redis.call('EXISTS', key) == 1 and redis.call('XINFO', 'GROUPS', key) or {}) do
    local group = {}
    for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
    found[group['name']] = group
  end
  return found
end
there = groups_of(KEYS[1])
for name in pairs(there) do
  if not ours[name] then names[#names + 1] = name end
end
local asked = {}
for i = 4, #ARGV do asked[ARGV[i]] = i - 3 end
for _, name in ipairs(names) do
  if not asked[name] then return {'groups', unpack(names)} end
end
local function first_in(key, from) -- fails behind the greatest ID there is, and where there is no stream
  local found = redis.pcall('XRANGE', key, from, '+', 'COUNT', 1)
  return found[1] and found[1][1] or ''
end
local answer = {string.format('%.0f', now), config['kind'] or '', config['retention'] or '', redis.call('XLEN', KEYS[1]), first_in(KEYS[1], '-'), redis.call('HLEN', KEYS[3]), redis.call('HGETALL', KEYS[4])}
for _, name in ipairs(names) do
  local k, group = 3 * asked[name] + 2, there[name]
  local row = {name, ours[name] and 1 or 0, group and 1 or 0, group and group['last-delivered-id'] or config['position:' .. name] or '', config['floor:' .. name] or '', 0, '', '', 0, '', '', ''}
  if group then
    row[6] = group['pending']
    if row[6] > 0 then row[7] = redis.call('XPENDING', KEYS[1], name, '-', '+', 1)[1][1] end
    row[8] = first_in(KEYS[1], '(' .. group['last-delivered-id'])
  end
  if ours[name] then
    for lane = 1, 2 do
      local other = redis.call('XLEN', KEYS[k + lane]) > 0 and groups_of(KEYS[k + lane])[name]
      if other then
        row[9] = row[9] + other['pending']
        row[9 + lane] = first_in(KEYS[k + lane], '(' .. other['last-delivered-id'])
      end
    end
    row[12] = first_in(KEYS[k + 3], '-')
  end
  answer[#answer + 1] = row
end
if ARGV[1] ~= '' then redis.pcall('SET', KEYS[5], ARGV[1], 'PX', ARGV[2]) end -- refused at maxmemory: others look too
return answer
