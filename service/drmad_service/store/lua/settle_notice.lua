-- Removes a notice, or postpones it. ARGV: id, attempt, outcome (JSON) or '' to postpone, delay in ms
local id, attempt, outcome, wait = unpack(ARGV)
if redis.call('HGET', K.job .. id, 'notice_attempts') ~= attempt then return 'another' end
local now = now_ms()
if outcome == '' then
  redis.call('ZADD', K.notices, 'XX', now + wait, id)
else
  redis.call('ZREM', K.notices, id)
  redis.call('HDEL', K.job .. id, 'notice_attempts')
  count('webhook:' .. cjson.decode(outcome).outcome)
  emit(id, 'webhook', outcome, now)
end
return 'ok'
