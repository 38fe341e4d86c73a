-- leave removes a consumer that has nothing pending: XGROUP DELCONSUMER would drop what it holds.
-- KEYS: 1.. streams the consumer reads
-- ARGV: 1 group  2 consumer
-- returns how many streams it was removed from
local n = 0
for _, key in ipairs(KEYS) do
  local held = redis.pcall('XPENDING', key, ARGV[1], '-', '+', 1, ARGV[2])
  if not held['err'] and #held == 0 then
    redis.call('XGROUP', 'DELCONSUMER', key, ARGV[1], ARGV[2])
    n = n + 1
  end
end
return n
