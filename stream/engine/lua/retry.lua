-- retry parks a job that failed, was snoozed, bounced or paused until its delay is over, if it is still this consumer's.
-- KEYS: 1 the stream the entry was read from  2 retrying  3 retrying:jobs  4 ids  5 cancel marks  6 paused
-- ARGV: 1 group  2 consumer ('' when the entry is known to be ours and gone)  3 entry  4 delete (1 or 0)  5 id  6 delay in ms  7 body  8 wake channel  9 a kill switch puts it off (1 or 0)
-- returns due in ms, 0 when the entry is not ours any more, -3 when the job is to end as cancelled and is still ours, or -2 when another job with this ID is parked already (on an events stream not under its own entry's: that is this job)
if ARGV[2] ~= '' and #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return 0 end -- an entry that was deleted while it was held goes on: its owner has all of it
if type(redis.pcall('ZSCORE', KEYS[5], ARGV[5])) == 'string' then return -3 end
local want = {'zset', 'hash', 'hash'}
for i = 2, 4 do
  local t = redis.call('TYPE', KEYS[i])['ok']
  if t ~= 'none' and t ~= want[i - 1] then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. t) end
end
local parked = redis.call('ZSCORE', KEYS[2], ARGV[5])
if parked and (ARGV[5] ~= ARGV[3] or ARGV[4] == '1') then return -2 end
local mark = string.match(redis.call('HGET', KEYS[4], ARGV[5]) or '', '^%S+ %S+( %S+)$') or '' -- of the publisher
local now = redis.call('TIME')
local due = string.format('%.0f', now[1] * 1000 + math.ceil(now[2] / 1000) + tonumber(ARGV[6]))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
if ARGV[4] == '1' then redis.call('XDEL', KEYS[1], ARGV[3]) end
if parked then return tonumber(parked) end -- this very job, which a group of an events stream had a second time when it was made again
redis.call('ZADD', KEYS[2], due, ARGV[5])
redis.call('HSET', KEYS[3], ARGV[5], ARGV[7])
redis.call('HSET', KEYS[4], ARGV[5], 'retrying ' .. due .. mark)
if ARGV[9] == '1' then redis.pcall('SADD', KEYS[6], ARGV[5]) else redis.pcall('SREM', KEYS[6], ARGV[5]) end -- an error, as the key is of another type: it waits for its time
if redis.call('ZRANGE', KEYS[2], 0, 0)[1] == ARGV[5] then
  redis.pcall('PUBLISH', ARGV[8], due .. ' ' .. KEYS[2]) -- a hint: a user without the channel's right loses nothing else
end
return tonumber(due)
