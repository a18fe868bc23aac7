-- Restores a job of a backup whose parts were written before, with an expiry. ARGV: id, fields (JSON),
-- status in the backup, status to enter, then the names of its parts
local id, fields, before, after = unpack(ARGV)
local job, now = K.job .. id, now_ms()
if redis.call('EXISTS', job) == 1 then return 'exists' end
for field, value in pairs(cjson.decode(fields)) do redis.call('HSET', job, field, value) end
-- Newer than any fencing token that a scheduler may still hold.
redis.call('HSET', job, 'fence', string.format('%.0f', now))
for i = 5, #ARGV do redis.call('PERSIST', part(id, ARGV[i])) end
local theirs = jobs_of(redis.call('HGET', job, 'tenant'))
redis.call('ZADD', K.jobs, 0, id)
redis.call('ZADD', theirs, 0, id)
if before == after and TERMINAL[after] then
  redis.call('ZADD', K.jobs .. ':' .. after, 0, id)
  redis.call('ZADD', theirs .. ':' .. after, 0, id)
  redis.call('ZADD', K.ended, redis.call('HGET', job, 'finished_at') or now, id)
  local archived = redis.call('HGET', job, 'archived_at')
  if archived then shelve(id, redis.call('HGET', job, 'tenant'), after, tonumber(archived)) end
  changed(id)
else
  enter(id, after, 'restored', 'restored from a backup', now, 'restore')
end
return 'ok'
