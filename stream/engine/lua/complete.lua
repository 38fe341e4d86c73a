-- complete ends jobs that have an ID or leave a record: all at once, and one by one only when somebody else ended some of them.
-- Part: unlock.lua
-- KEYS: 1 the stream the entries were read from  2 ids  3 cancel marks  4.. the record of each job; and where there are locks, next, stream and each lock
-- ARGV: 1 group  2 delete (1: entries go as they end)  3 the stream's name in ids  4 state  5 the channel of ends  6 how many locks there are  7.. of each job: entry, ID ('' when ids does not know it), how long its record is kept in ms (0: it leaves none), its record: with ID what comes behind the mark, without all of it; of each lock: the number of its job, its key, the version that the run has seen
-- returns {{entries that were not ours to end any more}, {why records could not be written}}
-- A record is "<state> <mark of the publisher>", and more on further lines. Only what this call ends gets one, so that a late
-- success leaves no trace where the job goes on. One that Redis refuses does not keep its job from ending. A full Redis would
-- take it, as what follows XACK is taken, and grow beyond its limit: there only the first line is written, of what ids knows.
local locks = tonumber(ARGV[6])
local n = #KEYS - 3 - (locks > 0 and locks + 2 or 0)
local entries, indexed, where = {}, {}, {}
for i = 1, n do
  entries[i] = ARGV[3 + 4 * i]
  local id = ARGV[4 + 4 * i]
  if id ~= '' then indexed[#indexed + 1] = id end
end
if #indexed > 0 then
  local found = redis.call('HMGET', KEYS[2], unpack(indexed)) -- a key of another type fails here, before the first write
  for i, id in ipairs(indexed) do where[id] = found[i] or nil end
end
-- what was deleted while it was held is complete all the same, if it is where ids says: else its ID would stay taken for good
local function here(i)
  local at = where[ARGV[4 + 4 * i]]
  return at and string.match(at, '^%S+ %S+') == ARGV[3] .. ' ' .. entries[i]
end
local probe = redis.pcall('SETRANGE', KEYS[4], 0, '') -- writes nothing, and is refused by a full Redis
local full = type(probe) == 'table' and string.find(probe['err'], 'OOM', 1, true) and probe['err']
local ended, went, late = {}, {}, {}
if ARGV[2] ~= '1' then -- the entries stay, and nothing but its own XACK tells whose end it was
  for i = 1, n do
    ended[i] = redis.call('XACK', KEYS[1], ARGV[1], entries[i]) == 1
    went[i] = ended[i]
  end
elseif redis.call('XACK', KEYS[1], ARGV[1], unpack(entries)) == n then
  local all = redis.call('XDEL', KEYS[1], unpack(entries)) == n
  for i = 1, n do
    ended[i], went[i] = true, all or here(i)
  end
else -- some were acknowledged before: the entry tells who was first, and what is gone was ended elsewhere
  for i = 1, n do
    went[i] = redis.call('XDEL', KEYS[1], entries[i]) == 1 or here(i)
    ended[i] = went[i]
  end
end
local gone, said, texts, bytes, refused = {}, {}, {}, 0, {}
local few = ARGV[2] == '1' and n <= 8
for i = 1, n do
  local id, keep = ARGV[4 + 4 * i], ARGV[5 + 4 * i]
  if not ended[i] then
    late[#late + 1] = entries[i]
  else
    if id ~= '' and went[i] then gone[#gone + 1] = id end
    if keep ~= '0' and full and ARGV[6 + 4 * i] ~= '' then refused[#refused + 1] = full end
    local text = ''
    if keep ~= '0' and (not full or id ~= '') then
      local record = ARGV[6 + 4 * i]
      if id ~= '' then
        local mark = string.match(where[id] or '', '^%S+ %S+ (%S+)$') or '' -- its publisher's repeat after a lost answer is no duplicate
        record = ARGV[4] .. ' ' .. mark .. (full and '' or record)
      end
      -- GET makes it fail where there is a key of another type
      local set = redis.pcall('SET', KEYS[3 + i], record, 'PX', keep, 'GET')
      if type(set) == 'table' then refused[#refused + 1] = set['err'] else text = record end
    end
    if keep ~= '0' then
      said[#said + 1] = id ~= '' and id or entries[i]
      if few then
        texts[#texts + 1] = #text .. '\n' .. text
        bytes = bytes + #text
      end
    end
  end
end
if #gone > 0 then
  redis.call('HDEL', KEYS[2], unpack(gone))
  redis.pcall('ZREM', KEYS[3], unpack(gone)) -- the next job with this ID is another
end
for l = 1, locks do
  local a = 6 + 4 * n + 3 * (l - 1)
  local i = tonumber(ARGV[a + 1])
  if went[i] then unlock(KEYS[#KEYS - locks + l], KEYS[4 + n], KEYS[5 + n], KEYS[2], ARGV[4 + 4 * i], ARGV[a + 2], ARGV[a + 3]) end
end
if #said > 0 then
  local hint = table.concat(said, '\n')
  if few and bytes <= 4096 then -- who waits for one of few need not ask for its record
    local listening = redis.pcall('PUBSUB', 'NUMSUB', ARGV[5])[2] -- on this server, or nil: a user without the right to ask
    if listening and listening > 0 then hint = hint .. '\n\n' .. table.concat(texts) end
  end
  redis.pcall('PUBLISH', ARGV[5], hint) -- a hint: a user without the channel's right loses nothing else
end
return {late, refused}
