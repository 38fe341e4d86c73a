-- cancel takes a job away where it waits, and where it runs marks it to end as cancelled.
-- Part: unlock.lua
-- KEYS: 1 stream  2 config  3 ids  4 scheduled  5 scheduled:jobs  6 record of the job  7 lock of the job  8 next  9.. of each group: redelivery, suspects, retrying, retrying:jobs, dead, and ids, record of the job and cancel marks, which on a queue are the stream's
-- ARGV: 1 id  2 the entry that it may be, '' when it does not look like one  3 events or queue, as the keys are  4 the only group to cancel it in, '' for all  5 how long its record is kept in ms  6 the channel of ends  7 the wake channel  8 most marks of a group  9 the unique key that the job is believed to have, whose lock and data KEYS name, or ''  10.. the groups
-- returns {'groups', kind, names…} when the kind or the groups are others, {'id', id} when the entry's job has an ID of its own, {'lock', key} when its unique key is another, {'full'} when there are too many marks, {'none'} when there is not the only group, else {'done', state, state in each group or ''…}; '' is a job that there is not
-- States: cancelled: it is gone, now or before. active: its worker ends it as cancelled, or whoever takes it over. waiting and
-- scheduled, of an events stream's group: it is marked, as its entry is the others' too, and is not run when its turn comes.
-- dead and completed: it had ended before, and is left alone.
local config, names, position, kind = redis.call('HGETALL', KEYS[2]), {}, {}, ''
for i = 1, #config, 2 do
  if config[i] == 'kind' then kind = config[i + 1] end
  local name = string.match(config[i], '^epoch:(.+)')
  if name then names[#names + 1], position[name] = name, '' end
end
local function groups_of(key)
  local groups = {}
  for _, info in ipairs(redis.call('EXISTS', key) == 1 and redis.call('XINFO', 'GROUPS', key) or {}) do
    local group = {}
    for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
    groups[group['name']] = group['last-delivered-id']
  end
  return groups
end
local made = groups_of(KEYS[1])
for name, at in pairs(made) do
  if not position[name] then names[#names + 1] = name end
  position[name] = at
end
local asked, n = {}, #ARGV - 9
for i = 10, #ARGV do asked[ARGV[i]] = true end
local others = kind ~= ARGV[3] and kind ~= '' or kind == '' and ARGV[3] == 'events'
for _, name in ipairs(names) do others = others or not asked[name] end
if others then return {'groups', kind, unpack(names)} end
if ARGV[4] ~= '' and not position[ARGV[4]] then return {'none'} end
local function below(a, b) -- of IDs, whose numbers may be too large for Lua's
  local ams, aseq = string.match(a, '^(%d+)-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)-(%d+)$')
  if ams ~= bms then return #ams < #bms or #ams == #bms and ams < bms end
  return #aseq < #bseq or #aseq == #bseq and aseq < bseq
end
-- the state of an entry in a group, and the entry when it is there
local function entry_in(key, name, e, at, kept)
  local there = redis.pcall('XRANGE', key, e, e)[1] -- an error: it is no entry, or the key no stream
  local held = redis.pcall('XPENDING', key, name, e, e, 1)
  if not held['err'] and #held > 0 then return 'active', there end
  if not there then return nil end
  if not at or at == '' or below(at, e) then return 'waiting', there end
  return kept and 'completed' or 'active', there -- in nobody's list: whoever had it may run it still
end
local function record_of(key)
  local was = string.match(redis.call('GETRANGE', key, 0, 63), '^(%l+) ?') -- the whole of it may hold a large result
  return was ~= 'missed' and was or nil
end
local function needs(key, kind)
  local t = redis.call('TYPE', key)['ok']
  if t ~= 'none' and t ~= kind then return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. t) end
end
local function opts_in(job) -- of an entry
  local f = job and job[2] or {}
  for i = 1, #f, 2 do
    if f[i] == 'opts' and #f == 8 then
      local ok, opts = pcall(cjson.decode, f[i + 1])
      if ok and type(opts) == 'table' then return opts end
    end
  end
  return {}
end
-- what is known of it: first all is looked up, then something is written
local here, entry = string.match(redis.call('HGET', KEYS[3], ARGV[1]) or '', '^(%S+) (%S+)')
local in_stream = here == 'orders' and entry or not here and ARGV[2] ~= '' and ARGV[2] or nil
local unknown = in_stream and not here
if unknown then
  local own = opts_in(redis.pcall('XRANGE', KEYS[1], in_stream, in_stream)[1])['id']
  if type(own) == 'string' and own ~= '' and own ~= ARGV[1] then
    local at = redis.call('HGET', KEYS[3], own)
    if not at or string.match(at, '^%S+ %S+') == 'orders ' .. in_stream then return {'id', own} end
    in_stream = nil -- another job has its ID: what were told of the one would be told of the other
  end
  unknown = own == ARGV[1] and own ~= in_stream
end
local deferred = redis.call('ZSCORE', KEYS[4], ARGV[1]) or redis.call('HEXISTS', KEYS[5], ARGV[1]) == 1 -- a body alone is put back by promote
local fields = deferred and {redis.call('HGET', KEYS[5], ARGV[1]) or ''} or nil
local events, state, jobs, lane, only = ARGV[3] == 'events', {}, {}, {}, nil
local gone = record_of(KEYS[6])
for i = 1, n do
  local k, name = 8 * i + 1, ARGV[9 + i]
  local wrong = needs(KEYS[k + 7], 'zset')
  if wrong then return wrong end
  local place, e = here, entry
  if events then place, e = string.match(redis.call('HGET', KEYS[k + 5], ARGV[1]) or '', '^(%S+) (%S+)') end
  if events and ARGV[4] ~= '' and ARGV[4] ~= name then
    state[i] = ''
  elseif deferred then
    state[i] = 'scheduled'
  elseif redis.call('ZSCORE', KEYS[k + 2], ARGV[1]) or redis.call('HEXISTS', KEYS[k + 3], ARGV[1]) == 1 then
    state[i], jobs[i] = 'retrying', {redis.call('HGET', KEYS[k + 3], ARGV[1]) or ''}
  elseif place == 'redelivery' then
    state[i], jobs[i] = entry_in(KEYS[k], name, e, groups_of(KEYS[k])[name])
    lane[i] = 1
  elseif place == 'suspects' then
    state[i], jobs[i] = entry_in(KEYS[k + 1], name, e, groups_of(KEYS[k + 1])[name])
    lane[i] = 2
  elseif place == 'dead' then
    state[i] = #redis.pcall('XRANGE', KEYS[k + 4], e, e) > 0 and 'dead' or nil
  elseif in_stream and (events or made[name] or not next(made)) then
    state[i], jobs[i] = entry_in(KEYS[1], name, in_stream, position[name], events)
    if state[i] == 'completed' then state[i] = record_of(KEYS[k + 6]) or state[i] end
  end
  if not events and state[i] then -- a queue's is in one of them only, though it may have had others
    if only then state[i], jobs[i] = '', nil else only = i end
  end
  state[i] = state[i] or record_of(KEYS[k + 6]) or ''
  if state[i] == 'active' or events and (state[i] == 'waiting' and not lane[i] or state[i] == 'scheduled' and ARGV[4] ~= '') then
    jobs[i] = true
    if redis.call('ZCARD', KEYS[k + 7]) >= tonumber(ARGV[8]) and not redis.call('ZSCORE', KEYS[k + 7], ARGV[1]) then return {'full'} end
  end
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
-- how long its record is kept, what it says but for the mark, and the job's unique key
local function note_of(job)
  local type_of, trace, o, from = '', '', {}, ARGV[1]
  if #job == 1 then -- a body
    local a, b, c, d = string.match(job[1], '^(%d+) (%d+) (%d+) (%d+)\n')
    local head = string.find(job[1], '\n', 1, true)
    if a and #a <= 10 and #b <= 10 and #c <= 10 and #d <= 10 and head + a + b + c + d == #job[1] then
      type_of, trace = string.sub(job[1], head + 1, head + a), string.sub(job[1], head + a + b + 1, head + a + b + c)
      local ok, opts = pcall(cjson.decode, string.sub(job[1], head + a + b + c + 1))
      if ok and type(opts) == 'table' then o = opts end
    end
  else
    from, o = job[1], opts_in(job)
    for i = 1, #job[2], 2 do
      if job[2][i] == 'type' then type_of = job[2][i + 1] elseif job[2][i] == 'traceparent' then trace = job[2][i + 1] end
    end
  end
  local function whole(i) return type(i) == 'number' and i > 0 and i < 1e15 and math.floor(i) or nil end
  local keep = type(o['kr']) == 'number' and (o['kr'] < 0 and 0 or whole(o['kr'])) or tonumber(ARGV[5])
  if not string.match(ARGV[1], '^%d+%-%d+$') then keep = math.max(keep, 60000) end -- a publisher may repeat itself
  local note = {t = type_of ~= '' and type_of or nil, tp = trace ~= '' and trace or nil, fin = tonumber(now)}
  note['pub'] = whole(o['pub']) or whole(tonumber(string.match(ARGV[1], '^(%d+)%-%d+$') or string.match(from, '^(%d+)%-%d+$') or ''))
  note['due'], note['a'], note['mt'], note['cr'] = whole(o['due']), (whole(o['err']) or 0) + 1, whole(o['mt']), whole(o['cr'])
  if type(o['hist']) == 'table' and #o['hist'] > 0 then note['hist'] = o['hist'] end
  local written, text = pcall(cjson.encode, note)
  return string.format('%.0f', keep), '\n' .. (written and text or '{}'), o['id'] == ARGV[1] and type(o['u']) == 'string' and o['u'] or ''
end
local probe = redis.pcall('SETRANGE', KEYS[6], 0, '') -- writes nothing, and is refused by a full Redis: before the first write, as nothing is behind it
local full = type(probe) == 'table' and string.find(probe['err'], 'OOM', 1, true)
local ended = false
-- lets go of its ID and its lock, and leaves a record
local function finish(ids, record, keep, note)
  local where = redis.call('HGET', ids, ARGV[1])
  redis.call('HDEL', ids, ARGV[1])
  if ARGV[9] ~= '' then unlock(KEYS[7], KEYS[8], KEYS[1], KEYS[3], ARGV[1], ARGV[9], '0') end
  ended = true
  if keep == '0' then return end
  if full then note = '' end
  if note == '' and not where then return end
  -- GET makes it fail where there is a key of another type
  redis.pcall('SET', record, 'cancelled ' .. (string.match(where or '', '^%S+ %S+ (%S+)$') or '') .. note, 'PX', keep, 'GET')
end
local plain, groups = in_stream and n == 0 and redis.pcall('XRANGE', KEYS[1], in_stream, in_stream)[1], {}
local keep, note, unique = {}, {}, ''
for i = 1, n do
  if type(jobs[i]) == 'table' then keep[i], note[i], unique = note_of(jobs[i]) end
end
local all_keep, all_note
if deferred and not (events and ARGV[4] ~= '') then all_keep, all_note, unique = note_of(fields)
elseif plain then all_keep, all_note, unique = note_of(plain) end
if unique ~= ARGV[9] and unique ~= '' then return {'lock', unique} end
local all = ''
if deferred and not (events and ARGV[4] ~= '') then
  redis.call('ZREM', KEYS[4], ARGV[1])
  redis.call('HDEL', KEYS[5], ARGV[1])
  finish(KEYS[3], KEYS[6], all_keep, all_note)
  all = 'cancelled'
elseif plain then -- nobody has come to read it
  redis.call('XDEL', KEYS[1], in_stream)
  finish(KEYS[3], KEYS[6], all_keep, all_note)
  all = 'cancelled'
end
for i = 1, n do
  local k = 8 * i + 1
  groups[i] = state[i]
  -- with the job goes its mark: the next one with this ID is another, and there may be no worker that forgets it
  if all == 'cancelled' or state[i] == 'retrying' or state[i] == 'waiting' and jobs[i] ~= true then redis.call('ZREM', KEYS[k + 7], ARGV[1]) end
  if all == 'cancelled' then
    groups[i] = all
  elseif jobs[i] == true then
    redis.call('ZADD', KEYS[k + 7], 'NX', now, ARGV[1])
    if unknown then redis.call('HSET', KEYS[3], ARGV[1], 'orders ' .. in_stream) end -- by which the mark is kept until the job ends
    redis.pcall('PUBLISH', ARGV[7], 'cancel ' .. KEYS[k + 7] .. ' ' .. ARGV[1]) -- a hint: the next heartbeat reads the mark
  elseif state[i] == 'retrying' then
    redis.call('ZREM', KEYS[k + 2], ARGV[1])
    redis.call('HDEL', KEYS[k + 3], ARGV[1])
    finish(KEYS[k + 5], KEYS[k + 6], keep[i], note[i])
    groups[i] = 'cancelled'
  elseif state[i] == 'waiting' then
    if lane[i] == 1 then redis.call('XDEL', KEYS[k], jobs[i][1])
    elseif lane[i] == 2 then redis.call('XDEL', KEYS[k + 1], jobs[i][1])
    else redis.call('XDEL', KEYS[1], jobs[i][1]) end
    finish(KEYS[k + 5], KEYS[k + 6], keep[i], note[i])
    groups[i] = 'cancelled'
  end
end
if ended then redis.pcall('PUBLISH', ARGV[6], ARGV[1]) end -- a hint: a user without the channel's right loses nothing else
if all == '' then all = gone or '' end
return {'done', all, unpack(groups)}
