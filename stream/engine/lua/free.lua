-- free frees the ID of a job that somebody deleted by hand: where ids says that it is, nothing is.
-- KEYS: 1 ids  2 stream  3 config  4 workers  5 record of the job  6.. where the job would be: a sorted set and its bodies, or a stream, of each group, or the stream itself
-- ARGV: 1 id  2 what ids says of it  3.. the groups, none for the stream itself and its own set
-- returns 1 freed, 0 the job stands, or nobody can say yet, -1 ids says something else by now
-- A set's body without its member is a job that promote puts back. What is in a set or dead nobody runs, so what is not
-- there is gone. A job in a stream may run though its entry was deleted: its worker has all of it. So the
-- time is written down when it is first missed, and its ID is free a lease or more after that, when each worker that may be
-- alive, as it was heard of within five leases, has said since that it runs nothing whose entry is gone. Nothing is free at
-- once, though no worker may seem to be alive: a full Redis does not take what they say of themselves. On an events stream's
-- own key the ID is taken for as long as its entry lies there, and no longer.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return -1 end
local place, at = string.match(ARGV[2], '^(%S+) (%S+)')
local groups = {}
if place ~= 'scheduled' then
  local asked, config = {}, redis.call('HGETALL', KEYS[3])
  for i = 3, #ARGV do asked[ARGV[i]] = true end
  for i = 1, #config, 2 do groups[#groups + 1] = string.match(config[i], '^epoch:(.+)') end
  for _, info in ipairs(redis.call('EXISTS', KEYS[2]) == 1 and redis.call('XINFO', 'GROUPS', KEYS[2]) or {}) do
    for i = 1, #info, 2 do
      if info[i] == 'name' then groups[#groups + 1] = info[i + 1] end
    end
  end
  for _, group in ipairs(groups) do
    if place ~= 'orders' and not asked[group] then return 0 end
  end
  if place ~= 'orders' and #groups == 0 then return 0 end
end
if place == 'scheduled' or place == 'retrying' then
  for i = 6, #KEYS, 2 do
    if redis.call('ZSCORE', KEYS[i], ARGV[1]) or redis.call('HEXISTS', KEYS[i + 1], ARGV[1]) == 1 then return 0 end
  end
else
  for i = 6, #KEYS do
    if #redis.call('XRANGE', KEYS[i], at, at) > 0 then return 0 end
  end
end
if place == 'redelivery' or place == 'suspects' or place == 'orders' and redis.call('HGET', KEYS[3], 'kind') ~= 'events' then
  for i = 6, #KEYS do
    for _, group in ipairs(place == 'orders' and groups or {ARGV[i - 3]}) do
      local held = redis.pcall('XPENDING', KEYS[i], group, at, at, 1)
      if held['err'] and string.sub(held['err'], 1, 7) ~= 'NOGROUP' or #held > 0 then return 0 end
    end
  end
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local record = redis.call('GETRANGE', KEYS[5], 0, 511)
  local since, what = string.match(record, '^missed (%d+) (.+)')
  if record ~= '' and not since then return 0 end
  local free, longest, rows = true, nil, redis.call('HGETALL', KEYS[4])
  since = what == ARGV[2] and tonumber(since)
  for i = 2, #rows, 2 do
    local heard, lease = string.match(rows[i], '"at":(%d+)'), string.match(rows[i], '"lease":(%d+)')
    longest = math.max(longest or 0, tonumber(lease) or 0)
    if not heard or not lease or now - heard <= 5 * lease then
      free = free and heard and lease and since and heard - since >= tonumber(lease) and string.match(rows[i], '"gone":(%d+)') == '0'
    end
  end
  if not free or not since or now - since < (longest or 30000) then
    if not since then
      redis.call('SET', KEYS[5], string.format('missed %.0f ', now) .. ARGV[2], 'PX', 604800000)
    end
    return 0
  end
  redis.call('DEL', KEYS[5])
end
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
