-- start is asked before a job with a unique key runs that says so: it ends a lock that holds until then, or reads the latest data.
-- Part: unlock.lua
-- KEYS: 1 the stream the entry was read from  2 ids  3 lock  4 next  5 stream
-- ARGV: 1 group  2 consumer ('' when the entry is known to be ours and gone)  3 entry  4 id  5 key  6 what for: end the lock (end) or the latest data (read)
-- returns {0} the entry is not ours any more, {1, the data behind the lock as next has them, or ''}
if ARGV[2] ~= '' and #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return {0} end
if ARGV[6] == 'end' then
  unlock(KEYS[3], KEYS[4], KEYS[5], KEYS[2], ARGV[4], ARGV[5], '0')
  return {1, ''}
end
local kept = redis.pcall('GET', KEYS[3]) == ARGV[4] and redis.pcall('HGET', KEYS[4], ARGV[5])
return {1, type(kept) == 'string' and kept or ''}
