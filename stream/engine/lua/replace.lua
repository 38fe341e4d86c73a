-- replace changes one field of a hash, or deletes it, if it is as the caller saw it.
-- KEYS: 1 hash
-- ARGV: 1 field  2 what it holds ('': there is none)  3 what it is to hold ('': it goes)  4 a channel  5 what to say there
-- returns 1 done, or it is so already; 0 it has changed
local now = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if now == ARGV[3] then return 1 end
if now ~= ARGV[2] then return 0 end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
redis.pcall('PUBLISH', ARGV[4], ARGV[5]) -- a hint
return 1
