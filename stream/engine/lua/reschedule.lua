-- reschedule gives a deferred or parked job another due time, if it is as the caller saw it.
-- KEYS: 1 sorted set  2 bodies  3 ids
-- ARGV: 1 id  2 its opts as the caller saw them  3 its opts from now on, up to where they say when it is due  4 and behind that  5 delay in ms, or empty  6 due in ms, or empty (both empty: now)  7 the set's name in ids  8 wake channel
-- returns {1, due in ms} done, {0, ''} the job is not in the set, {-1, ''} it has changed
local parked, body = redis.call('ZSCORE', KEYS[1], ARGV[1]), redis.call('HGET', KEYS[2], ARGV[1])
if not parked or not body then return {0, ''} end
local where = redis.call('HGET', KEYS[3], ARGV[1]) -- a key of another type fails here, before the first write
local a, b, c, d, eol = string.match(body, '^(%d+) (%d+) (%d+) (%d+)(\n)')
local head = string.find(body, '\n', 1, true)
if not eol or #a > 10 or #b > 10 or #c > 10 or #d > 10 or head + a + b + c + d ~= #body then return {-1, ''} end
if string.sub(body, head + a + b + c + 1) ~= ARGV[2] then return {-1, ''} end
local due = tonumber(ARGV[6])
if not due then
  local now = redis.call('TIME')
  due = now[1] * 1000 + (ARGV[5] == '' and math.floor(now[2] / 1000) or math.ceil(now[2] / 1000) + tonumber(ARGV[5]))
end
local score = string.format('%.0f', due)
local opts = ARGV[3] .. score .. ARGV[4]
redis.call('ZADD', KEYS[1], score, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], a .. ' ' .. b .. ' ' .. c .. ' ' .. #opts .. '\n' .. string.sub(body, head + 1, head + a + b + c) .. opts)
local mark = string.match(where or '', '^%S+ %S+( %S+)$') or '' -- of the publisher
redis.call('HSET', KEYS[3], ARGV[1], ARGV[7] .. ' ' .. score .. mark)
if redis.call('ZRANGE', KEYS[1], 0, 0)[1] == ARGV[1] then
  redis.pcall('PUBLISH', ARGV[8], score .. ' ' .. KEYS[1]) -- a hint: a user without the channel's right loses nothing else
end
return {1, score}
