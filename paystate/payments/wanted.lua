-- Note which unsettled payments somebody asks for, and say which were asked for lately.
--
-- KEYS[1]  sorted set of the database's keys of payments, by when they were last asked for (seconds)
-- ARGV[1]  window (seconds, > 0): what was last asked for earlier is forgotten
-- ARGV[2]  most   (payments remembered, > 0): of more, the latest
-- ARGV[3]  wanted (payments returned, >= 0)
-- ARGV[4]  noted  (a JSON list of keys that have just been asked for)
--
-- Returns the keys that were asked for last, the latest first.
--
-- One script, so that the set stays bounded whoever dies: nothing is added without what is too old
-- or too much being removed.
local now = tonumber(redis.call('TIME')[1])
for _, key in ipairs(cjson.decode(ARGV[4])) do
  redis.call('ZADD', KEYS[1], now, key)
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[1]))
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -tonumber(ARGV[2]) - 1)
redis.call('EXPIRE', KEYS[1], ARGV[1])
if tonumber(ARGV[3]) == 0 then
  return {}
end
return redis.call('ZREVRANGE', KEYS[1], 0, tonumber(ARGV[3]) - 1)
