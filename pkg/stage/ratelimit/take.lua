-- Counts one request in every counter, if all have room, and tells the counts.
--
-- KEYS: a hash for each counter: g tells one life of the key from the next; s1,
-- n1 … s4, n4 are the begin and the count of the second, minute, hour and day.
-- ARGV, for each key:
--   g as this daemon saw it last, "" for never
--   "1" if Redis was away since then: it may have come back with older counts
--   the limits of the four windows, 0 for none: these are not counted
--   m, and m times what the daemon knows: window (1 to 4), its begin, the count
--   that it saw, how many it let through while Redis was away
-- Answer: 1 if the request was counted, the time in s and µs, and for each key
-- g, s1, n1 … s4, n4.
--
-- The time is that of Redis, so that clocks of daemons may differ; the names of
-- keys do not depend on it, as a cluster demands.
local time = redis.call('TIME')
local now = tonumber(time[1])
local length = {1, 60, 3600, 86400}
local counters = {}
local admitted = 1
local at = 1
for i = 1, #KEYS do
  local f = redis.call('HMGET', KEYS[i], 'g', 's1', 'n1', 's2', 'n2', 's3', 'n3', 's4', 'n4')
  local c = {g = f[1], s = {}, n = {}, limit = {}, changed = false}
  local lost = f[1] ~= ARGV[at] or ARGV[at + 1] == '1'
  for w = 1, 4 do
    local s = now - now % length[w]
    local old = tonumber(f[2 * w] or 0)
    c.s[w], c.n[w] = old, tonumber(f[2 * w + 1] or 0)
    if s > old or old - s > length[w] then
      c.s[w], c.n[w] = s, 0
    end
    c.limit[w] = tonumber(ARGV[at + 1 + w])
  end
  local m = tonumber(ARGV[at + 6])
  at = at + 7
  for _ = 1, m do
    local w, extra = tonumber(ARGV[at]), tonumber(ARGV[at + 3])
    if tonumber(ARGV[at + 1]) == c.s[w] then
      local seen = tonumber(ARGV[at + 2])
      if lost and seen > c.n[w] then
        c.n[w], c.changed = seen, true
      end
      if extra > 0 then
        c.n[w], c.changed = c.n[w] + extra, true
      end
    end
    at = at + 4
  end
  for w = 1, 4 do
    if c.limit[w] > 0 and c.n[w] >= c.limit[w] then
      admitted = 0
    end
  end
  counters[i] = c
end

local answer = {admitted, now, tonumber(time[2])}
for i = 1, #KEYS do
  local c = counters[i]
  if admitted == 1 or c.changed then
    if not c.g then
      c.g = string.format('%.0f', now * 1000000 + tonumber(time[2]))
    end
    local set = {'HSET', KEYS[i], 'g', c.g}
    local ttl = 1
    for w = 1, 4 do
      if c.limit[w] > 0 then
        c.n[w] = c.n[w] + admitted
        set[#set + 1] = 's' .. w
        set[#set + 1] = string.format('%.0f', c.s[w])
        set[#set + 1] = 'n' .. w
        set[#set + 1] = string.format('%.0f', c.n[w])
        ttl = math.max(ttl, c.s[w] + length[w] - now)
      end
    end
    redis.call(unpack(set))
    if redis.call('TTL', KEYS[i]) < ttl then
      redis.call('EXPIRE', KEYS[i], ttl)
    end
  end
  answer[#answer + 1] = tonumber(c.g or 0)
  for w = 1, 4 do
    answer[#answer + 1] = c.s[w]
    answer[#answer + 1] = c.n[w]
  end
end
return answer
