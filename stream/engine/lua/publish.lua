-- publish adds a job that has an ID, unless one with that ID stands.
-- KEYS: 1 stream  2 ids  3 record of the job  4 cancel marks
-- ARGV: 1 id  2 nonce  3 max length (0: none)  4 type  5 data  6 traceparent  7 opts
-- returns {0, entry id} stored, {1, where} a job with the ID stands, {2, length} full, {3, where} as 1, and its entry is not in the stream: free.lua says whether it is gone
local where = redis.call('HGET', KEYS[2], ARGV[1])
if where then
  local entry = string.match(where, '^orders (%S+)')
  return {entry and #redis.call('XRANGE', KEYS[1], entry, entry) == 0 and 3 or 1, where}
end
local state, mark = string.match(redis.call('GETRANGE', KEYS[3], 0, 63), '^(%l+) ?(%S*)') -- the whole of it may hold a large result
if state and state ~= 'missed' then return {1, state .. ' - ' .. mark} end
local max = tonumber(ARGV[3])
if max > 0 then
  local len = redis.call('XLEN', KEYS[1])
  if len >= max then return {2, tostring(len)} end
end
local entry = redis.call('XADD', KEYS[1], '*', 'type', ARGV[4], 'data', ARGV[5], 'traceparent', ARGV[6], 'opts', ARGV[7])
redis.call('HSET', KEYS[2], ARGV[1], 'orders ' .. entry .. ' ' .. ARGV[2])
redis.pcall('ZREM', KEYS[4], ARGV[1]) -- of an earlier job with this ID, which had succeeded all the same
return {0, entry}
