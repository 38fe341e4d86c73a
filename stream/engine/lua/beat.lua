-- beat renews the leases of what a worker holds on one stream, and tells it what it needs to know.
-- KEYS: 1 stream  2 redelivery  3 suspects  4 config  5 lease  6 workers  7 cancel marks  8 kill switches
-- ARGV: 1 group  2 consumer  3 its lease in ms  4 number of this heartbeat, from 1  5 entries of the stream go as they end (1 or 0)  6 entries held of the stream  7 of redelivery  8 of suspects  9 the consumer that stands for nobody  10 jobs it runs whose entries it knows to be gone  11 what it runs, as JSON  12.. the IDs of what is held, in that order
-- returns {now in ms, epoch, suspects waiting, {{lost}, {lost}, {lost}}, {{deleted}, {deleted}, {deleted}},
--   jobs that wait or -1 when Redis can't tell, {first entry of the stream that nobody has read or '', the same of redelivery},
--   the number of this worker's last heartbeat that Redis knows of or -1, 1 when it took this one's, {{unowned}, {}, {}}, {{missing}, {missing}, {missing}}, entries claimed back,
--   {1 when entries lie in nobody's list, or 0, of each of the three streams}, how many entries are pending with anybody, those not counted whose stream is empty, jobs that are to end as cancelled, the version of the kill switches or ''}
-- Only entries that this consumer still owns are claimed: a claim of the others would steal them back. What nobody owns is
-- claimed back where entries go as they end: there, one that is in the stream has not ended, and somebody took it off its
-- owner's list by hand. On an events stream's own key it may have been acknowledged: it is unowned, unless the group, having
-- been set back or made again, is going to deliver it again. What nobody owns and is not there is missing. What mend.lua has put
-- into the list of nobody is claimed back too.
-- Entries that the group has passed and that are in nobody's list are looked for where entries go as they end, in constant time:
-- those behind a job that still runs are seen when nothing is unread, or once that job has ended.
-- The heartbeat's number is written down: one that Redis does not know any more says that its data are older than they were.
-- The group's longest lease is kept in KEYS 5, so that a worker with a shorter one takes nothing over too early.
-- On an events stream it also writes down from where the group would have to read again, should somebody destroy it.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local row = ARGV[1] .. ':' .. ARGV[2]
local said = redis.call('HGET', KEYS[6], row) or '' -- a key of another type fails here, before the first write
local last, last_at = tonumber(string.match(said, '"beat":(%d+)') or -1), tonumber(string.match(said, '"at":(%d+)') or 0)
local config = redis.call('HMGET', KEYS[4], 'epoch:' .. ARGV[1], 'kind', 'floor:' .. ARGV[1])
local epoch = config[1] or '0'
local lens = {}
for lane = 1, 3 do
  local len = lane == 3 and redis.call('XLEN', KEYS[3]) or redis.pcall('XLEN', KEYS[lane])
  lens[lane] = type(len) == 'number' and len or -1 -- an error: the key is of another type
end
local mine, lost, deleted = {{}, {}, {}}, {{}, {}, {}}, {{}, {}, {}}
local unowned, missing, back, coming = {{}, {}, {}}, {{}, {}, {}}, {{}, {}, {}}, {{}, {}, {}}
local function below(a, b) -- of IDs, whose numbers may be too large for Lua's
  local ams, aseq = string.match(a, '^(%d+)-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)-(%d+)$')
  if ams ~= bms then return #ams < #bms or #ams == #bms and ams < bms end
  return #aseq < #bseq or #aseq == #bseq and aseq < bseq
end
local function position_of(lane)
  for _, fields in ipairs(redis.call('XINFO', 'GROUPS', KEYS[lane])) do
    local group = {}
    for i = 1, #fields, 2 do group[fields[i]] = fields[i + 1] end
    if group['name'] == ARGV[1] then return group['last-delivered-id'] end
  end
  return '0-0'
end
local at = 12
for lane = 1, 3 do
  local n = tonumber(ARGV[5 + lane])
  if n > 0 then
    local owned = {}
    local from = '-'
    while from do -- in pages: what is owned and not held, after lost replies, can be more than what is held
      local page = redis.call('XPENDING', KEYS[lane], ARGV[1], from, '+', 1000, ARGV[2])
      for _, e in ipairs(page) do owned[e[1]] = true end
      from = #page == 1000 and '(' .. page[#page][1]
    end
    for i = at, at + n - 1 do
      local list = owned[ARGV[i]] and mine or lost
      local owner = list == lost and redis.call('XPENDING', KEYS[lane], ARGV[1], ARGV[i], ARGV[i], 1)[1]
      if list == lost and owner and owner[2] == ARGV[9] then list = back
      elseif list == lost and not owner then
        if #redis.call('XRANGE', KEYS[lane], ARGV[i], ARGV[i]) == 0 then list = missing
        elseif lane > 1 or ARGV[5] == '1' then list = back
        else list = below(position_of(lane), ARGV[i]) and coming or unowned end
      end
      table.insert(list[lane], ARGV[i])
    end
    at = at + n
  end
end
local function claim(lane, ids, ...)
  for first = 1, #ids, 4000 do
    local last = math.min(first + 3999, #ids)
    local args = {'XCLAIM', KEYS[lane], ARGV[1], ARGV[2], '0'}
    for i = first, last do args[#args + 1] = ids[i] end
    for _, option in ipairs({...}) do args[#args + 1] = option end
    local there = {}
    for _, id in ipairs(redis.call(unpack(args))) do there[id] = true end
    for i = first, last do -- XCLAIM lets go of what was deleted, and leaves it out of its answer
      if not there[ids[i]] then table.insert(deleted[lane], ids[i]) end
    end
  end
end
local mended, gone = 0, tonumber(ARGV[10])
for lane = 1, 3 do
  claim(lane, mine[lane], 'JUSTID')
  local before = #deleted[lane]
  claim(lane, back[lane], 'FORCE', 'JUSTID')
  mended = mended + #back[lane] - (#deleted[lane] - before)
  gone = gone + #deleted[lane] + #missing[lane] -- the worker goes on with these, at least for now: nobody may take their IDs for free
end
local lease = tonumber(ARGV[3])
local longest, left = redis.pcall('GET', KEYS[5]), redis.call('PTTL', KEYS[5])
local foreign = type(longest) == 'table' -- an error: the key is of another type
longest = not foreign and tonumber(longest) or 0
if not foreign and (longest < lease or longest == lease and left < 3 * lease) then
  redis.pcall('SET', KEYS[5], ARGV[3], 'PX', 5 * lease)
end
local unread, first, position = 0, {'', ''}, nil
local orphans = {0, 0, 0}
local events, floor = config[2] == 'events', config[2] == 'queue' and ARGV[5] == '1' and config[3]
-- whether entries of a lane lie behind the group's position and above the floor, pending with nobody
local function orphaned(key, floor, next, pending)
  local lowest = redis.pcall('XRANGE', key, '(' .. floor, '+', 'COUNT', 1)[1]
  if not lowest or next and not below(lowest[1], next[1]) then return 0 end -- unread: a group may have been set back below its floor
  if #redis.call('XPENDING', key, ARGV[1], lowest[1], lowest[1], 1) == 0 then return 1 end
  if next or floor ~= '0-0' and #redis.call('XRANGE', key, '-', floor, 'COUNT', 1) > 0 then return 0 end -- what is counted below is not all that lies there
  return redis.call('XLEN', key) > pending and 1 or 0
end
local pending = 0
for lane = 1, 3 do
  local empty = lens[lane] == 0 and (lane > 1 or not events) -- nothing waits there, and of what was deleted the sweep hears
  local groups = empty and {} or redis.pcall('XINFO', 'GROUPS', KEYS[lane])
  for _, fields in ipairs(groups['err'] and {} or groups) do
    local group = {}
    for i = 1, #fields, 2 do group[fields[i]] = fields[i + 1] end
    if group['name'] == ARGV[1] then
      pending = pending + group['pending']
      local next = redis.pcall('XRANGE', KEYS[lane], '(' .. group['last-delivered-id'], '+', 'COUNT', 1) -- fails behind the greatest ID there is
      if lane > 1 or floor then orphans[lane] = orphaned(KEYS[lane], lane > 1 and '0-0' or floor, next[1], group['pending']) end
      if next[1] and lane < 3 then first[lane] = next[1][1] end
      if lane == 3 then break end
      if lane == 2 or not events then
        unread = unread < 0 and unread or unread + lens[lane] - group['pending']
      else
        unread = first[lane] == '' and 0 or group['lag'] or -1 -- Redis 7.0 counts entries that were trimmed before they were read, for ever
        position = group['last-delivered-id']
        local oldest = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1)[1]
        if oldest then
          local before = redis.call('XREVRANGE', KEYS[1], '(' .. oldest[1], '-', 'COUNT', 1)[1]
          position = before and before[1] or '0-0'
        end
      end
    end
  end
end
if position and redis.call('HGET', KEYS[4], 'position:' .. ARGV[1]) ~= position then
  redis.pcall('HSET', KEYS[4], 'position:' .. ARGV[1], position) -- refused at maxmemory: the last one is early enough
end
local took = redis.pcall('HSET', KEYS[6], row, string.format('{"at":%.0f,"beat":%s,"lease":%s,"gone":%d,"run":', now, ARGV[4], ARGV[3], gone) .. ARGV[11] .. '}')
local marks, version = redis.pcall('ZCARD', KEYS[7]), redis.pcall('HGET', KEYS[8], 'version')
marks, version = type(marks) == 'number' and marks or 0, type(version) == 'string' and version or '' -- errors: keys of another type
local seldom = math.floor(last_at / lease) ~= math.floor(now / lease) -- once a lease
if seldom and redis.call('PTTL', KEYS[6]) < 5 * lease then redis.pcall('PEXPIRE', KEYS[6], 10 * lease) end -- when all are gone, so is it
return {string.format('%.0f', now), epoch, lens[3], lost, deleted, unread, first, last, type(took) == 'number' and 1 or 0, unowned, missing, mended, orphans, pending, marks, version}
