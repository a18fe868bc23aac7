-- Stands before every script: the keys (K, from keys.py), the clock, the one way to tell of a
-- change and the one way to change a job's state.

local DRIVEN = { starting = true, running = true, pausing = true, cancelling = true }
local TERMINAL = { succeeded = true, failed = true, cancelled = true }

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function part(id, name)
  return K.job .. id .. ':' .. name
end

local function changed(id)
  redis.call('HINCRBY', K.job .. id, 'version', 1)
  redis.call('PUBLISH', K.changes, id)
end

local function emit(id, kind, data, now)
  redis.call('XADD', part(id, 'events'), 'MAXLEN', '~', K.events_kept, '*',
    'type', kind, 'at', string.format('%.0f', now), 'data', data)
  changed(id)
end

-- A writer whose token is not the newest was replaced by another scheduler: it must write nothing.
local function fenced_out(id, fence)
  return redis.call('HGET', K.job .. id, 'fence') ~= fence
end

-- Sets fields of the job's hash; an empty value removes the field.
local function assign(id, fields)
  for field, value in pairs(cjson.decode(fields)) do
    if value == '' then
      redis.call('HDEL', K.job .. id, field)
    else
      redis.call('HSET', K.job .. id, field, value)
    end
  end
end

-- What jobs are promised now: CPUs, GPUs, and per tenant the number of its jobs and their GPUs.
local function promised()
  local cpus, gpus, tenants = 0, 0, {}
  for _, reserved in ipairs(redis.call('HVALS', K.reservations)) do
    local c, g, tenant = string.match(reserved, '^(%S+) (%S+) (%S+)$')
    local share = tenants[tenant] or { jobs = 0, gpus = 0 }
    tenants[tenant] = { jobs = share.jobs + 1, gpus = share.gpus + tonumber(g) }
    cpus, gpus = cpus + tonumber(c), gpus + tonumber(g)
  end
  return cpus, gpus, tenants
end

-- Queued jobs that the cluster could hold, in the order in which they shall run: by rank, that is by
-- age and priority, and later the more jobs their tenant has running already.
local function in_order(cpus, gpus, tenants)
  local waiting = {}
  for _, id in ipairs(redis.call('ZRANGE', K.queue, 0, K.considered - 1)) do
    local job = redis.call('HMGET', K.job .. id, 'cpus', 'gpus', 'tenant', 'rank', 'priority')
    local c, g = tonumber(job[1]), tonumber(job[2])
    if c <= cpus + K.slack and g <= gpus + K.slack then
      local share = tenants[job[3]] or { jobs = 0, gpus = 0 }
      waiting[#waiting + 1] = { id = id, cpus = c, gpus = g, tenant = job[3],
        rank = job[4] + share.jobs * K.share_ms, priority = tonumber(job[5]) }
    end
  end
  table.sort(waiting, function(a, b)
    if a.rank ~= b.rank then return a.rank < b.rank end
    return a.id < b.id
  end)
  return waiting
end

local function enter(id, status, reason, message, now)
  local job = K.job .. id
  local before, rank = unpack(redis.call('HMGET', job, 'status', 'rank'))
  if before then redis.call('ZREM', K.jobs .. ':' .. before, id) end
  redis.call('ZADD', K.jobs .. ':' .. status, 0, id)
  redis.call('HSET', job, 'status', status, 'reason', reason, 'message', message)
  if status == 'queued' then
    redis.call('ZADD', K.queue, rank, id)
  else
    redis.call('ZREM', K.queue, id)
  end
  if not DRIVEN[status] then
    redis.call('ZREM', K.leases, id)
    redis.call('HDEL', K.reservations, id)
  end
  if status == 'running' then
    redis.call('HSETNX', job, 'started_at', string.format('%.0f', now))
  end
  if TERMINAL[status] then
    redis.call('HSET', job, 'finished_at', string.format('%.0f', now))
    redis.call('ZADD', K.ended, now, id)
  elseif before and TERMINAL[before] then
    redis.call('HDEL', job, 'finished_at', 'error')
    redis.call('ZREM', K.ended, id)
  end
  local transition = cjson.encode({ status = status, at = now, reason = reason, message = message })
  redis.call('RPUSH', part(id, 'transitions'), transition)
  redis.call('LTRIM', part(id, 'transitions'), -200, -1)
  emit(id, 'status', transition, now)
end
