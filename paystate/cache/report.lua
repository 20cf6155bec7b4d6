-- Say how this process does, and hear how all the others do.
--
-- KEYS[1]  hash of all processes: name, then when it reported and what it said
-- ARGV[1]  name of this process; empty: only hear
-- ARGV[2]  its report (text)
-- ARGV[3]  for how long a report counts (milliseconds, > 0)
--
-- Returns name, report, name, report, ... of all that count; what counts no more is removed.
--
-- One script, so that the server's clock alone decides who is still there: processes run on many
-- machines, and theirs differ.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local counts_ms = tonumber(ARGV[3])

if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now) .. ' ' .. ARGV[2])
  redis.call('PEXPIRE', KEYS[1], counts_ms)
end

local found = {}
local held = redis.call('HGETALL', KEYS[1])
for i = 1, #held, 2 do
  local at, report = string.match(held[i + 1], '^(%d+) (.*)$')
  if at and math.abs(now - tonumber(at)) <= counts_ms then
    found[#found + 1] = held[i]
    found[#found + 1] = report
  else
    redis.call('HDEL', KEYS[1], held[i])
  end
end
return found
