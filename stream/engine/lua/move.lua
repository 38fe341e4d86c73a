-- move takes a job that is this consumer's to another stream of its group: back (redelivery) or away (dead).
-- Part: unlock.lua
-- KEYS: 1 the stream the entry was read from  2 destination stream  3 ids  4 cancel marks  5.. lock, next and stream, when a lock ends
-- ARGV: 1 group  2 consumer ('' when the entry is known to be ours and gone)  3 entry  4 delete (1 or 0)  5 id ('' leaves ids alone)  6 the destination's name in ids  7 the channel of ends ('' when this is none)  8 the lock's key  9 the version that the run has seen  10.. fields of the new entry
-- returns the new entry's ID, '' when the entry is not ours any more, or 'cancelled' when the job is to end so: it is still ours then
if ARGV[2] ~= '' and #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return '' end -- an entry that was deleted while it was held goes on: its owner has all of it
if ARGV[5] ~= '' and type(redis.pcall('ZSCORE', KEYS[4], ARGV[5])) == 'string' then return 'cancelled' end
local want = {'stream', 'hash'}
for i = 2, 3 do
  local t = redis.call('TYPE', KEYS[i])['ok']
  if t ~= 'none' and t ~= want[i - 1] then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. t) end
end
local mark = string.match(redis.call('HGET', KEYS[3], ARGV[5]) or '', '^%S+ %S+( %S+)$') or '' -- of the publisher
local fields = {}
for i = 10, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
local entry = redis.pcall('XADD', KEYS[2], '*', unpack(fields))
if type(entry) == 'table' then -- the stream takes no entry, as one whose last ID is the greatest there is: the job stays ours
  if ARGV[2] ~= '' then redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'FORCE', 'JUSTID') end
  return entry
end
if ARGV[4] == '1' then redis.call('XDEL', KEYS[1], ARGV[3]) end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[3], ARGV[5], ARGV[6] .. ' ' .. entry .. mark) end
if KEYS[5] then unlock(KEYS[5], KEYS[6], KEYS[7], KEYS[3], ARGV[5], ARGV[8], ARGV[9]) end
if ARGV[7] ~= '' then redis.pcall('PUBLISH', ARGV[7], ARGV[5]) end -- a hint: a user without the channel's right loses nothing else
return entry
