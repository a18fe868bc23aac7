-- Takes a run beside a job that is due, and reserves the resources of its workers. ARGV: ms for which no
-- other scheduler takes it, Capacity (JSON), most workers. Returns {job, id, token, entries of `place`
-- (JSON)}; nil when none can run beside the jobs.
local hold, described, most = unpack(ARGV)
local now = now_ms()
local cluster = cjson.decode(described)
for _, member in ipairs(redis.call('ZRANGEBYSCORE', K.runs, '-inf', now)) do
  local job, id = string.match(member, '^(%S+) (%S+)$')
  local tenant = redis.call('HGET', K.job .. job, 'tenant')
  if not tenant or serves(cluster, tenant) then
    local kept = runs_of(job, id)
    local status, needs = unpack(redis.call('HMGET', kept, id .. ':status', id .. ':needs'))
    release(id)  -- that of a lost scheduler
    if status == 'queued' or status == 'running' then
      local all = capacity(described)
      if first_waiting(all) then return nil end  -- jobs come first
      local c, g, own = string.match(needs, '^(%S+) (%S+) ?(%S*)$')
      c, g = tonumber(c), tonumber(g)
      local limit = math.min(tonumber(most), tonumber(own) or tonumber(most))
      local wanted = { tenant = tenant, cpus = c, gpus = g, count = limit, placement = 'pack' }
      while wanted.count > 0 and not fits(all, wanted) do wanted.count = wanted.count - 1 end
      if wanted.count == 0 then return nil end
      local entries = place(all.nodes, wanted)
      reserve(id, wanted, entries)
      redis.call('ZADD', K.runs, now + hold, member)
      redis.call('HSET', kept, id .. ':status', 'running')
      local token = redis.call('HINCRBY', kept, id .. ':token', 1)
      emit(job, kind_of(id), cjson.encode({ id = id, status = 'running' }), now)
      return { job, id, tostring(token), cjson.encode(entries) }
    end
    redis.call('ZREM', K.runs, member)  -- its job was deleted, or it is being cancelled
    if status == 'cancelling' then end_run(job, id, 'cancelled', now) end
  end
end
return nil
