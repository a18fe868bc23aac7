-- Takes a notice that is due. ARGV: ms for which no other sender takes it. Returns {id, attempt}. A notice
-- waits until the retraining at the end of its job is finished, which makes it due at once.
local now = now_ms()
while true do
  local id = redis.call('ZRANGEBYSCORE', K.notices, '-inf', now, 'LIMIT', 0, 1)[1]
  if not id then return nil end
  local status = redis.call('HGET', K.job .. id, 'status')
  if status and TERMINAL[status] and awaits_answer(id) then
    redis.call('ZADD', K.notices, now + 60000, id)
  elseif status and TERMINAL[status] then
    redis.call('ZADD', K.notices, now + ARGV[1], id)
    return { id, tostring(redis.call('HINCRBY', K.job .. id, 'notice_attempts', 1)) }
  else
    redis.call('ZREM', K.notices, id)  -- the job was deleted, or extended before the notice was sent
  end
end
