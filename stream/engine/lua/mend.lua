-- mend puts entries that a group has passed and that are in nobody's list into the list of a consumer that stands for nobody.
-- KEYS: 1 stream, redelivery or suspects, where entries go as they end  2 config
-- ARGV: 1 group  2 the consumer that stands for nobody  3 KEYS 1 is the stream itself (1 or 0)  4 the entry up to which all was looked at, '' to begin  5 most entries to look at
-- returns {entries put there, the entry up to which all was looked at now, '' when nothing is left}
-- Every script that ends or moves a job takes it off its owner's list and out of its stream at once. So an entry that is there,
-- behind the group's position and in nobody's list, is a job whose owner somebody deleted (XGROUP DELCONSUMER), acknowledged by
-- hand, or skipped (XGROUP SETID). Its owner may live: its next heartbeat claims it back. When nobody has for a lease, the sweep takes it.
local after = ARGV[4]
if ARGV[3] == '1' then -- a queue's: on an events stream what was acknowledged stays
  local config = redis.call('HMGET', KEYS[2], 'kind', 'floor:' .. ARGV[1])
  if config[1] ~= 'queue' or not config[2] then return {0, ''} end
  if after == '' then after = config[2] end
elseif after == '' then after = '0-0' end
local groups, position = redis.pcall('XINFO', 'GROUPS', KEYS[1]), nil
for _, fields in ipairs(groups['err'] and {} or groups) do
  local group = {}
  for i = 1, #fields, 2 do group[fields[i]] = fields[i + 1] end
  if group['name'] == ARGV[1] then position = group['last-delivered-id'] end
end
if not position then return {0, ''} end
local most, looked, bytes = tonumber(ARGV[5]), 0, 0
local args = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], '0'}
local orphans = 0
while after ~= '' and looked < most and bytes < 1048576 do -- a page may hold large payloads, which nothing keeps XRANGE from reading
  local count = math.min(10, most - looked)
  local page = redis.pcall('XRANGE', KEYS[1], '(' .. after, position, 'COUNT', count) -- fails behind the greatest ID there is
  if page['err'] then page = {} end
  for _, entry in ipairs(page) do
    for _, text in ipairs(entry[2]) do bytes = bytes + #text end
    if #redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1) == 0 then
      args[#args + 1] = entry[1]
      orphans = orphans + 1
    end
  end
  looked = looked + #page
  after = #page == count and page[#page][1] or ''
end
if orphans > 0 then
  args[#args + 1] = 'FORCE'
  args[#args + 1] = 'JUSTID'
  redis.call(unpack(args))
end
return {orphans, after}
