-- Write a committed status through to the cache, and tell everyone.
--
-- KEYS[1]  hash of the payment or reference
-- ARGV[1]  status
-- ARGV[2]  version (integer, given by the database)
-- ARGV[3]  at: when the status last changed (milliseconds since the epoch)
-- ARGV[4]  link: the payment's tx_ref, or the reference's deciding attempt, or ''
-- ARGV[5]  time to live (milliseconds, > 0)
-- ARGV[6]  the change as JSON, or '' if nothing visible changed
-- ARGV[7]  channel of this entity
-- ARGV[8]  channel of its merchant
-- ARGV[9]  longest time that a `successful` entry of an earlier version than the floor is kept
--          (milliseconds, > 0)
--
-- Returns 1 if the entry was stored, 0 if not.
--
-- Only `successful` is stored, unless as late a one is held: it is final, so no later event can make
-- it stale, even if this script runs late. Anything else is a mark, for an event that came in after
-- the commit may already have overtaken it. The change is published in either case, and after the
-- write, so that whoever hears of it and asks the cache is not told what was there before.
--
-- One that comes late, with the mark of the next version before it, gives no entry of its own version
-- more time than that mark has left it: whoever has marked may not live to write the next one.

local held = redis.call('HMGET', KEYS[1], 'status', 'version', 'floor', 'token')
local is_new = not (held[1] or held[3] or held[4])
local version = tonumber(ARGV[2])
local stored = 0

if ARGV[1] == 'successful' then
  if held[1] ~= 'successful' or (tonumber(held[2]) or 0) < version then
    if not is_new then
      redis.call('DEL', KEYS[1])
    end
    redis.call('HSET', KEYS[1], 'status', ARGV[1], 'version', ARGV[2], 'at', ARGV[3],
      'link', ARGV[4])
    local ttl = tonumber(ARGV[5])
    if version < (tonumber(held[3]) or 0) then
      ttl = math.min(ttl, tonumber(ARGV[9]))
    end
    redis.call('PEXPIRE', KEYS[1], ttl)
    stored = 1
  elseif redis.call('PTTL', KEYS[1]) > tonumber(ARGV[9]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
  end
elseif held[1] ~= 'successful' then
  local floor = math.max(tonumber(held[3]) or 0, version)
  if held[4] then
    redis.call('HDEL', KEYS[1], 'token', 'token_at', 'token_until', 'token_incarnation')
  end
  if held[1] and (tonumber(held[2]) or 0) < floor then
    redis.call('HDEL', KEYS[1], 'status', 'version', 'at', 'link', 'proven_at', 'incarnation')
  end
  if floor ~= tonumber(held[3]) then
    redis.call('HSET', KEYS[1], 'floor', string.format('%.0f', floor))
  end
  if is_new or redis.call('PTTL', KEYS[1]) < tonumber(ARGV[5]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
  end
end

if ARGV[6] ~= '' then
  redis.call('PUBLISH', ARGV[7], ARGV[6])
  redis.call('PUBLISH', ARGV[8], ARGV[6])
end
return stored
