-- Say whether the provider may be asked: not during a cool-off, and after it one call at a time.
--
-- KEYS[1]  cool-off hash: `until_ms` (epoch milliseconds), `strikes` (429s in a row), `trial_ms`
--          (epoch milliseconds until which one call is out to see whether it is over)
-- ARGV[1]  now    (epoch milliseconds, by the caller's clock)
-- ARGV[2]  trial  (milliseconds, > 0: how long a call may take before the next one is let out)
--
-- Returns {milliseconds to wait, or 0 if the caller may ask; until_ms; strikes}. While one call is
-- out the wait is a second at most, for its answer should come sooner.
--
-- One script, not read-compare-set: everybody who was kept away comes back in the same second, and
-- all of them would ask, to be told 429 again.
local held = redis.call('HMGET', KEYS[1], 'until_ms', 'strikes', 'trial_ms')
local now = tonumber(ARGV[1])
local until_ms = tonumber(held[1] or '0')
local strikes = tonumber(held[2] or '0')
local trial_ms = tonumber(held[3] or '0')
local wait_ms = math.max(0, until_ms - now)
if wait_ms == 0 and strikes > 0 then
  if now < trial_ms then
    wait_ms = math.min(trial_ms - now, 1000)
  else
    redis.call('HSET', KEYS[1], 'trial_ms', string.format('%.0f', now + tonumber(ARGV[2])))
  end
end
return {wait_ms, until_ms, strikes}
