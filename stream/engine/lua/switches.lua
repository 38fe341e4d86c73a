-- switches reads the kill switches that hold, and what a group has put off because of them.
-- KEYS: 1 switches  2 paused
-- ARGV: 1 most switches to tell, however many fields somebody has put there
-- returns {version or '', how many jobs the group has put off, then of each: ID, when it was made and is over (0: never) and, on the next lines, what it says}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all = redis.call('HGETALL', KEYS[1])
local paused = redis.pcall('SCARD', KEYS[2])
local answer = {'', type(paused) == 'number' and paused or 0} -- an error: the key is of another type
for i = 1, #all, 2 do
  local till = tonumber(string.match(all[i + 1], '^%d+ (%d+)\n') or 0)
  if all[i] == 'version' then
    answer[1] = all[i + 1]
  elseif (till == 0 or till > now) and #answer < 2 + 2 * ARGV[1] then
    answer[#answer + 1] = all[i]
    answer[#answer + 1] = all[i + 1]
  end
end
return answer
