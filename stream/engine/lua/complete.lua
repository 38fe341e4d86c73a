-- complete ends one job that has an ID; it does nothing when late.
-- KEYS: 1 the stream the entry was read from  2 ids  3 record of the job
-- ARGV: 1 group  2 entry  3 delete (1 or 0)  4 id  5 state  6 how long the record is kept in ms (0: none)
-- returns 1 completed, 0 somebody else ended it
local where = redis.call('HGET', KEYS[2], ARGV[4]) -- a key of another type fails here, before the first write
if tonumber(ARGV[6]) > 0 then redis.call('HEXISTS', KEYS[3], 'state') end
local acked = redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if ARGV[3] == '1' then
  if redis.call('XDEL', KEYS[1], ARGV[2]) == 0 then return 0 end
elseif acked == 0 then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[4])
if tonumber(ARGV[6]) > 0 then
  local mark = string.match(where or '', '^%S+ %S+ (%S+)$') -- of the publisher: its repeat after a lost answer is no duplicate
  redis.call('HSET', KEYS[3], 'state', ARGV[5], 'mark', mark or '')
  redis.call('PEXPIRE', KEYS[3], ARGV[6])
end
return 1
