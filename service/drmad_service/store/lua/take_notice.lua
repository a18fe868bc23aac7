-- Takes a notice that is due. ARGV: how long nobody else gets it, in ms. Returns {id, attempt}.
local now = now_ms()
while true do
  local id = redis.call('ZRANGEBYSCORE', K.notices, '-inf', now, 'LIMIT', 0, 1)[1]
  if not id then return nil end
  local status = redis.call('HGET', K.job .. id, 'status')
  if status and TERMINAL[status] then
    redis.call('ZADD', K.notices, now + ARGV[1], id)
    return { id, tostring(redis.call('HINCRBY', K.job .. id, 'notice_attempts', 1)) }
  end
  redis.call('ZREM', K.notices, id)  -- deleted, or extended before it was sent
end
