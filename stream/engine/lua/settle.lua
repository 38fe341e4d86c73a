-- settle ends a batch of jobs that succeeded: all at once, and one by one only when somebody else ended some of them.
-- KEYS: 1 the stream the entries were read from
-- ARGV: 1 group  2 delete (1: entries go as they complete)  3.. entry IDs, at most 4000
-- returns the IDs that were not ours to complete any more; on an events stream, where nothing tells which, as many ''
local ids = {}
for i = 3, #ARGV do ids[#ids + 1] = ARGV[i] end
local late = {}
local acked = redis.call('XACK', KEYS[1], ARGV[1], unpack(ids))
if ARGV[2] ~= '1' then
  for _ = acked + 1, #ids do late[#late + 1] = '' end
elseif acked == #ids then
  redis.call('XDEL', KEYS[1], unpack(ids))
else
  -- some were acknowledged before: the entry tells who was first, and what is gone was ended elsewhere
  for _, id in ipairs(ids) do
    if redis.call('XDEL', KEYS[1], id) == 0 then late[#late + 1] = id end
  end
end
return late
