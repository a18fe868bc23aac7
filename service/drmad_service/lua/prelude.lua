-- Stands before every script: the keys (K, from keys.py), the clock, the one way to tell of a
-- change and the one way to change a job's state.

local DRIVEN = { starting = true, running = true, cancelling = true }
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
  if TERMINAL[status] then redis.call('HSET', job, 'finished_at', string.format('%.0f', now)) end
  local transition = cjson.encode({ status = status, at = now, reason = reason, message = message })
  redis.call('RPUSH', part(id, 'transitions'), transition)
  redis.call('LTRIM', part(id, 'transitions'), -200, -1)
  emit(id, 'status', transition, now)
end
