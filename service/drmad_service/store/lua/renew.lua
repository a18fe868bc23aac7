-- Extends leases. ARGV: lease in ms, then id and fence of each job. Returns the ids of lost leases.
write_when_full()
local lost, expiry = {}, now_ms() + ARGV[1]
for i = 2, #ARGV, 2 do
  local id = ARGV[i]
  if fenced_out(id, ARGV[i + 1]) or not redis.call('ZSCORE', K.leases, id) then
    lost[#lost + 1] = id
  else
    redis.call('ZADD', K.leases, expiry, id)
  end
end
return lost
