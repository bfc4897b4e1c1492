-- Takes back what take.lua counted. KEYS: the counters; ARGV, for each key: the
-- begin of the four windows in which the request was counted, 0 for none.
for i = 1, #KEYS do
  local f = redis.call('HMGET', KEYS[i], 's1', 'n1', 's2', 'n2', 's3', 'n3', 's4', 'n4')
  for w = 1, 4 do
    local s = ARGV[4 * (i - 1) + w]
    if s ~= '0' and s == f[2 * w - 1] and tonumber(f[2 * w]) > 0 then
      redis.call('HINCRBY', KEYS[i], 'n' .. w, -1)
    end
  end
end
return 1
