-- beat renews the leases of what a worker holds on one stream, and tells it what it needs to know.
-- KEYS: 1 stream  2 redelivery  3 suspects  4 config
-- ARGV: 1 group  2 consumer  3 entries held of the stream  4 of redelivery  5 of suspects  6.. their IDs, in that order
-- returns {now in ms, epoch, suspects waiting, {{lost}, {lost}, {lost}}, {{deleted}, {deleted}, {deleted}}}
-- Only entries that this consumer still owns are claimed: a claim of the others would steal them back.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = redis.call('HGET', KEYS[4], 'epoch:' .. ARGV[1]) or '0'
local waiting = redis.call('XLEN', KEYS[3])
local mine, lost, deleted = {{}, {}, {}}, {{}, {}, {}}, {{}, {}, {}}
local at = 6
for lane = 1, 3 do
  local n = tonumber(ARGV[2 + lane])
  if n > 0 then
    local owned = {}
    local from = '-'
    while from do -- in pages: what is owned and not held, after lost replies, can be more than what is held
      local page = redis.call('XPENDING', KEYS[lane], ARGV[1], from, '+', 1000, ARGV[2])
      for _, e in ipairs(page) do owned[e[1]] = true end
      from = #page == 1000 and '(' .. page[#page][1]
    end
    for i = at, at + n - 1 do
      table.insert(owned[ARGV[i]] and mine[lane] or lost[lane], ARGV[i])
    end
    at = at + n
  end
end
for lane = 1, 3 do
  for first = 1, #mine[lane], 4000 do
    local last = math.min(first + 3999, #mine[lane])
    local args = {'XCLAIM', KEYS[lane], ARGV[1], ARGV[2], '0'}
    for i = first, last do args[#args + 1] = mine[lane][i] end
    args[#args + 1] = 'JUSTID'
    local there = {}
    for _, id in ipairs(redis.call(unpack(args))) do there[id] = true end
    for i = first, last do -- XCLAIM lets go of what was deleted, and leaves it out of its answer
      if not there[mine[lane][i]] then table.insert(deleted[lane], mine[lane][i]) end
    end
  end
end
return {string.format('%.0f', now), epoch, waiting, lost, deleted}
