-- ARGV: scheduler, lease in ms, the cluster's cpus, its gpus, the states a claim leads to (JSON)
-- Returns {id, fence}, or nothing when no job can run now.
local scheduler, lease, cpus, gpus, states = unpack(ARGV)
local now = now_ms()
cpus, gpus, states = tonumber(cpus), tonumber(gpus), cjson.decode(states)

local function take(id, reason, message)
  local wanted = redis.call('HMGET', K.job .. id, 'status', 'cpus', 'gpus')
  redis.call('ZADD', K.leases, now + lease, id)
  redis.call('HSET', K.reservations, id, wanted[2] .. ' ' .. wanted[3])
  local fence = redis.call('HINCRBY', K.job .. id, 'fence', 1)
  redis.call('HSET', K.job .. id, 'owner', scheduler)
  enter(id, states[wanted[1]], reason, message, now)
  return { id, tostring(fence) }
end

-- Jobs whose scheduler is gone come first: they hold their reservation already.
local orphan = redis.call('ZRANGEBYSCORE', K.leases, '-inf', now, 'LIMIT', 0, 1)[1]
if orphan then
  return take(orphan, 'recovered', 'its scheduler was lost; goes on from the last meta-iteration')
end

local free_cpus, free_gpus = cpus, gpus
for _, reserved in ipairs(redis.call('HVALS', K.reservations)) do
  local c, g = string.match(reserved, '^(%S+) (%S+)$')
  free_cpus, free_gpus = free_cpus - tonumber(c), free_gpus - tonumber(g)
end
local slack = 1e-6
for _, id in ipairs(redis.call('ZRANGE', K.queue, 0, 999)) do
  local wanted = redis.call('HMGET', K.job .. id, 'cpus', 'gpus')
  local c, g = tonumber(wanted[1]), tonumber(wanted[2])
  if c <= free_cpus + slack and g <= free_gpus + slack then
    return take(id, 'claimed', '')
  end
  -- What will fit later keeps its place: smaller jobs behind it must not starve it.
  if c <= cpus + slack and g <= gpus + slack then return nil end
end
return nil
