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

-- Lets a script write although Redis has reached its memory limit: what ends, frees, keeps or explains
-- work must. Once a script has written, Redis no longer stops it. Returns whether Redis is full.
local function write_when_full()
  local answer = redis.pcall('SET', K.probe, '1', 'PX', 1)
  redis.call('DEL', K.probe)
  return type(answer) == 'table' and answer.err ~= nil
end

local function jobs_of(tenant)
  return K.tenant .. tenant .. ':jobs'
end

-- The limits that a tenant has of its own, by the names of TenantLimits.
local function own_limits(tenant)
  local own = redis.call('HGET', K.limits, tenant)
  return own and cjson.decode(own) or {}
end

local function count(what, by)
  redis.call('HINCRBYFLOAT', K.counters, what, by or 1)
end

local function part(id, name)
  return K.job .. id .. ':' .. name
end

-- Runs beside a job, such as a validation: the kind by the id, and the hash that has those of a job.
local function kind_of(id)
  return string.match(id, '^(%a+)_') or ''
end

local function runs_of(job, id)
  return part(job, kind_of(id) .. 's')
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

-- A notice is due for an event of a job (start, end) and a channel (webhook, slack, email). The end by
-- webhook is named by the job alone, as in earlier releases.
local function notice(id, event, channel)
  if event == 'end' and channel == 'webhook' then return id end
  return id .. ' ' .. event .. ' ' .. channel
end

local function notice_of(member)
  local id, event, channel = string.match(member, '^(%S+) (%S+) (%S+)$')
  return id or member, event or 'end', channel or 'webhook'
end

local function attempts_of(event, channel)
  if event == 'end' and channel == 'webhook' then return 'notice_attempts' end
  return 'notice_attempts:' .. event .. ':' .. channel
end

local CHANNELS = { 'webhook', 'slack', 'email' }

-- Whether the retraining that a job asks for at its end is not finished: the notice waits for its answer.
local function awaits_answer(id)
  local kept = part(id, 'retrainings')
  for _, field in ipairs(redis.call('HKEYS', kept)) do
    if not string.find(field, ':') and redis.call('ZSCORE', K.runs, id .. ' ' .. field) then
      return cjson.decode(redis.call('HGET', kept, field)).at_end == true
    end
  end
  return false
end

-- Ends a run beside a job; a notice that waited for its answer is due.
local function end_run(job, id, status, now)
  local kept = runs_of(job, id)
  redis.call('HSET', kept, id .. ':status', status)
  redis.call('HDEL', kept, id .. ':finished')
  redis.call('ZREM', K.runs, job .. ' ' .. id)
  if cjson.decode(redis.call('HGET', kept, id)).at_end == true then
    for _, channel in ipairs(CHANNELS) do
      redis.call('ZADD', K.notices, 'XX', now, notice(job, 'end', channel))
    end
  end
  emit(job, kind_of(id), cjson.encode({ id = id, status = status }), now)
end

-- Records in the audit log who did what. `fields` are further ones, as pairs.
local function audit(by, tenant, action, now, ...)
  redis.call('XADD', K.audit, 'MAXLEN', '~', K.audit_kept, '*', 'at', string.format('%.0f', now),
    'by', by, 'tenant', tenant, 'action', action, ...)
end

-- True when another scheduler holds a newer fencing token, or no scheduler drives the job.
local function fenced_out(id, fence)
  local newest, status = unpack(redis.call('HMGET', K.job .. id, 'fence', 'status'))
  return newest ~= fence or not DRIVEN[status]
end

-- True when another scheduler holds a run beside a job, or it has ended, or its job was deleted.
local function run_lost(job, id, token)
  return redis.call('HGET', runs_of(job, id), id .. ':token') ~= token
    or not redis.call('ZSCORE', K.runs, job .. ' ' .. id)
end

-- Appends the arguments from the one numbered `first` on as log lines.
local function log_lines(id, kept, replica, source, first)
  for i = first, #ARGV do
    redis.call('XADD', part(id, 'logs'), 'MAXLEN', '~', kept, '*', 'replica', replica,
      'source', source, 'text', ARGV[i])
  end
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

-- Frees what is reserved for a job, or for a run beside one, and counts what it has used.
local function release(id)
  local reserved = redis.call('HGET', K.reservations, id)
  local since = tonumber(redis.call('HGET', K.reserved_at, id) or '')
  if reserved and since then
    local cpus, gpus, tenant = string.match(reserved, '^(%S+) (%S+) (%S+)$')
    local seconds = math.max(0, now_ms() - since) / 1000
    local is_job = redis.call('EXISTS', K.job .. id) == 1
    for resource, amount in pairs({ cpu = cpus * seconds, gpu = gpus * seconds }) do
      if amount > 0 then
        count('usage:' .. resource .. ':' .. tenant, amount)
        if is_job then redis.call('HINCRBYFLOAT', K.job .. id, resource .. '_seconds', amount) end
      end
    end
    if is_job then redis.call('HDEL', K.job .. id, 'reserved_at') end
  end
  redis.call('HDEL', K.reserved_at, id)
  redis.call('HDEL', K.reservations, id)
  redis.call('HDEL', K.places, id)
end

-- Makes a job wait whose replicas could not be placed, each time twice as long.
local function stand_back(id, now)
  local times = redis.call('HINCRBY', K.job .. id, 'unplaced', 1)
  local wait = math.min(K.unplaced_ms * 2 ^ (times - 1), K.longest_unplaced_ms)
  redis.call('HSET', K.job .. id, 'unplaced_at', string.format('%.0f', now),
    'unplaced_until', string.format('%.0f', now + wait))
end

-- Adds the notices that a job wants at its start, its end or its failure.
local function notify(id, wanted, now)
  local job = K.job .. id
  local known = redis.call('HGET', job, 'notices')
  if not known and redis.call('HEXISTS', job, 'webhook') == 1 then known = 'end:webhook' end
  for when, channel in string.gmatch(known or '', '(%S+):(%S+)') do
    if when == wanted then
      local event = wanted == 'start' and 'start' or 'end'
      redis.call('HDEL', job, attempts_of(event, channel))
      redis.call('ZADD', K.notices, now, notice(id, event, channel))
    end
  end
end

local function drop_notices(id)
  for _, event in ipairs({ 'start', 'end' }) do
    for _, channel in ipairs(CHANNELS) do
      redis.call('ZREM', K.notices, notice(id, event, channel))
    end
  end
end

-- Archives a job that has ended: lists leave it out, and the index of archived jobs has it.
local function shelve(id, tenant, status, now)
  redis.call('HSET', K.job .. id, 'archived_at', string.format('%.0f', now))
  for _, index in ipairs({ K.jobs, jobs_of(tenant) }) do
    redis.call('ZADD', index .. ':archived:' .. status, 0, id)
  end
end

local function unshelve(id, tenant, status)
  redis.call('HDEL', K.job .. id, 'archived_at')
  for _, index in ipairs({ K.jobs, jobs_of(tenant) }) do
    redis.call('ZREM', index .. ':archived:' .. status, id)
  end
end

-- `by` names who asked for the change, see records/service/audit.py.
local function enter(id, status, reason, message, now, by)
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
    release(id)
  end
  if status == 'running' or TERMINAL[status] then
    redis.call('HDEL', job, 'unplaced', 'unplaced_at', 'unplaced_until')
  end
  if status == 'running' then
    if redis.call('HSETNX', job, 'started_at', string.format('%.0f', now)) == 1 then
      notify(id, 'start', now)
    end
  end
  if TERMINAL[status] then
    redis.call('HSET', job, 'finished_at', string.format('%.0f', now))
    redis.call('ZADD', K.ended, now, id)
    count('ended:' .. status .. ':' .. reason)
    notify(id, 'end', now)
    if status == 'failed' then notify(id, 'failure', now) end
  elseif before and TERMINAL[before] then
    redis.call('HDEL', job, 'finished_at', 'error', 'answer')
    redis.call('ZREM', K.ended, id)
    unshelve(id, tenant, before)
  end
  audit(by, tenant, reason, now, 'job', id, 'detail', message ~= '' and message or status)
  local transition = cjson.encode({ status = status, at = now, reason = reason, message = message,
    by = by })
  redis.call('RPUSH', part(id, 'transitions'), transition)
  redis.call('LTRIM', part(id, 'transitions'), -200, -1)
  emit(id, 'status', transition, now)
end
