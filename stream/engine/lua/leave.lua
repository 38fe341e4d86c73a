-- leave removes a consumer that has nothing pending: XGROUP DELCONSUMER would drop what it holds.
-- KEYS: 1 workers  2.. streams the consumer reads
-- ARGV: 1 group  2 consumer  3 leave it alone if it was heard of after this time in ms ('' in any case)
-- returns how many streams it was removed from
local row = ARGV[1] .. ':' .. ARGV[2]
local heard = tonumber(string.match(redis.call('HGET', KEYS[1], row) or '', '"at":(%d+)') or 0)
if ARGV[3] ~= '' and heard > tonumber(ARGV[3]) then return 0 end
redis.call('HDEL', KEYS[1], row)
local n = 0
for i = 2, #KEYS do
  local held = redis.pcall('XPENDING', KEYS[i], ARGV[1], '-', '+', 1, ARGV[2])
  if not held['err'] and #held == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[i], ARGV[1], ARGV[2])
    n = n + 1
  end
end
return n
