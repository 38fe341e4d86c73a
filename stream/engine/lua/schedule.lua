-- schedule stores a job for later, unless one with its ID stands. Redis's clock decides when a delay ends.
-- KEYS: 1 scheduled  2 scheduled:jobs  3 ids  4 record of the job  5 stream
-- ARGV: 1 id  2 nonce  3 delay in ms, or empty  4 due in ms, or empty  5 body  6 wake channel  7 max length (0: none)
-- returns {0, due in ms} stored, {1, where} a job with the ID stands, {2, length} full
local where = redis.call('HGET', KEYS[3], ARGV[1])
if where then
  local entry = string.match(where, '^orders (%S+)')
  if not entry or #redis.call('XRANGE', KEYS[5], entry, entry) > 0 then
    return {1, where}
  end
end
local record = redis.call('HMGET', KEYS[4], 'state', 'mark')
if record[1] then return {1, record[1] .. ' - ' .. (record[2] or '')} end
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
if redis.call('ZRANGE', KEYS[1], 0, 0)[1] == ARGV[1] then
  redis.pcall('PUBLISH', ARGV[6], score .. ' ' .. KEYS[1]) -- a hint: a user without the channel's right loses nothing else
end
return {0, score}
