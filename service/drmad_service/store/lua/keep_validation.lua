-- Writes what the scheduler of a validation reports. ARGV: job, id, token, ms for which no other
-- scheduler takes it (0 releases it), progress (JSON), status at its end or '', outcome (JSON) or ''.
-- Returns the status; 'lost' when another scheduler holds it, or its job was deleted.
local job, id, token, hold, progress, ended, outcome = unpack(ARGV)
local kept, member = part(job, 'validations'), job .. ' ' .. id
local status, newest = unpack(redis.call('HMGET', kept, id .. ':status', id .. ':token'))
if not status then
  redis.call('ZREM', K.validations, member)
  release(id)
  return 'lost'
end
if newest ~= token or not redis.call('ZSCORE', K.validations, member) then return 'lost' end
write_when_full()
local now = now_ms()
redis.call('HSET', kept, id .. ':progress', progress)
if ended ~= '' then
  redis.call('HSET', kept, id .. ':status', ended, id .. ':outcome', outcome)
  redis.call('ZREM', K.validations, member)
  release(id)
  emit(job, 'validation', cjson.encode({ id = id, status = ended }), now)
  return ended
end
redis.call('ZADD', K.validations, now + tonumber(hold), member)
if hold == '0' then release(id) end
changed(job)
return status
