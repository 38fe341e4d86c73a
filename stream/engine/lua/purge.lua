-- purge deletes dead letters and frees their IDs, and locks that an older worker left to them.
-- KEYS: 1 dead  2 ids  3.. locks
-- ARGV: 1.. of each: dead entry, id, which of KEYS is its lock (0: it has none)
-- returns how many were deleted
redis.call('HLEN', KEYS[2]) -- a key of another type fails here, before the first write
local n = 0
for i = 1, #ARGV, 3 do
  if redis.call('XDEL', KEYS[1], ARGV[i]) == 1 then
    n = n + 1
    redis.call('HDEL', KEYS[2], ARGV[i + 1])
    local lock = tonumber(ARGV[i + 2])
    if lock > 0 and redis.pcall('GET', KEYS[lock]) == ARGV[i + 1] then redis.call('DEL', KEYS[lock]) end
  end
end
return n
