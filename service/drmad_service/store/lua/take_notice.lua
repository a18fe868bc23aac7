-- Takes a notice that is due. ARGV: ms for which no other sender takes it. Returns {id, attempt, event,
-- channel}. The notice of an end waits until the retraining there is finished, which makes it due at once.
local now = now_ms()
while true do
  local member = redis.call('ZRANGEBYSCORE', K.notices, '-inf', now, 'LIMIT', 0, 1)[1]
  if not member then return nil end
  local id, event, channel = notice_of(member)
  local status = redis.call('HGET', K.job .. id, 'status')
  if status and event == 'end' and TERMINAL[status] and awaits_answer(id) then
    redis.call('ZADD', K.notices, now + 60000, member)
  elseif status and (TERMINAL[status] or event == 'start') then
    redis.call('ZADD', K.notices, now + ARGV[1], member)
    local attempt = redis.call('HINCRBY', K.job .. id, attempts_of(event, channel), 1)
    return { id, tostring(attempt), event, channel }
  else
    redis.call('ZREM', K.notices, member)  -- the job was deleted, or extended before it was sent
  end
end
