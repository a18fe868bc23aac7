-- ARGV: scheduler, lease in ms, the cluster's cpus, its gpus, the states a claim leads to (JSON), how
-- many jobs and how many gpus a tenant may have running. Returns {id, fence}, or nothing when no job
-- can run now.
local scheduler, lease, cpus, gpus, states, most_jobs, most_gpus = unpack(ARGV)
local now = now_ms()
cpus, gpus, states = tonumber(cpus), tonumber(gpus), cjson.decode(states)
redis.call('HSET', K.cluster, scheduler, cjson.encode({ cpus = cpus, gpus = gpus, at = now }))

local function take(id, reason, message)
  local job = redis.call('HMGET', K.job .. id, 'status', 'cpus', 'gpus', 'tenant')
  redis.call('ZADD', K.leases, now + lease, id)
  redis.call('HSET', K.reservations, id, job[2] .. ' ' .. job[3] .. ' ' .. job[4])
  local fence = redis.call('HINCRBY', K.job .. id, 'fence', 1)
  redis.call('HSET', K.job .. id, 'owner', scheduler)
  enter(id, states[job[1]], reason, message, now)
  return { id, tostring(fence) }
end

-- Jobs whose scheduler is gone come first: they hold their reservation already.
local orphan = redis.call('ZRANGEBYSCORE', K.leases, '-inf', now, 'LIMIT', 0, 1)[1]
if orphan then
  return take(orphan, 'recovered', 'its scheduler was lost; goes on from the last meta-iteration')
end

local used_cpus, used_gpus, tenants = promised()
for _, job in ipairs(in_order(cpus, gpus, tenants)) do
  local share = tenants[job.tenant] or { jobs = 0, gpus = 0 }
  local allowed = share.jobs < tonumber(most_jobs) and share.gpus + job.gpus <= tonumber(most_gpus)
  if allowed then
    if used_cpus + job.cpus <= cpus + K.slack and used_gpus + job.gpus <= gpus + K.slack then
      return take(job.id, 'claimed', '')
    end
    -- What will fit later keeps its place: smaller jobs behind it must not starve it.
    return nil
  end
end
return nil
