-- Writes what the scheduler of a run beside a job reports. ARGV: job, id, token, ms for which no other
-- scheduler takes it (0 releases it), progress (JSON), status at its end or '', outcome (JSON) or '',
-- results of its finished training runs (JSON) or ''.
-- Returns the status; 'lost' when another scheduler holds it, or its job was deleted.
local job, id, token, hold, progress, ended, outcome, finished = unpack(ARGV)
local kept, member = runs_of(job, id), job .. ' ' .. id
local status, newest = unpack(redis.call('HMGET', kept, id .. ':status', id .. ':token'))
if not status then
  redis.call('ZREM', K.runs, member)
  release(id)
  return 'lost'
end
if newest ~= token or not redis.call('ZSCORE', K.runs, member) then return 'lost' end
write_when_full()
local now = now_ms()
redis.call('HSET', kept, id .. ':progress', progress)
if ended ~= '' then
  redis.call('HSET', kept, id .. ':outcome', outcome)
  local answer = cjson.decode(outcome).headline
  if answer then redis.call('HSET', K.job .. job, 'answer', answer) end
  release(id)
  end_run(job, id, ended, now)
  return ended
end
if finished ~= '' then redis.call('HSET', kept, id .. ':finished', finished) end
redis.call('ZADD', K.runs, now + tonumber(hold), member)
if hold == '0' then release(id) end
changed(job)
return status
