-- Claim the jobs of an arq queue that are due and that no worker has claimed.
--
-- KEYS[1]  the queue: a sorted set of job ids by when they are due (milliseconds since the epoch)
-- ARGV[1]  now (milliseconds since the epoch, by the clock of whoever enqueues and asks)
-- ARGV[2]  jobs that there is room for (> 0)
-- ARGV[3]  places of the queue to look at (> 0): jobs under way keep theirs
-- ARGV[4]  prefix of arq's keys that say that a job is under way
-- ARGV[5]  how long a claim holds if its worker dies (milliseconds, > 0)
--
-- Returns a list of {id, score} of the jobs claimed, the longest due first.
--
-- One script, because two workers look into the queue at once: the one that finds no claim makes
-- it. arq does the same with WATCH and EXEC for each job. A queue lies on one server, so the keys of
-- its jobs may be named here.

local claimed = {}
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for i = 1, #due, 2 do
  if #claimed >= tonumber(ARGV[2]) then
    break
  end
  if redis.call('SET', ARGV[4] .. due[i], '1', 'NX', 'PX', ARGV[5]) then
    claimed[#claimed + 1] = {due[i], due[i + 1]}
  end
end
return claimed
