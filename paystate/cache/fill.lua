-- Store what a reader has read from the database, if nothing can have overtaken it since.
--
-- KEYS[1]  hash of the payment or reference
-- ARGV[1]  lease (milliseconds, > 0; not used for `successful`)
-- ARGV[2]  token: the id that `get` granted this caller, or '' for none
-- ARGV[3]  status
-- ARGV[4]  version (integer, given by the database)
-- ARGV[5]  at: when the status last changed (milliseconds since the epoch)
-- ARGV[6]  link: the payment's tx_ref, or the reference's deciding attempt, or ''
-- ARGV[7]  time to live (milliseconds, > 0)
-- ARGV[8]  1 if an event of the entity is open or held in the row that was read, else 0
--
-- Returns 'stored', or why not: 'below_floor', 'older', 'event_open', 'no_token', 'token_late'.
--
-- `successful` is final, so it needs no token: it is stored unless something later is held.
-- Anything else is stored only by the reader to whom the token was granted before it read, on this
-- incarnation of the server, within one lease of the grant. Version and floor alone would not do:
-- an eviction forgets the floor, and with it that a later version exists. The token goes with it.
-- The entry counts as proven at the time of the grant, which was before the read.

local held = redis.call('HMGET', KEYS[1], 'status', 'version', 'floor', 'token', 'token_at',
  'token_incarnation')
local version = tonumber(ARGV[4])

if version < (tonumber(held[3]) or 0) then
  return 'below_floor'
end
if held[1] and version < (tonumber(held[2]) or 0) then
  return 'older'
end

if ARGV[3] == 'successful' then
  if held[1] == 'successful' and version == tonumber(held[2]) then
    return 'older'
  end
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'status', ARGV[3], 'version', ARGV[4], 'at', ARGV[5],
    'link', ARGV[6])
  redis.call('PEXPIRE', KEYS[1], ARGV[7])
  return 'stored'
end

if held[1] == 'successful' then
  return 'older'
end
if ARGV[8] ~= '0' then
  return 'event_open'
end
if ARGV[2] == '' or held[4] ~= ARGV[2] then
  return 'no_token'
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local incarnation = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local age = now - (tonumber(held[5]) or 0)
if held[6] ~= incarnation or age < 0 or age >= tonumber(ARGV[1]) then
  return 'token_late'
end
redis.call('HSET', KEYS[1], 'status', ARGV[3], 'version', ARGV[4], 'at', ARGV[5],
  'link', ARGV[6], 'proven_at', held[5], 'incarnation', incarnation)
redis.call('HDEL', KEYS[1], 'token', 'token_at', 'token_until', 'token_incarnation')
redis.call('PEXPIRE', KEYS[1], ARGV[7])
return 'stored'
