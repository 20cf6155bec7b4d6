-- Invalidate: from now on nothing older than this version is served or stored.
--
-- KEYS[1]  hash of the payment or reference
-- ARGV[1]  version (integer, given by the database)
-- ARGV[2]  least time to keep the floor (milliseconds, > 0); a longer one that runs already stays
-- ARGV[3]  longest time that a `successful` entry of an earlier version is kept from now on
--          (milliseconds, > 0)
--
-- Returns the floor in force.
--
-- One script, so that no reader can fill between the raised floor and the dropped token. The token
-- goes even when the version is not new: an event may have been opened without a new version, and
-- the reader who holds the token may have read the row from before. A `successful` entry stays,
-- being final; but one of an earlier version (a refund is being applied) stays only for as long as
-- whoever applies it may need to write through the next one. If that process dies in between, the
-- entry runs out, and the next reader has the new version from the database.

local held = redis.call('HMGET', KEYS[1], 'status', 'version', 'floor', 'token')
local floor = math.max(tonumber(held[3]) or 0, tonumber(ARGV[1]))

if held[4] then
  redis.call('HDEL', KEYS[1], 'token', 'token_at', 'token_until', 'token_incarnation')
end
if held[1] ~= 'successful' then
  if held[1] and (tonumber(held[2]) or 0) < floor then
    redis.call('HDEL', KEYS[1], 'status', 'version', 'at', 'link', 'proven_at', 'incarnation')
  end
  if floor ~= tonumber(held[3]) then
    redis.call('HSET', KEYS[1], 'floor', string.format('%.0f', floor))
  end
end
if not (held[1] or held[3] or held[4]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return floor
end
local left = redis.call('PTTL', KEYS[1])
if held[1] == 'successful' then
  if (tonumber(held[2]) or 0) < tonumber(ARGV[1]) and left > tonumber(ARGV[3]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
  end
elseif left < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return floor
