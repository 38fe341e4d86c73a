-- switch adds or changes a kill switch, or lifts one; those that are over go.
-- KEYS: 1 switches
-- ARGV: 1 its ID  2 what it says, '' lifts it  3 how long it holds in ms (0: until it is lifted)  4 how many there may be  5 wake channel
-- returns {how many of that ID there were, when it was made and when it is over in ms (0: never, '' when it is lifted)}, or {-1} when there are too many
-- The version is a time in µs: one that a worker does not know says that it has to read them. The key goes with the last
-- switch, and by itself when all that are left are over.
if ARGV[1] == 'version' then return {0, '', ''} end -- no switch is called so: it is what changes with them
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all = redis.call('HGETALL', KEYS[1])
local over, left, longest, was = {}, 0, 0, 0
local function note(id, till)
  left = left + 1
  longest = longest and till > 0 and math.max(longest, till)
end
for i = 1, #all, 2 do
  if all[i] ~= 'version' then
    local till = tonumber(string.match(all[i + 1], '^%d+ (%d+)\n') or 0)
    local gone = till > 0 and till <= now
    if all[i] == ARGV[1] then was = gone and 0 or 1 end
    if gone then over[#over + 1] = all[i] elseif all[i] ~= ARGV[1] then note(all[i], till) end
  end
end
if ARGV[2] ~= '' and left >= tonumber(ARGV[4]) then return {-1} end
redis.call('HDEL', KEYS[1], ARGV[1], unpack(over)) -- first what a full Redis takes too: a switch is small, and may be what helps then
local made, till = string.format('%.0f', now), ''
if ARGV[2] ~= '' then
  till = ARGV[3] == '0' and '0' or string.format('%.0f', now + ARGV[3])
  note(ARGV[1], tonumber(till))
  redis.call('HSET', KEYS[1], ARGV[1], made .. ' ' .. till .. '\n' .. ARGV[2])
end
if left == 0 then
  redis.call('DEL', KEYS[1])
elseif ARGV[2] ~= '' or was == 1 or #over > 0 then
  redis.call('HSET', KEYS[1], 'version', time[1] .. string.format('%06d', time[2]))
  redis.call('PERSIST', KEYS[1])
  if longest then redis.call('PEXPIRE', KEYS[1], longest - now) end
end
redis.pcall('PUBLISH', ARGV[5], 'switch ' .. KEYS[1]) -- a hint: the next heartbeat reads the version
return {was, made, till}
