-- Takes a validation that is due, and reserves the resources of its workers. ARGV: ms for which no
-- other scheduler takes it, cpus and gpus of the cluster, maximum running jobs and gpus of a tenant,
-- most workers. Returns {job, id, token, workers}; nil when none can run beside the jobs.
local hold, cpus, gpus, most_jobs, most_gpus, most = unpack(ARGV)
local now = now_ms()
while true do
  local member = redis.call('ZRANGEBYSCORE', K.validations, '-inf', now, 'LIMIT', 0, 1)[1]
  if not member then return nil end
  local job, id = string.match(member, '^(%S+) (%S+)$')
  local kept = part(job, 'validations')
  local status, needs = unpack(redis.call('HMGET', kept, id .. ':status', id .. ':needs'))
  redis.call('HDEL', K.reservations, id)  -- that of a lost scheduler
  if status == 'queued' or status == 'running' then
    local all = capacity(cpus, gpus, most_jobs, most_gpus)
    if first_waiting(all) then return nil end  -- jobs come first
    local c, g = string.match(needs, '^(%S+) (%S+)$')
    c, g = tonumber(c), tonumber(g)
    local tenant = redis.call('HGET', K.job .. job, 'tenant')
    local workers = 0
    while workers < tonumber(most) and fits(all, { tenant = tenant,
        cpus = c * (workers + 1), gpus = g * (workers + 1) }) do
      workers = workers + 1
    end
    if workers == 0 then return nil end
    redis.call('HSET', K.reservations, id, c * workers .. ' ' .. g * workers .. ' ' .. tenant)
    redis.call('ZADD', K.validations, now + hold, member)
    redis.call('HSET', kept, id .. ':status', 'running')
    local token = redis.call('HINCRBY', kept, id .. ':token', 1)
    emit(job, 'validation', cjson.encode({ id = id, status = 'running' }), now)
    return { job, id, tostring(token), tostring(workers) }
  end
  redis.call('ZREM', K.validations, member)  -- its job was deleted, or it is being cancelled
  if status == 'cancelling' then
    redis.call('HSET', kept, id .. ':status', 'cancelled')
    emit(job, 'validation', cjson.encode({ id = id, status = 'cancelled' }), now)
  end
end
