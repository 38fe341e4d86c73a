-- get reads all that Redis knows of one job, at one moment.
-- KEYS: 1 stream  2 config  3 ids  4 scheduled  5 scheduled:jobs  6 record of the job  7 workers  8 report of the job  9.. of each group: redelivery, suspects, retrying, retrying:jobs, dead, and of an events stream its ids, its record and its report of the job
-- ARGV: 1 id  2 the entry that it may be, '' when it does not look like one  3.. the groups
-- returns {'groups', names…} when those asked about are not all there are, else
--   {now in ms, kind, job in the stream or {}, due in ms or '', the scheduled job or {}, record or '', progress or '', groups…}
-- of a group: {name, position or '', place, due in ms or '', job there or {}, {owner} or {}, record or '', what its owner said last or '', progress or ''}
-- of a job: {entry or '', type, traceparent, opts, info of a dead letter or ''}: what may be large is left out.
local config, names, position, kind = redis.call('HGETALL', KEYS[2]), {}, {}, ''
for i = 1, #config, 2 do
  if config[i] == 'kind' then kind = config[i + 1] end
  local name = string.match(config[i], '^epoch:(.+)')
  if name then names[#names + 1], position[name] = name, '' end
end
for _, info in ipairs(redis.call('EXISTS', KEYS[1]) == 1 and redis.call('XINFO', 'GROUPS', KEYS[1]) or {}) do
  local group = {}
  for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
  if not position[group['name']] then names[#names + 1] = group['name'] end
  position[group['name']] = group['last-delivered-id']
end
local asked = {}
for i = 3, #ARGV do asked[ARGV[i]] = true end
for _, name in ipairs(names) do
  if not asked[name] then return {'groups', unpack(names)} end
end
local function job_in(key, entry)
  local found = entry and redis.pcall('XRANGE', key, entry, entry)[1] -- an error: it is no entry, or the key no stream
  if not found then return {} end
  local f = found[2]
  if f[1] == 'type' and f[3] == 'data' and f[5] == 'traceparent' and f[7] == 'opts' and (#f == 8 or #f == 10 and f[9] == 'info') then
    return {entry, f[2], f[6], f[8], f[10] or ''}
  end
  local job = {entry, '', '', '', ''}
  for i = 1, #f, 2 do
    if f[i] == 'type' then job[2] = f[i + 1] elseif f[i] == 'traceparent' then job[3] = f[i + 1] end
  end
  return job
end
local function parked_in(set, bodies) -- its due time and the job
  local due, body = redis.pcall('ZSCORE', set, ARGV[1]), redis.pcall('HGET', bodies, ARGV[1])
  due = type(due) == 'string' and due or ''
  if type(body) ~= 'string' then return due, {} end
  local a, b, c, d, eol = string.match(body, '^(%d+) (%d+) (%d+) (%d+)(\n)')
  local head = string.find(body, '\n', 1, true)
  if not eol or #a > 10 or #b > 10 or #c > 10 or #d > 10 or head + a + b + c + d ~= #body then return due, {'', '', '', '', ''} end
  local trace = head + a + b
  return due, {'', string.sub(body, head + 1, head + a), string.sub(body, trace + 1, trace + c), string.sub(body, trace + c + 1), ''}
end
local function owner_of(key, group, entry)
  local held = entry and redis.pcall('XPENDING', key, group, entry, entry, 1)[1]
  return type(held) == 'table' and {held[2]} or {}
end
local function record_of(key)
  local record = redis.pcall('GET', key)
  return type(record) == 'string' and record or ''
end
local function progress_of(key)
  local progress = redis.pcall('HGET', key, 'progress')
  return type(progress) == 'string' and progress or ''
end
local time = redis.call('TIME')
local here, at = string.match(redis.call('HGET', KEYS[3], ARGV[1]) or '', '^(%S+) (%S+)')
local entry = here == 'orders' and at or not here and ARGV[2] ~= '' and ARGV[2] or nil
local due, parked = parked_in(KEYS[4], KEYS[5])
local answer = {string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), kind, job_in(KEYS[1], entry), due, parked, record_of(KEYS[6]), progress_of(KEYS[8])}
for n = 1, #ARGV - 2 do
  local name, k = ARGV[2 + n], 8 * n
  local place, e = here, at
  if kind == 'events' then place, e = string.match(redis.pcall('HGET', KEYS[k + 6], ARGV[1]) or '', '^(%S+) (%S+)') end
  local due, job = parked_in(KEYS[k + 3], KEYS[k + 4])
  local owner = {}
  if due ~= '' then place = 'retrying'
  elseif place == 'redelivery' then job, owner = job_in(KEYS[k + 1], e), owner_of(KEYS[k + 1], name, e)
  elseif place == 'suspects' then job, owner = job_in(KEYS[k + 2], e), owner_of(KEYS[k + 2], name, e)
  elseif place == 'dead' then job = job_in(KEYS[k + 5], e)
  elseif entry then place, owner = 'orders', owner_of(KEYS[1], name, entry) end
  local row = owner[1] and redis.pcall('HGET', KEYS[7], name .. ':' .. owner[1])
  answer[#answer + 1] = {name, position[name] or '', place or '', due, job, owner,
    kind == 'events' and record_of(KEYS[k + 7]) or '', type(row) == 'string' and row or '', kind == 'events' and progress_of(KEYS[k + 8]) or ''}
end
return answer
