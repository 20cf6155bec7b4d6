-- Answer from the cache if it can be proven now; else name one reader who may fill it.
--
-- KEYS[1]  hash of the payment or reference
-- ARGV[1]  lease: how long a status that is not `successful` may be served after it was proven
--          (milliseconds, > 0)
-- ARGV[2]  token: the id under which the caller would fill (text), or '' if it cannot fill
--
-- Returns {1, status, version, at, link, proven_at} for an answer, {0, 1} for a miss with the token
-- granted to this caller, {0, 0} for a miss without. All parts are strings as stored, but the flags.
--
-- What is held:
--   status, version, at (changed, ms), link   the entry
--   floor                    nothing with a lower version may be served or stored
--   proven_at, incarnation   when and on which server the entry was known to be the latest (ms, id)
--   token, token_at, token_until, token_incarnation   the one reader who may fill (id, ms, ms, id)
--
-- One script, because the token must be granted at the very moment of the miss: a reader that asks
-- the database first and for the token later could hold a status from before an invalidation.
-- The incarnation is the replication id. It is new after a restart or a promotion, so nothing that
-- was proven by, or promised to, a server that may have forgotten an invalidation counts any more.

local held = redis.call('HMGET', KEYS[1], 'status', 'version', 'at', 'link', 'floor', 'proven_at',
  'incarnation', 'token', 'token_until', 'token_incarnation')
local status, version = held[1], tonumber(held[2])

if status and not version then
  redis.call('DEL', KEYS[1]) -- not something we wrote: it counts for nothing, its floor included
  held = {}
  status = false
end
if status == 'successful' then
  return {1, status, held[2], held[3] or '0', held[4] or '', held[3] or '0'}
end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local incarnation = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local lease = tonumber(ARGV[1])

if status and version >= (tonumber(held[5]) or 0) and held[7] == incarnation then
  local age = now - (tonumber(held[6]) or 0)
  if age >= 0 and age <= lease then
    return {1, status, held[2], held[3] or '0', held[4] or '', held[6]}
  end
end

if ARGV[2] == '' then
  return {0, 0}
end
local promised = held[8] and held[10] == incarnation and (tonumber(held[9]) or 0) > now
if promised then
  return {0, 0}
end
redis.call('HSET', KEYS[1], 'token', ARGV[2], 'token_at', now, 'token_until', now + lease,
  'token_incarnation', incarnation)
if redis.call('PTTL', KEYS[1]) < 2 * lease then
  redis.call('PEXPIRE', KEYS[1], 2 * lease)
end
return {0, 1}
