-- redrive sends one dead letter back to its group.
-- KEYS: 1 dead  2 redelivery  3 ids
-- ARGV: 1 dead entry  2 id  3 type  4 data  5 traceparent  6 opts
-- returns the new entry's ID, or '' when the dead letter is gone
local want = {'stream', 'hash'}
for i = 2, 3 do
  local t = redis.call('TYPE', KEYS[i])['ok']
  if t ~= 'none' and t ~= want[i - 1] then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. t) end
end
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return '' end
local where = redis.call('HGET', KEYS[3], ARGV[2])
redis.call('HDEL', KEYS[3], ARGV[2]) -- at maxmemory the first write must be one that frees
local entry = redis.pcall('XADD', KEYS[2], '*', 'type', ARGV[3], 'data', ARGV[4], 'traceparent', ARGV[5], 'opts', ARGV[6])
if type(entry) == 'table' then -- the stream takes no entry, as one whose last ID is the greatest there is: the letter stays
  if where then redis.call('HSET', KEYS[3], ARGV[2], where) end
  return entry
end
redis.call('XDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[2], 'redelivery ' .. entry)
return entry
