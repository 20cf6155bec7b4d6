-- Spend one call of a merchant's budgets at the provider, if the caller's purpose may.
--
-- KEYS[1]   calls of one hour: fields `confirm`, `lookup`, `reconcile`, `audit` count those of the
--           hour, and with `w:` before them those of the window whose number is in `window`
-- ARGV[1]   purpose           (1 to 4, in the order above)
-- ARGV[2]   time to live      (seconds, > 0, longer than the hour)
-- ARGV[3]   window            (number of the caller's ten seconds since the epoch)
-- ARGV[4]   budget, hour      (calls, >= 1)
-- ARGV[5]   ceiling, hour     (calls at which the purpose stops once its reserve is spent)
-- ARGV[6]   budget, window    (calls, >= 1)
-- ARGV[7]   ceiling, window   (calls)
-- ARGV[8]   reserves, hour    (calls of each purpose, with commas between them)
-- ARGV[9]   reserves, window  (likewise)
-- ARGV[10]  known             (calls of this hour that the caller knows of, likewise)
--
-- Returns {1 if allowed, 0 if the hour is spent, -1 if the window is; number of the window; then
-- the calls of the hour by purpose, and those of the window, this one included}.
--
-- One script, not read-compare-increment: of ten processes that read the same number, nine would
-- go over the limit. One key, so that on a cluster it is at one server. Known calls are taken over,
-- so what Redis has lost, or has not heard of while it was away, goes on from what any caller
-- remembers. The rule is that of budget.py.
local names = {'confirm', 'lookup', 'reconcile', 'audit'}
local own = tonumber(ARGV[1])

local function numbers(text)
  local found = {}
  for number in string.gmatch(text, '%d+') do
    found[#found + 1] = tonumber(number)
  end
  return found
end

local function allows(spent, budget, most, reserves)
  local total, kept = 0, 0
  for i = 1, 4 do
    total = total + spent[i]
    kept = kept + math.max(0, reserves[i] - spent[i])
  end
  if spent[own] < reserves[own] then
    return total < budget
  end
  return total < most and total + kept < budget
end

local held = redis.call('HMGET', KEYS[1], 'confirm', 'lookup', 'reconcile', 'audit',
  'w:confirm', 'w:lookup', 'w:reconcile', 'w:audit', 'window')
local known = numbers(ARGV[10])
local hour, window = {}, {}
local now, of = tonumber(ARGV[3]), tonumber(held[9] or '0')
if now > of or now < of - 1 then
  of = now
end
for i = 1, 4 do
  hour[i] = math.max(tonumber(held[i] or '0'), known[i])
  window[i] = of == tonumber(held[9] or '-1') and tonumber(held[i + 4] or '0') or 0
end

local verdict = 1
if not allows(hour, tonumber(ARGV[4]), tonumber(ARGV[5]), numbers(ARGV[8])) then
  verdict = 0
elseif not allows(window, tonumber(ARGV[6]), tonumber(ARGV[7]), numbers(ARGV[9])) then
  verdict = -1
else
  hour[own] = hour[own] + 1
  window[own] = window[own] + 1
  local fields = {'window', of}
  for i = 1, 4 do
    fields[#fields + 1] = names[i]
    fields[#fields + 1] = hour[i]
    fields[#fields + 1] = 'w:' .. names[i]
    fields[#fields + 1] = window[i]
  end
  redis.call('HSET', KEYS[1], unpack(fields))
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return {verdict, of, hour[1], hour[2], hour[3], hour[4], window[1], window[2], window[3], window[4]}
