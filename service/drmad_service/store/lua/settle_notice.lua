-- Removes a notice, or postpones it. ARGV: id, attempt, event, channel, outcome (JSON) or '' to postpone,
-- delay in ms
local id, attempt, event, channel, outcome, wait = unpack(ARGV)
local attempts, member = attempts_of(event, channel), notice(id, event, channel)
if redis.call('HGET', K.job .. id, attempts) ~= attempt then return 'another' end
local now = now_ms()
if outcome == '' then
  redis.call('ZADD', K.notices, 'XX', now + wait, member)
else
  redis.call('ZREM', K.notices, member)
  redis.call('HDEL', K.job .. id, attempts)
  count((channel == 'email' and 'mail:' or 'webhook:') .. cjson.decode(outcome).outcome)
  emit(id, 'webhook', outcome, now)
end
return 'ok'
