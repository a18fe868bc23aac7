-- Cancels a validation. ARGV: job, id. Returns {outcome, status}: 'ok', 'unknown' or 'refused'.
local job, id = unpack(ARGV)
local kept, member = part(job, 'validations'), job .. ' ' .. id
local status = redis.call('HGET', kept, id .. ':status')
if not status then return { 'unknown', '' } end
if status == 'cancelling' then return { 'ok', status } end
if not redis.call('ZSCORE', K.validations, member) then return { 'refused', status } end
write_when_full()
if status == 'queued' then
  redis.call('ZREM', K.validations, member)
  status = 'cancelled'
else
  status = 'cancelling'
end
redis.call('HSET', kept, id .. ':status', status)
emit(job, 'validation', cjson.encode({ id = id, status = status }), now_ms())
return { 'ok', status }
