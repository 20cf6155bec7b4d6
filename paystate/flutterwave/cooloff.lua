-- Note a 429 of the provider, and until when nobody may ask it.
--
-- KEYS[1]  cool-off hash: `until_ms` (epoch milliseconds), `strikes` (429s in a row), `trial_ms`
--          (the call that was let out to see whether it is over, which has come to its end)
-- ARGV[1]  now          (epoch milliseconds, by the caller's clock)
-- ARGV[2]  first wait   (milliseconds, > 0: what Retry-After asked for, or the default)
-- ARGV[3]  longest wait (milliseconds)
-- ARGV[4]  time to live (milliseconds, longer than the longest wait)
--
-- Returns {until_ms, strikes} as they are now.
--
-- One script, not read-double-write: calls that were under way together come back with a 429
-- together, and count as one. Only a 429 after the cool-off has ended doubles the wait.
local held = redis.call('HMGET', KEYS[1], 'until_ms', 'strikes')
local now = tonumber(ARGV[1])
local until_ms = tonumber(held[1] or '0')
local strikes = tonumber(held[2] or '0')
if now >= until_ms or strikes == 0 then
  strikes = strikes + 1
end
local wait_ms = math.min(tonumber(ARGV[3]), tonumber(ARGV[2]) * 2 ^ math.min(strikes - 1, 30))
until_ms = math.max(until_ms, now + wait_ms)
redis.call('HSET', KEYS[1], 'until_ms', string.format('%.0f', until_ms), 'strikes', strikes)
redis.call('HDEL', KEYS[1], 'trial_ms')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {until_ms, strikes}
