-- Deletes a terminal job. ARGV: id, who deletes it, names of the job's parts
local id, by = ARGV[1], ARGV[2]
local status, tenant = unpack(redis.call('HMGET', K.job .. id, 'status', 'tenant'))
if not status then return { 'unknown', '' } end
if not TERMINAL[status] then return { 'refused', status } end
for i = 3, #ARGV do redis.call('UNLINK', part(id, ARGV[i])) end
unshelve(id, tenant, status)
redis.call('UNLINK', K.job .. id)
redis.call('ZREM', K.ended, id)
drop_notices(id)
for _, index in ipairs({ K.jobs, jobs_of(tenant) }) do
  redis.call('ZREM', index, id)
  redis.call('ZREM', index .. ':' .. status, id)
end
audit(by, tenant, 'deleted', now_ms(), 'job', id, 'detail', status)
redis.call('PUBLISH', K.changes, id)
return { 'ok', status }
