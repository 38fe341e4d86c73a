-- report writes down what handlers say of jobs while they run them: how far they are, and lines of their logs.
-- KEYS: 1 the stream the entries were read from  2.. the report of each job
-- ARGV: 1 group  2 consumer  3 most lines kept of a job  4 most bytes of them  5.. of each job: entry ('' when it is known to be ours and gone), the job's age (its time of publication: an ID may be used again), fence, run, how long the report is kept in ms, version of the progress (0: none), progress, number of the first line in its run, how many lines, the lines
-- returns {{numbers of jobs that are not ours, from 1}, {{number, why it could not be written}, …}}
-- A report is a hash: what is known of it in the field state, the progress, and a field for each line by its number, which goes
-- on from run to run. What a call brings that is there already is left out, so that it may be repeated, or come late.
-- The first write of each job is one that a full Redis refuses.
local late, refused, at = {}, {}, 5
local most, room = tonumber(ARGV[3]), tonumber(ARGV[4])
local function older(a, b) return #a < #b or #a == #b and a < b end -- of fences, which may be too large for Lua's numbers
for i = 2, #KEYS do
  local entry, age, fence, run, keep = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local version, progress, number, count = tonumber(ARGV[at + 5]), ARGV[at + 6], tonumber(ARGV[at + 7]), tonumber(ARGV[at + 8])
  local from = at + 9
  at = from + count
  local ours = entry == '' or #redis.call('XPENDING', KEYS[1], ARGV[1], entry, entry, 1, ARGV[2]) > 0
  local state = ours and redis.pcall('HGET', KEYS[i], 'state')
  local failed = type(state) == 'table' and state['err'] -- the key is of another type
  local was = {string.match(not failed and state or '', '^(%d+) (%d+) (%S+) (%d+) (%d+) (%d+) (%d+) (%d+)$')}
  if was[1] and entry == '' and (was[1] ~= age or older(fence, was[2])) then ours = false end
  if not ours then
    late[#late + 1] = i - 1
  elseif not failed then
    if was[1] and was[1] ~= age then -- of another job, that had this ID before
      redis.call('DEL', KEYS[i])
      was = {}
    end
    local base, last, first, bytes, seen = tonumber(was[4]) or 0, tonumber(was[5]) or 0, tonumber(was[6]) or 1, tonumber(was[7]) or 0, tonumber(was[8]) or 0
    if was[3] ~= run then base, seen = last, 0 end
    local set, gone = {'HSET', KEYS[i]}, {'HDEL', KEYS[i]}
    local top, begins = last, nil
    for n = 0, count - 1 do
      local line = base + number + n
      if line > last then
        begins = begins or line
        top = line
        set[#set + 1] = line
        set[#set + 1] = ARGV[from + n]
        bytes = bytes + #ARGV[from + n]
      end
    end
    while first <= last and (first <= top - most or bytes > room) do
      bytes = bytes - #(redis.call('HGET', KEYS[i], first) or '')
      gone[#gone + 1] = first
      first = first + 1
    end
    if first > last and begins then first = begins end
    if version > seen then
      seen = version
      set[#set + 1] = 'progress'
      set[#set + 1] = progress
    end
    set[#set + 1] = 'state'
    set[#set + 1] = string.format('%s %s %s %d %d %d %d %d', age, fence, run, base, top, first, bytes, seen)
    local done = redis.pcall(unpack(set))
    failed = type(done) == 'table' and done['err']
    if not failed then
      if #gone > 2 then redis.call(unpack(gone)) end
      redis.call('PEXPIRE', KEYS[i], keep)
    end
  end
  if failed then refused[#refused + 1] = {i - 1, failed} end
end
return {late, refused}
