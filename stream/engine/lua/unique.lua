-- unique adds a job that has a unique key, now or for later, unless one with its ID stands or another holds the key.
-- KEYS: 1 stream  2 ids  3 record of the job  4 lock  5 scheduled  6 scheduled:jobs  7 next  8 config  9 cancel marks
-- ARGV: 1 id  2 nonce  3 max length (0: none)  4 delay in ms, or empty  5 due in ms, or empty; both empty: now  6 key  7 how long the lock holds in ms (0: until its job ends it)  8 it ends when its job is done (1 or 0)  9 on conflict: keep, replace or coalesce  10 wake channel  11 type  12 data  13 traceparent  14 opts up to the ID  15 opts from behind the ID
-- returns {0, entry id or due in ms} stored, {1, where} a job with the ID stands, {2, length} full, {3, where} as 1, and its entry is not in the stream: free.lua says whether it is gone,
--   {1, where or '', holder} another holds the key, {3, where, holder} as 3, {4, kind} the stream's kind forbids it, {5, where, holder} the holder has taken the data, {7, where, holder} as 5 and 3
-- A lock without a time counts only while its holder is in ids and not dead. The mark of who changed a job or what is kept
-- behind it last tells that call when it is repeated.
local kind = redis.call('HGET', KEYS[8], 'kind')
if ARGV[8] == '1' and kind == 'events' then return {4, kind} end
local function gone(where) -- a job that ought to be in the stream is not
  local entry = string.match(where, '^orders (%S+)')
  return entry and #redis.call('XRANGE', KEYS[1], entry, entry) == 0
end
local where = redis.call('HGET', KEYS[2], ARGV[1])
if where then return {gone(where) and 3 or 1, where} end
local parked = redis.call('ZSCORE', KEYS[5], ARGV[1]) -- its field may have gone with another program's job of the same ID
if parked then return {1, 'scheduled ' .. parked} end
local state, mark = string.match(redis.call('GETRANGE', KEYS[3], 0, 63), '^(%l+) ?(%S*)') -- the whole of it may hold a large result
if state and state ~= 'missed' then return {1, state .. ' - ' .. mark} end
local bodies = redis.call('TYPE', KEYS[6])['ok']
if bodies ~= 'none' and bodies ~= 'hash' then return redis.error_reply('WRONGTYPE ' .. KEYS[6] .. ' is a ' .. bodies) end
local stream = redis.call('TYPE', KEYS[1])['ok']
if stream ~= 'none' and stream ~= 'stream' then return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is a ' .. stream) end
local kept = ARGV[9] == 'coalesce' and redis.call('HGET', KEYS[7], ARGV[6])
local function opts_for(id) return ARGV[14] .. cjson.encode(id) .. ARGV[15] end
local function body_for(opts)
  return string.format('%d %d %d %d\n', #ARGV[11], #ARGV[12], #ARGV[13], #opts) .. ARGV[11] .. ARGV[12] .. ARGV[13] .. opts
end
local later = ARGV[4] ~= '' or ARGV[5] ~= ''
local function due()
  local at = tonumber(ARGV[5])
  if not at then
    local now = redis.call('TIME')
    at = now[1] * 1000 + math.ceil(now[2] / 1000) + tonumber(ARGV[4])
  end
  return string.format('%.0f', at)
end
local function lock(id) -- what may be behind it is older than this, and so is a mark of an earlier job with this ID
  redis.pcall('ZREM', KEYS[9], id)
  redis.pcall('HDEL', KEYS[7], ARGV[6])
  if ARGV[7] == '0' then redis.call('SET', KEYS[4], id) else redis.call('SET', KEYS[4], id, 'PX', ARGV[7]) end
end
local function store(id) -- as a job of this ID: the first write is one that a full Redis refuses
  local opts = opts_for(id)
  if not later then
    local entry = redis.call('XADD', KEYS[1], '*', 'type', ARGV[11], 'data', ARGV[12], 'traceparent', ARGV[13], 'opts', opts)
    redis.call('HSET', KEYS[2], id, 'orders ' .. entry .. ' ' .. ARGV[2])
    lock(id)
    return entry
  end
  local at = due()
  redis.call('ZADD', KEYS[5], at, id)
  redis.call('HSET', KEYS[6], id, body_for(opts))
  redis.call('HSET', KEYS[2], id, 'scheduled ' .. at .. ' ' .. ARGV[2])
  lock(id)
  if redis.call('ZRANGE', KEYS[5], 0, 0)[1] == id then
    redis.pcall('PUBLISH', ARGV[10], at .. ' ' .. KEYS[5]) -- a hint: a user without the channel's right loses nothing else
  end
  return at
end
local holder = redis.call('GET', KEYS[4])
if holder then
  local timed = redis.call('PTTL', KEYS[4]) > 0
  where = redis.call('HGET', KEYS[2], holder)
  local missing = where and gone(where) or false
  if where and string.sub(where, 1, 5) ~= 'dead ' or timed and not where then
    if ARGV[9] == 'replace' and where and string.match(where, '^%S+ %S+ (%S+)$') == ARGV[2] then return {5, where, holder} end
    if ARGV[9] == 'replace' and where and redis.call('ZSCORE', KEYS[5], holder) then
      local at = store(holder)
      if later then return {5, 'scheduled ' .. at, holder} end
      redis.call('ZREM', KEYS[5], holder)
      redis.call('HDEL', KEYS[6], holder)
      return {5, 'orders ' .. at, holder}
    end
    if ARGV[9] == 'coalesce' and where and not timed then
      local version, last = string.match(kept or '', '^(%d+) (%S+) ')
      if last ~= ARGV[2] then
        redis.call('HSET', KEYS[7], ARGV[6], string.format('%.0f', (tonumber(version) or 0) + 1) .. ' ' .. ARGV[2] .. ' ' .. ARGV[1] .. '\n' .. body_for(opts_for(ARGV[1])))
        redis.pcall('ZREM', KEYS[9], ARGV[1]) -- of an earlier job with this ID
      end
      return {missing and 7 or 5, where, holder}
    end
    return {missing and 3 or 1, where or '', holder}
  end
end
local max = tonumber(ARGV[3])
if max > 0 then
  local len = redis.call('XLEN', KEYS[1]) + (later and redis.call('ZCARD', KEYS[5]) or 0)
  if len >= max then return {2, tostring(len)} end
end
return {0, store(ARGV[1])}
