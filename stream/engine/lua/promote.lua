-- promote moves what is due to the stream it goes to, oldest first, and stops after about 1 MiB: large jobs must not hold Redis up.
-- KEYS: 1 sorted set  2 bodies  3 destination stream  4 ids
-- ARGV: 1 most jobs to move  2 the destination's name in ids
-- returns {moved, lost bodies, next due in ms or '', now in ms}
local dest = redis.call('TYPE', KEYS[3])['ok']
if dest ~= 'none' and dest ~= 'stream' then return redis.error_reply('WRONGTYPE ' .. KEYS[3] .. ' is a ' .. dest) end
local index = redis.call('TYPE', KEYS[4])['ok']
if index ~= 'none' and index ~= 'hash' then return redis.error_reply('WRONGTYPE ' .. KEYS[4] .. ' is a ' .. index) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'WITHSCORES', 'LIMIT', 0, ARGV[1])
local moved, lost, bytes = 0, 0, 0
for n = 1, #due, 2 do
  local id, score = due[n], due[n + 1]
  local body = redis.call('HGET', KEYS[2], id)
  local f = {'', '', '', ''}
  if body then
    local a, b, c, d, eol = string.match(body, '^(%d+) (%d+) (%d+) (%d+)(\n)')
    local head = string.find(body, '\n', 1, true)
    if eol and #a < 11 and #b < 11 and #c < 11 and #d < 11 and head + a + b + c + d == #body then
      local at = head + 1
      for i, n in ipairs({tonumber(a), tonumber(b), tonumber(c), tonumber(d)}) do
        f[i] = string.sub(body, at, at + n - 1)
        at = at + n
      end
    else
      f[2], f[4] = body, cjson.encode({id = id}) -- not ours: kept, as a job of no type
    end
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
    local mark = string.match(redis.call('HGET', KEYS[4], id) or '', '^scheduled %S+( %S+)$') -- its publisher may still repeat itself
    redis.call('HSET', KEYS[4], id, ARGV[2] .. ' ' .. entry .. (mark or ''))
    moved = moved + 1
    bytes = bytes + #body
    if bytes >= 1048576 then break end
  else
    redis.call('HDEL', KEYS[4], id)
  end
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {moved, lost, first[2] or '', string.format('%.0f', now)}
