-- promote moves what is due to the stream it goes to, oldest first, and stops after about 1 MiB: large jobs must not hold Redis up.
-- KEYS: 1 sorted set  2 bodies  3 destination stream  4 ids
-- ARGV: 1 most jobs to move  2 the destination's name in ids  3 the set's name in ids  4 where to go on looking for stranded bodies, 0 to begin with
-- returns {moved, lost bodies, next due in ms or '', now in µs, stranded bodies that are in the set again, where to go on looking for more, 0 when there is no need}
-- A body is stranded when somebody took its job out of the set by hand, or deleted the set: Redis still has the job, and
-- nobody would ever find it. It is due when ids says, else when its opts say, else now.
local time = redis.call('TIME')
local bodies = redis.pcall('HLEN', KEYS[2]) -- an error when the key is of another type
if bodies == 0 and redis.call('ZCARD', KEYS[1]) == 0 then return {0, 0, '', time[1] .. string.format('%06d', time[2]), 0, '0'} end
local dest = redis.call('TYPE', KEYS[3])['ok']
if dest ~= 'none' and dest ~= 'stream' then return redis.error_reply('WRONGTYPE ' .. KEYS[3] .. ' is a ' .. dest) end
local index = redis.call('TYPE', KEYS[4])['ok']
if index ~= 'none' and index ~= 'hash' then return redis.error_reply('WRONGTYPE ' .. KEYS[4] .. ' is a ' .. index) end
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'WITHSCORES', 'LIMIT', 0, ARGV[1])
local function fields_of(body) -- nil: it is none of ours
  local a, b, c, d, eol = string.match(body, '^(%d+) (%d+) (%d+) (%d+)(\n)')
  local head = string.find(body, '\n', 1, true)
  if not eol or #a > 10 or #b > 10 or #c > 10 or #d > 10 or head + a + b + c + d ~= #body then return nil end
  local f, at = {}, head + 1
  for i, n in ipairs({tonumber(a), tonumber(b), tonumber(c), tonumber(d)}) do
    f[i] = string.sub(body, at, at + n - 1)
    at = at + n
  end
  return f
end
local moved, lost, bytes = 0, 0, 0
for n = 1, #due, 2 do
  local id, score = due[n], due[n + 1]
  local body = redis.call('HGET', KEYS[2], id)
  local f
  if body then
    f = fields_of(body) or {'', body, '', cjson.encode({id = id})} -- not ours: kept, as a job of no type
  else
    lost = lost + 1
  end
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
  if body then
    local entry = redis.pcall('XADD', KEYS[3], '*', 'type', f[1], 'data', f[2], 'traceparent', f[3], 'opts', f[4])
    if type(entry) == 'table' then -- the stream takes no entry, as one whose last ID is the greatest there is: the job stays
      redis.call('ZADD', KEYS[1], score, id)
      redis.call('HSET', KEYS[2], id, body)
      return entry
    end
    local mark = string.match(redis.call('HGET', KEYS[4], id) or '', '^%S+ %S+( %S+)$') -- its publisher may still repeat itself
    redis.call('HSET', KEYS[4], id, ARGV[2] .. ' ' .. entry .. (mark or ''))
    moved = moved + 1
    bytes = bytes + #body
    if bytes >= 1048576 then break end
  else
    redis.call('HDEL', KEYS[4], id)
  end
end
local back, cursor = 0, '0'
bodies = redis.pcall('HLEN', KEYS[2])
local stranded = type(bodies) == 'number' and bodies - redis.call('ZCARD', KEYS[1]) or 0
local function due_of(where, body)
  local due = string.match(where, '^' .. ARGV[3] .. ' (%d+)')
  if due and #due < 16 then return due end
  local f = fields_of(body)
  local ok, opts = pcall(cjson.decode, f and f[4] or '')
  due = ok and type(opts) == 'table' and opts['due']
  if type(due) ~= 'number' or due < 0 or due > 253402300799000 then due = now end
  return string.format('%.0f', due)
end
if stranded > 0 then
  cursor, bytes = ARGV[4], 0
  for _ = 1, 10 do -- few at a time: HSCAN copies the bodies, and they may be large
    local step = redis.pcall('HSCAN', KEYS[2], cursor, 'COUNT', 10)
    cursor = step[1] or '0' -- an error for a user without the right
    local list = step[2] or {}
    for i = 1, #list, 2 do
      local id, body = list[i], list[i + 1]
      bytes = bytes + #body
      if not redis.call('ZSCORE', KEYS[1], id) then
        local where = redis.call('HGET', KEYS[4], id)
        local due = due_of(where or '', body)
        local added = redis.pcall('ZADD', KEYS[1], due, id)
        if type(added) == 'table' then -- at maxmemory, when nothing was due: it is looked for again later
          stranded = 0
          break
        end
        if not where then redis.call('HSET', KEYS[4], id, ARGV[3] .. ' ' .. due) end
        back = back + 1
      end
    end
    if back >= stranded then cursor = '0' end
    if cursor == '0' or bytes >= 262144 then break end
  end
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {moved, lost, first[2] or '', time[1] .. string.format('%06d', time[2]), back, cursor}
