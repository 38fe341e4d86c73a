-- publish adds a job that has an ID, unless one with that ID stands.
-- KEYS: 1 stream  2 ids  3 record of the job
-- ARGV: 1 id  2 nonce  3 max length (0: none)  4 type  5 data  6 traceparent  7 opts
-- returns {0, entry id} stored, {1, where} a job with the ID stands, {2, length} full
local where = redis.call('HGET', KEYS[2], ARGV[1])
if where then
  local entry = string.match(where, '^orders (%S+)')
  if not entry or #redis.call('XRANGE', KEYS[1], entry, entry) > 0 then
    return {1, where}
  end
end
local record = redis.call('HMGET', KEYS[3], 'state', 'mark')
if record[1] then return {1, record[1] .. ' - ' .. (record[2] or '')} end
local max = tonumber(ARGV[3])
if max > 0 then
  local len = redis.call('XLEN', KEYS[1])
  if len >= max then return {2, tostring(len)} end
end
local entry = redis.call('XADD', KEYS[1], '*', 'type', ARGV[4], 'data', ARGV[5], 'traceparent', ARGV[6], 'opts', ARGV[7])
redis.call('HSET', KEYS[2], ARGV[1], 'orders ' .. entry .. ' ' .. ARGV[2])
return {0, entry}
