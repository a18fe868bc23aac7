-- ARGV: id, names of the job's parts
local id = ARGV[1]
local status = redis.call('HGET', K.job .. id, 'status')
if not status then return { 'unknown', '' } end
if not TERMINAL[status] then return { 'refused', status } end
for i = 2, #ARGV do redis.call('UNLINK', part(id, ARGV[i])) end
redis.call('UNLINK', K.job .. id)
redis.call('ZREM', K.jobs, id)
redis.call('ZREM', K.ended, id)
redis.call('ZREM', K.jobs .. ':' .. status, id)
redis.call('PUBLISH', K.changes, id)
return { 'ok', status }
