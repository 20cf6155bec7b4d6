-- Spend one call of a merchant's hourly budget at the provider, if the caller's share allows it.
--
-- KEYS[1]  number of calls in this hour
-- ARGV[1]  limit        (calls this hour at which the caller's purpose has to stop, >= 0)
-- ARGV[2]  time to live (seconds, > 0, longer than the hour)
-- ARGV[3]  known        (calls this hour that the caller knows of, >= 0)
--
-- Returns {1, calls including this one}, or {0, calls} if there is none left.
--
-- One script, not read-compare-increment: of ten processes that read the same number, nine would
-- go over the limit. Known calls are taken over, so a counter that Redis has lost, or that stood
-- still while Redis was away, goes on from what any caller remembers.
local calls = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[3]))
if calls >= tonumber(ARGV[1]) then
  return {0, calls}
end
redis.call('SET', KEYS[1], calls + 1, 'EX', ARGV[2])
return {1, calls + 1}
