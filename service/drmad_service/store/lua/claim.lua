-- Claims the next job. ARGV: scheduler, lease in ms, cpus and gpus of the cluster, transitions of a
-- claim (JSON), maximum running jobs and gpus of a tenant. Returns {id, fence}, or nil when no job can
-- run now.
local scheduler, lease, cpus, gpus, states, most_jobs, most_gpus = unpack(ARGV)
local now = now_ms()
states = cjson.decode(states)
local is_new = redis.call('HSET', K.cluster, scheduler,
  cjson.encode({ cpus = tonumber(cpus), gpus = tonumber(gpus), at = now })) == 1
if is_new then  -- remove schedulers that were killed before they could remove themselves
  local known = redis.call('HGETALL', K.cluster)
  for i = 1, #known, 2 do
    if cjson.decode(known[i + 1]).at < now - K.forgotten_ms then
      redis.call('HDEL', K.cluster, known[i])
      redis.call('HDEL', K.nodes, known[i])
    end
  end
end

local function take(id, reason, message)
  local job = redis.call('HMGET', K.job .. id, 'status', 'cpus', 'gpus', 'tenant')
  redis.call('ZADD', K.leases, now + lease, id)
  redis.call('HSET', K.reservations, id, job[2] .. ' ' .. job[3] .. ' ' .. job[4])
  local fence = redis.call('HINCRBY', K.job .. id, 'fence', 1)
  redis.call('HSET', K.job .. id, 'owner', scheduler)
  enter(id, states[job[1]], reason, message, now)
  return { id, tostring(fence) }
end

-- Jobs of a lost scheduler come first: they hold their reservation already.
local orphan = redis.call('ZRANGEBYSCORE', K.leases, '-inf', now, 'LIMIT', 0, 1)[1]
if orphan then
  count('lease_losses')
  return take(orphan, 'recovered', 'its scheduler was lost; continues from the last meta-iteration')
end

local all = capacity(cpus, gpus, most_jobs, most_gpus)
local first = first_waiting(all)
-- A job that does not fit yet stays first: smaller jobs behind it must not starve it.
if first and fits(all, first) then return take(first.id, 'claimed', '') end
return nil
