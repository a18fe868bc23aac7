-- Cancels a run beside a job. ARGV: job, id. Returns {outcome, status}: 'ok', 'unknown' or 'refused'.
local job, id = unpack(ARGV)
local kept, member = runs_of(job, id), job .. ' ' .. id
local status = redis.call('HGET', kept, id .. ':status')
if not status then return { 'unknown', '' } end
if status == 'cancelling' then return { 'ok', status } end
if not redis.call('ZSCORE', K.runs, member) then return { 'refused', status } end
write_when_full()
if status == 'queued' then
  end_run(job, id, 'cancelled', now_ms())
  return { 'ok', 'cancelled' }
end
status = 'cancelling'
redis.call('HSET', kept, id .. ':status', status)
emit(job, kind_of(id), cjson.encode({ id = id, status = status }), now_ms())
return { 'ok', status }
