-- Precedes every script: the keys (K, from keys.py), the clock, and the only functions that notify of
-- a change and that change a job's status.

-- A process that was built for another schema version writes nothing.
local schema = redis.call('GET', K.schema_key)
if schema and schema ~= K.schema then return redis.error_reply('SCHEMA ' .. schema) end

local DRIVEN = { starting = true, running = true, pausing = true, cancelling = true }
local TERMINAL = { succeeded = true, failed = true, cancelled = true }

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function jobs_of(tenant)
  return K.tenant .. tenant .. ':jobs'
end

local function count(what, by)
  redis.call('HINCRBYFLOAT', K.counters, what, by or 1)
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

-- True when another scheduler holds a newer fencing token, or no scheduler drives the job.
local function fenced_out(id, fence)
  local newest, status = unpack(redis.call('HMGET', K.job .. id, 'fence', 'status'))
  return newest ~= fence or not DRIVEN[status]
end

-- Sets fields of a job's hash; an empty value removes the field.
local function assign(id, fields)
  for field, value in pairs(cjson.decode(fields)) do
    if value == '' then
      redis.call('HDEL', K.job .. id, field)
    else
      redis.call('HSET', K.job .. id, field, value)
    end
  end
end

local function drop_chunks(id, kept, names)
  for _, name in ipairs(cjson.decode(names)) do redis.call('HDEL', part(id, kept), name) end
end

-- The capacity of the cluster, what is reserved of it for the jobs that `counts` accepts, and the
-- bounds of a tenant.
local function capacity(cpus, gpus, most_jobs, most_gpus, counts)
  local all = { cpus = tonumber(cpus) + K.slack, gpus = tonumber(gpus) + K.slack,
    most_jobs = tonumber(most_jobs), most_gpus = tonumber(most_gpus) + K.slack,
    used_cpus = 0, used_gpus = 0, tenants = {} }
  local reservations = redis.call('HGETALL', K.reservations)
  for i = 1, #reservations, 2 do
    if not counts or counts(reservations[i]) then
      local c, g, tenant = string.match(reservations[i + 1], '^(%S+) (%S+) (%S+)$')
      local share = all.tenants[tenant] or { jobs = 0, gpus = 0 }
      all.tenants[tenant] = { jobs = share.jobs + 1, gpus = share.gpus + tonumber(g) }
      all.used_cpus, all.used_gpus = all.used_cpus + tonumber(c), all.used_gpus + tonumber(g)
    end
  end
  return all
end

local function share_of(all, tenant)
  return all.tenants[tenant] or { jobs = 0, gpus = 0 }
end

-- Whether the bounds of its tenant allow the job beside the tenant's running ones.
local function allowed(all, job)
  local share = share_of(all, job.tenant)
  return share.jobs < all.most_jobs and share.gpus + job.gpus <= all.most_gpus
end

local function fits(all, job)
  return allowed(all, job) and all.used_cpus + job.cpus <= all.cpus
    and all.used_gpus + job.gpus <= all.gpus
end

-- The next job to run, of those that fit the whole cluster and the bounds of their tenants: the one of
-- lowest rank. The rank is age and priority, raised by every running job of the tenant.
local function first_waiting(all)
  local first
  local start, page = 0, 100
  while true do
    local queued = redis.call('ZRANGE', K.queue, start, start + page - 1, 'WITHSCORES')
    for i = 1, #queued, 2 do
      local id, rank = queued[i], tonumber(queued[i + 1])
      -- The shares only raise ranks: no later job can precede the first one found.
      if first and rank >= first.rank then return first end
      local job = redis.call('HMGET', K.job .. id, 'cpus', 'gpus', 'tenant', 'priority')
      local waiting = { id = id, cpus = tonumber(job[1]), gpus = tonumber(job[2]),
        tenant = job[3], priority = tonumber(job[4]) }
      if waiting.cpus <= all.cpus and waiting.gpus <= all.gpus and allowed(all, waiting) then
        waiting.rank = rank + share_of(all, waiting.tenant).jobs * K.share_ms
        if not first or waiting.rank < first.rank then first = waiting end
      end
    end
    if #queued < 2 * page then return first end
    start = start + page
  end
end

local function enter(id, status, reason, message, now)
  local job = K.job .. id
  local before, rank, tenant = unpack(redis.call('HMGET', job, 'status', 'rank', 'tenant'))
  for _, index in ipairs({ K.jobs, jobs_of(tenant) }) do
    if before then redis.call('ZREM', index .. ':' .. before, id) end
    redis.call('ZADD', index .. ':' .. status, 0, id)
  end
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
    count('ended:' .. status .. ':' .. reason)
    if redis.call('HEXISTS', job, 'webhook') == 1 then
      redis.call('HDEL', job, 'notice_attempts')
      redis.call('ZADD', K.notices, now, id)
    end
  elseif before and TERMINAL[before] then
    redis.call('HDEL', job, 'finished_at', 'error')
    redis.call('ZREM', K.ended, id)
  end
  local transition = cjson.encode({ status = status, at = now, reason = reason, message = message })
  redis.call('RPUSH', part(id, 'transitions'), transition)
  redis.call('LTRIM', part(id, 'transitions'), -200, -1)
  emit(id, 'status', transition, now)
end
