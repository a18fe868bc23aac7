-- Deletes a terminal job. ARGV: id, names of the job's parts
local id = ARGV[1]
local status, tenant = unpack(redis.call('HMGET', K.job .. id, 'status', 'tenant'))
if not status then return { 'unknown', '' } end
if not TERMINAL[status] then return { 'refused', status } end
for i = 2, #ARGV do redis.call('UNLINK', part(id, ARGV[i])) end
redis.call('UNLINK', K.job .. id)
redis.call('ZREM', K.ended, id)
redis.call('ZREM', K.notices, id)
for _, index in ipairs({ K.jobs, jobs_of(tenant) }) do
  redis.call('ZREM', index, id)
  redis.call('ZREM', index .. ':' .. status, id)
end
redis.call('PUBLISH', K.changes, id)
return { 'ok', status }
