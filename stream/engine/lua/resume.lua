-- resume makes jobs due that a kill switch has put off: some of them, in no order.
-- KEYS: 1 paused  2 retrying  3 ids
-- ARGV: 1 most  2 wake channel
-- returns how many it has looked at: when that is most, there may be more
-- What has gone from retrying meanwhile, or is due, is left alone.
local wrong = redis.call('TYPE', KEYS[2])['ok']
if wrong ~= 'none' and wrong ~= 'zset' then return redis.error_reply('WRONGTYPE ' .. KEYS[2] .. ' is a ' .. wrong) end
local list = redis.call('SPOP', KEYS[1], ARGV[1])
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local moved = false
for _, id in ipairs(list) do
  local due = redis.call('ZSCORE', KEYS[2], id)
  if due and tonumber(due) > tonumber(now) then
    redis.call('ZADD', KEYS[2], 'XX', now, id)
    local where = redis.pcall('HGET', KEYS[3], id)
    local mark = string.match(type(where) == 'string' and where or '', '^retrying %S+(.*)$')
    if mark then redis.call('HSET', KEYS[3], id, 'retrying ' .. now .. mark) end
    moved = true
  end
end
if moved then redis.pcall('PUBLISH', ARGV[2], now .. ' ' .. KEYS[2]) end -- a hint: a user without the channel's right loses nothing else
return #list
