-- schedule stores a job for later, unless one with its ID stands. Redis's clock decides when a delay ends.
-- KEYS: 1 scheduled  2 scheduled:jobs  3 ids  4 record of the job  5 stream  6 cancel marks
-- ARGV: 1 id  2 nonce  3 delay in ms, or empty  4 due in ms, or empty  5 body  6 wake channel  7 max length (0: none)
-- returns {0, due in ms} stored, {1, where} a job with the ID stands, {2, length} full, {3, where} as 1, and its entry is not in the stream: free.lua says whether it is gone
local where = redis.call('HGET', KEYS[3], ARGV[1])
if where then
  local entry = string.match(where, '^orders (%S+)')
  return {entry and #redis.call('XRANGE', KEYS[5], entry, entry) == 0 and 3 or 1, where}
end
local parked = redis.call('ZSCORE', KEYS[1], ARGV[1]) -- its field may have gone with another program's job of the same ID
if parked then return {1, 'scheduled ' .. parked} end
local state, mark = string.match(redis.call('GETRANGE', KEYS[4], 0, 63), '^(%l+) ?(%S*)') -- the whole of it may hold a large result
if state and state ~= 'missed' then return {1, state .. ' - ' .. mark} end
local max = tonumber(ARGV[7])
if max > 0 then
  local len = redis.call('XLEN', KEYS[5]) + redis.call('ZCARD', KEYS[1])
  if len >= max then return {2, tostring(len)} end
end
local kind = redis.call('TYPE', KEYS[2])['ok']
if kind ~= 'none' and kind ~= 'hash' then return redis.error_reply('WRONGTYPE ' .. KEYS[2] .. ' is a ' .. kind) end
local due = tonumber(ARGV[4])
if not due then
  local now = redis.call('TIME')
  due = now[1] * 1000 + math.ceil(now[2] / 1000) + tonumber(ARGV[3])
end
local score = string.format('%.0f', due)
redis.call('ZADD', KEYS[1], score, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[5])
redis.call('HSET', KEYS[3], ARGV[1], 'scheduled ' .. score .. ' ' .. ARGV[2])
redis.pcall('ZREM', KEYS[6], ARGV[1]) -- of an earlier job with this ID, which had succeeded all the same
if redis.call('ZRANGE', KEYS[1], 0, 0)[1] == ARGV[1] then
  redis.pcall('PUBLISH', ARGV[6], score .. ' ' .. KEYS[1]) -- a hint: a user without the channel's right loses nothing else
end
return {0, score}
