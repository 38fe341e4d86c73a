-- purge deletes dead letters and frees their IDs.
-- KEYS: 1 dead  2 ids
-- ARGV: pairs of dead entry, id
-- returns how many were deleted
redis.call('HLEN', KEYS[2]) -- a key of another type fails here, before the first write
local n = 0
for i = 1, #ARGV, 2 do
  if redis.call('XDEL', KEYS[1], ARGV[i]) == 1 then
    n = n + 1
    redis.call('HDEL', KEYS[2], ARGV[i + 1])
  end
end
return n
