-- Take calls of the API for one caller out of what it may make in this minute.
--
-- KEYS[1]  calls taken in this minute, by all processes
-- ARGV[1]  limit        (calls in a minute, > 0)
-- ARGV[2]  wanted       (calls, > 0)
-- ARGV[3]  time to live (seconds, > 0, longer than a minute)
--
-- Returns how many were taken: as many as wanted, or what was left, or 0.
--
-- One script, not read-compare-increment: ten processes that read the same number would each take
-- what is left.
local taken = tonumber(redis.call('GET', KEYS[1]) or '0')
local granted = math.max(0, math.min(tonumber(ARGV[2]), tonumber(ARGV[1]) - taken))
if granted > 0 then
  redis.call('SET', KEYS[1], taken + granted, 'EX', ARGV[3])
end
return granted
