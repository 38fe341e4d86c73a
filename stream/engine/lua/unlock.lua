-- unlock is a part of the scripts that end a lock, with its job or before, which name it in their headers. It frees nobody
-- else's, and adds the one job that was kept behind it, unless the run that ends has seen that job's data.
-- unique is the lock's key in next ('': nothing can be behind it), seen the version that the run has seen. It fails nowhere, as it
-- comes behind other writes, and its own first write is one that a full Redis takes.
local function unlock(lock, next, stream, ids, id, unique, seen)
  local holder = redis.pcall('GET', lock)
  if holder and holder ~= id then return end -- somebody else's, or no lock
  if holder then redis.call('DEL', lock) end
  local kept = unique ~= '' and redis.pcall('HGET', next, unique)
  local version, mark, job, head = string.match(type(kept) == 'string' and kept or '', '^(%d+) (%S+) (%S+)\n(%d+ %d+ %d+ %d+)\n')
  if not version then return end
  redis.call('HDEL', next, unique)
  if tonumber(version) <= (tonumber(seen) or 0) then return end
  local f, at = {}, #version + #mark + #job + #head + 5
  for n in string.gmatch(head, '%d+') do
    f[#f + 1] = string.sub(kept, at, at + n - 1)
    at = at + n
  end
  local entry = redis.pcall('XADD', stream, '*', 'type', f[1], 'data', f[2], 'traceparent', f[3], 'opts', f[4])
  if type(entry) ~= 'string' then -- the stream takes no entry, as one whose last ID is the greatest there is: it stays for whoever ends the lock next
    redis.call('HSET', next, unique, kept)
    return
  end
  redis.pcall('HSET', ids, job, 'orders ' .. entry .. ' ' .. mark)
  redis.call('SET', lock, job)
end
