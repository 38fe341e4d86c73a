-- redrive sends one dead letter back to its group.
-- KEYS: 1 dead  2 redelivery  3 ids  4.. lock, when it had one
-- ARGV: 1 dead entry  2 id  3 type  4 data  5 traceparent  6 opts  7 how long the lock holds in ms (0: until its job ends it)
-- returns the new entry's ID, '' when the dead letter is gone, or {holder, where it is} when another job has taken the lock
local want = {'stream', 'hash'}
for i = 2, 3 do
  local t = redis.call('TYPE', KEYS[i])['ok']
  if t ~= 'none' and t ~= want[i - 1] then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. t) end
end
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return '' end
local holder = KEYS[4] and redis.call('GET', KEYS[4])
if holder and holder ~= ARGV[2] then -- it counts as unique.lua says
  local at = redis.call('HGET', KEYS[3], holder)
  if at and string.sub(at, 1, 5) ~= 'dead ' or not at and redis.call('PTTL', KEYS[4]) > 0 then return {holder, at or ''} end
end
local where = redis.call('HGET', KEYS[3], ARGV[2])
local mark = string.match(where or '', '^%S+ %S+( %S+)$') or '' -- its publisher may still repeat itself
redis.call('HDEL', KEYS[3], ARGV[2]) -- at maxmemory the first write must be one that frees
local entry = redis.pcall('XADD', KEYS[2], '*', 'type', ARGV[3], 'data', ARGV[4], 'traceparent', ARGV[5], 'opts', ARGV[6])
if type(entry) == 'table' then -- the stream takes no entry, as one whose last ID is the greatest there is: the letter stays
  if where then redis.call('HSET', KEYS[3], ARGV[2], where) end
  return entry
end
redis.call('XDEL', KEYS[1], ARGV[1])
if KEYS[4] and ARGV[7] == '0' then redis.call('SET', KEYS[4], ARGV[2])
elseif KEYS[4] then redis.call('SET', KEYS[4], ARGV[2], 'PX', ARGV[7]) end
redis.call('HSET', KEYS[3], ARGV[2], 'redelivery ' .. entry .. mark)
return entry
